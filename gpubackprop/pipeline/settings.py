"""The settings of a run: what was asked for, and good values for what was not."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from gpubackprop.data import Dataset
from gpubackprop.errors import ArgumentError, unknown_name
from gpubackprop.losses import Loss
from gpubackprop.network.network import Network
from gpubackprop.network.perceptron import mlp
from gpubackprop.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from gpubackprop.optimizers.schedules import get_schedule

FEW = 5000
"""Below this many rows the defaults are others: stronger regularisation, and no rows spared for validation."""


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings`, as keyword arguments."""

    layers: str | Sequence[int] | None
    activation: str
    loss: str | None
    class_weight: str | None
    optimizer: str
    learning_rate: float | None
    schedule: str
    warmup: float
    momentum: float | None
    weight_decay: float | None
    clip_norm: float | None
    dropout: float | None
    l1: float
    l2: float
    batch_size: int | None
    epochs: int | None
    patience: int | None
    on_nan: str
    validation: float | None
    test: float
    standardize: bool
    device: str
    precision: str | None
    compile: bool
    seed: int


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run; None stands for "what suits these data" until `completed`."""

    layers: str | Sequence[int] | None = None
    activation: str = "relu"
    loss: str | None = None
    class_weight: str | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.0
    momentum: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    dropout: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    batch_size: int | None = None
    epochs: int | None = None
    patience: int | None = None
    on_nan: str = "stop"
    validation: float | None = None
    test: float = 0.2
    standardize: bool = True
    device: str = "auto"
    precision: str | None = None
    compile: bool = False
    seed: int = 0

    def completed(self, data: Dataset) -> Settings:
        """Values for all that was left open, from the number of rows, the task and the optimizer."""
        name, regression, few = self.optimizer.lower(), data.task == "regression", len(data.x) < FEW
        chosen: dict[str, Any] = {
            "loss": _LOSSES[data.task],
            "layers": "128,128" if regression else "256,128",
            "dropout": 0.0 if not few else 0.3 if regression else 0.2,
            "learning_rate": (3e-3 if few else 2e-3) if name == "adamw" else _LEARNING_RATES.get(name),
            "weight_decay": (1.0 if regression else 0.3) if name == "adamw" and few else None,
            "momentum": 0.9 if name == "sgd" else None,
            "batch_size": 32 if few else 256,
            # Few rows need many epochs for as many steps; a regression on few rows fits their noise by then.
            "epochs": 20 if not few else 100 if regression else min(500, max(100, 4000 * 32 // len(data.x))),
            "validation": 0.0 if few else 0.1,
        }
        return replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None})

    def hidden(self) -> list[int]:
        """The widths of the hidden layers: (512, 256), or in text "512,256", "none" for no hidden layer.

        Raises ArgumentError for anything else.
        """
        given = "none" if self.layers is None else self.layers
        if isinstance(given, str):
            given = [] if given.strip().lower() == "none" else given.split(",")  # type: ignore[assignment]
        try:
            widths = [int(part) for part in given]
        except (TypeError, ValueError):
            widths = [0]
        if any(width < 1 for width in widths):
            raise ArgumentError(f'layers must be widths such as 512,256, or "none"; got {self.layers!r}')
        return widths

    def row_weights(self, y: np.ndarray, weights: np.ndarray | None, task: str) -> np.ndarray | None:
        """What each training row's loss is multiplied by, (n,) with the mean 1, or None: a column of weights, and with
        class_weight="balanced" n / (classes * rows of its class), so that each class counts the same.

        Raises ArgumentError for another class_weight, and for one where there are no classes.
        """
        if self.class_weight is not None:
            if self.class_weight != "balanced":
                raise ArgumentError(f'class_weight must be "balanced" or nothing; got {self.class_weight!r}')
            if task != "classification":
                raise ArgumentError(f"class_weight is for classes, and this is a {task}: leave it out")
            found, which, rows = np.unique(y, return_inverse=True, return_counts=True)
            by_class = (len(y) / (len(found) * rows))[which]
            weights = by_class if weights is None else weights * by_class
        return None if weights is None else weights / weights.mean()

    def network(self, inputs: int, outputs: int, loss: Loss) -> Network:
        """The network. Raises ArgumentError for unknown names and values out of range, DeviceError for its device."""
        return mlp(
            [inputs, *self.hidden(), outputs],
            activation=self.activation,
            dropout=self.dropout or 0.0,
            loss=loss,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            seed=self.seed,
            l1=self.l1,
            l2=self.l2,
        )

    def make_optimizer(self, rows: int) -> Optimizer:
        """The optimizer with its schedule. rows: of the training part; warm-up is counted in epochs of them.

        Raises ArgumentError for unknown names, values out of range, and options that the optimizer does not have.
        """
        name = self.optimizer.lower()
        if name not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if not 0 <= self.warmup < float("inf"):
            raise ArgumentError(f"warmup must be a number of epochs, 0 or more; got {self.warmup}")
        steps = -(-rows // min(self.batch_size or rows, rows))
        options: dict[str, Any] = {
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
            "schedule": get_schedule(self.schedule, warmup=round(self.warmup * steps)),
        }
        if self.momentum is not None and "momentum" not in inspect.signature(OPTIMIZERS[name]).parameters:
            having = [k for k, o in OPTIMIZERS.items() if "momentum" in inspect.signature(o).parameters]
            raise ArgumentError(f"momentum is for {', '.join(having)}, not for {name}")
        return get_optimizer(name, **{k: v for k, v in options.items() if v is not None})


_LOSSES = {
    "classification": "cross_entropy",
    "regression": "mean_squared_error",
    "multilabel": "binary_cross_entropy",
}
_LEARNING_RATES = {"sgd": 0.05}
"""Where the optimizer's own default is not a good one."""
