"""`gpubackprop train`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from typer import Argument, Option

from gpubackprop import __version__
from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads
from gpubackprop.cli.curves import draw
from gpubackprop.cli.display import Display, duration
from gpubackprop.cli.model import Model
from gpubackprop.cli.preparation import Part, Parts, divide, fingerprint, fit_inputs, outputs_for
from gpubackprop.cli.run_folder import RunFolder
from gpubackprop.cli.settings import Settings
from gpubackprop.data import NAMES, Dataset, Standardizer, load
from gpubackprop.errors import ArgumentError, MissingExtraError
from gpubackprop.losses import get_loss
from gpubackprop.training import Callback, History, Trainer, evaluate

INTERRUPTED = 130
_SAVE_EVERY = 60.0
"""Seconds between saves of the weights while training goes on."""


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
    loaded = load(data, target=target, task=task, folder=folder)
    settings = Settings(**asked).completed(loaded)
    parts = divide(loaded, test=settings.test, validation=settings.validation or 0.0, seed=settings.seed)
    source = {"source": _lasting(data), "target": target, "task": loaded.task, "folder": folder and _lasting(folder)}
    model = prepare(loaded, parts.train, settings, source)
    trainer = Trainer(model.net, settings.make_optimizer(len(parts.train.x)))
    run = RunFolder.create(out, loaded.name, overwrite)
    about = {
        "command": shlex.join(sys.argv),
        "settings": asdict(settings),
        "network": repr(model.net),
        "rows": {
            "train": parts.train.what,
            "validation": parts.validation and parts.validation.what,
            "test": parts.test.what,
        },
        "versions": {
            "gpubackprop": __version__,
            "numpy": np.__version__,
            "blas": blas_name(),
            "threads": blas_threads(),
        },
    }
    run.write_settings(about)
    _say(console, f"{loaded!r}\n{model.net!r}\n{trainer.optimizer!r}")
    _say(console, f"training on {parts.train.what}, batches of {settings.batch_size}; test: {parts.test.what}")
    interrupted = False
    try:
        history = fit(trainer, model, parts, settings, [_Keeper(run, model), Display(console)])
    except KeyboardInterrupt:
        interrupted, history = True, trainer.history
    run.write_history(history)
    if history.stopped == "diverged" and not history.best_epoch:
        raise ArgumentError(
            f"training diverged: after epoch {len(history)} the loss is {history['loss'][-1]}, so its weights are not saved. "
            f"Lower --learning-rate (it was {trainer.optimizer.learning_rate:g}), or add --clip-norm 1"
        )
    model.save(run.work / "model.safetensors", trainer.optimizer)
    scores = model.score(parts.test.x, parts.test.y)
    about["result"] = {
        "stopped": history.stopped,
        "epochs": len(history),
        "best_epoch": history.best_epoch,
        "test": scores,
    }
    run.write_settings(about)
    _draw(console, run, history, loaded.name)
    run.finish()
    spent = duration(time.perf_counter() - started)
    _say(console, f"test ({parts.test.what}): {', '.join(f'{k} {v:.4f}' for k, v in scores.items())}")
    _say(
        console,
        f"{'interrupted' if interrupted else 'done'} after {len(history)} epochs, {spent}; run folder: {run.path}",
    )
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def prepare(data: Dataset, part: Part, settings: Settings, source: dict[str, Any]) -> Model:
    """A model for the data, with its standardisations fitted to the training part, not trained yet."""
    loss = get_loss(settings.loss or "cross_entropy")
    targets = 1 if data.task == "classification" else data.y.shape[1]
    net = settings.network(data.x.shape[1], outputs_for(data.task, len(data.classes), targets, loss))
    description = {
        **source,
        "name": data.name,
        "classes": list(data.classes),
        "features": list(data.features),
        "targets": list(data.targets),
        "sha256": fingerprint(data),
        **{k: getattr(settings, k) for k in ("test", "validation", "seed")},
    }
    inputs = fit_inputs(part.x) if settings.standardize else None
    scale = Standardizer().fit(part.y) if settings.standardize and data.task == "regression" else None
    return Model(net, inputs, scale, description)


def fit(trainer: Trainer, model: Model, parts: Parts, settings: Settings, callbacks: list[Callback]) -> History:
    """Train the model on the training part, watching the validation part if there is one."""
    x, y = model.prepare(parts.train.x), model.prepare_targets(parts.train.y)
    v = parts.validation
    watched = None if v is None else (model.prepare(v.x), model.prepare_targets(v.y))
    trainer.callbacks[:] = callbacks if watched else [_TrainingScore(x[:1000], y[:1000]), *callbacks]
    return trainer.fit(
        x,
        y,
        epochs=settings.epochs or 1,
        batch_size=settings.batch_size,
        validation_data=watched,
        patience=settings.patience,
    )


class _TrainingScore(Callback):
    """Without a validation part: the score on the (first thousand) training rows, so that there is one to look at."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        scores = evaluate(trainer.net, self.x, self.y)
        record.update({k: v for k, v in scores.items() if k in ("accuracy", "r2")})


class _Keeper(Callback):
    """Writes each epoch's line, and now and then the weights, so that a run that is killed leaves something."""

    def __init__(self, run: RunFolder, model: Model) -> None:
        self.run, self.model = run, model
        self.saved = time.monotonic()

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.run.append_history(record)
        if time.monotonic() - self.saved > _SAVE_EVERY and isfinite(record["loss"]):
            self.model.save(self.run.work / "model.safetensors", trainer.optimizer)
            self.saved = time.monotonic()


def _draw(console: Console, run: RunFolder, history: History, title: str) -> None:
    if not len(history):
        return
    try:
        run.write("curves.png", draw(history, title))
    except MissingExtraError as error:
        _say(console, f"no curves.png: {error}")


def _lasting(path: str) -> str:
    """A path that means the same from another folder; names of data sets and pairs of files as they are."""
    return path if path in NAMES or not os.path.exists(path) else str(Path(path).resolve())


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
