"""The settings of a run: what was asked for, and good values for what was not."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

import numpy as np

from gpubackprop.checks import whole_number
from gpubackprop.data import Dataset
from gpubackprop.errors import ArgumentError, unknown_name
from gpubackprop.losses import Loss
from gpubackprop.network.network import Network
from gpubackprop.network.perceptron import mlp
from gpubackprop.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from gpubackprop.optimizers.schedules import get_schedule

FEW = 5000
"""Below this many rows the defaults are others: stronger regularisation, and no rows spared for validation."""


def _option(default: Any, help: str, least: int | None = None) -> Any:
    """A field with its help in the command, and the least number that is allowed there."""
    return field(default=default, metadata={"help": help, "least": least})


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
    batch_size: int | Literal["auto"] | None
    micro_batch_size: int | None
    scale_learning_rate: str | None
    base_batch_size: int
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
    """Everything that decides a run; None stands for "what suits these data" until `completed`. Each is an option of the
    command `train`, with this help."""

    layers: str | Sequence[int] | None = _option(None, 'Widths of the hidden layers: 512,256; "none": a linear model.')
    activation: str = _option("relu", "Of the hidden layers.")
    loss: str | None = _option(None, "By default cross_entropy, or mean_squared_error.")
    class_weight: str | None = _option(
        None, "balanced: each class counts the same in training, however many rows it has."
    )
    optimizer: str = _option("adamw", "sgd, adam, adamw, rmsprop, nadam, lamb, ...")
    learning_rate: float | None = _option(None, "At the start. By default what suits the optimizer.")
    schedule: str = _option("cosine", "constant, step, exponential, cosine or polynomial.")
    warmup: float = _option(0.0, "Epochs of linear warm-up before the schedule.")
    momentum: float | None = _option(None, "Of sgd (by default 0.9), rmsprop, lars.")
    weight_decay: float | None = _option(None, "Decoupled for adamw, else an L2 penalty.")
    clip_norm: float | None = _option(None, "Longest gradient, as a Euclidean norm.")
    dropout: float | None = _option(None, "Share of hidden units left out at each step.")
    l1: float = _option(0.0, "Penalty l1 sum|W|.")
    l2: float = _option(0.0, "Penalty l2/2 sum W^2.")
    batch_size: int | Literal["auto"] | None = _option(
        None, "Rows a step; auto: the fastest that fits, by timed steps."
    )
    micro_batch_size: int | None = _option(
        None, "Rows of a batch at a time: their gradients add up to the batch's, in less memory.", least=1
    )
    scale_learning_rate: str | None = _option(
        None, "linear or sqrt: make of the learning rate for base batches what suits this batch size."
    )
    base_batch_size: int = _option(256, "Rows a step that the learning rate is for, with scale_learning_rate.", least=1)
    epochs: int | None = _option(None, "Passes over the training rows.", least=1)
    patience: int | None = _option(None, "Stop after so many epochs without improvement; keep the best.", least=1)
    on_nan: str = _option(
        "stop", "Where the loss is no longer finite: stop, skip the step, or restore with half the rate."
    )
    validation: float | None = _option(None, "Share of the training rows to watch instead of learn.")
    test: float = _option(0.2, "Share held out for `evaluate`, where there is no official test part.")
    standardize: bool = _option(True, "Inputs and regression targets to mean 0, variance 1.")
    device: str = _option("auto", "auto, cpu, cuda, cuda:1, ...")
    precision: str | None = _option(None, "fp32, fp64, or on a GPU tf32, bf16, fp16.")
    compile: bool = _option(False, "On the CPU: small training steps as machine code (extra numba).")
    seed: int = _option(0, "Of the weights, the order, dropout and the held-out rows.", least=0)

    def completed(self, data: Dataset) -> Settings:
        """Values for all that was left open, from the number of rows, the task and the optimizer.

        Raises ArgumentTypeError or ArgumentError for counts that are no whole numbers, or below what the command takes.
        """
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
        given = {f.name: (getattr(self, f.name), f.metadata["least"]) for f in fields(self)}
        counts: dict[str, Any] = {
            k: whole_number(k, v, least) for k, (v, least) in given.items() if None not in (v, least)
        }
        return replace(self, **{k: v for k, v in chosen.items() if getattr(self, k) is None}, **counts)

    def rows_a_step(self, rows: int) -> int:
        """The batch size for so many training rows. Raises ArgumentError where it is not a number, as long as it is "auto"."""
        if self.batch_size is None:
            return rows
        try:
            size = int(self.batch_size) if isinstance(self.batch_size, str) else self.batch_size
            return min(whole_number("batch_size", size), rows)
        except ValueError:
            raise ArgumentError(f'batch_size must be a number of rows, or "auto"; got {self.batch_size!r}') from None

    def hidden(self) -> list[int]:
        """The widths of the hidden layers: (512, 256), () for none, or in text "512,256", "none" for no hidden layer.

        Raises ArgumentError for anything else.
        """
        given = "none" if self.layers is None else self.layers
        if isinstance(given, str):
            given = [] if given.strip().lower() == "none" else given.split(",")  # type: ignore[assignment]
        try:
            widths = [int(part) if isinstance(part, str) else whole_number("layers", part) for part in given]
        except (TypeError, ValueError):
            widths = [0]
        if any(width < 1 for width in widths):
            raise ArgumentError(f'layers must be widths such as 512,256, or "none"; got {self.layers!r}')
        return widths

    def row_weights(self, y: np.ndarray, weights: np.ndarray | None, task: str) -> np.ndarray | None:
        """What each training row's loss is multiplied by, (n,) with the mean 1, or None: a column of weights, and with
        class_weight="balanced" n / (classes * rows of its class), so that each class counts the same.

        Raises ArgumentError for another class_weight, for one where there are no classes, and for weights that are all 0.
        """
        if self.class_weight is not None:
            if self.class_weight != "balanced":
                raise ArgumentError(f'class_weight must be "balanced" or nothing; got {self.class_weight!r}')
            if task != "classification":
                raise ArgumentError(f"class_weight is for classes, and this is a {task}: leave it out")
            found, which, rows = np.unique(y, return_inverse=True, return_counts=True)
            by_class = (len(y) / (len(found) * rows))[which]
            weights = by_class if weights is None else weights * by_class
        if weights is not None and not weights.any():
            raise ArgumentError("weight: no row of the training part counts; some must have a weight above 0")
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
        steps = -(-rows // (1 if self.batch_size == "auto" else self.rows_a_step(rows)))
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
