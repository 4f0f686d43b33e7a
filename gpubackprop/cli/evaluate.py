"""`gpubackprop evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import Argument, Option

from gpubackprop.cli.model import Array, Model
from gpubackprop.cli.preparation import divide, fingerprint
from gpubackprop.data import load
from gpubackprop.errors import DataError


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
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a trained network on rows that it was not trained on."""
    model = Model.load(Path(run), device)
    x, y, what = _rows(model, data, target, folder)
    scores = model.score(x, y, batch_size)
    if as_json:
        print(json.dumps({**scores, "rows": len(x)}))
        return
    console = Console()
    line = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    console.print(f"{model.data['name']}, {what}: {line}", highlight=False, markup=False, soft_wrap=True)
    if model.classes:
        console.print(_by_class(model, model.answers(x, batch_size).argmax(axis=1), y))


def _rows(model: Model, data: str | None, target: str | None, folder: str | None) -> tuple[Array, Array, str]:
    known = model.data
    if data is None:
        loaded = load(known["source"], target=known["target"], task=known["task"], folder=folder or known["folder"])
    else:
        goal = target or (known["target"] if _is_table(data) else None)
        loaded = load(data, target=goal, task=known["task"], folder=folder)
    if fingerprint(loaded) == known["sha256"]:
        test = divide(loaded, test=known["test"], validation=known["validation"], seed=known["seed"]).test
        return test.x, test.y, test.what
    if data is None:
        raise DataError(
            f"{known['source']}: is not what the network was trained on, so nobody can tell which rows were held out; name the "
            "data to evaluate on"
        )
    x, y = model.match(loaded)
    return x, y, f"{len(x):,} rows of {data}"


def _is_table(data: str) -> bool:
    return data.lower().endswith((".csv", ".csv.gz", ".parquet"))


def _by_class(model: Model, taken: Array, y: Array) -> Table:
    table = Table("class", "rows", "recall", "precision", "most often taken for", box=SIMPLE_HEAD)
    for label, name in enumerate(model.classes):
        mine, said = y == label, taken == label
        right = int((mine & said).sum())
        wrong = taken[mine & ~said]
        confused = ""
        if wrong.size:
            other = max(set(wrong.tolist()), key=wrong.tolist().count)
            confused = f"{escape(model.classes[other])} ({int((wrong == other).sum())})"
        table.add_row(
            escape(name),
            f"{int(mine.sum()):,}",
            _share(right, int(mine.sum())),
            _share(right, int(said.sum())),
            confused,
        )
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"
