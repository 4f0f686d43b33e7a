"""Training: epochs of batches over a data set. Full-batch, mini-batch and one-sample-at-a-time descent are this same loop
with another batch size."""

from __future__ import annotations

import copy
import hashlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isfinite, nan
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from gpubackprop.backend.base import Array, Backend, RowSource
from gpubackprop.checks import Data, check_weights, check_x, check_y, not_negative, positive, whole_number
from gpubackprop.distributed import Communicator, join
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError
from gpubackprop.files.checkpoint import FORGED, Checkpoint, load_checkpoint, this_process
from gpubackprop.files.manifest import Custom
from gpubackprop.files.plain import finite
from gpubackprop.layers.stack import walk
from gpubackprop.metrics import Metric, checked, is_known, measured
from gpubackprop.network.network import Network
from gpubackprop.network.rows import Rows
from gpubackprop.network.stream import Stream, StreamRows
from gpubackprop.optimizers import Optimizer, get_optimizer
from gpubackprop.random import host_generator
from gpubackprop.sparse import SparseRows
from gpubackprop.training.callbacks import Callback, EarlyStopping, FitPlan, FitProgress, GradientTolerance
from gpubackprop.training.checkpoints import Checkpoints, is_of_the_fit, newest
from gpubackprop.training.divergence import RESTORES, LastGood, checked_on_nan, described
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History
from gpubackprop.training.interrupts import TrainingInterrupted
from gpubackprop.training.large_batches import BatchSizes, learning_rate_factor, measure_batch_sizes
from gpubackprop.training.together import begin, check_weights_agree

REPORTS_PER_SECOND = 4
_ORDER = 1

T = TypeVar("T")
Pair = tuple[Array, Array]


@dataclass
class _Fit:
    """What a fit was asked, and where it is: with the network and the optimizer, all that it takes to go on.

    n: rows. size: rows a step. first: epochs that were done before it; epochs: when it ends, those included. epoch, step: epochs
    that are done, and steps of the next one. restores: how often an epoch began again. skipped: rows of these steps that were
    left out. sums: what `Engine.read` gave for these steps; seconds: what they took. metrics: their names, None: those that suit
    the loss.
    """

    n: int
    size: int
    first: int
    epochs: int
    shuffle: bool
    patience: int | None
    monitor: str
    gradient_tolerance: float | None
    part: int | None
    epoch: int
    on_nan: str = "stop"
    scale: float = 1.0
    warmup: int = 0
    restores: int = 0
    step: int = 0
    skipped: int = 0
    sums: Sequence[float] = (0.0, 0.0)
    seconds: float = 0.0
    metrics: list[str] | None = None
    training_metrics: bool = False
    validation_split: float | None = None

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        for name in ("n", "size", "first", "epochs", "epoch", "step", "skipped", "restores", "warmup"):
            whole_number(name, getattr(self, name), least=name in ("n", "size"))
        checked_on_nan(self.on_nan)
        for name in ("patience", "part"):
            if getattr(self, name) is not None:
                whole_number({"part": "micro_batch_size"}.get(name, name), getattr(self, name))
        if self.gradient_tolerance is not None:
            positive("gradient_tolerance", self.gradient_tolerance)
        _check_split(self.validation_split)
        names = [] if self.metrics is None else self.metrics
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ArgumentTypeError(f"metrics must be a list of names; got {self.metrics!r}")
        if not isinstance(self.training_metrics, bool):
            raise ArgumentTypeError(f"training_metrics must be True or False; got {self.training_metrics!r}")
        if not isinstance(self.shuffle, bool) or not isinstance(self.monitor, str):
            raise ArgumentTypeError(
                f"shuffle must be True or False, monitor a column; got {self.shuffle!r}, {self.monitor!r}"
            )
        self.sums = [not_negative("sums", value) if i else float(value) for i, value in enumerate(self.sums)]
        if len(self.sums) != 2 or self.step >= self.steps or not self.first <= self.epoch <= self.epochs:
            raise ArgumentError(
                f"epoch {self.epoch} of {self.epochs}, step {self.step} of {self.steps}, sums {self.sums}"
            )
        self.seconds = not_negative("seconds", self.seconds)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.steps_of(self.n)

    def steps_of(self, rows: int) -> int:
        """How many steps of an epoch have so many rows together: none but the last has fewer than `size`."""
        return -(-rows // self.size)


def remembered(callbacks: Sequence[Callback]) -> list[tuple[Callback, dict[str, Any]]]:
    """The callbacks that have a state, each with it."""
    return [(c, c.state()) for c in callbacks if type(c).state is not Callback.state]


def _check_split(value: float | None) -> None:
    """ArgumentError unless it is a share between 0 and 1, or None."""
    if value is not None and not positive("validation_split", value) < 1:
        raise ArgumentError(f"validation_split must be a share between 0 and 1; got {value!r}")


def _shows(verbose: bool | Literal["auto"]) -> bool:
    """Whether a fit shows its progress: in a terminal and in a notebook, or as it is asked."""
    if verbose == "auto":
        return "ipykernel" in sys.modules or (sys.stdout is not None and sys.stdout.isatty())
    if not isinstance(verbose, (bool, np.bool_)):
        raise ArgumentTypeError(f'verbose must be True, False or "auto"; got {verbose!r}')
    return bool(verbose)


def _checked_order(order: np.ndarray, n: int) -> np.ndarray:
    """The order as (n,) int64; ArgumentError unless it has every row once: nothing later looks at its indices."""
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ArgumentError("the order of the rows does not have each of them once")
    return order.astype(np.int64)


@dataclass(frozen=True)
class _Data:
    """What a fit trains on, checked. x may be a `Stream`, which has the targets and the weights too."""

    be: Backend
    x: Array
    y: Array = None
    weights: Array | None = None
    validation: Pair | None = None

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """SHA-256 of all of it: a fit goes on with the same only."""
        watched = self._digest(*self.validation) if self.validation else None
        if isinstance(self.x, Stream):
            return {"x": self.x.fingerprint(), "y": None, "validation_data": watched}
        targets = (self.y,) if self.weights is None else (self.y, self.weights)
        return {"x": self._digest(self.x), "y": self._digest(*targets), "validation_data": watched}

    def _digest(self, *arrays: Array) -> str:
        found = hashlib.sha256()
        for array in (part for given in arrays for part in getattr(given, "parts", (given,))):
            host = np.ascontiguousarray(array if isinstance(array, np.ndarray) else self.be.to_host(array))
            found.update(f"{host.dtype.str} {host.shape} ".encode())
            found.update(host.data)
        return found.hexdigest()


class Trainer:
    """Fits a network with an optimizer (a name or an object). `callbacks` listen to every fit.

    distributed: "auto" trains together with the other processes that mpiexec, torchrun or SLURM started, if there are any;
    None, by default, alone; or a `gpubackprop.distributed.Communicator`. Every process calls the same methods with all of the
    data. Each goes through its part of every batch, and what comes out is that of one process to rounding, whatever their
    number; but BatchNorm takes the statistics of the rows of its own process, and the mean of the running ones over all, unless
    it is `synchronized`.
    Only rank 0 runs callbacks that write (`Callback.writes`), and decides when training stops.

    Raises ArgumentError for an unknown optimizer, and at `fit` for an optimizer that trains another network; what
    `distributed.join` raises; DisagreementError, at `fit`, where the processes differ in data, settings or version.
    """

    def __init__(
        self,
        net: Network,
        optimizer: str | Optimizer = "adam",
        *,
        callbacks: Sequence[Callback] = (),
        distributed: str | Communicator | None = None,
    ) -> None:
        if not isinstance(net, Network):
            raise ArgumentTypeError(f"net must be a Network; got {net!r}")
        if isinstance(callbacks, Callback) or not all(isinstance(c, Callback) for c in callbacks):
            raise ArgumentTypeError(f"callbacks must be a list of Callback objects; got {callbacks!r}")
        self.net = net
        self.optimizer = get_optimizer(optimizer)
        self.callbacks = list(callbacks)
        self.ranks = join(distributed)
        """The processes that train together; None where this one is alone."""
        self.history = History()
        self.batch_sizes: BatchSizes | None = None
        """What the last fit with batch_size="auto" found."""
        self._reason: str | None = None
        self._checkpoint: Checkpoint | None = None
        """What `continue_fit` goes on from."""
        self._fit: _Fit | None = None
        self._data: _Data | None = None
        self._listening: list[Callback] = []
        self._order: np.ndarray | None = None
        self._metrics: Sequence[str | Metric] | None = None
        self._pace = 256
        """Steps between two looks at the loss."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy has network and optimizer as they are at one moment, whatever another thread trains; it is in no fit."""
        with self.net.engine:
            net, optimizer = copy.deepcopy((self.net, self.optimizer))
        gone: dict[str, Any] = {"ranks": None, "_fit": None, "_data": None, "_order": None, "_listening": []}
        return {**vars(self), **gone, "net": net, "optimizer": optimizer}

    def stop(self, reason: str) -> None:
        """End the fit after this epoch; `history.stopped` becomes the first reason that was given. For callbacks."""
        self._reason = self._reason or reason

    def fit(
        self,
        x: Data | Stream,
        y: Data | None = None,
        *,
        epochs: int = 10,
        batch_size: int | Literal["auto"] | None = 32,
        sample_weight: ArrayLike | None = None,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        patience: int | None = None,
        monitor: str | None = None,
        gradient_tolerance: float | None = None,
        micro_batch_size: int | None = None,
        first_epoch: int | None = None,
        on_nan: str = "stop",
        validation_split: float | None = None,
        metrics: Sequence[str | Metric] | None = None,
        training_metrics: bool = False,
        verbose: bool | Literal["auto"] = "auto",
        scale_learning_rate: str | None = None,
        base_batch_size: int = 256,
        warmup: float = 0.0,
    ) -> History:
        """Train on x (n, d) and y (n, m), or (n,) integer labels for cross_entropy; returns (and keeps) the `History`.

        x may be a `Stream` (see `gb.open_stream`) in the place of both: rows that are read while training goes on.
        batch_size: rows a step; None or more than n: all of them; 1: one sample at a time; "auto": the fastest that fits, by
        timed steps of a copy (`batch_sizes` says what was found). The last batch of an epoch may be smaller.
        shuffle: a new order each epoch, drawn on the host from the network's seed and the number of epochs that it was trained
        for (`net.epochs`), the same on every device. sample_weight: (n,), what each row's loss is
        multiplied by; the mean over a batch is still one over its rows. validation_data: (x, y) whose loss and metrics are
        taken after each epoch. patience: stop when `monitor` ("val_loss", without validation data "loss") has not improved for
        so many epochs, and put the best weights back. gradient_tolerance: stop when the gradient's norm is at most this.
        micro_batch_size: work through each batch in parts of so many rows, with the same gradient. first_epoch: for a run that
        goes on: the epochs of it that are done. Its orders, its schedule and the epochs of the history go on from there.

        scale_learning_rate: the optimizer's learning rate is for batches of `base_batch_size`; "linear" or "sqrt" make of it what
        suits this batch size (`learning_rate_factor`). warmup: epochs over which it rises linearly from 0, before which such a
        rate is too large. Both hold for this fit, whatever the schedule does besides.

        A schedule that depends on the length of the run, and does not state it, spreads over this fit (over the whole run, with
        first_epoch); the optimizer's own schedule stays as it is.

        on_nan: what happens when the loss is no longer finite, which is looked for a few times a second, or, after an epoch, a
        weight or the optimizer's state. "stop": training ends, `history.stopped` is "diverged", `history.diagnosis` says where,
        and weights and optimizer are those of the epoch's beginning (with `patience`, the weights are the best ones). "restore":
        back to where the epoch began, with half the learning rate, at most 10 times. "skip": every step is looked at, and those
        without a finite loss and gradient leave the weights as they are.

        validation_split: instead of validation_data, the share of the rows that is held out for that: drawn from the network's
        seed, the same on every device, of each class its share. metrics: those to take instead of those that suit the loss, by
        name (`gb.metrics.NAMES`, "top_3") or functions (y, prediction) -> float; `monitor` can be any of them, such as
        "val_roc_auc". training_metrics: take them of the training rows too, after each epoch; without validation data that is
        what `metrics` does. verbose: show the progress: "auto" does it in a terminal and in a notebook, and not in a pipe.

        Raises ArgumentError, ArgumentTypeError or DeviceError for data and settings that cannot be used, before the first step.
        """
        if self._checkpoint is not None:
            raise ArgumentError(
                "this Trainer goes on from a checkpoint, whose settings are those of the fit: call continue_fit(x, y)"
            )
        if not isinstance(shuffle, (bool, np.bool_)):
            raise ArgumentTypeError(f"shuffle must be True or False; got {shuffle!r}")
        if monitor is not None and patience is None:
            raise ArgumentError(f"monitor={monitor!r} is what patience watches: give patience too, or leave both out")
        functions = None if metrics is None else checked(metrics)
        _check_split(validation_split)
        data = self._checked(x, y, sample_weight, validation_data, validation_split)
        n, validation = len(data.x), data.validation
        self._check_metrics(functions, x.first_checked(self.net)[1] if isinstance(x, Stream) else data.y)
        if isinstance(x, Stream) and (training_metrics or (functions is not None and validation is None)):
            raise ArgumentError(
                "metrics of the training rows need all of them in memory, which those of a Stream are not: give validation_data, "
                "and leave training_metrics out"
            )
        first = 0 if first_epoch is None else whole_number("first_epoch", first_epoch, least=0)
        size = self._batch_size(batch_size, data)
        fit = _Fit(
            n=n,
            size=size,
            first=first,
            epochs=first + whole_number("epochs", epochs, least=0),
            shuffle=bool(shuffle),
            patience=patience,
            monitor=monitor or ("val_loss" if validation else "loss"),
            gradient_tolerance=gradient_tolerance,
            part=micro_batch_size,
            epoch=first,
            on_nan=on_nan,
            metrics=None if functions is None else list(functions),
            training_metrics=training_metrics or (functions is not None and validation is None),
            validation_split=validation_split,
            scale=learning_rate_factor(scale_learning_rate, size, base_batch_size),
            warmup=round(not_negative("warmup", warmup) * -(-n // size)),
        )
        self._metrics = metrics
        with self.net.engine.fit():
            if first_epoch is not None:
                self.net.epochs = first
            self._fit, self.history, self._reason = fit, History(), None
            return self._train(data, verbose=verbose)

    def _batch_size(self, asked: int | Literal["auto"] | None, data: _Data) -> int:
        x, n = data.x, len(data.x)
        if asked is None:
            return n
        if asked != "auto":
            return min(whole_number("batch_size", asked), n)
        few, labels = x.first_checked(self.net)[:2] if isinstance(x, Stream) else (x, data.y)
        if self.leads:
            self.batch_sizes = measure_batch_sizes(self.net, self.optimizer, few, labels, n)
        fastest: Any = None if self.batch_sizes is None else self.batch_sizes.fastest
        return int(fastest if self.ranks is None else self.ranks.broadcast(fastest))

    # -- going on -------------------------------------------------------------------------------------------------

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | Backend = "auto",
        callbacks: Sequence[Callback] = (),
        custom: Custom | None = None,
        distributed: str | Communicator | None = None,
    ) -> Trainer:
        """A trainer with the network and the optimizer of a checkpoint that `Checkpoints` wrote; `continue_fit` goes on.

        path: one such file, or their folder, of which the newest that is whole is taken. callbacks: those of the fit; what they
        remember (`Callback.state`) is put back. device and custom: as for `gb.load`. distributed: as for `Trainer`; the
        processes may be more or fewer than before. On the device, BLAS, number of threads and of processes, and versions that the
        checkpoint was written with, the run that goes on has the bits of one that was never interrupted; elsewhere a warning says
        what differs.

        Raises CheckpointError where there is no checkpoint of a fit, or only damaged ones, DeviceError for a device that is not
        there.
        """
        path = Path(path)
        found = load_checkpoint(path, device, custom=custom) if path.is_file() else newest(path, device, custom)
        if found.optimizer is None or "fit" not in found.extra:
            raise CheckpointError(f"{path}: holds a network, but not the state of a fit: gb.load reads it")
        now = this_process(found.net)
        others = [f"{k} {found.saved_on.get(k)!r}, here {v!r}" for k, v in now.items() if found.saved_on.get(k) != v]
        if others:
            warnings.warn(
                f"the checkpoint was written elsewhere ({'; '.join(others)}): the run that goes on agrees with the one that was "
                "interrupted to rounding, not bit for bit",
                RuntimeWarning,
                stacklevel=2,
            )
        trainer = cls(found.net, found.optimizer, callbacks=callbacks, distributed=distributed)
        trainer._checkpoint = found
        return trainer

    def continue_fit(
        self,
        x: Data | Stream,
        y: Data | None = None,
        validation_data: tuple[Any, Any] | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        more_epochs: int = 0,
        metrics: Sequence[Metric] = (),
        verbose: bool | Literal["auto"] = "auto",
    ) -> History:
        """Go on with the fit that `resume` read, on the same data, to its last epoch; returns the `History` from its first one.

        more_epochs: on top of those that were asked for. metrics: the functions among those of the fit; the names are in the
        checkpoint, and so is a validation_split. verbose: as for `fit`. A `Stream` goes on at the row where it was; whether it is
        the same one, `Stream.fingerprint` tells without reading it to its end.

        Raises ArgumentError for other data than before, for a trainer that does not come from `resume`, and for callbacks and
        metrics that do not fit the checkpoint, CheckpointError for a checkpoint that is not what `Checkpoints` wrote, and what
        `fit` raises.
        """
        if self._checkpoint is None:
            raise ArgumentError("continue_fit goes on from a checkpoint: make this Trainer with Trainer.resume(path)")
        extra = self._checkpoint.extra
        more_epochs = whole_number("more_epochs", more_epochs, least=0)
        try:
            fit = _Fit(**extra["fit"])
        except FORGED as error:
            raise CheckpointError(f"the checkpoint does not hold the state of a fit: {error!r}") from error
        data = self._checked(x, y, sample_weight, validation_data, fit.validation_split)
        try:
            history = History.restored(extra["history"])
            reason, rows_at_once = extra["reason"], extra["rows_at_once"]
            if rows_at_once is not None:
                whole_number("rows_at_once", rows_at_once)
            numbers = all(isinstance(v, (int, float)) for r in history for v in (r["loss"], r.get("val_loss", 0.0)))
            for record in history if fit.on_nan == "skip" else ():
                whole_number("skipped", record["skipped"], least=0)
            if not numbers or [r["epoch"] for r in history] != [*range(fit.first + 1, fit.epoch + 1)]:
                raise ArgumentError("the history does not have a record for each epoch")
            ordered = fit.shuffle and fit.step and not isinstance(x, Stream)
            order = _checked_order(extra["order"], fit.n) if ordered else None
            others = [name for name, digest in data.digests.items() if extra["digests"][name] != digest]
            if not isinstance(reason, (str, NoneType)) or (fit.n != len(data.x) and not others):
                raise ArgumentError(f"{fit.n} rows and {reason!r}")
        except FORGED as error:
            raise CheckpointError(f"the checkpoint does not hold the state of a fit: {error!r}") from error
        if others:
            raise ArgumentError(f"{' and '.join(others)} must be the data of the fit that goes on; they are others")
        functions = checked([*metrics])
        wanted = [name for name in fit.metrics or () if not is_known(name)]
        if sorted(functions) != sorted(wanted):
            raise ArgumentError(f"metrics must be the functions among those of the fit, {wanted}; got {[*functions]}")
        self._metrics = None if fit.metrics is None else [functions.get(name) or name for name in fit.metrics]
        fit.epochs += more_epochs
        with self.net.engine.fit():
            self._fit, self.history = fit, history
            self._reason = None if more_epochs else reason
            self.net.engine.rows_at_once = rows_at_once
            return self._train(data, order, verbose)

    def state(self) -> dict[str, Any]:
        """The fit that is running, for a checkpoint beside network and optimizer: name -> host array or plain value.

        Raises ArgumentError where none is running.
        """
        fit = self._running()
        engine = self.net.engine
        assert self._data is not None
        state: dict[str, Any] = {
            "fit": asdict(fit) | {"sums": list(engine.read() if fit.step else (0.0, 0.0))},
            "history": finite(self.history.records),
            "reason": self._reason,
            "rows_at_once": engine.rows_at_once,
            "digests": self._data.digests,
            "callbacks": [],
        }
        if fit.step and self._order is not None:
            state["order"] = self._order.astype(np.min_scalar_type(fit.n))
        for i, (c, values) in enumerate(remembered(self._listening)):
            plain = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
            state["callbacks"].append({"type": type(c).__name__, "values": plain})
            state |= {f"callback.{i}.{k}": v for k, v in values.items() if k not in plain}
        return state

    @property
    def extra(self) -> dict[str, Any]:
        """What lay beside the fit in the checkpoint that `resume` read: `Checkpoints(extra=...)`."""
        kept = {} if self._checkpoint is None else self._checkpoint.extra
        return {name: value for name, value in kept.items() if not is_of_the_fit(name)}

    @property
    def resumed(self) -> bool:
        """Whether the fit goes on from a checkpoint."""
        return self._checkpoint is not None

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes: it is alone, or rank 0."""
        return self.ranks is None or self.ranks.leads

    @property
    def stopping(self) -> bool:
        """Whether the fit ends after the epoch that is running."""
        return self._reason is not None

    @property
    def steps_done(self) -> int:
        """Steps of the fit that are done, those of the epochs before `first_epoch` included."""
        fit = self._running()
        return fit.epoch * fit.steps + fit.step

    def _running(self) -> _Fit:
        if self._fit is None:
            raise ArgumentError("no fit is running: a state is there between the steps of a fit")
        return self._fit

    # -- the loop -------------------------------------------------------------------------------------------------

    def _train(self, data: _Data, order: np.ndarray | None = None, verbose: bool | Literal["auto"] = "auto") -> History:
        """From where `_fit` is to its last epoch. order: of the rows, in an epoch that was begun."""
        net, optimizer, fit = self.net, self.optimizer, self._running()
        be = net.backend
        self._check_rows(fit.n, fit.size, fit.part)
        callbacks = [*self.callbacks]
        if fit.gradient_tolerance is not None:
            callbacks.append(GradientTolerance(fit.gradient_tolerance))
        if fit.patience is not None:
            callbacks.append(EarlyStopping(fit.monitor, fit.patience))
        if _shows(verbose):
            from gpubackprop.training.display import Display

            callbacks.append(Display())
        # What saves the state comes after all that belongs to it.
        callbacks.sort(key=lambda c: isinstance(c, Checkpoints))
        optimizer.track_norm = (
            any(isinstance(c, GradientTolerance) for c in callbacks) or optimizer.clip_norm is not None
        )
        listening = [c for c in callbacks if self.leads or not c.writes]
        self._listening, self._order = listening, None
        with net.engine as engine:
            optimizer.bind(engine.parameters)
            # A skipped step is a step of the fit, but none of the optimizer.
            skipped = [fit.skipped, *(record["skipped"] for record in self.history)] if fit.on_nan == "skip" else []
            taken = self.steps_done - sum(map(fit.steps_of, skipped))
            optimizer.span(optimizer.t - taken, fit.epochs * fit.steps, fit.scale, fit.warmup)
            x = data.x
            stream = StreamRows(x, net, fit.size, fit.shuffle) if isinstance(x, Stream) else None
            if stream is None and (engine.shares_memory(x) or engine.shares_memory(data.y)):
                # A view of the weights, as data, would change while they are trained.
                data = replace(data, x=x.copy(), y=data.y.copy())
            self._data, x, y, weights, validation = data, data.x, data.y, data.weights, data.validation
            if self.ranks is not None:
                with self.ranks:
                    begin(self.ranks, net, optimizer, self._in_common(data, callbacks, order))
            source = stream or be.stream(x, y, weights) or Rows(be, x, y, net.dtype, weights=weights)
        snapshot = LastGood(net, optimizer)
        with ExitStack() as signals:
            if self.ranks is not None:
                signals.enter_context(self.ranks)
                net.engine.ranks = self.ranks
                signals.callback(setattr, net.engine, "ranks", None)
            for c in callbacks:
                if c in listening:
                    c.on_fit_start(self, FitPlan(fit.epochs, fit.steps, fit.n, fit.size))
                if isinstance(c, Checkpoints):
                    # Of a signal that comes to all processes rank 0 decides what happens.
                    signals.enter_context(c.interrupts)
            self._restore(callbacks)
            try:
                while fit.epoch < fit.epochs and not self._reason:
                    if stream is not None:
                        stream.begin(net.epochs)
                    elif fit.shuffle:
                        if order is None:
                            order = host_generator(net.seed, _ORDER, net.epochs).permutation(fit.n)
                        source.order(order)
                        self._order, order = order, None
                    snapshot.take()
                    while (record := self._epoch(source, snapshot)) is None:
                        pass
                    if self.leads:
                        if validation is not None:
                            found = evaluate(net, *validation, metrics=self._metrics)
                            record.update({f"val_{k}": v for k, v in found.items()})
                        if fit.training_metrics:
                            found = evaluate(net, x, y, metrics=self._metrics)
                            record.update({k: v for k, v in found.items() if k != "loss"})
                    if self.ranks is not None:
                        check_weights_agree(self.ranks, net)
                    record = self._led(record)
                    self.history.append(record)
                    for c in listening:
                        c.on_epoch_end(self, record)
                    self._reason = self._led(self._reason)
                self.history.stopped = self._reason or "epochs"
            except KeyboardInterrupt as interrupt:
                self.history.stopped = "interrupted"
                if self.ranks is not None and isinstance(interrupt, TrainingInterrupted):
                    self.ranks.together = True
                    if self.leads:
                        self.ranks.broadcast({"signal": interrupt.signal, "message": str(interrupt)})
                raise
            finally:
                if stream is not None:
                    stream.close()
                for c in listening:
                    c.on_fit_end(self, self.history)
                self._fit = self._checkpoint = self._data = self._order = None
                self._listening = []
                optimizer.end_run()
        for c in listening:
            if isinstance(c, Checkpoints) and c.interrupts.signal is not None:
                # It came after the last look: this fit is whole, but whoever asked for an end means what comes next too.
                number = c.interrupts.signal
                raise TrainingInterrupted(
                    number, f"interrupted by signal {number} when the fit had ended, and was saved"
                )
        return self.history

    def _led(self, value: T) -> T:
        """Rank 0's value, a plain one, in every process. Raises TrainingInterrupted where a signal has ended it there."""
        if self.ranks is None:
            return value
        answer: dict[str, Any] = self.ranks.broadcast({"value": value})
        if "signal" in answer:
            raise TrainingInterrupted(answer["signal"], answer["message"])
        led: T = answer["value"]
        return led

    def _in_common(self, data: _Data, callbacks: list[Callback], order: np.ndarray | None) -> dict[str, Any]:
        """What must be the same in all processes of this fit, besides network and optimizer."""
        arrays = {k: v for k, v in (("x", data.x), ("y", data.y)) if hasattr(v, "shape")}
        names = {"n": "number of rows", "size": "batch_size", "part": "micro_batch_size", "epoch": "first epoch"}
        settings = {names.get(k, k): v for k, v in asdict(self._running()).items() if k not in ("sums", "seconds")}
        return {
            **{f"shape and type of {k}": f"{v.shape} {v.dtype}" for k, v in arrays.items()},
            **{f"SHA-256 of {k}": v for k, v in data.digests.items()},
            **settings,
            "weights of rows": data.weights is not None,
            "order of the rows": None if order is None else order[:100].tolist(),
            "list of callbacks": [type(c).__name__ for c in callbacks if not c.writes],
        }

    def _restore(self, callbacks: list[Callback]) -> None:
        """Put back what the callbacks of the checkpoint remembered."""
        if self._checkpoint is None:
            return
        extra = self._checkpoint.extra
        listening = [c for c, _ in remembered(callbacks)]
        try:
            kept = [(entry["type"], dict(entry["values"])) for entry in extra["callbacks"]]
            if [kind for kind, _ in kept] != [type(c).__name__ for c in listening]:
                raise ArgumentError(
                    f"callbacks with a state must be those of the checkpoint, {', '.join(k for k, _ in kept) or 'none'}; got "
                    f"{', '.join(type(c).__name__ for c in listening) or 'none'}"
                )
            for i, (c, (_, values)) in enumerate(zip(listening, kept, strict=True)):
                prefix = f"callback.{i}."
                arrays = {k.removeprefix(prefix): v for k, v in extra.items() if k.startswith(prefix)}
                c.set_state(self, {**values, **arrays})
        except ArgumentError:
            raise
        except FORGED as error:
            raise CheckpointError(f"the checkpoint does not hold the state of its callbacks: {error!r}") from error

    def _check_rows(self, n: int, size: int, part: int | None) -> None:
        """ArgumentError where some batch, or some part of one, has too few rows for the network's layers."""
        batches = {size, n % size} - {0}
        if self.ranks is not None:
            batches = {rows for b in batches for rows in self.ranks.counts(b)}
            together = any(getattr(layer, "synchronized", False) for _, layer in walk(self.net.layers))
            if together and (0 in batches or (part or size) < max(batches)):
                raise ArgumentError(
                    "a synchronized BatchNorm needs rows of every batch in every process, in one part: raise batch_size, leave "
                    "no short batch at the end, and leave out micro_batch_size"
                )
            batches -= {0}
        parts = {min(part or b, b) for b in batches} | {b % (part or b) for b in batches}
        for rows in parts - {0}:
            self.net.engine.check_rows(rows)

    def _epoch(self, source: RowSource, snapshot: LastGood) -> dict[str, Any] | None:
        """The rest of the epoch that `_fit` is in; its record, or None where it begins again.

        snapshot: the state as it is now.
        """
        engine, optimizer, fit = self.net.engine, self.optimizer, self._running()
        steps, begun = fit.steps, fit.step
        engine.reset(*fit.sums)
        listeners = [c for c in self._listening if type(c).on_progress is not Callback.on_progress]
        pauses = [c.every_steps for c in listeners if c.every_steps]
        before, started = fit.seconds, time.perf_counter()
        stretch, total, norms = 1 if listeners else self._pace, *fit.sums
        while fit.step < steps:
            due = [every - self.steps_done % every for every in pauses]
            until = self._led(min(fit.step + min([stretch, *due]), steps))
            skip = fit.on_nan == "skip"
            fit.skipped += engine.train(source, fit.step, until, optimizer, fit.size, fit.part, skip=skip)
            if until == steps:
                # No step comes after the last one that would show what its update did.
                engine.look_at_weights(optimizer)
            total, norms = engine.read()
            counted = min(until * fit.size, fit.n) - fit.skipped
            loss = total / counted if counted else nan
            learning_rate = optimizer.current_learning_rate()
            if not isfinite(loss) and (counted or until == steps):
                if self._begins_again(snapshot, fit.step, until, loss):
                    fit.step = begun
                    return None
                break
            fit.step = until
            if until < steps:
                passed = time.perf_counter() - started
                fit.seconds = before + passed
                rate = (until - begun) / passed
                left = ((fit.epochs - fit.epoch) * steps - until) / rate
                progress = FitProgress(fit.epoch + 1, until, steps, loss, rate * fit.size, left)
                for c in listeners:
                    c.on_progress(self, progress)
                stretch = self._pace = max(1, int(rate / REPORTS_PER_SECOND))
        seconds = before + time.perf_counter() - started
        skipped, done = fit.skipped, steps - fit.steps_of(fit.skipped)
        fit.epoch, fit.step, fit.skipped, fit.sums, fit.seconds = fit.epoch + 1, 0, 0, (0.0, 0.0), 0.0
        self.net.epochs += 1
        record = {
            "epoch": fit.epoch,
            "loss": loss,
            "learning_rate": learning_rate,
            "seconds": seconds,
            "samples_per_second": source.n / seconds,
        }
        if optimizer.track_norm:
            record["gradient_norm"] = norms / done if done else nan
        if fit.on_nan == "skip":
            record["skipped"] = skipped
        return record

    def _begins_again(self, snapshot: LastGood, first: int, stop: int, loss: float) -> bool:
        """Whether the epoch, of which a loss is not finite, begins again from the snapshot. The history says what happened."""
        net, optimizer, fit = self.net, self.optimizer, self._running()
        rows = min(fit.size, fit.n - (stop - 1) * fit.size)
        where = f"in epoch {fit.epoch + 1}, between its steps {first + 1} and {stop}"
        rate = optimizer.current_learning_rate()
        if self.ranks is not None:
            rows = max(self.ranks.counts(rows))
        diagnosis = None
        if self.leads:
            diagnosis = described(net, optimizer, snapshot, min(rows, fit.part or rows), where, loss, rate)
        else:
            snapshot.put_back()
        self.history.diagnosis = self._led(diagnosis)
        if fit.on_nan == "restore" and fit.restores < RESTORES:
            optimizer.learning_rate /= 2
            fit.restores += 1
            return True
        self.stop("diverged")
        return False

    def _checked(
        self,
        x: Data | Stream,
        y: Data | None,
        sample_weight: ArrayLike | None,
        validation: tuple[Data, Data] | None,
        held_out: float | None,
    ) -> _Data:
        """What a fit is given, checked and, with a validation_split, divided."""
        net, be = self.net, self.net.backend
        if isinstance(x, Stream):
            if held_out is not None:
                raise ArgumentError("validation_split needs rows in memory: give validation_data beside a Stream")
            if y is not None or sample_weight is not None:
                raise ArgumentError("a Stream has its own targets and weights: leave y and sample_weight out")
            return _Data(be, x, validation=self._checked_validation(validation))
        if y is None:
            raise ArgumentError("y is missing: only a Stream (gb.open_stream) has its own targets")
        if held_out is not None and validation is not None:
            raise ArgumentError("validation_split and validation_data are both given; leave one out")
        if held_out is not None and isinstance(x, np.memmap):
            raise ArgumentError(
                "validation_split would read a memory-mapped x whole: give its last rows as validation_data"
            )
        rows = check_x(x, net.widths[0], net.dtype, be)
        targets = check_y(y, len(rows), net.widths[-1], net.dtype, net.loss_function, be)
        weights = check_weights(sample_weight, len(rows), net.dtype, net.loss_function, be)
        if held_out is None:
            return _Data(be, rows, targets, weights, self._checked_validation(validation))
        from gpubackprop.data.splitting import split

        host = targets if isinstance(targets, np.ndarray) else be.to_host(targets)
        strata = host if host.ndim == 1 else None
        if strata is None and net.loss_function.output in ("sigmoid", "softmax") and np.isin(host, (0, 1)).all():
            strata = np.unique(host, axis=0, return_inverse=True)[1].reshape(-1)
        kept, held = split(len(rows), held_out, seed=net.seed, labels=strata)

        def taken(array: Array, index: np.ndarray) -> Array:
            if isinstance(array, SparseRows):
                return array.taken(index)
            on_host = isinstance(array, np.ndarray) or not be.owns(array)
            return array[index] if on_host else be.asarray(be.to_host(array)[index])

        weights = None if weights is None else weights[kept]
        return _Data(be, taken(rows, kept), taken(targets, kept), weights, (taken(rows, held), taken(targets, held)))

    def _check_metrics(self, metrics: dict[str, Metric | None] | None, y: Array) -> None:
        """Refuse, before the first step, those that the loss has no use for."""
        named = {name: None for name, function in (metrics or {}).items() if function is None}
        first = y[:1] if isinstance(y, np.ndarray) else self.net.backend.to_host(y[:1])
        measured(named, np.full((1, self.net.widths[-1]), 0.5), first, self.net.loss_function)

    def _checked_validation(self, data: tuple[Any, Any] | None) -> Pair | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ArgumentError(f"validation_data must be a pair (x, y); got {type(data).__name__}")
        net, be = self.net, self.net.backend
        x = check_x(data[0], net.widths[0], net.dtype, be, "validation_data[0]")
        y = check_y(data[1], len(x), net.widths[-1], net.dtype, net.loss_function, be, "validation_data[1]")
        return x, y
