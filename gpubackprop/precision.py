"""Which type is computed and added up in, for each type of storage."""

from __future__ import annotations

from math import floor, log
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.errors import ArgumentError

DTYPES = ("float32", "float64")
PRECISIONS = ("native", "fp32", "fp64", "tf32", "bf16", "fp16")


def accumulator(dtype: DTypeLike) -> np.dtype[Any]:
    """The type in which values of `dtype` are added up: float64, or complex128 for a complex step."""
    return np.result_type(dtype, np.float64)


def compute_type(dtype: DTypeLike) -> np.dtype[Any]:
    """The type in which exponentials and differences of `dtype` are taken: at least float32."""
    return np.result_type(dtype, np.float32)


def largest_exponent(dtype: np.dtype[Any]) -> float:
    """The largest whole number whose exponential `dtype` can hold: 88 for float32 and bfloat16, 709 for float64."""
    return float(floor(log(np.finfo(np.float32 if dtype.name == "bfloat16" else dtype).max)))


def is_constant(variance: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    """Where a variance of n numbers with that mean, computed in float64, is all rounding, so that they may well be one number.

    The bound of Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), as in scikit-learn.
    """
    eps = np.finfo(np.float64).eps
    return np.asarray(variance <= n * eps * variance + np.square(n * mean * eps))


def resolve(dtype: DTypeLike | None, precision: str | None) -> tuple[np.dtype[Any], str]:
    """The storage type of the parameters and the precision of the products, from what a user asked for.

    `dtype` is "float32", "float64" (or NumPy's own names for them) or None for float32; `precision` is None or
    "native" (products in the storage type), "fp32", "fp64", or a faster, coarser product: "tf32", "bf16", "fp16",
    which keep their parameters in float32. Raises ArgumentError for anything else and for pairs that disagree.
    """
    precision = precision or "native"
    if precision not in PRECISIONS:
        raise ArgumentError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    natural = {"fp64": "float64", "native": None}.get(precision, "float32")
    try:
        chosen = np.dtype(natural or "float32") if dtype is None else np.dtype(dtype)
    except TypeError:
        raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}") from None
    chosen = chosen.newbyteorder("=")
    if chosen.name not in (*DTYPES, "complex128"):
        hint = '; for half-precision products ask for precision="fp16" or "bf16"' if chosen.itemsize == 2 else ""
        raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}; got {chosen.name}{hint}")
    if natural and chosen.name != natural:
        raise ArgumentError(f'precision="{precision}" keeps its parameters in {natural}; got dtype="{chosen.name}"')
    return chosen, "native" if precision in ("fp32", "fp64") else precision
