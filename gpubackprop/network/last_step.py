"""A training step by hand, remembered: the next one, on rows of the same form, needs no second look at all but their values."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, Backend, Program
from gpubackprop.losses import Loss
from gpubackprop.network.parameters import Parameters
from gpubackprop.network.workspace import Batch
from gpubackprop.optimizers import Optimizer


class LastStep:
    """A step of `optimizer` on rows x (n, d) and y: its buffers `batch`, `program`, which does all but load them, and everything
    that the program depends on. trainable: of each layer."""

    def __init__(
        self,
        batch: Batch,
        program: Program,
        optimizer: Optimizer,
        x: Array,
        y: Array,
        trainable: list[bool],
        loss: Loss,
    ) -> None:
        self.batch, self.program, self.kind = batch, program, batch.kind
        self._optimizer, self._track_norm, self._trainable = optimizer, optimizer.track_norm, trainable
        self._x = type(x), x.shape, x.dtype
        self._y = type(y), y.shape, y.dtype
        self._usable = _usable_targets(loss, y, int(batch.outputs.shape[1]))

    def takes(self, x: Any, y: Any) -> bool:
        """Whether these are rows of the same form."""
        (x_type, x_shape, x_dtype), (y_type, y_shape, y_dtype) = self._x, self._y
        if type(x) is not x_type or type(y) is not y_type:
            return False
        return bool(x.shape == x_shape and y.shape == y_shape and x.dtype == x_dtype and y.dtype == y_dtype)

    def can_use(self, x: Array, y: Array, be: Backend) -> bool:
        """Whether all their values are such as a step takes. False is no verdict: `checks` gives that. They may overflow."""
        usable = _finite(x) if type(x) is np.ndarray else be.owns(x)
        return usable and (self._usable(y) if type(y) is np.ndarray else be.owns(y))

    def holds(self, optimizer: Optimizer, parameters: Parameters, trainable: list[bool]) -> bool:
        """Whether the step would be that of this optimizer, on these parameters, of which the same are trained."""
        return (
            optimizer is self._optimizer
            and optimizer.parameters is parameters
            and optimizer.track_norm is self._track_norm
            and trainable == self._trainable
        )


def _finite(a: np.ndarray) -> bool:
    # NaN and infinity survive a sum of squares, which may overflow by itself: then it is looked at closely.
    flat = a.reshape(-1)
    return isfinite(flat.dot(flat))


def _usable_targets(loss: Loss, y: Array, m: int) -> Callable[[np.ndarray], bool]:
    """A function that tells whether host targets of the form of y can be used. For rarer kinds it always says no."""
    if y.ndim == 1 and y.dtype == np.int64 and getattr(loss, "ignore_index", None) is None:
        # A negative label is a large number without a sign.
        return lambda labels: bool(np.maximum.reduce(labels.view(np.uint64)) < m)
    if y.ndim == 2 and loss.output == "identity":
        return _finite
    if y.ndim == 2 and loss.output == "sigmoid":
        return lambda p: bool(np.minimum.reduce(p, None) >= 0 and np.maximum.reduce(p, None) <= 1)
    return lambda _: False
