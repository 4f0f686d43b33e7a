"""Training: epochs of batches over a data set. Full-batch, mini-batch and one-sample-at-a-time descent are this same loop
with another batch size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.checks import check_x, check_y, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.network import within_memory
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer, get_optimizer
from gpubackprop.random import host_generator
from gpubackprop.training.callbacks import Callback, EarlyStopping, GradientTolerance, Plan, Progress
from gpubackprop.training.evaluation import evaluate
from gpubackprop.training.history import History
from gpubackprop.training.rows import Rows

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
        self._schedule = self.optimizer.schedule
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
        first_epoch: int = 0,
    ) -> History:
        """Train on x (n, d) and y (n, m), or (n,) integer labels for cross_entropy; returns (and keeps) the `History`.

        batch_size: rows a step; None or more than n: all of them; 1: one sample at a time. The last batch of an epoch
        may be smaller. shuffle: a new order each epoch, drawn on the host from the network's seed and the number of the
        epoch, the same on every device. validation_data: (x, y) whose loss and metrics are taken after each epoch.
        patience: stop when `monitor` ("val_loss", without validation data "loss") has not improved for so many epochs, and
        put the best weights back. gradient_tolerance: stop when the gradient's norm is at most this. micro_batch_size:
        work through each batch in parts of so many rows, with the same gradient. first_epoch: epochs done before, in a
        run that goes on.

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
        first_epoch = whole_number("first_epoch", first_epoch, least=0)
        size = n if batch_size is None else min(whole_number("batch_size", batch_size), n)
        parts = None if micro_batch_size is None else whole_number("micro_batch_size", micro_batch_size)
        callbacks = [*self.callbacks]
        if gradient_tolerance is not None:
            callbacks.append(GradientTolerance(gradient_tolerance))
        if patience is not None:
            callbacks.append(EarlyStopping(monitor or ("val_loss" if validation else "loss"), patience))
        optimizer.track_norm = (
            any(isinstance(c, GradientTolerance) for c in callbacks) or optimizer.clip_norm is not None
        )
        optimizer.bind(net._parameters)
        steps = -(-n // size)
        optimizer.schedule = self._schedule.over(optimizer.t + epochs * steps)

        rows = be.stream(x, y) or Rows(be, x, y)
        self.history, self._reason = History(), None
        for c in callbacks:
            c.on_fit_start(self, Plan(epochs, steps, n, size))
        try:
            for epoch in range(first_epoch, first_epoch + epochs):
                if shuffle:
                    rows.order(host_generator(net.seed, _ORDER, epoch).permutation(n))
                record = self._epoch(epoch, rows, size, parts, callbacks, epochs - (epoch - first_epoch) - 1)
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

    def _epoch(
        self, epoch: int, rows: Rows, size: int, parts: int | None, callbacks: list[Callback], epochs_left: int
    ) -> dict[str, Any]:
        net, optimizer = self.net, self.optimizer
        steps = -(-rows.n // size)
        sums = net._steps.sums
        net.backend.fill(sums, 0.0)
        listeners = [c for c in callbacks if type(c).on_progress is not Callback.on_progress]
        started = time.perf_counter()
        # Overflow in a run that diverges shows in its loss; a GPU would not warn either.
        with np.errstate(over="ignore", invalid="ignore"):
            done, stretch = 0, 1 if listeners else steps
            while done < steps:
                until = min(done + stretch, steps)
                self._run(rows, size, parts, done, until)
                done = until
                if listeners and done < steps:
                    loss = float(net.backend.to_host(sums)[0]) / (done * size)
                    passed = time.perf_counter() - started
                    rate = done / passed
                    left = (steps - done + epochs_left * steps) / rate
                    progress = Progress(epoch + 1, done, steps, loss, rate * size, left)
                    for c in listeners:
                        c.on_progress(self, progress)
                    stretch = max(1, int(rate / REPORTS_PER_SECOND))
            total, norms = (float(v) for v in net.backend.to_host(sums))
        seconds = time.perf_counter() - started
        record = {
            "epoch": epoch + 1,
            "loss": total / rows.n,
            "learning_rate": optimizer.current_learning_rate(),
            "seconds": seconds,
            "samples_per_second": rows.n / seconds,
        }
        if optimizer.track_norm:
            record["gradient_norm"] = norms / steps
        return record

    def _run(self, rows: Rows, size: int, parts: int | None, first: int, last: int) -> None:
        """Steps `first` to `last` of an epoch."""
        net, optimizer, kind, prepare = self.net, self.optimizer, rows.kind, self.optimizer.prepare
        step, whole = first, min(last, rows.n // size)
        # Steps until the device is asked again whether it can go on by itself: twice as many each time that it cannot.
        turns = 1 if net.backend.loops else last
        while step < last:
            n = min(size, rows.n - step * size)
            if parts is None and (net.rows_at_once or n) >= n:
                done = optimizer.t
                batch = target = program = alone = None
                try:
                    batch = net._workspace.batch(n)
                    target = batch.target_buffer(kind)
                    program = net._steps.training_program(batch, kind, optimizer, accumulate=True)
                    if net.backend.loops and n == size:
                        alone = net.backend.loop(program, rows, batch, optimizer, whole - step)
                    if alone is None:
                        until = min(step + turns, whole) if n == size else last
                        turns *= 2
                        while step < until:
                            done = optimizer.t
                            rows.load(step * size, batch.x, target)
                            prepare()
                            program()
                            step += 1
                        continue
                except net.backend.memory_errors as error:
                    reason = str(error)
                else:
                    step += alone(step)
                    continue
                # Nothing may hold the failed step's arrays any more.
                batch = target = program = alone = None
                within_memory.shrink(net, optimizer, done, n, reason)
            within_memory.train(net, rows.loader(net, step * size), n, kind, optimizer, parts, accumulate=True)
            step += 1

    def _checked_validation(self, data: tuple[Any, Any] | None) -> tuple[Array, Array] | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ArgumentError(f"validation_data must be a pair (x, y); got {type(data).__name__}")
        net, be = self.net, self.net.backend
        x = check_x(data[0], net.widths[0], net.dtype, be, "validation_data[0]")
        y = check_y(data[1], len(x), net.widths[-1], net.dtype, net.loss_function, be, "validation_data[1]")
        return x, y
