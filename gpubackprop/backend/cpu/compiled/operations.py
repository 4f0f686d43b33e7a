"""A recorded step's calls as what they compute: elementwise formulas, products, reductions and gathers of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.cpu.blas import Direct
from gpubackprop.backend.cpu.recorder import Call
from gpubackprop.random import MaskStream

FORMULAS: dict[str, str] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "square": "{0} * {0}",
    "absolute": "abs({0})",
    "sqrt": "sqrt({0})",
    "exp": "exp({0})",
    "expm1": "expm1({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "tanh": "tanh({0})",
    # NaN in either operand is the result, as in NumPy.
    "maximum": "({0} if ({0} > {1}) | ({0} != {0}) else {1})",
    "minimum": "({0} if ({0} < {1}) | ({0} != {0}) else {1})",
    "sign": "({type}(1) if {0} > {type}(0) else {type}(-1) if {0} < {type}(0) else {0})",
    "greater": "(uint8(1) if {0} > {1} else uint8(0))",
    "less": "(uint8(1) if {0} < {1} else uint8(0))",
    "bitwise_and": "{0} & {1}",
    "bitwise_xor": "{0} ^ {1}",
    "right_shift": "{0} >> {1}",
    "copy": "{0}",
    "axpy": "{0} + {1} * {2}",
    "axpby": "{0} * {1} + {2} * {3}",
    "rint": "rint({0})",
}
"""Ufunc -> the same in Python; {type} is the type that it is computed in."""

TRANSCENDENTAL = {"exp", "expm1", "log", "log1p", "tanh"}


_COMPARED, _OF_TRUTH = ("greater", "less"), ("copy", "bitwise_and", "bitwise_xor")


class UntranslatableError(Exception):
    """A call that there is no machine code for; the step is replayed instead."""


@dataclass
class Elementwise:
    """out = formula(inputs), with the inputs converted to `types` and broadcast to the shape of out."""

    name: str
    inputs: list[np.ndarray]
    types: list[np.dtype[Any]]
    out: np.ndarray


@dataclass
class Product:
    """c = a b + beta c.  a (n, k), b (k, m), c (n, m)."""

    a: np.ndarray
    b: np.ndarray
    beta: float
    c: np.ndarray


@dataclass
class Reduction:
    """out = the sum or the largest of a along `axis`, computed in `dtype`.  a (n, k); out (n,) for axis 1, (k,) for axis 0."""

    name: str
    a: np.ndarray
    axis: int
    dtype: np.dtype[Any]
    out: np.ndarray


@dataclass
class Indexed:
    """put: flat[index[i]] = values[i]; take: values[i] = flat[index[i]]. Indices are held to their range."""

    name: str
    flat: np.ndarray
    index: np.ndarray
    values: np.ndarray


@dataclass
class Draw:
    """out (n,) = scale where the element's 16 random bits are below the threshold, else 0; for the elements from `first` on.
    key: (seed, layer), uint64; step: 0-d, uint64."""

    out: np.ndarray
    key: np.ndarray
    step: np.ndarray
    first: int
    threshold: int
    scale: float


Operation = Elementwise | Product | Reduction | Indexed | Draw


def operations(calls: list[Call]) -> list[Operation]:
    """The operations that these calls compute. Raises UntranslatableError for a call or an array that is not known here."""
    found = []
    for function, arguments in calls:
        found += _operations(function, arguments)
    for operation in found:
        reason = _unknown_arrays(operation) or _unknown_types(operation)
        if reason:
            raise UntranslatableError(reason)
    return found


def _unknown_arrays(operation: Operation) -> str:
    """What its arrays are that generated code does not know: it walks in whole elements, and reads an element when it needs it,
    where NumPy reads what the output overlaps beforehand. "" where it knows them."""
    read, written = _memory(operation)
    for a in (*read, *written):
        whole = all(stride % a.itemsize == 0 for stride in a.strides)
        if a.dtype.char not in "fdlqLQ?" or not a.dtype.isnative or not a.flags.aligned or not whole or a.ndim > 2:
            return f"an array of {a.dtype} with {a.ndim} dimensions and strides of {a.strides} bytes"
    elementwise = isinstance(operation, Elementwise)
    for out in written:
        for a in read:
            if not (elementwise and _same_elements(a, out)) and np.may_share_memory(a, out):
                return "an output that overlaps what it is computed from"
    return ""


def _memory(operation: Operation) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arrays that it reads, and those that it writes."""
    match operation:
        case Elementwise():
            return operation.inputs, [operation.out]
        case Product():
            return [operation.a, operation.b], [operation.c]
        case Reduction():
            return [operation.a], [operation.out]
        case Draw():
            return [operation.key, operation.step], [operation.out]
        case Indexed():
            ends = [operation.flat, operation.values]
            source, out = ends if operation.name == "take" else reversed(ends)
            return [operation.index, source], [out]


def _same_elements(a: np.ndarray, b: np.ndarray) -> bool:
    first = a.__array_interface__["data"] == b.__array_interface__["data"]
    return first and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype


def _unknown_types(operation: Operation) -> str:
    """Types with which NumPy computes otherwise than the formula: of truth values a sum is no sum; "" where there are none."""
    if isinstance(operation, Elementwise):
        truth, kinds = np.dtype(np.bool_), set(operation.types)
        if operation.out.dtype == truth and operation.name not in _COMPARED and kinds != {truth}:
            return f"{operation.name} into truth values"
        if truth in kinds and operation.name not in (*_COMPARED, *_OF_TRUTH):
            return f"{operation.name} of truth values"
        if operation.name in _COMPARED and len(kinds) > 1:
            return f"{operation.name} of several types"
        if operation.name == "right_shift":
            by = operation.inputs[1]
            if by.size != 1 or not 0 <= int(by.reshape(-1)[0]) < 8 * operation.types[0].itemsize:
                return "a shift by what is no number of bits of the type"
    if isinstance(operation, Reduction) and operation.dtype == np.bool_:
        return f"{operation.name} of truth values"
    if isinstance(operation, Indexed):
        plain = (
            operation.flat.ndim == operation.index.ndim == operation.values.ndim == 1
            and operation.flat.flags.c_contiguous
        )
        if not plain or operation.index.dtype != np.int64 or operation.index.size != operation.values.size:
            return f"{operation.name} of other than numbers in a row"
    return ""


def _operations(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Operation]:
    if isinstance(function, Direct):
        return _direct(function)
    options: dict[str, Any] = {}
    if isinstance(function, partial) and not function.args:
        options, function = dict(function.keywords), function.func
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(function, np.ufunc):
        return [_ufunc(function, arguments, options)]
    if isinstance(owner, np.ufunc) and name == "reduce" and not options:
        return [_reduction(owner, *arguments)]
    if options:
        raise UntranslatableError(f"{name} with {', '.join(options)}")
    if isinstance(owner, np.ndarray):
        return [_method(owner, name, arguments)]
    if isinstance(owner, MaskStream):
        out, step, first = arguments
        return [Draw(out, owner.key, step, first, owner.threshold, 1 / (1 - owner.p))]
    if function is np.copyto:
        out, value = arguments
        return [_copy(value, out)]
    raise UntranslatableError(f"a call of {name or function!r}")


def _direct(call: Direct) -> list[Operation]:
    if call.routine == "axpy":
        alpha, x, y = call.operands
        return [Elementwise("axpy", [y, alpha, x], [x.dtype] * 3, y)]
    if call.routine == "axpby":
        factor, x, other, y = call.operands
        alpha, beta = (np.asarray(number, x.dtype) for number in (factor, other))
        return [Elementwise("axpby", [alpha, x, beta, y], [x.dtype] * 4, y)]
    a, b, beta, c = call.operands
    return [Product(a, b, beta, c) if b.ndim == 2 else Product(a, b[:, None], beta, c[:, None])]


def _ufunc(ufunc: np.ufunc, arguments: tuple[Any, ...], options: dict[str, Any]) -> Elementwise:
    name = ufunc.__name__
    if name not in FORMULAS or set(options) - {"out", "dtype", "casting"}:
        raise UntranslatableError(f"{name} with {', '.join(options) or 'its arguments'}")
    *inputs, out = arguments if "out" not in options else (*arguments, options["out"])
    arrays = [np.asarray(a) for a in inputs]
    types: Any = tuple(a.dtype for a in arrays)
    if options.get("dtype") is not None:
        signature = (*[None] * len(arrays), np.dtype(options["dtype"]))
        resolved = ufunc.resolve_dtypes((*types, None), signature=signature, casting="unsafe")
    else:
        resolved = ufunc.resolve_dtypes((*types, None))
    return Elementwise(name, arrays, list(resolved[:-1]), out)


def _reduction(
    ufunc: np.ufunc, a: np.ndarray, axis: int | None, dtype: DTypeLike | None, out: np.ndarray, keepdims: bool
) -> Reduction:
    name = ufunc.__name__
    if name not in ("add", "maximum", "minimum") or a.size == 0:
        raise UntranslatableError(f"{name}.reduce")
    if axis is None:
        if not a.flags.c_contiguous:
            raise UntranslatableError(f"{name}.reduce of an array with gaps")
        return Reduction(name, a.reshape(1, -1), 1, np.dtype(dtype or a.dtype), out.reshape(-1))
    if a.ndim != 2 or not isinstance(axis, int):
        raise UntranslatableError(f"{name}.reduce over {axis!r} of {a.ndim} dimensions")
    return Reduction(name, a, axis % 2, np.dtype(dtype or a.dtype), out.reshape(-1))


def _method(owner: np.ndarray, name: str, arguments: tuple[Any, ...]) -> Operation:
    if name == "dot":
        return _product(owner, *arguments)
    if name == "take" and arguments[1:2] == (None,) and arguments[3:] == ("clip",):
        return Indexed(name, owner, arguments[0], arguments[2])
    if name == "put" and arguments[2:] == ("clip",) and isinstance(arguments[1], np.ndarray):
        return Indexed(name, owner, arguments[0], arguments[1])
    if name == "fill" and len(arguments) == 1:
        return _copy(arguments[0], owner)
    raise UntranslatableError(f"ndarray.{name}")


def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Product:
    if not a.dtype == b.dtype == out.dtype or not out.flags.c_contiguous:
        raise UntranslatableError("a product of arrays of several types")
    rows, columns = (a if a.ndim == 2 else a[None]), (b if b.ndim == 2 else b[:, None])
    return Product(rows, columns, 0.0, out.reshape(len(rows), columns.shape[1]))


def _copy(value: object, out: np.ndarray) -> Elementwise:
    array = np.asarray(value)
    return Elementwise("copy", [array], [array.dtype], out)
