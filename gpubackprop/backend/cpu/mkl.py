"""The CPU with Intel's MKL in place of NumPy's BLAS for the larger products: `device="cpu:mkl"`, extra `mkl`.

MKL is loaded by its path, beside NumPy's own library, and called as `blas` calls that one. Small products are quicker with
`ndarray.dot`. The choice looks at sizes alone, and MKL is told to add in the same order whatever the addresses, so that a run
gives the same bits again; they are not those of device "cpu". `benchmarks/cpu.py` measures both.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from gpubackprop.backend.base import Array, Backend, Program
from gpubackprop.backend.cpu.blas import DirectBlas, direct_blas, multiplies
from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.backend.cpu.threads import turns
from gpubackprop.errors import DeviceError, MissingExtraError

ABOVE = 2**18
"""Multiplications up to which OpenBLAS takes one thread and `ndarray.dot` is quicker."""
VECTORS = 9216
"""Elements of a matrix up to which the same holds for its product with a vector."""
_SAME_BITS = 2
"""MKL_CBWR_AUTO of mkl_types.h: the same bits for the same data and number of threads, wherever the arrays lie."""


@cache
def _library() -> ctypes.CDLL:
    """libmkl_rt as the package `mkl` brings it. Raises MissingExtraError where that is not installed, DeviceError where it cannot
    be loaded."""
    # It loads 30 modules, and this one is loaded with the package.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        files = distribution("mkl").files or []
    except PackageNotFoundError:
        raise MissingExtraError('device "cpu:mkl"', "mkl") from None
    threads = blas_threads()
    paths = [f.locate() for f in files if f.name.startswith(("libmkl_rt.", "mkl_rt."))]
    reason = "the package mkl does not hold it"
    for path in paths:
        try:
            library = ctypes.CDLL(str(path))
            library.MKL_CBWR_Set(_SAME_BITS)
            library.MKL_Set_Num_Threads(threads or library.MKL_Get_Max_Threads())
            return library
        except (OSError, AttributeError) as error:
            reason = str(error)
    raise DeviceError(f'device "cpu:mkl": libmkl_rt cannot be used: {reason}')


def _version() -> str:
    from importlib.metadata import version

    return version("mkl")


@cache
def _mkl() -> DirectBlas:
    """Its calls, once a test product came out right."""
    found = DirectBlas(_library(), "cblas_", "", ctypes.c_int)
    if not multiplies(found):
        raise DeviceError('device "cpu:mkl": a test product of MKL came out wrong')
    return found


def problem() -> str | None:
    """Why MKL cannot be used here, or None."""
    try:
        _mkl()
    except (MissingExtraError, DeviceError) as error:
        return str(error)
    return None


def _with_threads(run: Callable[[], None], program: Any) -> Callable[[], None]:
    """`run` with one of MKL's threads, which are its own, where the program takes one of NumPy's."""
    if not program.one_thread:
        return run
    limit = _library().MKL_Set_Num_Threads_Local

    def alone() -> None:
        before = limit(1)
        try:
            run()
        finally:
            limit(before)

    return alone


class MklBackend(NumpyBackend):
    """NumPy, with MKL for products of more than ABOVE multiplications and for what is added to its output.

    Raises MissingExtraError where MKL is not installed, DeviceError where it does not work.
    """

    name = "cpu:mkl"

    def __init__(self, precision: str = "native") -> None:
        super().__init__(precision)
        self._blas = self._large = _mkl()
        self._small = direct_blas()
        self.blas = f"mkl {_version()}"
        # Machine code holds the addresses of NumPy's BLAS.
        self.loops = False

    def __enter__(self) -> Backend:
        super().__enter__()
        if self._depth == 1:
            # NumPy's BLAS leaves its threads spinning for a while, on the cores that MKL's want: it takes one meanwhile.
            found = turns()
            self._alone = found is not None and not found.own.inside
            if found is not None and self._alone:
                try:
                    found.begin(True)
                except BaseException:
                    self.__exit__()
                    raise
        return self

    def __exit__(self, *error: object) -> None:
        found = turns()
        if self._depth == 1 and self._alone and found is not None:
            found.end()
        super().__exit__(*error)

    def lanes(self) -> int:
        # MKL's threads keep the cores for a while after each product.
        return 1

    def describe(self) -> str:
        return f"steps recorded and replayed, products from {ABOVE:,} multiplications on by {self.blas}"

    def check_compiler(self) -> None:
        raise DeviceError('compile=True takes the BLAS of NumPy into its machine code: use device="cpu"')

    def record(self, step: Callable[[], None]) -> Program:
        program: Any = super().record(step)
        alone: Any = _with_threads(program, program)
        alone.__dict__.update(vars(program))
        return alone  # type: ignore[no-any-return]

    def as_recorded(self, program: Program, step: Callable[[], None]) -> Callable[[], None]:
        return _with_threads(super().as_recorded(program, step), program)

    def dot(self, a: Array, b: Array, out: Array) -> None:
        product = None
        if a.ndim == 2 and b.ndim == 2 and a.size * b.shape[1] > ABOVE:
            product = self._large.gemm(a, b, 0.0, out)
        elif a.ndim == 2 and b.ndim == 1 and a.size > VECTORS:
            product = self._large.gemv(a, b, 0.0, out)
        if product is None:
            super().dot(a, b, out)
        else:
            self._run(product)

    def _dot_add(self, a: Array, b: Array, beta: float, out: Array) -> bool:
        size = a.size * b.shape[1] if b.ndim == 2 else 0
        self._blas = self._large if size > ABOVE or a.size > VECTORS or self._small is None else self._small
        try:
            return super()._dot_add(a, b, beta, out)
        finally:
            self._blas = self._large
