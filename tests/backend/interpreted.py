"""Runs generated source as plain Python, so that what it says can be tested without compiling it: slow, but for small steps."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.words import random_words

_ELEMENTS = {
    "f4": ctypes.c_float,
    "f8": ctypes.c_double,
    "i8": ctypes.c_int64,
    "u8": ctypes.c_uint64,
    "u1": ctypes.c_uint8,
}


def run_of(text: str) -> Any:
    """The `run` of a generated module, with pointers of ctypes and numbers of Python."""
    namespace: dict[str, Any] = {name: getattr(math, name) for name in ("exp", "expm1", "log1p", "sqrt", "tanh")}
    namespace["rint"] = np.rint
    namespace["log"] = lambda v: math.log(v) if v > 0 else -math.inf
    namespace |= {name: _pointer(element) for name, element in _ELEMENTS.items()}
    namespace |= {"float32": _rounded, "float64": float, "int64": int, "uint64": int, "uint8": int}
    namespace |= {"sgemm": _gemm(np.float32), "dgemm": _gemm(np.float64)}
    namespace["draw"] = _draw
    exec(text[text.index("def run(") :], namespace)
    return namespace["run"]


def _pointer(element: Any) -> Callable[[int], Any]:
    return lambda address: ctypes.cast(int(address), ctypes.POINTER(element))


def _draw(mask: Any, seed: int, layer: int, step: int, size: int, first: int, threshold: int, scale: float) -> None:
    words = random_words(size, seed=seed, step=step, layer=layer, first=first)
    for i, word in enumerate(words):
        mask[i] = scale if word < threshold else 0.0


def _rounded(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _gemm(dtype: Any) -> Callable[..., None]:
    def gemm(
        layout: int, ta: int, tb: int, n: int, m: int, k: int, alpha: float, a: Any, lda: int, b: Any, ldb: int,
        beta: float, c: Any, ldc: int,
    ) -> None:  # fmt: skip
        assert layout == 101

        def matrix(p: Any, order: int, rows: int, columns: int, ld: int) -> np.ndarray:
            if order == 112:
                return matrix(p, 111, columns, rows, ld).T
            flat = np.ctypeslib.as_array(p, shape=((rows - 1) * ld + columns,))
            return np.lib.stride_tricks.as_strided(flat, (rows, columns), (ld * flat.itemsize, flat.itemsize))

        out = matrix(c, 111, n, m, ldc)
        out[...] = alpha * matrix(a, ta, n, k, lda) @ matrix(b, tb, k, m, ldb) + (beta * out if beta else 0)
        assert out.dtype == dtype

    return gemm
