"""What can listen to training, and stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.checks import not_negative, positive, whole_number
from gpubackprop.errors import ArgumentTypeError, unknown_name

if TYPE_CHECKING:
    from gpubackprop.training.history import History
    from gpubackprop.training.trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """What a fit is going to do."""

    epochs: int
    steps_per_epoch: int
    samples: int
    batch_size: int


@dataclass(frozen=True)
class Progress:
    """Where a fit is, inside an epoch. loss: the mean over the epoch so far (reading it waited for the device)."""

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float
    samples_per_second: float
    seconds_left: float


class Callback:
    """Listens to a fit. Every method does nothing unless it is defined; `trainer.stop(reason)` ends the fit after the epoch."""

    def on_fit_start(self, trainer: Trainer, plan: Plan) -> None:
        """Before the first step."""

    def on_progress(self, trainer: Trainer, progress: Progress) -> None:
        """Inside an epoch, a few times a second at most."""

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """After an epoch, with its record, which may still be added to."""

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """After the last epoch, however it ended, an error or an interrupt included."""


class EarlyStopping(Callback):
    """Stops after `patience` epochs without improvement of `monitor`, and puts the best epoch's weights back.

    monitor: a column of the history; smaller is better for losses and errors, larger for "accuracy" and "r2".
    min_delta: what counts as an improvement. Raises ArgumentError for a patience below 1.
    """

    def __init__(self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise ArgumentTypeError(f"monitor must be the name of a column, such as 'val_loss'; got {monitor!r}")
        self.monitor = monitor
        self.patience = whole_number("patience", patience)
        self.min_delta = not_negative("min_delta", min_delta)
        self.sign = -1.0 if monitor.endswith(("accuracy", "r2")) else 1.0
        self.best = np.inf
        self.best_epoch = 0
        self.weights: dict[str, np.ndarray] | None = None

    def on_fit_start(self, trainer: Trainer, plan: Plan) -> None:
        self.best, self.best_epoch, self.weights = np.inf, 0, None

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if self.monitor not in record:
            raise unknown_name("column to monitor", self.monitor, record)
        value = self.sign * record[self.monitor]
        # The first epoch is the best so far even if its value is NaN: there must be weights to put back.
        if self.weights is None or value < self.best - self.min_delta:
            self.best = value if np.isfinite(value) else np.inf
            self.best_epoch = record["epoch"]
            self.weights = trainer.net.get_weights()
        elif record["epoch"] - self.best_epoch >= self.patience:
            trainer.stop("patience")

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        if self.weights is not None and all(np.isfinite(w).all() for w in self.weights.values()):
            trainer.net.set_weights(self.weights)
            history.best_epoch = self.best_epoch


class GradientTolerance(Callback):
    """Stops when the epoch's mean gradient norm is at most `tolerance`: with full batches, the norm of the gradient itself."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = positive("gradient_tolerance", tolerance)

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if record["gradient_norm"] <= self.tolerance:
            trainer.stop("gradient_tolerance")
