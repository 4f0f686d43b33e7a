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
        for value in vars(operation).values():
            if isinstance(value, np.ndarray) and (value.dtype.char not in "fdlqLQ?" or value.ndim > 2):
                raise UntranslatableError(f"an array of {value.dtype} with {value.ndim} dimensions")
    return found


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
    if name == "put" and arguments[2:] == ("clip",):
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
