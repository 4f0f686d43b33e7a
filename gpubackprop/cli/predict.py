"""`gpubackprop predict`."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import numpy as np
from typer import Argument, Option

from gpubackprop.cli.output import check_out
from gpubackprop.files.atomic import replacing
from gpubackprop.pipeline.model import Array, Model, load_run
from gpubackprop.terminal import Terminal, printable, say


def predict(
    run: Annotated[str, Argument(metavar="RUN", help="A run folder that `train` wrote.")],
    data: Annotated[str, Argument(metavar="DATA", help="Rows to predict: what `train` takes; no target is needed.")],
    out: Annotated[str, Option(help="FILE.csv or FILE.npy to write.")],
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    batch_size: Annotated[int | None, Option(help="Rows at a time.", min=1)] = None,
    no_formulas: Annotated[
        bool,
        Option("--no-formulas", help="For a spreadsheet: an apostrophe before text that it would take for a formula."),
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a trained network's predictions, a row for each row of DATA.

    .csv: the class and the probability of each class, or the values of the targets, in their own unit. .npy: the
    probabilities (n, classes) or values (n, targets) as a floating-point array.
    """
    check_out(out, ".csv", ".npy", overwrite=overwrite)
    model = load_run(run, device)
    console = Terminal()
    rows = model.read(data, folder)
    for line in model.remarks(rows):
        say(console, line)
    answers = model.answers(rows, batch_size)
    content = _csv(model, answers, no_formulas) if out.endswith(".csv") else _npy(answers)
    with replacing(out) as file:
        file.write(content)
    say(console, f"{len(answers):,} predictions in {out}")


def _csv(model: Model, answers: Array, no_formulas: bool) -> bytes:
    def cell(name: str) -> str:
        # A class may be any text of the training data, commands for terminals and spreadsheets included.
        shown = printable(name)
        return f"'{shown}" if no_formulas and shown.startswith(("=", "+", "-", "@", "\t")) else shown

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if model.classes:
        writer.writerow(["prediction", *(f"p({printable(name)})" for name in model.classes)])
        best = model.best(answers)
        writer.writerows(
            [cell(model.classes[k]), *(f"{p:.6g}" for p in row)] for k, row in zip(best, answers, strict=True)
        )
    else:
        writer.writerow([cell(name) for name in model.data["targets"]])
        writer.writerows([f"{value:.9g}" for value in row] for row in answers)
    return text.getvalue().encode()


def _npy(answers: Array) -> bytes:
    content = io.BytesIO()
    np.save(content, answers, allow_pickle=False)
    return content.getvalue()
