"""The parts of half precision besides its products: its types, the parameters as products take them, and a scale for the loss
that keeps small deltas alive."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels
from gpubackprop.errors import ArgumentError, DeviceError

HALF = ("float16", "bfloat16")
"""Names of the types of two bytes."""

_INITIAL, _SMALLEST, _LARGEST = 2.0**16, 1.0, 2.0**24
_INTERVAL = 2000
"""PyTorch's: the scale doubles after so many steps in a row whose gradients are finite."""


def half_type(precision: str, cupy: ModuleType) -> np.dtype[Any] | None:
    """The type that activations are stored in, or None where it is the parameters' own.

    Raises ArgumentError for an unknown precision, DeviceError for "bf16" where CuPy has no such arrays or functions of them.
    """
    if precision in ("native", "tf32"):
        return None
    if precision == "fp16":
        return np.dtype(np.float16)
    if precision != "bf16":
        raise ArgumentError(f'precision must be "native", "tf32", "bf16" or "fp16"; got {precision!r}')
    if int(str(cupy.__version__).split(".")[0]) < 14:
        raise DeviceError(f'precision="bf16" needs CuPy 14 or later; this is {cupy.__version__}')
    if np.lib.NumpyVersion(np.__version__) < "2.1.2":  # CuPy leaves its functions without this type then
        raise DeviceError(f'precision="bf16" needs NumPy 2.1.2 or later; this is {np.__version__}')
    try:
        import ml_dtypes
    except ImportError:
        raise DeviceError('precision="bf16" needs the package ml_dtypes: pip install ml_dtypes') from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


class HalfCopies:
    """Flat buffers of float32 parameters, each with a copy in half precision that products take.

    A copy is made anew when it is asked for, unless it is known to be what the parameters are: `stale` forgets that.
    """

    def __init__(self, kernels: Kernels, half: np.dtype[Any]) -> None:
        self._kernels, self._half = kernels, half
        self._copies: dict[int, tuple[weakref.ref[Any], Array]] = {}
        self._fresh: set[int] = set()

    def add(self, P: Array) -> None:
        """Keep a copy of this flat buffer, as long as that lives."""
        self._copies = {k: held for k, held in self._copies.items() if held[0]() is not None}
        self._copies[P.data.ptr] = weakref.ref(P), self._kernels.cupy.empty(P.shape, self._half)

    def stale(self) -> None:
        """Something may have written to parameters."""
        self._fresh.clear()

    def refresh(self, P: Array) -> None:
        """Make the copy of P what P is."""
        copy = self._held(P)
        if copy is not None and P.data.ptr not in self._fresh:
            types = (C_TYPE[P.dtype.name], C_TYPE[copy.dtype.name])
            self._kernels.launch("convert", types, self._kernels.flat(P.size), P, copy, P.size)
            self._fresh.add(P.data.ptr)

    def to_write(self, P: Array) -> Array | None:
        """The copy of P for a kernel that writes both at once; None where there is none."""
        copy = self._held(P)
        if copy is not None:
            self._fresh.add(P.data.ptr)
        return copy

    def of(self, parameter: Array) -> Array | None:
        """A view of a copy for a view of parameters, without gaps; None for any other array."""
        whole = parameter if parameter.base is None else parameter.base
        copy = self._held(whole)
        if copy is None or not parameter.flags.c_contiguous:
            return None
        self.refresh(whole)
        start = (parameter.data.ptr - whole.data.ptr) // whole.itemsize
        return copy[start : start + parameter.size].reshape(parameter.shape)

    def memory(self) -> tuple[Array, ...]:
        """All copies."""
        return tuple(copy for _, copy in self._copies.values())

    def _held(self, P: Array) -> Array | None:
        held = self._copies.get(P.data.ptr)
        return held[1] if held is not None and held[0]() is P else None


class LossScale:
    """Dynamic loss scaling (Micikevicius et al., 2018), all of it on the device.

    delta(L) is multiplied by `scale`, and the finished gradients of the parameters by `inverse`, in powers of two. Where a
    gradient is not finite the update is left out and the scale halved; after 2000 good steps it doubles.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        zeros = kernels.cupy.zeros
        self.scale: Array = zeros((), np.float32)
        self.inverse: Array = zeros((), np.float32)
        self.scale.fill(_INITIAL)
        self.inverse.fill(1 / _INITIAL)
        self.skip: Array = zeros((), np.int32)
        """Not 0 where a gradient that `unscale` saw was not finite."""
        self._good: Array = zeros((), np.int32)

    def unscale(self, G: Array) -> None:
        """Take the scale out of finished gradients."""
        kernels, geometry = self._kernels, self._kernels.flat(G.size)
        partial = kernels.partial(geometry.blocks)
        arguments = (G, G.size, self.inverse, partial, kernels.counter, self.skip)
        kernels.launch("unscale", (C_TYPE[G.dtype.name],), geometry, *arguments)

    def overflowed(self) -> bool:
        """Whether a gradient was not finite, and the scale could be and was halved. Waits for the device."""
        if not int(self.skip.get()) or float(self.scale.get()) <= _SMALLEST:
            return False
        self.adapt()
        return True

    def state(self) -> np.ndarray:
        """(scale, good steps since it changed), float32, on the host. Waits for the device."""
        return np.array([float(self.scale.get()), int(self._good.get())], np.float32)

    def set_state(self, state: np.ndarray) -> None:
        """Go on as from there."""
        scale, good = state.tolist()
        self.scale.fill(scale)
        self.inverse.fill(1 / scale)
        self._good.fill(int(good))

    def adapt(self) -> None:
        """The end of a training step: the next step's scale."""
        arguments = (self.scale, self.inverse, self._good, self.skip, _INTERVAL, _SMALLEST, _LARGEST)
        self._kernels.launch("update_loss_scale", (), table.one_block(), *arguments)
