"""`gpubackprop train`."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Annotated

import typer
from rich.console import Console
from typer import Argument, Option

from gpubackprop.cli.display import Display, duration, say
from gpubackprop.data import NAMES
from gpubackprop.pipeline.runs import RunInterruptedError, train_run
from gpubackprop.pipeline.settings import Settings

INTERRUPTED = 130


def train(
    data: Annotated[
        str,
        Argument(
            metavar="DATA", help=f"{', '.join(NAMES)}, or a file: .npz, .npy (x; y beside it), .csv[.gz], .parquet"
        ),
    ],
    target: Annotated[str | None, Option(help="Column(s) of a table to predict, with commas between.")] = None,
    task: Annotated[str, Option(help="classification or regression; auto: as the target looks.")] = "auto",
    folder: Annotated[str | None, Option(help="Where the IDX files of (fashion-)mnist are.")] = None,
    layers: Annotated[str | None, Option(help='Widths of the hidden layers: 512,256; "none": a linear model.')] = None,
    activation: Annotated[str, Option(help="Of the hidden layers.")] = "relu",
    loss: Annotated[str | None, Option(help="By default cross_entropy, or mean_squared_error.")] = None,
    optimizer: Annotated[str, Option(help="sgd, adam, adamw, rmsprop, nadam, lamb, ...")] = "adamw",
    learning_rate: Annotated[float | None, Option(help="At the start. By default what suits the optimizer.")] = None,
    schedule: Annotated[str, Option(help="constant, step, exponential, cosine or polynomial.")] = "cosine",
    warmup: Annotated[float, Option(help="Epochs of linear warm-up before the schedule.")] = 0.0,
    momentum: Annotated[float | None, Option(help="Of sgd (by default 0.9), rmsprop, lars.")] = None,
    weight_decay: Annotated[float | None, Option(help="Decoupled for adamw, else an L2 penalty.")] = None,
    clip_norm: Annotated[float | None, Option(help="Longest gradient, as a Euclidean norm.")] = None,
    dropout: Annotated[float | None, Option(help="Share of hidden units left out at each step.")] = None,
    l1: Annotated[float, Option(help="Penalty l1 sum|W|.")] = 0.0,
    l2: Annotated[float, Option(help="Penalty l2/2 sum W^2.")] = 0.0,
    batch_size: Annotated[int | None, Option(help="Rows a step.", min=1)] = None,
    epochs: Annotated[int | None, Option(help="Passes over the training rows.", min=1)] = None,
    patience: Annotated[
        int | None, Option(help="Stop after so many epochs without improvement; keep the best.", min=1)
    ] = None,
    validation: Annotated[float | None, Option(help="Share of the training rows to watch instead of learn.")] = None,
    test: Annotated[float, Option(help="Share held out for `evaluate`, where there is no official test part.")] = 0.2,
    standardize: Annotated[bool, Option(help="Inputs and regression targets to mean 0, variance 1.")] = True,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[str | None, Option(help="fp32, fp64, or on a GPU tf32, bf16, fp16.")] = None,
    seed: Annotated[int, Option(help="Of the weights, the order, dropout and the held-out rows.", min=0)] = 0,
    out: Annotated[str | None, Option(help="Run folder; by default runs/DATA-1, runs/DATA-2, ...")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a run that is in --out.")] = False,
) -> None:
    """Train a network on DATA; leave its weights, settings, history and curves in a run folder.

    Rows are held out for `gpubackprop evaluate`: the official test part, or a share of the rows. Ctrl-C keeps what was reached.
    """
    asked = {k: v for k, v in locals().items() if k in {f.name for f in fields(Settings)}}
    console = Console()
    started = time.perf_counter()
    interrupted = False
    try:
        run = train_run(
            data,
            target=target,
            task=task,
            folder=folder,
            out=out,
            overwrite=overwrite,
            callbacks=[Display(console)],
            say=lambda text: say(console, text),
            **asked,
        )
    except RunInterruptedError as error:
        interrupted, run = True, error.run
    spent = duration(time.perf_counter() - started)
    say(console, f"test ({run.judged_on}): {', '.join(f'{k} {v:.4f}' for k, v in run.scores.items())}")
    how = "interrupted" if interrupted else "done"
    say(console, f"{how} after {len(run.history)} epochs, {spent}; run folder: {run.path}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
