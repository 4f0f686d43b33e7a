"""Normalisation in machine code: what NumPy's operations compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.numpy_backend import FUSED, NumpyBackend

pytest.importorskip("numba")

from gpubackprop.backend.cpu.compiled import Fused

TOLERANCE = {"float32": 1e-5, "float64": 5e-14}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("axis", "centered"), [(1, True), (1, False), (0, True)])
@pytest.mark.parametrize("width", [1, 7, 300, 512])
def test_it_is_what_the_array_expressions_compute(width: int, axis: int, centered: bool, dtype: str) -> None:
    """Widths of one part and of several, of which the last has fewer rows, and not a multiple of four."""
    rng = np.random.default_rng(width)
    n = 10 * FUSED // width + 3
    x, delta = (rng.standard_normal((n, width)).astype(dtype) * 3 + 1 for _ in range(2))
    gamma, beta = (rng.standard_normal(width).astype(dtype) for _ in range(2))
    results = []
    for kind in (NumpyBackend, Backend):
        be: Any = NumpyBackend()
        mean, var, rstd = (np.full((1, width) if axis == 0 else (n, 1), np.nan, dtype) for _ in range(3))
        xhat, a, dx, sums = (
            np.full_like(x, np.nan),
            np.full_like(x, np.nan),
            np.full_like(x, np.nan),
            np.empty((2, width), dtype),
        )
        kind.normalize(
            be, x, axis, 1e-5, mean if centered else None, var, rstd, xhat, gamma, beta if centered else None, a
        )
        kind.scale_gradients(be, delta, xhat, sums)
        kind.normalize_backward(be, delta, axis, gamma, rstd, xhat, sums, dx, centered)
        assert np.isnan(mean).all() != centered
        # What cancels is as exact as its terms are.
        terms = {"dx": np.abs(rstd).max() * np.abs(gamma * delta).max(), "sums": np.abs(delta * xhat).sum(axis=0).max()}
        results.append({"var": var, "rstd": rstd, "xhat": xhat, "a": a, "dx": dx, "sums": sums, "mean": mean})
    for name, other in results[1].items():
        scale = terms.get(name) or max(1.0, float(np.nanmax(np.abs(other), initial=0)))
        np.testing.assert_allclose(results[0][name], other, rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=name)


@pytest.mark.parametrize("axis", [0, 1])
def test_small_variances_keep_their_digits(axis: int) -> None:
    """As a difference of sums of squares, the variance of these numbers would have none."""
    x = 1e4 + np.arange(FUSED * 8, dtype=np.float64).reshape(-1, 64) ** 2 % 11 * 1e-3
    shape = (1, 64) if axis == 0 else (len(x), 1)
    mean, var, rstd = (np.empty(shape) for _ in range(3))
    xhat, a = np.empty_like(x), np.empty_like(x)
    NumpyBackend().normalize(x, axis, 1e-9, mean, var, rstd, xhat, np.ones(64), np.zeros(64), a)
    np.testing.assert_allclose(var.reshape(-1), x.var(axis=axis), rtol=1e-8)


@pytest.mark.parametrize("layer", [gb.BatchNorm, gb.LayerNorm, gb.RMSNorm])
def test_large_batches_take_it(layer: Any) -> None:
    for rows, taken in ((FUSED // 256, True), (FUSED // 256 - 1, False)):
        net = gb.Network([gb.Dense(4, 256), layer(256), gb.Dense(256, 2)], loss="mean_squared_error", device="cpu")
        net.train_step(np.zeros((rows, 4)), np.zeros((rows, 2)), gb.SGD(0.1))
        programs = [held[1] for held in net.engine.training.batch(rows).programs.values() if held]
        assert any(isinstance(f, Fused) for program in programs for f, _ in program.calls) is taken


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_columns_with_nan_and_infinity_are_their_own(axis: int) -> None:
    x = np.ones((FUSED // 64, 64), np.float32)
    x[:, 0], x[0], x[3, 5], x[4, 6] = 2, 3, np.nan, np.inf
    xhat, a, one = np.empty_like(x), np.empty_like(x), np.ones(64, np.float32)
    mean, var, rstd = (np.empty((1, 64) if axis == 0 else (len(x), 1), np.float32) for _ in range(3))
    NumpyBackend().normalize(x, axis, 1e-5, mean, var, rstd, xhat, one, one, a)
    assert np.flatnonzero(~np.isfinite(a).all(axis=axis)).tolist() == ([3, 4] if axis else [5, 6])
