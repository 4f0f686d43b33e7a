"""`gpubackprop parity`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument, Context, Option

from gpubackprop.cli.options import NEW, OWN, refuse, with_settings
from gpubackprop.cli.output import Json, show_report
from gpubackprop.data import NAMES
from gpubackprop.pipeline.settings import Settings
from gpubackprop.pipeline.subject import is_run, subject
from gpubackprop.proofs.parity import Device, check_parity

_SETTINGS = ("layers", "activation", "loss", "optimizer", "learning_rate", "momentum", "dropout", "l1", "l2")


@with_settings(*_SETTINGS, before="rows", optimizer="sgd")
def parity(
    context: Context,
    data: Annotated[str, Argument(metavar="DATA", help=f"{', '.join(NAMES)}, a file as for train, or a run folder.")],
    devices: Annotated[
        str, Option(help="Two devices, each with a dtype or precision if it matters: cpu,cuda  cpu/float64,cuda/tf32")
    ] = "cpu,cuda",
    steps: Annotated[int, Option(help="Training steps; the first 10 are followed tensor by tensor.", min=1)] = 10,
    tolerance: Annotated[
        float | None, Option(help="Largest relative error; by default that of the coarser type.")
    ] = None,
    target: Annotated[str | None, Option(help="Column(s) of a table to predict, with commas between.")] = None,
    task: Annotated[str, Option(help="classification or regression; auto: as the target looks.")] = "auto",
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    rows: Annotated[int, Option(help="Rows of the batch.", min=1)] = 256,
    seed: Annotated[int, Option(help="Of the weights, the rows and dropout.", min=0)] = 0,
    as_json: Json = False,
    **asked: Any,
) -> None:
    """Train the same network side by side on two devices and name the first tensor in which they differ.

    The network is a new one for the data, or that of a run folder. Ends with status 1 if there is such a tensor.
    """
    if is_run(data):
        refuse(context, NEW, OWN)
    if asked["optimizer"].lower() == "sgd":
        asked["learning_rate"] = 0.01 if asked["learning_rate"] is None else asked["learning_rate"]
        asked["momentum"] = 0.9 if asked["momentum"] is None else asked["momentum"]
    settings = Settings(**asked, schedule="constant", weight_decay=0.0, batch_size=rows, device="cpu", seed=seed)
    net, x, y = subject(data, settings, rows, target, task, folder)
    pair = [_device(part) for part in devices.split(",")]
    report = check_parity(net, x, y, pair, steps, optimizer=settings.make_optimizer(len(x)), tolerance=tolerance)
    show_report(net, report, as_json)


def _device(text: str) -> Device:
    name, _, grade = text.strip().partition("/")
    return (name, grade) if grade else name
