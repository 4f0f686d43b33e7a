"""`gpubackprop gradcheck`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Context, Option

from gpubackprop.cli.options import NEW, OWN, refuse, with_settings
from gpubackprop.cli.output import Json, show_report
from gpubackprop.data import NAMES
from gpubackprop.network.twin import twin
from gpubackprop.pipeline.settings import Settings
from gpubackprop.pipeline.subject import is_run, subject
from gpubackprop.proofs.gradcheck import gradcheck as check


@with_settings("layers", "activation", "loss", "dropout", "l1", "l2", before="rows")
def gradcheck(
    context: Context,
    data: Annotated[str, Argument(metavar="DATA", help=f"{', '.join(NAMES)}, a file as for train, or a run folder.")],
    target: Annotated[str | None, Option(help="Column(s) of a table to predict, with commas between.")] = None,
    task: Annotated[str, Option(help="classification or regression; auto: as the target looks.")] = "auto",
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    rows: Annotated[int, Option(help="Rows of the batch.", min=1)] = 16,
    method: Annotated[str, Option(help="central (differences) or complex (step).")] = "central",
    eps: Annotated[float | None, Option(help="Size of the step; by default 1e-5, or 1e-30 for complex.")] = None,
    inference: Annotated[bool, Option("--inference", help="Without dropout, with running statistics.")] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, strict.")] = "auto",
    seed: Annotated[int, Option(help="Of the weights, the rows and the directions.", min=0)] = 0,
    as_json: Json = False,
    **asked: Any,
) -> None:
    """Hold the gradients of a network, in float64, to derivatives measured from its loss.

    The network is a new one for the data, or that of a run folder. Ends with status 1 if a gradient is wrong.
    """
    if is_run(data):
        refuse(context, NEW, OWN)
    net, x, y = subject(data, Settings(**asked, device=device, seed=seed), rows, target, task, folder)
    report = check(twin(net, dtype="float64"), x, y, method=method, eps=eps, training=not inference, seed=seed)
    show_report(net, report, as_json)
