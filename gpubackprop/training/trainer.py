"""Training: epochs of batches over a data set. Full-batch, mini-batch and one-sample-at-a-time descent are this same loop
with another batch size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, RowSource
from gpubackprop.checks import check_x, check_y, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.network.network import Network
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers import Optimizer, get_optimizer
from gpubackprop.random import host_generator
from gpubackprop.training.callbacks import Callback, EarlyStopping, FitPlan, FitProgress, GradientTolerance
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History

REPORTS_PER_SECOND = 4
_ORDER = 1


class Trainer:
    """Fits a network with an optimizer (a name or an object). `callbacks` listen to every fit.

    Raises ArgumentError for an unknown optimizer, and at `fit` for an optimizer that trains another network.
    """

    def __init__(
        self, net: Network, optimizer: str | Optimizer = "adam", *, callbacks: Sequence[Callback] = ()
    ) -> None:
        if not isinstance(net, Network):
            raise ArgumentTypeError(f"net must be a Network; got {net!r}")
        if isinstance(callbacks, Callback) or not all(isinstance(c, Callback) for c in callbacks):
            raise ArgumentTypeError(f"callbacks must be a list of Callback objects; got {callbacks!r}")
        self.net = net
        self.optimizer = get_optimizer(optimizer)
        self.callbacks = list(callbacks)
        self.history = History()
        self._reason: str | None = None

    def stop(self, reason: str) -> None:
        """End the fit after this epoch; `history.stopped` becomes `reason`. For callbacks."""
        self._reason = reason

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 10,
        batch_size: int | None = 32,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        patience: int | None = None,
        monitor: str | None = None,
        gradient_tolerance: float | None = None,
        micro_batch_size: int | None = None,
        first_epoch: int | None = None,
    ) -> History:
        """Train on x (n, d) and y (n, m), or (n,) integer labels for cross_entropy; returns (and keeps) the `History`.

        batch_size: rows a step; None or more than n: all of them; 1: one sample at a time. The last batch of an epoch
        may be smaller. shuffle: a new order each epoch, drawn on the host from the network's seed and the number of epochs
        that it was trained for (`net.epochs`), the same on every device. validation_data: (x, y) whose loss and metrics are
        taken after each epoch. patience: stop when `monitor` ("val_loss", without validation data "loss") has not improved for
        so many epochs, and put the best weights back. gradient_tolerance: stop when the gradient's norm is at most this.
        micro_batch_size: work through each batch in parts of so many rows, with the same gradient. first_epoch: for a run that
        goes on: the epochs of it that are done. Its orders, its schedule and the epochs of the history go on from there.

        A schedule that depends on the length of the run, and does not state it, spreads over this fit (over the whole run, with
        first_epoch); the optimizer's own schedule stays as it is.

        Training ends early, with `history.stopped == "diverged"`, when an epoch's loss is no longer finite.
        Raises ArgumentError, ArgumentTypeError or DeviceError for data and settings that cannot be used, before the first step.
        """
        net, optimizer = self.net, self.optimizer
        be = net.backend
        x = check_x(x, net.widths[0], net.dtype, be)
        y = check_y(y, len(x), net.widths[-1], net.dtype, net.loss_function, be)
        validation = self._checked_validation(validation_data)
        if not isinstance(shuffle, (bool, np.bool_)):
            raise ArgumentTypeError(f"shuffle must be True or False; got {shuffle!r}")
        n = len(x)
        epochs = whole_number("epochs", epochs, least=0)
        first = 0 if first_epoch is None else whole_number("first_epoch", first_epoch, least=0)
        size = n if batch_size is None else min(whole_number("batch_size", batch_size), n)
        part = None if micro_batch_size is None else whole_number("micro_batch_size", micro_batch_size)
        self._check_rows(n, size, part)
        callbacks = [*self.callbacks]
        if gradient_tolerance is not None:
            callbacks.append(GradientTolerance(gradient_tolerance))
        if patience is not None:
            callbacks.append(EarlyStopping(monitor or ("val_loss" if validation else "loss"), patience))
        optimizer.track_norm = (
            any(isinstance(c, GradientTolerance) for c in callbacks) or optimizer.clip_norm is not None
        )
        steps = -(-n // size)
        if first_epoch is not None:
            net.epochs = first
        self.history, self._reason = History(), None
        with net.engine as engine:
            optimizer.bind(engine.parameters)
            optimizer.span(optimizer.t - first * steps, (first + epochs) * steps)
            if engine.shares_memory(x) or engine.shares_memory(y):
                # A view of the weights, as data, would change while they are trained.
                x, y = x.copy(), y.copy()
            source = be.stream(x, y) or Rows(be, x, y)
        for c in callbacks:
            c.on_fit_start(self, FitPlan(epochs, steps, n, size))
        try:
            for epoch in range(first, first + epochs):
                if shuffle:
                    source.order(host_generator(net.seed, _ORDER, net.epochs).permutation(n))
                record = self._epoch(epoch, source, size, part, callbacks, epochs - (epoch - first) - 1)
                net.epochs += 1
                if validation is not None:
                    record.update({f"val_{k}": v for k, v in evaluate(net, *validation).items()})
                self.history.append(record)
                for c in callbacks:
                    c.on_epoch_end(self, record)
                if not isfinite(record["loss"]):
                    self.stop("diverged")
                if self._reason:
                    break
            self.history.stopped = self._reason or "epochs"
        except KeyboardInterrupt:
            self.history.stopped = "interrupted"
            raise
        finally:
            for c in callbacks:
                c.on_fit_end(self, self.history)
        return self.history

    def _check_rows(self, n: int, size: int, part: int | None) -> None:
        """ArgumentError where some batch, or some part of one, has too few rows for the network's layers."""
        batches = {size, n % size} - {0}
        parts = {min(part or b, b) for b in batches} | {b % (part or b) for b in batches}
        for rows in parts - {0}:
            self.net.engine.check_rows(rows)

    def _epoch(
        self, epoch: int, source: RowSource, size: int, part: int | None, callbacks: list[Callback], epochs_left: int
    ) -> dict[str, Any]:
        engine, optimizer = self.net.engine, self.optimizer
        steps = -(-source.n // size)
        engine.reset()
        listeners = [c for c in callbacks if type(c).on_progress is not Callback.on_progress]
        started = time.perf_counter()
        done, stretch = 0, 1 if listeners else steps
        while done < steps:
            until = min(done + stretch, steps)
            engine.train(source, done, until, optimizer, size, part)
            done = until
            if listeners and done < steps:
                loss = engine.read()[0] / (done * size)
                passed = time.perf_counter() - started
                rate = done / passed
                left = (steps - done + epochs_left * steps) / rate
                progress = FitProgress(epoch + 1, done, steps, loss, rate * size, left)
                for c in listeners:
                    c.on_progress(self, progress)
                stretch = max(1, int(rate / REPORTS_PER_SECOND))
        total, norms = engine.read()
        seconds = time.perf_counter() - started
        record = {
            "epoch": epoch + 1,
            "loss": total / source.n,
            "learning_rate": optimizer.current_learning_rate(),
            "seconds": seconds,
            "samples_per_second": source.n / seconds,
        }
        if optimizer.track_norm:
            record["gradient_norm"] = norms / steps
        return record

    def _checked_validation(self, data: tuple[Any, Any] | None) -> tuple[Array, Array] | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ArgumentError(f"validation_data must be a pair (x, y); got {type(data).__name__}")
        net, be = self.net, self.net.backend
        x = check_x(data[0], net.widths[0], net.dtype, be, "validation_data[0]")
        y = check_y(data[1], len(x), net.widths[-1], net.dtype, net.loss_function, be, "validation_data[1]")
        return x, y
