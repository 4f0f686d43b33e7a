"""Normalisation of rows in one pass of machine code: what NumPy's operations compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.numpy_backend import FUSED, NumpyBackend

pytest.importorskip("numba")

from gpubackprop.backend.cpu.compiled import Fused

TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("width", [1, 7, 300, 512])
def test_it_is_what_the_array_expressions_compute(width: int, centered: bool, dtype: str) -> None:
    rng = np.random.default_rng(width)
    n = FUSED // width + 3
    x, g = (rng.standard_normal((n, width)).astype(dtype) * 3 + 1 for _ in range(2))
    results = []
    for kind in (NumpyBackend, Backend):
        be: Any = NumpyBackend()
        mean, var, rstd = (np.full((n, 1), np.nan, dtype) for _ in range(3))
        xhat, out = np.full_like(x, np.nan), np.full_like(x, np.nan)
        kind.normalize(be, x, 1, 1e-5, mean if centered else None, var, rstd, xhat)
        kind.normalize_backward(be, g, 1, rstd, xhat, out, centered)
        assert np.isnan(mean).all() != centered
        results.append([var, rstd, xhat, out, *([mean] if centered else [])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * max(1.0, float(np.abs(b).max())))


def test_small_variances_keep_their_digits() -> None:
    """As a difference of sums of squares, the variance of these rows would have none."""
    x = 1e4 + np.arange(FUSED * 2, dtype=np.float64).reshape(-1, 64) % 3 * 1e-3
    var, rstd = np.empty((len(x), 1)), np.empty((len(x), 1))
    NumpyBackend().normalize(x, 1, 0.0, np.empty((len(x), 1)), var, rstd, np.empty_like(x))
    np.testing.assert_allclose(var[:, 0], x.var(axis=1), rtol=1e-8)


@pytest.mark.parametrize("layer", [gb.LayerNorm, gb.RMSNorm])
def test_large_batches_take_it(layer: Any) -> None:
    for rows, taken in ((FUSED // 256, True), (FUSED // 256 - 1, False)):
        net = gb.Network([gb.Dense(4, 256), layer(256), gb.Dense(256, 2)], loss="mean_squared_error", device="cpu")
        net.train_step(np.zeros((rows, 4)), np.zeros((rows, 2)), gb.SGD(0.1))
        programs = [held[1] for held in net.engine.training.batch(rows).programs.values() if held]
        assert any(isinstance(f, Fused) for program in programs for f, _ in program.calls) is taken


def test_rows_with_nan_and_infinity_are_their_own() -> None:
    x = np.ones((FUSED // 64, 64), np.float32)
    x[:, 0], x[3, 5], x[4, 6] = 2, np.nan, np.inf
    xhat = np.empty_like(x)
    mean, var, rstd = (np.empty((len(x), 1), np.float32) for _ in range(3))
    with np.errstate(invalid="ignore"):
        NumpyBackend().normalize(x, 1, 1e-5, mean, var, rstd, xhat)
    assert np.flatnonzero(~np.isfinite(xhat).all(axis=1)).tolist() == [3, 4]
