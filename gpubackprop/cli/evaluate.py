"""`gpubackprop evaluate`."""

from __future__ import annotations

from typing import Annotated

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from gpubackprop.cli.output import Json, print_json
from gpubackprop.pipeline.model import Array, Model, load_run
from gpubackprop.pipeline.report import report
from gpubackprop.terminal import Terminal, printable, say


def evaluate(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder that `train` wrote.")],
    data: Annotated[
        str | None,
        Argument(
            metavar="[DATA]", help="Other data with a target; by default, and of the training data, the rows held out."
        ),
    ] = None,
    target: Annotated[
        str | None, Option(help="Column(s) of a table to compare with; by default as in training.")
    ] = None,
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    batch_size: Annotated[int | None, Option(help="Rows at a time.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Score a trained network on rows that it was not trained on."""
    model = load_run(run, device)
    rows = model.rows_to_judge(data, target, folder)
    found = report(model, rows.x, rows.y, batch_size)
    if as_json:
        print_json({**found.metrics, "rows": len(rows.x)})
        return
    console = Terminal()
    for remark in model.remarks(rows.x):
        say(console, remark)
    first, rest = found.lines()
    say(console, f"{model.data['name']}, {rows.what}: {first}\n{rest}")
    if model.classes:
        console.print(_by_class(model, found.answers.argmax(axis=1), rows.y))


def _by_class(model: Model, taken: Array, y: Array) -> Table:
    table = Table("class", "rows", "recall", "precision", "most often taken for", box=SIMPLE_HEAD)
    for label, name in enumerate(model.classes):
        mine, said = y == label, taken == label
        right = int((mine & said).sum())
        wrong = taken[mine & ~said]
        confused = ""
        if wrong.size:
            other = max(set(wrong.tolist()), key=wrong.tolist().count)
            confused = f"{escape(printable(model.classes[other]))} ({int((wrong == other).sum())})"
        table.add_row(
            escape(printable(name)),
            f"{int(mine.sum()):,}",
            _share(right, int(mine.sum())),
            _share(right, int(said.sum())),
            confused,
        )
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"
