"""Direct calls of the BLAS that NumPy itself is linked with: products and sums that add to what their output holds.

`ndarray.dot` always overwrites its output. BLAS also does C = A B + beta C, which spares a bias and a momentum their own
pass over memory, and y = alpha x + beta y in one pass, where NumPy needs three. NumPy does not offer that, but its library
can be asked by the symbol's name; scipy's BLAS would be a second library with a second set of threads. Where no symbol is
found, or a test product comes out wrong, there is no direct route, and callers take `dot` and an addition.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache, partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

# The enumerations of CBLAS.
_ROW_MAJOR, _ORDER = ctypes.c_int(101), {False: ctypes.c_int(111), True: ctypes.c_int(112)}
_REALS: dict[Any, tuple[str, Any]] = {
    np.dtype(np.float32): ("s", ctypes.c_float),
    np.dtype(np.float64): ("d", ctypes.c_double),
}
# (prefix, suffix, integer): the names under which NumPy's own wheels, and then other builds of it, know CBLAS.
_NAMES = (
    ("scipy_cblas_", "64_", ctypes.c_int64),
    ("cblas_", "64_", ctypes.c_int64),
    ("scipy_cblas_", "", ctypes.c_int),
    ("cblas_", "", ctypes.c_int),
)


class Direct(partial):  # type: ignore[type-arg]
    """A BLAS call with its arguments, which also says in NumPy's terms what it does: ("gemm", (a, b, beta, c)), ..."""

    routine: str
    operands: tuple[Any, ...]


class DirectBlas:
    """BLAS calls with prebuilt arguments, to be made now or kept in a recorded step.

    Each method returns a function without arguments that keeps its arrays alive, or None for arrays that it cannot
    take: another type than float32 or float64, or a matrix without unit stride along one axis.
    """

    def __init__(self, library: ctypes.CDLL, prefix: str, suffix: str, integer: type[ctypes._SimpleCData[int]]) -> None:
        self.name = f"{prefix}gemm{suffix}"
        self.integer = integer
        self.integer_size = ctypes.sizeof(integer)
        self.addresses: dict[str, int] = {}
        """Routine -> address, for code that is compiled to machine code."""
        self._routines: dict[str, Any] = {}
        for letter, _ in _REALS.values():
            for routine in ("gemm", "gemv", "axpy", "axpby"):
                try:
                    function = library[f"{prefix}{letter}{routine}{suffix}"]
                except AttributeError:
                    if routine != "axpby":  # an extension of BLAS, which not every library has
                        raise
                    continue
                function.restype = None
                self._routines[letter + routine] = function
                self.addresses[letter + routine] = ctypes.cast(function, ctypes.c_void_p).value or 0

    def gemm(self, a: np.ndarray, b: np.ndarray, beta: float, c: np.ndarray) -> Direct | None:
        """c = a b + beta c.  a (n, k), b (k, m), c (n, m)."""
        left, right, result = layout(a), layout(b), layout(c)
        if not _one_type(a, b, c) or left is None or right is None or result is None or result[0]:
            return None
        (ta, lda), (tb, ldb), (_, ldc) = left, right, result
        i, real = self.integer, _REALS[a.dtype][1]
        sizes = _ORDER[ta], _ORDER[tb], i(a.shape[0]), i(b.shape[1]), i(a.shape[1])
        factors = real(1), _pointer(a), i(lda), _pointer(b), i(ldb), real(beta)
        return self._call("gemm", (a, b, beta, c), _ROW_MAJOR, *sizes, *factors, _pointer(c), i(ldc))

    def gemv(self, a: np.ndarray, x: np.ndarray, beta: float, y: np.ndarray) -> Direct | None:
        """y = a x + beta y.  a (n, k), x (k,), y (n,), both without gaps."""
        side = layout(a)
        if not _one_type(a, x, y) or side is None or not (x.flags.c_contiguous and y.flags.c_contiguous):
            return None
        i, real = self.integer, _REALS[a.dtype][1]
        transposed, lda = side
        rows, columns = a.shape[::-1] if transposed else a.shape
        factors = real(1), _pointer(a), i(lda), _pointer(x), i(1), real(beta)
        sizes = _ORDER[transposed], i(rows), i(columns)
        return self._call("gemv", (a, x, beta, y), _ROW_MAJOR, *sizes, *factors, _pointer(y), i(1))

    def axpy(self, alpha: np.ndarray, x: np.ndarray, y: np.ndarray) -> Direct | None:
        """y = y + alpha x for arrays without gaps and a 0-d alpha, which is read at each call."""
        if not _one_type(alpha, x, y) or not (x.flags.c_contiguous and y.flags.c_contiguous):
            return None
        i, real = self.integer, _REALS[x.dtype][1]
        return self._call(
            "axpy", (alpha, x, y), i(x.size), real.from_buffer(alpha), _pointer(x), i(1), _pointer(y), i(1)
        )

    def axpby(self, alpha: float, x: np.ndarray, beta: float, y: np.ndarray) -> Direct | None:
        """y = alpha x + beta y for arrays without gaps; None too where the library lacks this extension of BLAS."""
        contiguous = x.flags.c_contiguous and y.flags.c_contiguous
        if not _one_type(x, y) or not contiguous or _REALS[x.dtype][0] + "axpby" not in self._routines:
            return None
        i, real = self.integer, _REALS[x.dtype][1]
        given = i(x.size), real(alpha), _pointer(x), i(1), real(beta), _pointer(y), i(1)
        return self._call("axpby", (alpha, x, beta, y), *given)

    def forget(self, routine: str) -> None:
        """Do without a routine."""
        for letter, _ in _REALS.values():
            self._routines.pop(letter + routine, None)

    def _call(self, routine: str, operands: tuple[Any, ...], *arguments: object) -> Direct:
        letter = _REALS[operands[-1].dtype][0]
        call = Direct(self._routines[letter + routine], *arguments)
        call.routine, call.operands = routine, operands
        return call


@cache
def direct_blas() -> DirectBlas | None:
    """NumPy's own BLAS, or None where it has no symbols that are known here. Looked for once a process."""
    for library in _libraries():
        for prefix, suffix, integer in _NAMES:
            try:
                found = DirectBlas(library, prefix, suffix, integer)
            except AttributeError:  # the library does not know it by this name
                continue
            if multiplies(found):
                return found
    return None


def _libraries() -> list[Any]:
    """NumPy's extension module, through which what it is linked with can be asked too, and what lies beside NumPy."""
    module: Any = sys.modules.get("numpy._core._multiarray_umath") or sys.modules["numpy.core._multiarray_umath"]
    root = Path(np.__file__).parent
    beside = [*glob(f"{root}.libs/*openblas*"), *glob(f"{root}/.dylibs/*openblas*")]
    opened = []
    for path in (module.__file__, *beside):
        try:
            opened.append(ctypes.CDLL(path))
        except OSError:  # not a library that can be opened on its own
            continue
    return opened


def multiplies(blas: DirectBlas) -> bool:
    """Whether it computes what it should, for both types: a name can belong to a library with other integers."""
    for dtype in _REALS:
        a = np.arange(6, dtype=dtype).reshape(2, 3)
        c, y = np.ones((2, 2), dtype), np.ones(3, dtype)
        wanted = a @ a.T + 2, a.T @ np.ones(2, dtype) + 2
        for call in (blas.gemm(a, a.T, 2.0, c), blas.gemv(a.T, np.ones(2, dtype), 2.0, y)):
            assert call is not None
            call()
        if not (np.array_equal(c, wanted[0]) and np.array_equal(y, wanted[1])):
            return False
        average = blas.axpby(3.0, y, 2.0, y.copy())
        if average is not None:
            average()
            if not np.array_equal(average.operands[-1], 5 * wanted[1]):
                blas.forget("axpby")
    return True


def _one_type(*arrays: np.ndarray) -> bool:
    first = arrays[0].dtype
    return first in _REALS and all(a.dtype == first and a.flags.aligned for a in arrays)


def layout(a: np.ndarray) -> tuple[bool, int] | None:
    """(whether the matrix is stored by columns, its leading dimension), or None where BLAS could not take it."""
    if a.ndim != 2 or 0 in a.shape:
        return None
    item, (rows, columns), (down, along) = a.itemsize, a.shape, a.strides
    if (along == item or columns == 1) and (down >= columns * item or rows == 1) and down % item == 0:
        return False, max(down // item, columns)
    if (down == item or rows == 1) and (along >= rows * item or columns == 1) and along % item == 0:
        return True, max(along // item, rows)
    return None


def _pointer(a: np.ndarray) -> ctypes.c_void_p:
    return a.ctypes.data_as(ctypes.c_void_p)
