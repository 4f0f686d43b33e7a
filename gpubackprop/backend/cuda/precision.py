"""What half precision needs besides its products: its types, and a scale for the loss that keeps small deltas alive."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.errors import ArgumentError, DeviceError

HALF = ("float16", "bfloat16")
"""Names of the types of two bytes."""

_INITIAL, _SMALLEST, _LARGEST = 2.0**16, 1.0, 2.0**24
_INTERVAL = 2000
"""PyTorch's: the scale doubles after so many steps in a row whose gradients are finite."""


def half_type(precision: str, cupy: Any) -> np.dtype[Any] | None:
    """The type that activations are stored in, or None where it is the parameters' own.

    Raises ArgumentError for an unknown precision, DeviceError for "bf16" where CuPy has no such arrays.
    """
    if precision in ("native", "tf32"):
        return None
    if precision == "fp16":
        return np.dtype(np.float16)
    if precision != "bf16":
        raise ArgumentError(f'precision must be "native", "tf32", "bf16" or "fp16"; got {precision!r}')
    if int(str(cupy.__version__).split(".")[0]) < 14:
        raise DeviceError(f'precision="bf16" needs CuPy 14 or later; this is {cupy.__version__}')
    try:
        import ml_dtypes
    except ImportError:
        raise DeviceError('precision="bf16" needs the package ml_dtypes: pip install ml_dtypes') from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


class LossScale:
    """Dynamic loss scaling (Micikevicius et al., 2018), all of it on the device.

    delta(L) is multiplied by `scale`, and the gradients of the parameters by `inverse`, in powers of two. Where a
    gradient is not finite the update is left out and the scale halved; after 2000 good steps it doubles.
    """

    def __init__(self, backend: Any) -> None:
        self.be = backend
        self.scale: Array = backend.zeros((), np.float32)
        self.inverse: Array = backend.zeros((), np.float32)
        backend.fill(self.scale, _INITIAL)
        backend.fill(self.inverse, 1 / _INITIAL)
        self._found: Array = backend.zeros((), np.int32)
        self._good: Array = backend.zeros((), np.int32)
        self._numbers: dict[float, Array] = {}

    def number(self, value: float) -> Array:
        """A float32 on the device that holds `value` for good."""
        if value not in self._numbers:
            self._numbers[value] = self.be.zeros((), np.float32)
            self.be.fill(self._numbers[value], value)
        return self._numbers[value]

    def look_at(self, G: Array) -> Array:
        """An int on the device: whether a gradient is not finite."""
        be = self.be
        be.launch("find_nonfinite", (C_TYPE[G.dtype.name],), be._flat(G.size), G, G.size, self._found)
        return self._found

    def adapt(self) -> None:
        """The end of a step: the next step's scale."""
        arguments = (self.scale, self.inverse, self._good, self._found, _INTERVAL, _SMALLEST, _LARGEST)
        self.be.launch("update_loss_scale", (), table.one_block(), *arguments)
