"""Settings and arrays from outside are checked here, once, on the host, before any computation. Errors name the argument.

A device array of the network's own device stays where it is. The values of its targets are read once, before training
or evaluation; a single training step does not look, since that would wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from math import isfinite
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike

from gpubackprop.backend.base import Array, Backend, LossFunction
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError, unknown_name
from gpubackprop.precision import compute_type
from gpubackprop.sparse import SparseMatrix, SparseRows

T = TypeVar("T")

_BLOCK = 1 << 20
"""Elements of a memory-mapped array that are looked at together."""
_FEW = 4096
"""Elements up to which a look at each takes less time than setting up for a product that may overflow."""


# -- settings ---------------------------------------------------------------------------------------------------------


class DLPackArray(Protocol):
    """An array of any library, on any device: PyTorch's, JAX's, CuPy's."""

    def __dlpack__(self, *, stream: int | None = None) -> object:
        """Its memory, handed over."""


Data: TypeAlias = ArrayLike | DLPackArray | SparseMatrix
"""How rows can be given: all that NumPy makes an array of (lists, data frames), arrays of other libraries, sparse matrices."""


def positive(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is a finite number above 0."""
    return _number(name, value, lambda v: v > 0, "a finite number above 0")


def finite(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is a finite number."""
    return _number(name, value, lambda v: True, "a finite number")


def not_negative(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is a finite number, 0 or more."""
    return _number(name, value, lambda v: v >= 0, "a finite number, 0 or more")


def share(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is in [0, 1)."""
    return _number(name, value, lambda v: 0 <= v < 1, "a number in [0, 1)")


def fraction(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is in [0, 1]."""
    return _number(name, value, lambda v: 0 <= v <= 1, "a number in [0, 1]")


def positive_fraction(name: str, value: object) -> float:
    """`value` as a float; ArgumentError unless it is in (0, 1]."""
    return _number(name, value, lambda v: 0 < v <= 1, "in (0, 1]")


def whole_number(name: str, value: object, least: int = 1) -> int:
    """`value` as an int; ArgumentTypeError unless it is one (of Python or NumPy), ArgumentError if it is below `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}; got {value}")
    return int(value)


def _number(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise ArgumentTypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}") from None
    if not isfinite(number) or not allowed(number):
        raise ArgumentError(f"{name} must be {expected}; got {value!r}")
    return number


class Recordable:
    """A layer, an activation or a loss: mathematics that a step is recorded of."""

    recordable: bool = False
    """Whether all work goes through `be` with `out=` and depends on no value, so that it can be recorded once and done again.
    False, which is right for any mathematics, runs the methods anew at each step; this library's own classes are recorded."""
    _mathematics: ClassVar[set[str]] = set()
    """The methods that do the work."""
    # No entry of vars(), which of an activation and a loss are its constants.
    __slots__ = ("_in_use",)
    _in_use: bool
    """Whether it is a part of a network."""

    def __setattr__(self, name: str, value: object) -> None:
        # The recorded steps, and they alone, would go on with what it was.
        if getattr(self, "_in_use", False) and self.recordable and name in signature(type(self)).parameters:
            old = getattr(self, name, value)
            if old is not value and not np.array_equal(cast(Any, old), cast(Any, value)):
                raise ArgumentError(
                    f"{name} of this {type(self).__name__} was {old!r} when its network was built, and is part of the recorded "
                    f"steps; it cannot become {value!r}: build a new network, and hand it the weights by set_weights()"
                )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a part of no network."""
        return dict(vars(self))

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        # A class from outside with mathematics of its own must say so itself, whatever its parent says.
        if "recordable" not in vars(cls) and cls._mathematics & vars(cls).keys():
            cls.recordable = cls.__module__.startswith("gpubackprop.")


class Formula(Recordable):
    """An activation or a loss: it has a name, and keeps the arguments of its constructor as attributes of the same names."""

    name: ClassVar[str]
    _noun: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, but for those that are what they are by default."""
        parameters = signature(type(self)).parameters.values()
        values = {p.name: (getattr(self, p.name), p.default) for p in parameters if hasattr(self, p.name)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def described(self) -> str | dict[str, Any]:
        """The description from which `from_table` makes it again: its name, or {"name": ..., its settings}."""
        settings = self.settings()
        return {"name": self.name, **settings} if settings else self.name

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"<{self._noun} {self.name}{f'({given})' if given else ''}>"


def from_table(kind: str, described: object, table: Mapping[str, Callable[..., T]]) -> T:
    """The object that a name, or {"name": ..., its settings}, describes. kind: what the table holds, for the errors.

    Raises ArgumentError for an unknown name or setting.
    """
    settings = dict(described) if isinstance(described, dict) else {"name": described}
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise unknown_name(kind, name, table)
    try:
        return table[name](**settings)
    except TypeError as error:
        raise ArgumentError(f"{kind} {name!r}: {error}") from None


# -- arrays -----------------------------------------------------------------------------------------------------------


def check_x(x: Data, width: int, dtype: np.dtype[Any], be: Backend, name: str = "x") -> Array:
    """`x` as a (n, width) array of `dtype`: C-contiguous on the host, or on the device, as it is, where it lies there.

    Takes anything that NumPy can make a real array of, and scipy.sparse matrices, of which one batch at a time becomes dense
    (`SparseRows`). A memory-mapped array of another type stays as it is: its rows are
    converted batch by batch, and a look at all of them takes no more memory than a block. Raises ArgumentTypeError for text,
    objects and complex numbers, ArgumentError for a wrong rank or width, no rows, NaN or infinity, DeviceError for another
    device's array.
    """
    there = on_device(x, be, name)
    if there is not None:
        _check_kind(there.dtype, name)
        _check_x_shape(there, width, name)
        return there
    if hasattr(x, "tocsr"):
        rows = SparseRows(cast(SparseMatrix, x), dtype)
        _check_kind(rows.parts[0].dtype, name)
        _check_x_shape(rows, width, name)
        check_finite(_converted(rows.parts[0], dtype), f"{name}, its stored values", rows.parts[0])
        return rows
    host = _real_array(x, name)
    _check_x_shape(host, width, name)
    if isinstance(x, np.memmap) and host.dtype != dtype:
        rows = max(1, _BLOCK // max(host[0].size, 1))
        for start in range(0, len(host), rows):
            part = host[start : start + rows]
            check_finite(_converted(part, dtype), f"{name}, from row {start} on", part)
        return host
    converted = _converted(host, dtype)
    check_finite(converted, name, host)
    return converted


def check_y(
    y: Data, n: int, m: int, dtype: np.dtype[Any], loss: LossFunction, be: Backend, name: str = "y", look: bool = True
) -> Array:
    """`y` as the targets of n rows with m outputs: int64 labels (n,) where the loss takes them, else (n, m) of `dtype`.

    look: read the values of a device array too, which waits for the device: everywhere but in a step.
    Raises ArgumentError for a wrong shape (nothing is ever broadcast), labels outside 0..m-1, values that are not finite
    or, for the cross-entropies, no probabilities; ArgumentTypeError for labels that are no integers.
    """
    there = on_device(y, be, name)
    if there is not None:
        _check_kind(there.dtype, name)
        _check_y_shape(there, n, m, loss, name)
        if there.ndim == 1:
            _check_label_kind(there.dtype, m, name)
        if look:
            check_y(be.to_host(there), n, m, dtype, loss, be, name)
        return there
    host = _real_array(y, name)
    _check_y_shape(host, n, m, loss, name)
    if host.ndim == 1:
        return _check_labels(host, m, name, getattr(loss, "ignore_index", None))
    converted = _converted(host, dtype)
    check_finite(converted, name, host)
    if loss.output == "exponential" and converted.min() < 0:
        raise ArgumentError(f"{name}: {loss.name} takes counts, which are not below 0; got {converted.min():g}")
    if loss.output in ("sigmoid", "softmax") and (converted.min() < 0 or converted.max() > 1):
        raise ArgumentError(
            f"{name}: {loss.name} takes probabilities from 0 to 1; got values from {converted.min():g} to {converted.max():g}"
        )
    if loss.output == "softmax" and n:
        sums = converted.sum(axis=1)
        worst = int(np.argmax(np.abs(sums - 1)))
        if abs(sums[worst] - 1) > 1e-3:
            raise ArgumentError(
                f"{name}: each row must be a distribution that adds up to 1; row {worst} adds up to {sums[worst]:g}"
            )
    return converted


def check_weights(
    value: ArrayLike | None,
    n: int,
    dtype: np.dtype[Any],
    loss: LossFunction,
    be: Backend,
    name: str = "sample_weight",
    some: bool = True,
) -> np.ndarray | None:
    """`value` as the weights of n rows, a host array (n, 1) of the type that the loss is computed in; None for None.

    some: whether one of them must be above 0, as of all rows of a fit one must. Raises ArgumentError for another shape, weights
    that are not finite or below 0, with `some` weights that are all 0, and for a loss that counts all rows alike.
    """
    if value is None:
        return None
    if not loss.weighs:
        raise ArgumentError(f"{name}: the loss {loss.name!r} counts all rows alike; leave it out")
    there = on_device(value, be, name)
    value = value if there is None else be.to_host(there)
    weights = check_array(value, (n,), compute_type(be.storage(dtype)), name)
    if weights.min() < 0 or (some and not weights.any()):
        raise ArgumentError(f"{name} must be 0 or more, and above 0 for some row; got {weights.min():g} as the least")
    return weights.reshape(-1, 1)


def check_array(value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> np.ndarray:
    """`value` as a host array of `shape` and `dtype`; ArgumentError or ArgumentTypeError, as in `check_x`, if it is none."""
    array = _real_array(value, name)
    if array.shape != shape:
        raise ArgumentError(f"{name} must have shape {shape}; got {array.shape}")
    converted = _converted(array, dtype)
    check_finite(converted, name, array)
    return converted.reshape(shape)


def check_finite(array: np.ndarray, name: str, original: np.ndarray | None = None) -> None:
    """ArgumentError, with the first place, unless every element is finite."""
    if original is not None and original.dtype.kind in "iub":
        return
    flat = array.reshape(-1)
    if flat.size <= _FEW and np.logical_and.reduce(np.isfinite(flat)):
        return
    # One product says yes for nearly every batch at the speed of the memory: NaN and infinity survive a sum of squares.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(flat, flat)):
            return
    bad = np.flatnonzero(~np.isfinite(flat))
    if bad.size:
        where = tuple(int(i) for i in np.unravel_index(bad[0], array.shape))
        cause = ""
        if original is not None and np.isfinite(original.reshape(-1)[bad[0]]):
            cause = f" once converted to {array.dtype.name}, from {original.reshape(-1)[bad[0]]}"
        raise ArgumentError(
            f"{name}[{', '.join(map(str, where))}] is {flat[bad[0]]}{cause}; {bad.size} of {array.size} values are not "
            "finite. Remove or replace them first"
        )


def on_device(array: object, be: Backend, name: str) -> Array | None:
    """`array` as an array of the backend's device, without a copy, where it lies there; None for host data, DeviceError for
    another device's array."""
    if isinstance(array, np.ndarray):
        return None
    there = be.adopt(array)
    if there is None and memory_of(array) is not None:
        get = next((f" ({name}.{method}())" for method in ("get", "cpu") if hasattr(array, method)), "")
        raise DeviceError(
            f"{name} is an array on another device ({type(array).__module__}.{type(array).__name__}), and this network is "
            f"on {be.name!r}: pass a host array{get} or move the network with net.to(...)"
        )
    return there


_ON_HOST = (1, 3, 13)
"""DLPack's numbers for memory that the processor reaches: its own, pinned, and managed by CUDA."""
_CUDA = 2


def memory_of(array: object) -> tuple[str, int | None] | None:
    """("cuda", its number, if that is said) or ("another", None) for the device that any library's array lies on; None for the
    host."""
    where = getattr(array, "__dlpack_device__", None)
    if callable(where):
        try:
            kind, number = where()
        # PyTorch's of a device that DLPack has no number for.
        except (BufferError, RuntimeError, TypeError, ValueError):
            return "another", None
        return None if kind in _ON_HOST else ("cuda", int(number)) if kind == _CUDA else ("another", None)
    if type(array).__name__ == "StrictArray":
        return "another", None
    # Numba's arrays have this protocol alone, which does not name the device.
    return ("cuda", None) if hasattr(array, "__cuda_array_interface__") else None


def _real_array(value: object, name: str) -> np.ndarray:
    if type(value) is np.ndarray:
        _check_kind(value.dtype, name)
        return value
    if np.ma.is_masked(value):
        raise ArgumentTypeError(f"{name} is a masked array with masked values; fill them in or drop those rows first")
    try:
        array = np.asarray(value)
    # RuntimeError: what PyTorch raises for a tensor that requires a gradient.
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArgumentTypeError(f"{name} cannot be made into one array: {error}") from None
    if array.dtype == object and hasattr(value, "__dlpack__"):
        array = np.from_dlpack(value)
    _check_kind(array.dtype, name)
    return array


def _check_kind(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind not in "fiub":
        hint = "convert it to numbers first" if dtype.kind in "OUSV" else "only real numbers can be used"
        raise ArgumentTypeError(f"{name} has dtype {dtype}; {hint}")


def _converted(host: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if host.dtype == dtype and host.flags.c_contiguous:
        return host
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(host, dtype)


def _check_x_shape(x: Array, width: int, name: str) -> None:
    if x.ndim != 2:
        hint = ""
        if x.ndim == 1:
            hint = f"; one sample is {name}.reshape(1, -1), one feature {name}.reshape(-1, 1)"
        elif x.ndim > 2:
            hint = f"; flatten each sample: {name}.reshape(len({name}), -1)"
        raise ArgumentError(f"{name} must have shape (n, {width}); got {tuple(x.shape)}{hint}")
    if x.shape[1] != width:
        raise ArgumentError(
            f"{name} must have shape (n, {width}), as the first layer takes {width} inputs; got {tuple(x.shape)}"
        )
    if x.shape[0] == 0:
        raise ArgumentError(f"{name} has no rows: shape {tuple(x.shape)}")


def _check_y_shape(y: Array, n: int, m: int, loss: LossFunction, name: str) -> None:
    shape = tuple(y.shape)
    if loss.labels and len(shape) == 1:
        if shape[0] != n:
            raise ArgumentError(f"{name} must have one label for each of the {n} rows of x; got {shape[0]}")
        return
    if shape == (n, m):
        return
    expected = f"({n},) class labels or ({n}, {m}) probabilities" if loss.labels else f"({n}, {m})"
    hint = ""
    if shape == (n,) and m == 1:
        hint = f"; use {name}.reshape(-1, 1)"
    elif loss.labels and shape == (n, 1):
        hint = f"; use {name}.ravel()"
    elif shape == (n,) and not loss.labels:
        hint = '; for class labels use loss="cross_entropy"'
    raise ArgumentError(f"{name} must have shape {expected}; got {shape}{hint}")


def _check_label_kind(dtype: np.dtype[Any], m: int, name: str) -> None:
    if dtype.kind not in "iu":
        what = "bool (for two classes use y.astype(int))" if dtype.kind == "b" else f"{dtype}"
        raise ArgumentTypeError(f"{name}: class labels must be integers from 0 to {m - 1}; got dtype {what}")


def _check_labels(y: np.ndarray, m: int, name: str, ignored: int | None) -> np.ndarray:
    _check_label_kind(y.dtype, m, name)
    counted = y if ignored is None else y[y != ignored]
    if not counted.size:
        return np.ascontiguousarray(y, np.int64)
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= m:
        bad = low if low < 0 else high
        row = int(np.flatnonzero(y == bad)[0])
        raise ArgumentError(
            f"{name}[{row}] is {bad}; class labels must be from 0 to {m - 1}, as the network has {m} outputs"
        )
    return np.ascontiguousarray(y, np.int64)
