"""normalization.cu against the formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import assert_close, empty, to_float64, to_storage

EPS = 1e-5
SHAPES = [(2, 1), (31, 33), (1000, 37), (64, 40)]


def real(t):
    return "double" if t == "double" else "float"


def backward(x, dy, axis):
    """dx of xhat = (x - mean) / sqrt(var + EPS) along `axis`, and xhat."""
    mean, var = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
    xhat = (x - mean) / np.sqrt(var + EPS)
    rest = dy - dy.mean(axis=axis, keepdims=True) - xhat * (dy * xhat).mean(axis=axis, keepdims=True)
    return rest / np.sqrt(var + EPS), xhat


def statistics(run, t, v, x):
    """mean, variance, rstd of the columns, by the two stages."""
    rows, cols = x.shape
    launch = table.columns(rows, cols, v, MULTIPROCESSORS)
    partial = empty(real(t), (2 * launch.grid[1] + 1, cols))
    run("column_spreads", (t, v), launch, x, partial, rows, cols)
    mean, var, rstd = (empty(real(t), cols) for _ in range(3))
    finish = table.finish_columns(cols)
    run("finish_spreads", (real(t),), finish, partial, launch.grid[1], rows, cols, EPS, mean, var, rstd)
    return mean, var, rstd


@pytest.mark.parametrize(("t", "v"), cases("column_spreads"))
def test_column_statistics(run, t, v):
    rng = np.random.default_rng(0)
    for rows, cols in [s for s in SHAPES if s[1] % v == 0]:
        x = to_storage(t, rng.normal(size=(rows, cols)) * rng.uniform(0.5, 3, cols) + rng.normal(size=cols))
        values = to_float64(t, x)
        mean, var, rstd = statistics(run, t, v, x)
        assert_close(real(t), mean, values.mean(axis=0), factor=4)
        assert_close(real(t), var, values.var(axis=0), factor=4)
        assert_close(real(t), rstd, 1 / np.sqrt(values.var(axis=0) + EPS), factor=4)


def test_variance_survives_a_large_mean(run):
    x = (1e4 + np.random.default_rng(1).normal(size=(1000, 37))).astype(np.float32)
    _, var, _ = statistics(run, "float", 1, x)
    np.testing.assert_allclose(var, x.astype(float).var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("t", table.STORAGE)
def test_batch_norm(run, t):
    rng, r = np.random.default_rng(2), real(t)
    for rows, cols in SHAPES:
        v = min(table.vector_width(t, cols), 4)
        x, dy = to_storage(t, rng.normal(size=(rows, cols)) + 0.5), to_storage(t, rng.normal(size=(rows, cols)))
        slopes = to_float64(t, dy)
        gamma, beta = (rng.normal(size=cols).astype(np.float64 if r == "double" else np.float32) for _ in range(2))
        want_dx, xhat = backward(to_float64(t, x), slopes, 0)
        mean, _, rstd = statistics(run, t, v, x)

        flat, stored, out = table.flat(x.size, 1, MULTIPROCESSORS), empty(t, x.shape), empty(t, x.shape)
        run("batch_norm_apply", (t,), flat, x, mean, rstd, gamma, beta, stored, out, rows, cols)
        assert_close(t, stored, xhat, factor=4)
        assert_close(t, out, gamma * xhat + beta, factor=8)
        again = empty(t, x.shape)
        run("batch_norm_apply", (t,), flat, x, mean, rstd, gamma, beta, again, x, rows, cols)
        np.testing.assert_array_equal(x, out)
        np.testing.assert_array_equal(again, stored)

        width = table.vector_width(t, cols)
        launch = table.columns(rows, cols, width, MULTIPROCESSORS)
        partial, sums = empty(r, (2, launch.grid[1], cols)), empty(r, (2, cols))
        run("norm_gradient_sums", (t, width), launch, stored, dy, partial, rows, cols)
        finish = table.finish_columns(cols, 2)
        run("finish_column_sums", (r, r), finish, partial, launch.grid[1], cols, sums, 0.0)
        magnitude = np.sqrt(rows)  # the sums may cancel; their error grows with the terms
        scale = {"float": 1e-6, "double": 1e-13, "f16": 1e-6, "bf16": 1e-6}[t] * 10 * magnitude
        np.testing.assert_allclose(sums[0], slopes.sum(axis=0), atol=scale, rtol=scale)
        np.testing.assert_allclose(sums[1], (slopes * to_float64(t, stored)).sum(axis=0), atol=scale, rtol=scale)

        # two rows leave next to nothing of the gradient: what is left is rounding
        if rows > 2:
            dx = empty(t, x.shape)
            run("batch_norm_backward", (t,), flat, stored, dy, gamma, rstd, sums, dx, rows, cols)
            assert_close(t, dx, gamma * want_dx, factor=8)
            run("batch_norm_backward", (t,), flat, stored, dy, gamma, rstd, sums, dy, rows, cols)
            np.testing.assert_array_equal(dx, dy)


@pytest.mark.parametrize(("t", "group"), cases("layer_norm_forward"))
@pytest.mark.parametrize("centered", [True, False])
def test_layer_norm(run, t, group, centered):
    """With a mean, and, as RMS norm, without."""
    rng, r = np.random.default_rng(5), real(t)
    for rows, cols in {8: [(1, 5), (33, 31), (200, 33)], 32: [(31, 33), (64, 200)], 256: [(3, 1000), (9, 300)]}[group]:
        x, dy = to_storage(t, rng.normal(size=(rows, cols)) + 2), to_storage(t, rng.normal(size=(rows, cols)))
        values, slopes = to_float64(t, x), to_float64(t, dy)
        gamma, beta = (rng.normal(size=cols).astype(np.float64 if r == "double" else np.float32) for _ in range(2))
        slopes = gamma * slopes
        want_dx, want = backward(values, slopes, 1)
        squares = values.var(axis=1) if centered else (values**2).mean(axis=1)
        if not centered:
            root = np.sqrt(squares + EPS)[:, None]
            want = values / root
            want_dx = (slopes - want * (slopes * want).mean(axis=1, keepdims=True)) / root
        launch = table.rows(rows, group, MULTIPROCESSORS)
        xhat, mean, var, rstd = empty(t, x.shape), empty(r, rows), empty(r, rows), empty(r, rows)
        out, shift, middle = empty(t, x.shape), *((beta, mean) if centered else (None, None))
        run("layer_norm_forward", (t, group), launch, x, xhat, out, gamma, shift, middle, var, rstd, rows, cols, EPS)
        assert_close(t, xhat, want, factor=4)
        assert_close(t, out, gamma * want + (beta if centered else 0), factor=8)
        assert_close(r, var, squares, factor=4)
        if centered:
            assert_close(r, mean, values.mean(axis=1), factor=4)

        dx = empty(t, x.shape)
        run("layer_norm_backward", (t, group), launch, xhat, dy, gamma, rstd, dx, rows, cols, int(centered))
        assert_close(t, dx, want_dx, factor=8)
        run("layer_norm_backward", (t, group), launch, xhat, dy, gamma, rstd, dy, rows, cols, int(centered))
        np.testing.assert_array_equal(dx, dy)
