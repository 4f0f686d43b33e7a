"""A training run from data to its folder: what `gpubackprop train` does, as functions."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.checks import whole_number
from gpubackprop.data import NAMES, Dataset, Standardizer, Table, TextFormat, load
from gpubackprop.data.pieces import open_stream
from gpubackprop.data.sampling import Sample, load_sample
from gpubackprop.distributed import Communicator, join, local_device
from gpubackprop.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    DataError,
    MissingExtraError,
    unknown_name,
)
from gpubackprop.files.checkpoint import FORGED, save
from gpubackprop.files.plain import finite
from gpubackprop.losses import get_loss
from gpubackprop.network.stream import Stream
from gpubackprop.pipeline.encoder import ColumnChoices, Encoder, described
from gpubackprop.pipeline.large import Held, encode_all, is_large, rows_together
from gpubackprop.pipeline.model import Model
from gpubackprop.pipeline.pictures import draw_confusion, draw_predictions
from gpubackprop.pipeline.preparation import (
    FEWEST,
    Part,
    Parts,
    baseline,
    divide,
    drawn,
    fingerprint,
    outputs_for,
    told,
)
from gpubackprop.pipeline.report import Report, report
from gpubackprop.pipeline.run_folder import CHECKPOINTS, ENCODED, HISTORY, MODEL, RunFolder, read_settings, versions
from gpubackprop.pipeline.settings import Settings, SettingsOptions
from gpubackprop.training import (
    Callback,
    Checkpoints,
    FitPlan,
    History,
    Interrupts,
    Trainer,
    Training,
    TrainingInterrupted,
    evaluate,
)
from gpubackprop.training.checkpoints import Every, Trouble
from gpubackprop.training.divergence import checked_on_nan
from gpubackprop.training.figures import png
from gpubackprop.training.history import curves
from gpubackprop.training.large_batches import gradient_noise_scale, learning_rate_factor, measure_batch_sizes
from gpubackprop.training.log_file import LogFile

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLED = 100_000
"""Rows of a table that is streamed which are drawn at random to look at, and to hold out some."""
MOST_PARAMETERS = 10_000_000
"""Of a network whose gradient's noise is measured after training without being asked."""
SHOWN_ROWS = 1000
"""Training rows that the score after each epoch is of, where none are watched."""
MEASURED_ROWS = 4096
"""Rows that batch sizes and the gradient's noise are measured on."""

Say = Callable[[str], None]


@dataclass
class Run:
    """What a training run gave.

    path: its folder. model: the network with the preparation of its data. history: of its epochs. report: how good it is on
    the rows that `judged_on` names; None where it was interrupted before it had finished an epoch.
    """

    path: Path
    model: Model
    history: History
    report: Report | None
    judged_on: str

    @property
    def scores(self) -> dict[str, float]:
        """The metrics by name; none where there is no report."""
        return {} if self.report is None else self.report.metrics


class RunInterruptedError(TrainingInterrupted):
    """A training run was interrupted by a signal; what was reached is in `run` and in its folder."""

    def __init__(self, number: int, run: Run) -> None:
        super().__init__(number, f"interrupted after {len(run.history)} epochs; what was reached is in {run.path}")
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
    columns: ColumnChoices | None = None,
    max_bytes: int | None = None,
    memory: int | None = None,
    sha256: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    checkpoint_every: str | None = None,
    stop_on: Sequence[int] = (),
    callbacks: Sequence[Callback] = (),
    say: Say | None = None,
    distributed: str | Communicator | None = None,
    **settings: Unpack[SettingsOptions],
) -> Run:
    """Train a network on the data; leave its weights, settings, history, curves and checkpoints in a run folder.

    data: a data set, or its name or file; target, task, folder, weight, group, format and max_bytes: as for `load`. columns:
    what to do with which columns of a table, where it shall not be what suits them. memory: bytes that training may take, by
    default those of the machine: of a table file that needs more, 100,000 rows drawn at random decide what becomes of the
    columns, and are what is held out; the network trains on all others as a stream (`pipeline.large`), with a group on those
    whose group is not among the held-out rows. sha256: the data must be
    those with this fingerprint in their settings.json. out: the run folder, by default runs/<name>-1, runs/<name>-2, ...;
    overwrite: replace a run that is there, once this one is whole. checkpoint_every: as `every` of `Checkpoints`. stop_on:
    signals that end the training in order beside SIGINT, SIGTERM and SIGHUP. callbacks
    listen to the training; say is called with each line for people to read. distributed: as for `Trainer`; rank 0 alone writes
    the folder, says something and reports, and each process has a GPU of its own, where there are some. settings: fields of
    `pipeline.settings.Settings`, such as epochs=20, layers=[512, 256], learning_rate=1e-3, device="cpu"; the others become what
    suits the data.

    Raises RunInterruptedError, a KeyboardInterrupt, after a signal, once what was reached is saved; ArgumentError, DataError,
    DeviceError or CheckpointError for arguments that cannot be used, for training that diverges, and for a folder that
    cannot be written or that another process writes into.
    """
    every = None if checkpoint_every is None else Every.parse(checkpoint_every)
    known = {f.name for f in fields(Settings)}
    for name in settings:
        if name not in known:
            raise unknown_name("setting", name, known)
    ranks = join(distributed)
    if ranks is not None and data == "-":
        raise ArgumentError(
            "data=- is standard input, which one process gets; several need a file that all of them can read"
        )
    columns = columns or ColumnChoices()
    path = os.fspath(data) if isinstance(data, (str, os.PathLike)) else None
    source = None if path is None else _lasting(path)
    sample: Sample | None = None
    # Machines of several sizes go by that of rank 0.
    streams = _shared(ranks, path is not None and is_large(path, memory))
    if path is not None and streams:
        seed = Settings(**settings).seed
        sample = load_sample(path, SAMPLED, seed, target, task, format, columns.categorical, weight, group)
        loaded = sample.data
        format = loaded.x.format if isinstance(loaded.x, Table) else format
    elif path is not None:
        read: dict[str, Any] = {"weight": weight, "group": group, "format": format, "max_bytes": max_bytes}
        loaded = load(path, target=target, task=task, folder=folder, text=columns.categorical, **read)
    elif isinstance(data, Dataset):
        asked = {"target": target, "folder": folder, "weight": weight, "group": group, "format": format}
        for name, value in {**asked, "max_bytes": max_bytes, "task": None if task == "auto" else task}.items():
            if value is not None:
                raise ArgumentError(f"{name} is for a name or a file; of a Dataset it is settled: leave it out")
        loaded = data
        format = loaded.x.format if isinstance(loaded.x, Table) else format
    else:
        raise ArgumentTypeError(f"data must be a Dataset, a name or a path; got {type(data).__name__}")
    chosen = Settings(**settings).completed(loaded)
    parts = divide(loaded, test=chosen.test, validation=chosen.validation or 0.0, seed=chosen.seed)
    origin = {
        "source": source,
        "target": target,
        "folder": None if folder is None else _lasting(os.fspath(folder)),
        "weight": weight,
        "group": group,
        "max_bytes": max_bytes,
        "memory": memory,
        "sampled": sample and SAMPLED,
        "text": sample and list(columns.categorical),
        "format": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(format or TextFormat()).items()},
    }
    here = replace(chosen, device=local_device(chosen.device, ranks))
    model = prepare(loaded, parts.train, here, origin, columns)
    if sha256 not in (None, model.data["sha256"]):
        raise DataError(
            f"{loaded.name}: sha256={sha256} is not that of the data, {model.data['sha256']}: they have changed"
        )
    rows, what, held = len(parts.train.x), parts.train.what, None
    if sample is not None:
        held = Held(sample, parts, group)
        model.data["window"] = _shared(ranks, rows_together(model.network.widths[0], memory))
        rows = sample.total - held.count(model.data["source"], format)
        apart = f" ({sample.total - rows:,} are of groups that are held out)" if group else ""
        what = f"{rows:,} rows, as a stream{apart}"
    sizes = None
    if chosen.batch_size == "auto":
        if ranks is None or ranks.leads:
            x, y = model.prepared(parts.train.some(MEASURED_ROWS, chosen.seed))
            sizes = measure_batch_sizes(model.network, chosen.make_optimizer(rows), x, y, rows)
        chosen = replace(chosen, batch_size=_shared(ranks, sizes and sizes.fastest))
    chosen = replace(chosen, batch_size=chosen.rows_a_step(rows))
    trainer = Trainer(model.network, chosen.make_optimizer(rows), distributed=ranks)
    always = baseline(loaded, parts.train)
    encoded = model.inputs.columns if isinstance(model.inputs, Encoder) else []
    about = {
        "command": shlex.join(sys.argv),
        "settings": asdict(chosen),
        "network": repr(model.network),
        "rows": {**{name: part and part.what for name, part in vars(parts).items()}, "train": what},
        "baseline": always,
        "batch_sizes": sizes and {**asdict(sizes), "speeds": {str(n): speed for n, speed in sizes.speeds.items()}},
        "notes": list(loaded.notes),
        "columns": [
            {k: getattr(column, k) for k in ("name", "kind", "missing", "levels", "becomes")} for column in encoded
        ],
        "versions": versions(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": {
            **origin,
            "task": task,
            "columns": asdict(columns),
            "name": loaded.name,
            "sha256": model.data["sha256"],
        },
    }
    training = _Training(trainer, model, parts, chosen, about, held, every, Interrupts(stop_on), callbacks, say)
    with RunFolder.create(out, loaded.name, overwrite) if trainer.leads else nullcontext() as run:
        found = (repr(loaded), repr(model.network), repr(trainer.optimizer))
        for line in (*loaded.notes, *(described(encoded) if encoded else ()), *told(always), *found):
            training.say(line)
        if sizes is not None:
            training.say(str(sizes))
        training.say(f"training on {what}, batches of {chosen.batch_size}; test: {parts.test.what}")
        return training.carry_out(run)


def resume_run(
    run: str | os.PathLike[str],
    *,
    more_epochs: int = 0,
    data: Dataset | str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    device: str | None = None,
    checkpoint_every: str | None = None,
    stop_on: Sequence[int] = (),
    callbacks: Sequence[Callback] = (),
    say: Say | None = None,
    distributed: str | Communicator | None = None,
) -> Run:
    """Go on with a run that was interrupted, from its newest checkpoint, as if it never had been; or train a whole one further.

    run: its folder. more_epochs: on top of those that it was to have. data: the training data, where they are not where they
    were, or were no file; folder: as for `load`. device: None for that of the run. The other arguments: as for `train_run`;
    the processes may be more or fewer than before, and must all see the folder.

    Raises CheckpointError where the folder holds no checkpoint that is whole, DataError where the data are others, and what
    `train_run` raises.
    """
    every = None if checkpoint_every is None else Every.parse(checkpoint_every)
    more_epochs = whole_number("more_epochs", more_epochs, least=0)
    ranks = join(distributed)
    with RunFolder.reopen(run) if ranks is None or ranks.leads else nullcontext() as opened:
        work = _shared_path(ranks, opened.work if opened else None)
        device = local_device(device or _device_of(work), ranks)
        trainer = Trainer.resume(work / CHECKPOINTS, device=device, distributed=ranks)
        try:
            about = dict(trainer.extra["run"])
            settings = Settings(**about["settings"])
            model = Model.built(trainer.net, trainer.extra)
        except FORGED as error:
            raise CheckpointError(f"{work / CHECKPOINTS}: not the checkpoints of a run: {error!r}") from error
        if more_epochs:
            about["continued_from"] = settings.epochs
        settings = replace(settings, epochs=(settings.epochs or 0) + more_epochs)
        about["settings"] = asdict(settings)
        loaded, sample = _same_data(model, data, folder)
        shares = {"test": settings.test, "validation": settings.validation or 0.0}
        parts = divide(loaded, **shares, seed=settings.seed, rare_together=model.rare_together)
        held = None if sample is None else Held(sample, parts, model.data["group"])
        interrupts = Interrupts(stop_on)
        training = _Training(
            trainer, model, parts, settings, about, held, every, interrupts, callbacks, say, more_epochs
        )
        training.say(f"{loaded!r}\n{model.network!r}\n{trainer.optimizer!r}")
        training.say(
            f"going on after {model.network.epochs} whole epochs of {settings.epochs}; test: {parts.test.what}"
        )
        return training.carry_out(opened)


@dataclass
class _Training:
    """A run that is ready to be trained, or to go on, in its folder. held: of a table that is streamed, the rows that are
    not for training. more_epochs: on top of those that it was to have."""

    trainer: Trainer
    model: Model
    parts: Parts
    settings: Settings
    about: dict[str, Any]
    held: Held | None
    every: Every | None
    interrupts: Interrupts
    callbacks: Sequence[Callback]
    listener: Say | None
    more_epochs: int = 0

    def say(self, line: str) -> None:
        """Tell people what goes on; rank 0 does."""
        if self.listener and self.trainer.leads:
            self.listener(line)

    def report(self, line: str) -> None:
        """Tell people of what went wrong, in a warning where nobody listens."""
        (self.listener or warnings.warn)(line)

    def carry_out(self, run: RunFolder | None) -> Run:
        """Train, and leave the result in the folder, or, without one, nothing: rank 0 does. Raises what `train_run` raises."""
        path = _shared_path(self.trainer.ranks, run.path if run else None)
        if run is None:
            return self._follow(path)
        interrupts = self.interrupts
        extra = {**self.model.extra(), "run": finite(self.about)}
        checkpoints = Checkpoints(run.checkpoints, self.every, extra=extra, report=self.report, interrupts=interrupts)
        callbacks = [_HistoryFile(run.work / HISTORY, self.report), *self.callbacks, checkpoints]
        with interrupts:
            run.write_json("settings.json", self.about)
            stopped_by = None
            try:
                history = self._fit(callbacks, run.work)
            except KeyboardInterrupt as interrupt:
                if interrupts.forced:
                    raise
                stopped_by = getattr(interrupt, "signal", signal.SIGINT)
                history = self.trainer.history
            if stopped_by and not history and run.work != run.path:
                raise RunInterruptedError(stopped_by, Run(run.work, self.model, history, None, ""))
            done = self._keep(run, history)
            if interrupts.signal is None:
                self._draw(run, done)
        if self.held is not None and not (stopped_by or interrupts.signal):
            shutil.rmtree(run.path / ENCODED, ignore_errors=True)
        if stopped_by or interrupts.signal:
            raise RunInterruptedError(stopped_by or interrupts.signal or 0, done)
        return done

    def _follow(self, path: Path) -> Run:
        try:
            # The first signal of each process is held back, since rank 0 decides.
            with self.interrupts:
                history = self._fit([*self.callbacks], None)
        except TrainingInterrupted as interrupt:
            run = Run(path, self.model, self.trainer.history, None, "")
            raise RunInterruptedError(interrupt.signal, run) from interrupt
        return Run(path, self.model, history, None, "")

    def _fit(self, callbacks: list[Callback], work: Path | None) -> History:
        """The fit itself. work: the run folder, where this process writes: of a table that is streamed it encodes the rows there,
        which the others read when it is done."""
        stream, ranks = None, self.trainer.ranks
        if self.held is not None:
            with ranks or nullcontext():
                if ranks is not None:
                    # What they cannot do together they find before rank 0 encodes for an hour.
                    ranks.attach(self.model.network.backend)
                if work is not None:
                    encode_all(
                        self.model, self.held, self.parts.train, work / ENCODED, self.settings.class_weight is not None
                    )
                folder = _shared_path(ranks, work and work / ENCODED)
                stream = open_stream(folder, window=self.model.data["window"])
        return fit(self.trainer, self.model, self.parts, self.settings, callbacks, self.more_epochs, stream)

    def _keep(self, run: RunFolder, history: History) -> Run:
        """Write what the training gave, and let it take its place."""
        trainer, model, test = self.trainer, self.model, self.parts.test
        finite = all(np.isfinite(w).all() for w in model.network.get_weights().values())
        if not finite or (history.stopped == "diverged" and not history.best_epoch):
            raise ArgumentError(
                f"training diverged: {history.diagnosis or 'some weights are not finite'}; so its weights are not saved. "
                f"Lower learning_rate (it was {trainer.optimizer.learning_rate:g}), say clip_norm=1, or on_nan=restore"
            )
        save(run.work / MODEL, model.network, optimizer=trainer.optimizer, extra=model.extra())
        history.save(run.work / HISTORY)
        found = report(model, test.x, test.y)
        noise = self._noise()
        self.about["result"] = {
            "stopped": history.stopped,
            "epochs": len(history),
            "best_epoch": history.best_epoch,
            "test": found.metrics,
            "gradient_noise_scale": noise,
        }
        run.write_json("metrics.json", found.plain(model.classes, test.what))
        run.write_json("settings.json", self.about)
        run.finish()
        return Run(run.path, model, history, found, test.what)

    def _noise(self) -> float | None:
        """The gradient noise scale of the trained network, in rows; None where there are too few rows to tell, and for a large
        network, whose gradients it takes 64 times."""
        model, rows = self.model, len(self.parts.train.x)
        if rows < FEWEST or model.network.parameter_count > MOST_PARAMETERS:
            return None
        x, y = model.prepared(self.parts.train.some(MEASURED_ROWS, self.settings.seed))
        found = gradient_noise_scale(model.network, x, y, batch_size=max(1, min(32, len(x) // 8))).scale
        scale = f"{found:,.0f} rows; larger batches than that save few steps"
        self.say(
            f"gradient noise scale at the end: {scale if isfinite(found) else 'the gradient is lost in its noise'}"
        )
        return found if isfinite(found) else None

    def _draw(self, run: RunFolder, done: Run) -> None:
        """The pictures, last of all: whatever is wrong with one, the run is whole."""
        title, y = done.model.data["name"], self.parts.test.y
        pictures: dict[str, Callable[[], bytes]] = {}
        if len(done.history):
            pictures["curves.png"] = lambda: png(curves({"": done.history}, title))
        if done.report is not None and (counts := done.report.counts) is not None:
            pictures["confusion.png"] = lambda: draw_confusion(counts, done.model.classes, title)
        elif done.report is not None and done.model.data["task"] == "regression":
            answers = done.report.answers
            pictures["predicted.png"] = lambda: draw_predictions(answers, y, done.model.data["targets"], title)
        for name, draw in pictures.items():
            try:
                run.write(name, draw())
            except MissingExtraError as error:
                self.say(f"no pictures: {error}")
                return
            except Exception as error:
                self.report(f"{name} could not be drawn ({type(error).__name__}: {error}); everything else is there")


def prepare(
    data: Dataset, part: Part, settings: Settings, origin: dict[str, Any], columns: ColumnChoices | None = None
) -> Model:
    """A model for the data, with its inputs and targets fitted to the training part, not trained yet.

    Raises DataError where the training part has a single class, or no column that could help, ArgumentError for choices of
    columns where the data are arrays.
    """
    if data.classes and len(np.unique(part.y)) < 2:
        raise DataError(
            f"{data.name}: every row holds {data.classes[part.y[0]]!r}: with one class there is nothing to learn"
        )
    checked_on_nan(settings.on_nan)
    learning_rate_factor(settings.scale_learning_rate, 1, settings.base_batch_size)
    settings.row_weights(part.y, None if origin.get("sampled") else part.weights, data.task)
    inputs: Encoder | Standardizer | None = None
    columns = columns or ColumnChoices()
    width = data.x.shape[1]
    if isinstance(part.x, Table):
        choices = replace(columns, scale=settings.standardize and columns.scale)
        inputs = Encoder.fit(part.x, part.y, len(data.classes), choices)
        width = len(inputs.inputs)
    elif made := [k for k, v in vars(columns).items() if v != getattr(ColumnChoices(), k)]:
        raise ArgumentError(
            f"{made[0]} is for the columns of a table, and the data set {data.name!r} holds arrays: leave it out"
        )
    elif settings.standardize:
        inputs = Standardizer(per_feature=not data.image).fit(part.x)
    loss = get_loss(settings.loss or "cross_entropy")
    outputs = outputs_for(data.task, len(data.classes), len(data.targets) or data.y[:1].size, loss)
    net = settings.network(width, outputs, loss)
    description = {
        **origin,
        "name": data.name,
        "task": data.task,
        "classes": list(data.classes),
        "features": list(data.features),
        "targets": list(data.targets),
        "sha256": fingerprint(data),
        **{k: getattr(settings, k) for k in ("test", "validation", "seed")},
        "rare_together": True,
    }
    scale = Standardizer().fit(part.y) if settings.standardize and data.task == "regression" else None
    return Model(net, inputs, scale, description)


def fit(
    trainer: Trainer,
    model: Model,
    parts: Parts,
    settings: Settings,
    callbacks: list[Callback],
    more_epochs: int = 0,
    stream: Stream | None = None,
) -> History:
    """Train the model on the training part, or on a stream, or go on with that, watching the validation part if there is one."""
    few = parts.train if stream is None else parts.train.some(SHOWN_ROWS, settings.seed)
    x, y = model.prepare_training(few), model.prepare_targets(few.y)
    watched = parts.validation and model.prepared(parts.validation)
    trainer.callbacks[:] = callbacks
    if not watched:
        rows = drawn(len(x), SHOWN_ROWS, settings.seed)
        trainer.callbacks.insert(0, _TrainingScore(x[rows], y[rows]))
    elif model.targets is not None:
        trainer.callbacks.insert(0, _InTheUnitOfTheTarget(model.targets))
    options: dict[str, Any] = {"validation_data": watched, "verbose": False}
    data: Any = (stream, None)
    if stream is None:
        data = (x, y)
        options["sample_weight"] = settings.row_weights(parts.train.y, parts.train.weights, model.data["task"])
    if trainer.resumed:
        return trainer.continue_fit(*data, more_epochs=more_epochs, **options)
    for name in ("batch_size", "micro_batch_size", "scale_learning_rate", "base_batch_size", "patience", "on_nan"):
        options[name] = getattr(settings, name)
    return trainer.fit(*data, epochs=settings.epochs or 1, **options)


class _TrainingScore(Callback):
    """Without a validation part: the score on (a thousand of) the training rows, so that there is one to look at."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        scores = evaluate(trainer.net, self.x, self.y)
        record.update({k: v for k, v in scores.items() if k in ("accuracy", "r2")})


class _InTheUnitOfTheTarget(Callback):
    """With a validation part: its mean absolute error in the unit of the target, as all else that people see, not of the
    standardised one; of several targets, which have a scale each, none."""

    def __init__(self, scale: Standardizer) -> None:
        self.scale = scale

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        if self.scale.width == 1:
            record["val_mean_absolute_error"] *= float(self.scale.scale[0])
        else:
            del record["val_mean_absolute_error"]


class _HistoryFile(LogFile):
    """Writes each epoch's line as soon as there is one; where it cannot, training goes on."""

    def __init__(self, path: Path, report: Say) -> None:
        super().__init__(path, overwrite=True)
        self.trouble = Trouble("history", report)

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        if trainer.resumed:
            super().on_fit_start(trainer, plan)

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        try:
            if self.trouble.told:
                trainer.history.save(self.path)
            else:
                super().on_epoch_end(trainer, record)
            self.trouble.note(None)
        except DataError as error:
            self.trouble.note(str(error))


def _shared(ranks: Communicator | None, value: Any) -> Any:
    """Rank 0's value, in every process."""
    return value if ranks is None else ranks.broadcast(value)


def _shared_path(ranks: Communicator | None, path: Path | None) -> Path:
    """Rank 0's path, in every process; the others have none."""
    return Path(_shared(ranks, path and str(path if ranks is None else path.absolute())))


def _same_data(
    model: Model, data: Dataset | str | os.PathLike[str] | None, folder: str | os.PathLike[str] | None
) -> tuple[Dataset, Sample | None]:
    """The data that the model was trained on, and of a table that is streamed its sample; DataError where they are others, or are
    not known."""
    known, sample = model.data, None
    if isinstance(data, Dataset):
        loaded = data
    else:
        source = model.source("say which rows those were by data=...") if data is None else os.fspath(data)
        if known.get("sampled"):
            sample = model.load_sample(source)
            loaded = sample.data
        else:
            loaded = model.load_data(source, folder=folder or known["folder"], same=True)
    # The fingerprint is of labels, not of what the classes are called.
    if fingerprint(loaded) != known["sha256"] or list(loaded.classes) != known["classes"]:
        raise DataError(
            f"{loaded.name}: not the data that the run was trained on; it can go on with the same rows only"
        )
    if sample is not None:
        known["source"] = _lasting(source)
    return loaded, sample


def _device_of(run: Path) -> str:
    """The device that a run was to be trained on, as far as its settings can still be read."""
    try:
        device = read_settings(run)["settings"]["device"]
    except (DataError, LookupError, TypeError):
        device = "auto"
    return device if isinstance(device, str) else "auto"


def _lasting(path: str) -> str:
    """A path that means the same from another folder; names of data sets and pairs of files as they are."""
    return path if path in NAMES or not os.path.exists(path) else str(Path(path).resolve())
