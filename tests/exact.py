"""Activations and their derivatives to fifty digits, and the range over which every device is held to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from mpmath import mp, mpf

mp.dps = 50
UNITS = 8
"""Relative error, in units of the type's eps, that a value or a derivative may have wherever it is a normal number."""

Number = Any
Function = Callable[[Number], Number]


@dataclass(frozen=True)
class Exact:
    """f and f' at a number of mpmath's, and what an error is measured in.

    terms: of the derivative, the size of the largest term where it is a difference of two, whose rounding stays; None for
    the derivative itself. exponent: of the exponential where it is rounded itself, so that each unit of it counts.
    """

    value: Function
    slope: Function
    terms: Function | None = None
    exponent: Function | None = None


def sigmoid(z: Number) -> Number:
    return 1 / (1 + mp.exp(-z))


def cdf(z: Number) -> Number:
    return mp.ncdf(z) if abs(z) < 1e4 else mpf(z > 0)


ALPHA, SCALE = mpf("1.6732632423543772848170429916717"), mpf("1.0507009873554804934193349852946")
ROOT, CUBIC = 2 * mp.sqrt(2 / mp.pi), mpf(0.044715)


def _u(z: Number) -> Number:
    return ROOT * (z + CUBIC * z**3)


def _hard(z: Number) -> Number:
    return min(max(z / 6 + mpf(0.5), mpf(0)), mpf(1))


EXACT: dict[str, Exact] = {
    "identity": Exact(lambda z: z, lambda z: mpf(1)),
    "sigmoid": Exact(sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": Exact(mp.tanh, lambda z: 1 / mp.cosh(z) ** 2),
    "relu": Exact(lambda z: max(z, mpf(0)), lambda z: mpf(z > 0)),
    "leaky_relu": Exact(lambda z: z if z > 0 else mpf(0.01) * z, lambda z: mpf(1) if z > 0 else mpf(0.01)),
    "elu": Exact(lambda z: z if z > 0 else mp.expm1(z), lambda z: mpf(1) if z > 0 else mp.exp(z)),
    "selu": Exact(
        lambda z: SCALE * (z if z > 0 else ALPHA * mp.expm1(z)),
        lambda z: SCALE * (1 if z > 0 else ALPHA * mp.exp(z)),
    ),
    "softplus": Exact(lambda z: mp.log1p(mp.exp(z)), sigmoid),
    "silu": Exact(
        lambda z: z * sigmoid(z),
        lambda z: sigmoid(z) * (1 + z * sigmoid(-z)),
        lambda z: sigmoid(z) * max(1, abs(z) * sigmoid(-z)),
    ),
    "celu": Exact(lambda z: z if z > 0 else mp.expm1(z), lambda z: mpf(1) if z > 0 else mp.exp(z)),
    "mish": Exact(
        lambda z: z * mp.tanh(mp.log1p(mp.exp(z))),
        lambda z: mp.tanh(mp.log1p(mp.exp(z))) + z * sigmoid(z) * mp.sech(mp.log1p(mp.exp(z))) ** 2,
        lambda z: max(mp.tanh(mp.log1p(mp.exp(z))), abs(z) * sigmoid(z) * mp.sech(mp.log1p(mp.exp(z))) ** 2),
    ),
    "softsign": Exact(lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "hard_sigmoid": Exact(_hard, lambda z: mpf(0 < _hard(z) < 1) / 6),
    "hard_swish": Exact(
        lambda z: z * _hard(z),
        lambda z: _hard(z) + z / 6 * (0 < _hard(z) < 1),
        lambda z: max(_hard(z), abs(z) / 6 * (0 < _hard(z) < 1)),
    ),
    "gelu": Exact(
        lambda z: z * cdf(z),
        lambda z: cdf(z) + z * mp.npdf(z),
        lambda z: max(cdf(z), abs(z) * mp.npdf(z)),
    ),
    "gelu_tanh": Exact(
        lambda z: z * sigmoid(_u(z)),
        lambda z: sigmoid(_u(z)) * (1 + ROOT * z * sigmoid(-_u(z)) * (1 + 3 * CUBIC * z * z)),
        lambda z: sigmoid(_u(z)) * max(1, ROOT * abs(z) * sigmoid(-_u(z)) * (1 + 3 * CUBIC * z * z)),
        lambda z: max(-_u(z), mpf(0)),
    ),
}


@cache
def points(dtype: str) -> np.ndarray:
    """Finite z from end to end of the type, most of them where f and f' are normal numbers: a sorted (n,) array."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    end = -np.log(info.tiny)
    magnitudes = np.concatenate(
        [rng.uniform(0, 1.1 * end, 60), rng.uniform(0, 12, 60), 10.0 ** rng.uniform(-6, 1, 20), [info.tiny, 1e4]]
    )
    largest = [float(info.max) * share for share in (0.3, 0.9)]
    z = np.concatenate([magnitudes, -magnitudes, [0.0], largest, np.negative(largest)])
    return np.unique(z.astype(dtype))


@cache
def table(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(f, its error, f', its error) at `points`: exact values rounded to float64, and how far off a right answer may be."""
    f, eps = EXACT[name], mpf(float(np.finfo(dtype).eps))
    tiny = mpf(float(np.finfo(dtype).tiny))
    rows = []
    for z in (mpf(float(v)) for v in points(dtype)):
        value, slope = f.value(z), f.slope(z)
        terms = f.terms(z) if f.terms else slope
        units = UNITS + (4 * f.exponent(z) if f.exponent else 0)
        # Below the normal numbers there are fewer digits, and a device may give 0; so of such a number times a power of z.
        floor = tiny * min(max(1, abs(z) ** (3 if f.exponent else 1)), 1000)
        rows.append((value, units * eps * abs(value) + floor, slope, units * eps * abs(terms) + floor))
    return tuple(np.array([float(v) for v in column]) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def assert_exact(name: str, dtype: str, found: np.ndarray, slopes: np.ndarray) -> None:
    """Both within their errors, everywhere, and finite."""
    value, value_error, slope, slope_error = table(name, dtype)
    for what, got, want, error in (("f", found, value, value_error), ("f'", slopes, slope, slope_error)):
        off = np.abs(np.asarray(got, np.float64) - want)
        wrong = np.flatnonzero(~(off <= error))
        assert wrong.size == 0, f"{name}, {what} at {points(dtype)[wrong]}: {got[wrong]} instead of {want[wrong]}"
