"""`gpubackprop evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from typer import Argument, Option

from gpubackprop.cli.output import Json, print_json, table
from gpubackprop.pipeline.model import Array, load_run
from gpubackprop.pipeline.report import report
from gpubackprop.terminal import Terminal, say


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
    if found.counts is not None:
        headings = ("class", "rows", "recall", "precision", "most often taken for")
        console.print(table(headings, _by_class(model.classes, found.counts)))


def _by_class(classes: Sequence[str], counts: Array) -> Iterator[tuple[str, ...]]:
    """A row for each class: how many rows it has, and what they were taken for."""
    for k, name in enumerate(classes):
        rows, said, right = int(counts[k].sum()), int(counts[:, k].sum()), int(counts[k, k])
        wrong = np.where(np.arange(len(classes)) == k, 0, counts[k])
        confused = f"{classes[int(wrong.argmax())]} ({wrong.max()})" if wrong.any() else ""
        yield name, f"{rows:,}", _share(right, rows), _share(right, said), confused


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"
