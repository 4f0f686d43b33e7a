"""What can listen to training, and stop it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from gpubackprop.checks import not_negative, positive, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, unknown_name
from gpubackprop.metrics import NAMES, larger_is_better
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer
from gpubackprop.training.history import History


@dataclass(frozen=True)
class FitPlan:
    """What a fit is going to do."""

    epochs: int
    steps_per_epoch: int
    samples: int
    batch_size: int


@dataclass(frozen=True)
class FitProgress:
    """Where a fit is, inside an epoch. loss: the mean over the epoch so far (reading it waited for the device)."""

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float
    samples_per_second: float
    seconds_left: float


class Training(Protocol):
    """A `Trainer` in the middle of a fit, as a callback sees it."""

    net: Network
    optimizer: Optimizer
    history: History

    @property
    def resumed(self) -> bool:
        """Whether the fit goes on from a checkpoint."""

    @property
    def stopping(self) -> bool:
        """Whether the fit ends after this epoch."""

    @property
    def steps_done(self) -> int:
        """Steps since the fit began, those before a checkpoint included."""

    def stop(self, reason: str) -> None:
        """End the fit after this epoch; `History.stopped` keeps the reason."""

    def state(self) -> dict[str, Any]:
        """The fit for a checkpoint: name -> host array or plain value."""


class Callback:
    """Listens to a fit. Every method does nothing unless it is defined.

    trainer: the `Trainer`; `trainer.stop(reason)` ends the fit after the epoch.
    every_steps: call `on_progress` after every so many steps of the fit too, those that end an epoch excepted. writes: it prints,
    or writes files, and changes nothing of the training: where several processes train together, rank 0 alone calls it.
    """

    every_steps: int | None = None
    writes: bool = False

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        """Before the first step."""

    def on_progress(self, trainer: Training, progress: FitProgress) -> None:
        """Inside an epoch, a few times a second at most."""

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        """After an epoch, with its record, which may still be added to."""

    def on_fit_end(self, trainer: Training, history: History) -> None:
        """After the last epoch, however it ended, an error or an interrupt included."""

    def state(self) -> dict[str, Any]:
        """What it remembers from epoch to epoch, for a checkpoint: name -> host array, or a value that JSON can hold."""
        return {}

    def set_state(self, trainer: Training, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; called after `on_fit_start` where a fit goes on from a checkpoint."""


class EarlyStopping(Callback):
    """Stops after `patience` epochs without improvement of `monitor`, and puts the best epoch's weights back.

    monitor: a column of the history. mode: whether "min" or "max" of it is best; "auto" knows it of every metric that has a name:
    `metrics.larger_is_better`. min_delta: what counts as an improvement.

    Raises ArgumentError for a patience below 1, and for mode="auto" with a column whose name says neither.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0, mode: str = "auto"
    ) -> None:
        if not isinstance(monitor, str):
            raise ArgumentTypeError(f"monitor must be the name of a column, such as 'val_loss'; got {monitor!r}")
        self.monitor = monitor
        self.patience = whole_number("patience", patience)
        self.min_delta = not_negative("min_delta", min_delta)
        self.mode = mode
        if mode not in ("min", "max", "auto"):
            raise ArgumentError(f'mode must be "min", "max" or "auto"; got {mode!r}')
        larger = larger_is_better(monitor) if mode == "auto" else mode == "max"
        if larger is None:
            near = get_close_matches(monitor.removeprefix("val_"), ("loss", *NAMES), n=1)
            hint = f"; did you mean {monitor[: 4 * monitor.startswith('val_')] + near[0]!r}?" if near else ""
            raise ArgumentError(
                f"whether a large or a small {monitor!r} is best cannot be told from its name: say it with the callback "
                f'EarlyStopping({monitor!r}, mode="min") or mode="max"{hint}'
            )
        self._mode = "max" if larger else "min"
        self.best = np.inf
        self.best_epoch = 0
        self.weights: dict[str, np.ndarray] | None = None

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        self.best, self.best_epoch, self.weights = np.inf, 0, None

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        if self.monitor not in record:
            raise unknown_name("column to monitor", self.monitor, record)
        value = -record[self.monitor] if self._mode == "max" else record[self.monitor]
        # The first epoch is the best so far even if its value is NaN: there must be weights to put back.
        if self.weights is None or value < self.best - self.min_delta:
            self.best = value if np.isfinite(value) else np.inf
            self.best_epoch = record["epoch"]
            self.weights = trainer.net.get_weights()
        elif record["epoch"] - self.best_epoch >= self.patience:
            trainer.stop("patience")

    def state(self) -> dict[str, Any]:
        weights = {f"weights.{name}": array for name, array in (self.weights or {}).items()}
        return {
            "monitor": self.monitor,
            "mode": self._mode,
            "best": self.best if np.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            **weights,
        }

    def set_state(self, trainer: Training, state: dict[str, Any]) -> None:
        before = state.get("monitor", self.monitor), state.get("mode", self._mode)
        if before != (self.monitor, self._mode):
            raise ArgumentError(
                f"EarlyStopping watched the {before[1]} of {before[0]!r} when the checkpoint was written, and its best value is "
                f"none of the {self._mode} of {self.monitor!r}: take the same monitor and mode to go on"
            )
        weights = {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}
        shapes = {k: v.shape for k, v in trainer.net.get_weights().items()} if weights else {}
        if {k: v.shape for k, v in weights.items()} != shapes:
            raise CheckpointError("the best weights of EarlyStopping are not those of this network")
        self.best = np.inf if state["best"] is None else float(state["best"])
        self.best_epoch = whole_number("best_epoch", state["best_epoch"], least=0)
        self.weights = weights or None

    def on_fit_end(self, trainer: Training, history: History) -> None:
        if self.weights is not None and all(np.isfinite(w).all() for w in self.weights.values()):
            trainer.net.set_weights(self.weights)
            history.best_epoch = self.best_epoch


class GradientTolerance(Callback):
    """Stops when the epoch's mean gradient norm is at most `tolerance`: with full batches, the norm of the gradient itself."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = positive("gradient_tolerance", tolerance)

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        if record["gradient_norm"] <= self.tolerance:
            trainer.stop("gradient_tolerance")
