"""A training run from data to its folder: what `gpubackprop train` does, as a function."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop import __version__
from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads
from gpubackprop.data import NAMES, Dataset, Standardizer, Table, TextFormat, load
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError, MissingExtraError, unknown_name
from gpubackprop.losses import get_loss
from gpubackprop.pipeline.encoder import Choices, Encoder, described
from gpubackprop.pipeline.model import Model
from gpubackprop.pipeline.pictures import draw
from gpubackprop.pipeline.preparation import Part, Parts, baseline, divide, fingerprint, outputs_for, told
from gpubackprop.pipeline.run_folder import RunFolder
from gpubackprop.pipeline.settings import Settings
from gpubackprop.training import Callback, History, Trainer, evaluate

_SAVE_EVERY = 60.0
"""Seconds between saves of the weights while training goes on."""

Say = Callable[[str], None]


@dataclass
class Run:
    """What a training run gave.

    path: its folder. model: the network with the preparation of its data. history: of its epochs. scores: of the rows
    that `judged_on` names.
    """

    path: Path
    model: Model
    history: History
    scores: dict[str, float]
    judged_on: str


class RunInterruptedError(KeyboardInterrupt):
    """Training was interrupted; what was reached is in `run` and in its folder."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"interrupted after {len(run.history)} epochs; what was reached is in {run.path}")
        self.run = run


def train_run(
    data: Dataset | str | os.PathLike[str],
    *,
    target: str | None = None,
    task: str = "auto",
    folder: str | os.PathLike[str] | None = None,
    weight: str | None = None,
    group: str | None = None,
    format: TextFormat | None = None,
    columns: Choices | None = None,
    max_bytes: int | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    say: Say | None = None,
    **settings: Any,
) -> Run:
    """Train a network on the data; leave its weights, settings, history and curves in a run folder.

    data: a data set, or its name or file; target, task, folder, weight, group, format and max_bytes: as for `load`. columns:
    what to do with which columns of a table, where it shall not be what suits them. out: the run folder, by default
    runs/<name>-1, runs/<name>-2, ...; overwrite: replace a run that is there. callbacks listen to the training; say is
    called with each line for people to read. settings: fields of `pipeline.settings.Settings`, such as epochs=20,
    layers=[512, 256], learning_rate=1e-3, device="cpu"; the others become what suits the data.

    Raises RunInterruptedError, a KeyboardInterrupt, after Ctrl-C, once what was reached is saved; ArgumentError, DataError,
    DeviceError or CheckpointError for arguments that cannot be used, for training that diverges, and for a folder that
    cannot be written.
    """
    known = {f.name for f in fields(Settings)}
    for name in settings:
        if name not in known:
            raise unknown_name("setting", name, known)
    say = say or _nothing
    columns = columns or Choices()
    if isinstance(data, Dataset):
        loaded, source = data, None
    elif isinstance(data, (str, os.PathLike)):
        read: dict[str, Any] = {
            "weight": weight,
            "group": group,
            "format": format,
            "max_bytes": max_bytes,
            "text": columns.categorical,
        }
        loaded = load(data, target=target, task=task, folder=folder, **read)
        source = _lasting(os.fspath(data))
    else:
        raise ArgumentTypeError(f"data must be a Dataset, a name or a path; got {type(data).__name__}")
    chosen = Settings(**settings).completed(loaded)
    parts = divide(loaded, test=chosen.test, validation=chosen.validation or 0.0, seed=chosen.seed)
    origin = {
        "source": source,
        "target": target,
        "task": loaded.task,
        "folder": None if folder is None else _lasting(os.fspath(folder)),
        "weight": weight,
        "group": group,
        "format": None if format is None else {**asdict(format), "missing": list(format.missing)},
    }
    for note in loaded.notes:
        say(note)
    model = prepare(loaded, parts.train, chosen, origin, columns)
    trainer = Trainer(model.network, chosen.make_optimizer(len(parts.train.x)))
    run = RunFolder.create(None if out is None else os.fspath(out), loaded.name, overwrite)
    encoder, always = model.inputs, baseline(loaded, parts.train)
    table = described(encoder.columns) if isinstance(encoder, Encoder) else []
    about = {
        "command": shlex.join(sys.argv),
        "settings": asdict(chosen),
        "network": repr(model.network),
        "rows": {
            "train": parts.train.what,
            "validation": parts.validation and parts.validation.what,
            "test": parts.test.what,
        },
        "baseline": always,
        "notes": list(loaded.notes),
        "columns": [
            {k: getattr(column, k) for k in ("name", "kind", "missing", "levels", "becomes")}
            for column in (encoder.columns if isinstance(encoder, Encoder) else ())
        ],
        "versions": {
            "gpubackprop": __version__,
            "numpy": np.__version__,
            "blas": blas_name(),
            "threads": blas_threads(),
        },
    }
    run.write_settings(about)
    for line in (*table, *told(always), repr(loaded), repr(model.network), repr(trainer.optimizer)):
        say(line)
    say(f"training on {parts.train.what}, batches of {chosen.batch_size}; test: {parts.test.what}")
    interrupted = False
    try:
        history = fit(trainer, model, parts, chosen, [_Keeper(run, model), *callbacks])
    except KeyboardInterrupt:
        interrupted, history = True, trainer.history
    run.write_history(history)
    if history.stopped == "diverged" and not history.best_epoch:
        raise ArgumentError(
            f"training diverged: after epoch {len(history)} the loss is {history['loss'][-1]}, so its weights are not saved. "
            f"Lower learning_rate (it was {trainer.optimizer.learning_rate:g}), or say clip_norm=1"
        )
    model.save(run.work / "model.safetensors", trainer.optimizer)
    scores = model.scores(parts.test.x, parts.test.y)
    about["result"] = {
        "stopped": history.stopped,
        "epochs": len(history),
        "best_epoch": history.best_epoch,
        "test": scores,
    }
    run.write_settings(about)
    if len(history):
        try:
            run.write("curves.png", draw(history, loaded.name))
        except MissingExtraError as error:
            say(f"no curves.png: {error}")
    run.finish()
    done = Run(run.path, model, history, scores, parts.test.what)
    if interrupted:
        raise RunInterruptedError(done)
    return done


def prepare(
    data: Dataset, part: Part, settings: Settings, origin: dict[str, Any], columns: Choices | None = None
) -> Model:
    """A model for the data, with its inputs and targets fitted to the training part, not trained yet.

    Raises DataError where the training part has a single class, or no column that could help.
    """
    loss = get_loss(settings.loss or "cross_entropy")
    if data.classes and len(np.unique(part.y)) < 2:
        raise DataError(
            f"{data.name}: every row holds {data.classes[part.y[0]]!r}: with one class there is nothing to learn"
        )
    inputs: Encoder | Standardizer | None = None
    width = data.x.shape[1]
    if isinstance(part.x, Table):
        choices = replace(columns or Choices(), scale=settings.standardize)
        inputs = Encoder.fit(part.x, part.y, len(data.classes), choices)
        width = len(inputs.inputs)
    elif settings.standardize:
        inputs = Standardizer(per_feature=not data.image).fit(part.x)
    net = settings.network(width, outputs_for(data.task, len(data.classes), len(data.targets) or data.y[:1].size, loss))
    description = {
        **origin,
        "name": data.name,
        "classes": list(data.classes),
        "features": list(data.features),
        "targets": list(data.targets),
        "sha256": fingerprint(data),
        **{k: getattr(settings, k) for k in ("test", "validation", "seed")},
    }
    scale = Standardizer().fit(part.y) if settings.standardize and data.task == "regression" else None
    return Model(net, inputs, scale, description)


def fit(trainer: Trainer, model: Model, parts: Parts, settings: Settings, callbacks: list[Callback]) -> History:
    """Train the model on the training part, watching the validation part if there is one."""
    x, y = model.prepare_training(parts.train), model.prepare_targets(parts.train.y)
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


def _lasting(path: str) -> str:
    """A path that means the same from another folder; names of data sets and pairs of files as they are."""
    return path if path in NAMES or not os.path.exists(path) else str(Path(path).resolve())


def _nothing(line: str) -> None:
    """Where nobody listens."""
