"""A stand-in for a GPU on machines that have none: NumPy underneath, but with a GPU's manners.

Its arrays refuse to become host arrays or Python numbers unasked, refuse to be mixed with host arrays, wrap indices
that are out of range as CuPy does, and everything that would cost time on a GPU is counted: transfers, waits,
allocations. Code that runs here will not trip over those on a real device, and `counts` says what it costs.

    be = gb.get_backend("strict")
    net = gb.mlp([784, 512, 10], device=be)
    ...
    before = be.counts(); net.train_step(x, y, optimizer); print(be.counts() - before)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend
from gpubackprop.errors import DeviceError
from gpubackprop.random import MaskStream


class ImplicitTransferError(DeviceError, TypeError):
    """A device array was used where only a host array or a Python number can stand, or mixed with a host array."""


@dataclass(frozen=True)
class Counts:
    """Counts of what the device did: host-to-device transfers, waits for the device, allocations of device memory."""

    transfers: int = 0
    waits: int = 0
    allocations: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.transfers - other.transfers, self.waits - other.waits, self.allocations - other.allocations)


def _refused(what: str) -> Callable[..., NoReturn]:
    def refuse(self: StrictArray, *arguments: object, **options: object) -> NoReturn:
        """Refused: a hidden wait."""
        raise ImplicitTransferError(
            f"{what} of an array on the 'strict' device: on a GPU this waits for the device. Inside a step keep the value "
            "on the device; outside, ask for it with .get() or backend.to_host()"
        )

    return refuse


class StrictArray(NDArrayOperatorsMixin):
    """An array of the `strict` device. Shapes, views and arithmetic work as in CuPy; `get()` copies it to the host."""

    __slots__ = ("_data", "_device")

    def __init__(self, data: np.ndarray, device: StrictBackend) -> None:
        self._data = data
        self._device = device

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)

    @property
    def T(self) -> StrictArray:
        """The transpose, a view."""
        return StrictArray(self._data.T, self._device)

    def reshape(self, *shape: Any) -> StrictArray:
        """A view of another shape (a copy, counted as an allocation, where no view is possible)."""
        data = self._data.reshape(*shape)
        if not np.shares_memory(data, self._data) and data.size:
            self._device.allocations += 1
        return StrictArray(data, self._device)

    def ravel(self) -> StrictArray:
        """The array as one dimension."""
        return self.reshape(-1)

    def astype(self, dtype: DTypeLike, copy: bool = True) -> StrictArray:
        """A copy of another type."""
        if not copy and self._data.dtype == dtype:
            return self
        return self._device.wrap_new(self._data.astype(dtype))

    def copy(self) -> StrictArray:
        """A copy on the device."""
        return self._device.wrap_new(self._data.copy())

    def fill(self, value: float) -> None:
        """Write one number into every element."""
        self._data.fill(value)

    def get(self) -> np.ndarray:
        """A copy on the host. Waits for the device."""
        return self._device.to_host(self)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: object) -> StrictArray:
        if isinstance(key, StrictArray):
            if key.dtype == bool:
                # How many rows there will be is a value: a GPU array waits for it.
                self._device.waits += 1
                return self._device.wrap_new(self._data[key._data])
            return self._device.wrap_new(np.take(self._data, key._data, axis=0, mode="wrap"))
        data = self._data[self._checked(key)]
        return StrictArray(np.asarray(data) if isinstance(data, np.ndarray) else self._element(key), self._device)

    def _element(self, key: object) -> np.ndarray:
        # NumPy returns a copy of a single element; a GPU array returns a 0-d view.
        key = key if isinstance(key, tuple) else (key,)
        return self._data[tuple(slice(k, k + 1 or None) for k in key)].reshape(())

    def __setitem__(self, key: Any, value: object) -> None:
        if isinstance(key, tuple):
            key = tuple(self._wrapped(k, axis) for axis, k in enumerate(key))
        else:
            key = self._wrapped(key, 0)
        self._data[key] = self._device.unwrap(value, "assignment")

    def _wrapped(self, key: object, axis: int) -> Any:
        if not isinstance(key, StrictArray):
            return key
        return key._data if key.dtype == bool else np.mod(key._data, self.shape[axis])

    def _checked(self, key: object) -> Any:
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, (np.ndarray, list)):
                raise ImplicitTransferError("a strict array was indexed with a host array; move it with be.asarray()")
        return key

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return self._device.apply(name, function, inputs, options)

    def __array_function__(
        self, function: Callable[..., object], types: object, arguments: tuple[object, ...], options: dict[str, object]
    ) -> object:
        return self._device.apply(function.__name__, function, arguments, options)

    __array__ = _refused("implicit conversion to a NumPy array")
    __float__ = _refused("float()")
    __int__ = _refused("int()")
    __index__ = _refused("use as an index")
    __bool__ = _refused("bool(), or a branch on the value,")
    __iter__ = _refused("iteration over the elements")
    item = _refused(".item()")
    tolist = _refused(".tolist()")

    def __repr__(self) -> str:
        return f"<strict array {self.shape} {self.dtype}>"


class _StrictNamespace:
    """NumPy's functions for strict arrays."""

    def __init__(self, device: StrictBackend) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function

        def apply(*arguments: object, **options: object) -> object:
            if name in ("take", "put"):
                options.setdefault("mode", "wrap")
            return self._device.apply(name, function, arguments, options)

        setattr(self, name, apply)
        return apply


class StrictBackend(Backend):
    """The `strict` device. `counts()` says what it has been asked for so far."""

    name = "strict"

    def __init__(self, precision: str = "native") -> None:
        super().__init__()
        if precision != "native":
            raise DeviceError(f'precision="{precision}" needs an NVIDIA GPU; strict computes in float32 or float64')
        self.xp: Any = _StrictNamespace(self)
        self.transfers = self.waits = self.allocations = 0

    def counts(self) -> Counts:
        """Transfers, waits and allocations so far."""
        return Counts(self.transfers, self.waits, self.allocations)

    # -- crossing the boundary ------------------------------------------------------------------------------------

    def wrap_new(self, data: np.ndarray) -> StrictArray:
        """A device array around newly allocated data."""
        self.allocations += 1
        return StrictArray(data, self)

    def unwrap(self, value: object, where: str) -> Any:
        """The data of a device array; a host number as it is. Raises for host arrays and for another device's."""
        if isinstance(value, StrictArray):
            if value._device is not self:
                raise ImplicitTransferError(f"{where}: arrays of two different strict devices were mixed")
            return value._data
        if isinstance(value, np.ndarray):
            raise ImplicitTransferError(
                f"{where}: a host array of shape {value.shape} was mixed with arrays on the 'strict' device; move it "
                "there first with backend.asarray()"
            )
        if isinstance(value, (list, tuple)) and any(isinstance(v, StrictArray) for v in value):
            return type(value)(self.unwrap(v, where) for v in value)
        return value

    def apply(
        self, name: str, function: Callable[..., Any], arguments: Iterable[object], options: dict[str, object]
    ) -> object:
        """Call a NumPy function on the data of strict arrays, counting what it allocates."""
        out = options.get("out")
        if isinstance(out, tuple):
            (out,) = out
        plain = [self.unwrap(a, f"xp.{name}") for a in arguments]
        keywords = {k: self.unwrap(v, f"xp.{name}({k}=)") for k, v in options.items() if k != "out"}
        if out is not None:
            function(*plain, out=self.unwrap(out, f"xp.{name}(out=)"), **keywords)
            return out
        result = function(*plain, **keywords)
        if isinstance(result, np.generic):
            result = np.asarray(result)
        return self.wrap_new(result) if isinstance(result, np.ndarray) else result

    # -- memory ---------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        data = np.empty(shape, dtype)
        # What nobody wrote must not look like a result.
        data.fill(np.nan if data.dtype.kind in "fc" else 77)
        return self.wrap_new(data)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return self.wrap_new(np.zeros(shape, dtype))

    def asarray(self, host: np.ndarray, dtype: DTypeLike | None = None) -> Array:
        if isinstance(host, StrictArray):
            return host if dtype is None or host.dtype == dtype else host.astype(dtype)
        self.transfers += 1
        return self.wrap_new(np.array(host, dtype, order="C"))

    def to_host(self, array: Array) -> np.ndarray:
        self.waits += 1
        return np.array(self.unwrap(array, "to_host"))

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        if isinstance(host, StrictArray):
            np.copyto(out._data, self.unwrap(host, "copy_in"), casting="unsafe")
            return
        self.transfers += 1
        np.copyto(self.unwrap(out, "copy_in"), host, casting="unsafe")

    def fill(self, array: Array, value: float) -> None:
        array.fill(value)

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        stream.draw(mask._data.reshape(-1), stream.step._data, first)
        self.xp.multiply(x, mask, out=out)

    def owns(self, array: object) -> bool:
        return isinstance(array, StrictArray) and array._device is self

    def may_share_memory(self, a: Array, b: Array) -> bool:
        return isinstance(a, StrictArray) and np.may_share_memory(a._data, b._data)

    def synchronize(self) -> None:
        self.waits += 1
