"""Standardisation to mean 0 and variance 1, with sums that stay accurate and memory that stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError
from gpubackprop.precision import is_constant

Array = NDArray[np.generic]
_BLOCK_ELEMENTS = 1 << 20


class Standardizer:
    """x -> (x - mean) / scale, where scale is the standard deviation (divisor n), 1 for a column that is constant to rounding.

    Fit it to the training rows only. per_feature=False takes one mean and one scale over all columns, as suits images,
    whose pixels share a unit. It serves inputs and regression targets alike; `inverse` brings outputs back to the
    targets' unit.
    """

    def __init__(self, *, per_feature: bool = True) -> None:
        self.per_feature = per_feature
        self.width = 0
        self.mean: NDArray[np.float64] = np.zeros(0)
        self.scale: NDArray[np.float64] = np.zeros(0)

    def fit(self, x: Array) -> Standardizer:
        """Take mean and scale from x: (n, d), integer, bool or floating, copying a few megabytes at a time.

        The mean is summed in float64 from the first row on, the variance by the corrected two-pass formula (Chan,
        Golub and LeVeque, "Algorithms for computing the sample variance", 1983), so an offset much larger than the
        spread costs no digits.

        Raises ArgumentError for another rank, no rows or no columns, NaN or infinity (naming the column) and columns
        whose variance overflows; ArgumentTypeError for dtypes that hold no real numbers.
        """
        _check_real_matrix(x)
        n, width = x.shape
        if not n or not width:
            raise ArgumentError(f"x has shape {x.shape}: there is nothing to take a mean of")
        shift = x[0, : width if self.per_feature else 1].astype(np.float64)
        count = n if self.per_feature else n * width
        with np.errstate(over="ignore", invalid="ignore"):
            mean = shift + self._total(block - shift for block in _blocks(x)) / count
            sums = [np.zeros_like(mean), np.zeros_like(mean)]
            for block in _blocks(x):
                deviation = block - mean
                sums[0] += self._total([deviation])
                sums[1] += self._total([np.square(deviation, out=deviation)])
            deviation_of_mean = sums[0] / count
            scale = np.sqrt(np.maximum(sums[1] / count - deviation_of_mean**2, 0.0))
        if not np.isfinite(scale).all():
            column = int(np.argmin(np.isfinite(scale)))
            where = f"column {column} of x" if self.per_feature else "x"
            raise ArgumentError(f"{where} holds NaN, infinity or values too large to square: remove or rescale them")
        self.width = width
        self.mean = mean
        self.scale = np.where(is_constant(scale**2, mean, count), 1.0, scale)
        return self

    def _total(self, blocks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = sum((block.sum(axis=0) for block in blocks), np.zeros(1))
        return total if self.per_feature else total.sum(keepdims=True)

    def transform(self, x: Array, dtype: DTypeLike = np.float32) -> Array:
        """(x - mean) / scale as a new C-contiguous (n, d) array of `dtype`, float32 or float64, computed in float64."""
        return self._apply(
            x, dtype, lambda block: np.divide(np.subtract(block, self.mean, out=block), self.scale, out=block)
        )

    def inverse(self, y: Array, dtype: DTypeLike = np.float64) -> Array:
        """y * scale + mean as a new C-contiguous (n, d) array of `dtype` (float32 or float64): undoes `transform`."""
        return self._apply(
            y, dtype, lambda block: np.add(np.multiply(block, self.scale, out=block), self.mean, out=block)
        )

    def _apply(
        self, x: Array, dtype: DTypeLike, formula: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> Array:
        if not self.width:
            raise ArgumentError("this Standardizer has no mean and scale yet: call fit(x) first")
        _check_real_matrix(x)
        if x.shape[1] != self.width:
            raise ArgumentError(f"x has {x.shape[1]} columns, but the Standardizer was fitted to {self.width}")
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise ArgumentError(f"dtype is {dtype}, expected float32 or float64")
        result: Array = np.empty(x.shape, dtype)
        start = 0
        for block in _blocks(x):
            result[start : start + len(block)] = formula(block)
            start += len(block)
        return result

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The arrays for `from_state`: "mean" and "scale", float64 (d,) or (1,), and "width", int64 (1,)."""
        return {"mean": self.mean.copy(), "scale": self.scale.copy(), "width": np.array([self.width], np.int64)}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[np.generic]]) -> Standardizer:
        """The Standardizer whose `state()` this is; raises CheckpointError for anything that cannot be one."""
        if set(state) != {"mean", "scale", "width"}:
            raise CheckpointError(
                f"a Standardizer's state has mean, scale and width, this one {', '.join(sorted(state)) or 'nothing'}"
            )
        mean, scale, width = (np.asarray(state[name]) for name in ("mean", "scale", "width"))
        if width.shape != (1,) or width.dtype.kind not in "iu" or width[0] < 1:
            raise CheckpointError(f"a Standardizer's width is one positive integer, this one {width!r}")
        columns = int(width[0])
        for name, array in (("mean", mean), ("scale", scale)):
            if array.shape not in ((1,), (columns,)) or array.dtype.kind != "f" or array.shape != mean.shape:
                raise CheckpointError(
                    f"a Standardizer's {name} is floating, ({columns},) or (1,): this one {array.dtype} {array.shape}"
                )
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise CheckpointError(
                "a Standardizer's mean must be finite and its scale finite and positive: the state is damaged"
            )
        result = cls(per_feature=mean.shape == (columns,))
        result.width, result.mean, result.scale = columns, mean.astype(np.float64), scale.astype(np.float64)
        return result

    def __repr__(self) -> str:
        fitted = f"fitted to {self.width} columns" if self.width else "not fitted"
        return f"Standardizer(per_feature={self.per_feature}): {fitted}"


def _check_real_matrix(x: Array) -> None:
    if not isinstance(x, np.ndarray):
        raise ArgumentTypeError(f"x is a {type(x).__name__}, expected a NumPy array")
    if x.dtype.kind not in "biuf":
        raise ArgumentTypeError(f"x has dtype {x.dtype}, expected bool, integers or floating-point numbers")
    if x.ndim != 2:
        raise ArgumentError(f"x has shape {x.shape}, expected (n, d): rows are samples")


def _blocks(x: Array) -> Iterator[NDArray[np.float64]]:
    """Successive rows of x as new float64 arrays, about `_BLOCK_ELEMENTS` elements each."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, x.shape[1]))
    for start in range(0, len(x), rows):
        yield x[start : start + rows].astype(np.float64)
