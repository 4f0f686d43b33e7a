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


def backward(x, dy, gamma, axis):
    """dx of xhat * gamma + beta with xhat = (x - mean) / sqrt(var + EPS) along `axis`."""
    mean, var = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
    xhat, u = (x - mean) / np.sqrt(var + EPS), dy * gamma
    rest = u - u.mean(axis=axis, keepdims=True) - xhat * (u * xhat).mean(axis=axis, keepdims=True)
    return rest / np.sqrt(var + EPS), xhat


def statistics(run, t, v, x, running=(None, None), momentum=0.1):
    """mean, variance, rstd of the columns, by the two stages."""
    rows, cols = x.shape
    launch = table.columns(rows, cols, v, MULTIPROCESSORS)
    partial = empty(real(t), (2 * launch.grid[1] + 1, cols))
    run("column_spreads", (t, v), launch, x, partial, rows, cols)
    mean, var, rstd = (empty(real(t), cols) for _ in range(3))
    run("finish_spreads", (real(t),), table.finish_columns(cols), partial, launch.grid[1], rows, cols, EPS, momentum, mean,
        var, rstd, *running)  # fmt: skip
    return mean, var, rstd


@pytest.mark.parametrize(("t", "v"), cases("column_spreads"))
def test_column_statistics(run, t, v):
    rng = np.random.default_rng(0)
    for rows, cols in [s for s in SHAPES if s[1] % v == 0]:
        x = to_storage(t, rng.normal(size=(rows, cols)) * rng.uniform(0.5, 3, cols) + rng.normal(size=cols))
        values = to_float64(t, x)
        running = [to_storage(real(t), rng.uniform(1, 2, cols)) for _ in range(2)]
        want = [r.astype(float) * 0.9 for r in running]
        mean, var, rstd = statistics(run, t, v, x, running)
        assert_close(real(t), mean, values.mean(axis=0), factor=4)
        assert_close(real(t), var, values.var(axis=0), factor=4)
        assert_close(real(t), rstd, 1 / np.sqrt(values.var(axis=0) + EPS), factor=4)
        assert_close(real(t), running[0], want[0] + 0.1 * values.mean(axis=0), factor=4)
        assert_close(real(t), running[1], want[1] + 0.1 * values.var(axis=0, ddof=1), factor=4)


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
        gamma, beta = to_storage(r, rng.uniform(0.5, 2, cols)), to_storage(r, rng.normal(size=cols))
        values, slopes = to_float64(t, x), to_float64(t, dy)
        want_dx, xhat = backward(values, slopes, gamma.astype(float), 0)
        mean, _, rstd = statistics(run, t, v, x)

        flat, y = table.flat(x.size, 1, MULTIPROCESSORS), empty(t, x.shape)
        run("batch_norm_apply", (t,), flat, x, mean, rstd, gamma, beta, y, rows, cols)
        assert_close(t, y, xhat * gamma + beta, factor=4)
        kept = empty(t, x.shape)
        run("batch_norm_apply", (t,), flat, x, mean, rstd, None, None, kept, rows, cols)
        assert_close(t, kept, xhat, factor=4)

        width = table.vector_width(t, cols)
        launch = table.columns(rows, cols, width, MULTIPROCESSORS)
        partial, sums = empty(r, (2, launch.grid[1], cols)), empty(r, (2, cols))
        dbeta, dgamma = empty(r, cols), empty(r, cols)
        run("norm_gradient_sums", (t, width, 0), launch, x, dy, mean, rstd, partial, rows, cols)
        run(
            "finish_column_sums",
            (r, r),
            table.finish_columns(cols, 2),
            partial,
            launch.grid[1],
            cols,
            sums,
            dbeta,
            dgamma,
            0.0,
        )
        magnitude = np.sqrt(rows)  # the sums may cancel; their error grows with the terms
        scale = {"float": 1e-6, "double": 1e-13, "f16": 1e-6, "bf16": 1e-6}[t] * 10 * magnitude
        np.testing.assert_allclose(dbeta, slopes.sum(axis=0), atol=scale, rtol=scale)
        np.testing.assert_allclose(dgamma, (slopes * xhat).sum(axis=0), atol=scale, rtol=scale)

        # two rows leave next to nothing of the gradient: what is left is rounding
        if rows > 2:
            run("batch_norm_backward", (t,), flat, x, dy, mean, rstd, gamma, sums, dy, rows, cols)
            assert_close(t, dy, want_dx, factor=8)


@pytest.mark.parametrize("t", table.STORAGE)
def test_batch_norm_in_evaluation(run, t):
    rng, r, rows, cols = np.random.default_rng(3), real(t), 31, 33
    x, dy = to_storage(t, rng.normal(size=(rows, cols))), to_storage(t, rng.normal(size=(rows, cols)))
    mean, var, gamma, beta = (to_storage(r, rng.uniform(0.5, 2, cols)) for _ in range(4))
    rstd, y, dx = empty(r, cols), empty(t, x.shape), empty(t, x.shape)
    run("inverse_deviation", (r,), table.flat(cols, 1, 1), var, rstd, cols, EPS)
    flat = table.flat(x.size, 1, MULTIPROCESSORS)
    run("batch_norm_apply", (t,), flat, x, mean, rstd, gamma, beta, y, rows, cols)
    factor = gamma.astype(float) / np.sqrt(var.astype(float) + EPS)
    assert_close(t, y, (to_float64(t, x) - mean) * factor + beta, factor=2)
    run("batch_norm_backward", (t,), flat, x, dy, mean, rstd, gamma, None, dx, rows, cols)
    assert_close(t, dx, to_float64(t, dy) * factor, factor=2)


@pytest.mark.parametrize("t", table.STORAGE)
def test_backward_takes_xhat_for_x(run, t):
    """With mean null, x is xhat: the same sums and the same dx to rounding."""
    rng, r, rows, cols = np.random.default_rng(4), real(t), 40, 24
    x, dy = to_storage(t, rng.normal(size=(rows, cols))), to_storage(t, rng.normal(size=(rows, cols)))
    want, xhat = backward(to_float64(t, x), to_float64(t, dy), 1.0, 0)
    stored, (_, _, rstd) = to_storage(t, xhat), statistics(run, t, 1, x)
    launch = table.columns(rows, cols, 1, MULTIPROCESSORS)
    partial, sums, dx = empty(r, (2, launch.grid[1], cols)), empty(r, (2, cols)), empty(t, x.shape)
    run("norm_gradient_sums", (t, 1, 0), launch, stored, dy, None, None, partial, rows, cols)
    done = table.finish_columns(cols, 2)
    run("finish_column_sums", (r, r), done, partial, launch.grid[1], cols, sums, None, None, 0.0)
    flat = table.flat(x.size, 1, MULTIPROCESSORS)
    run("batch_norm_backward", (t,), flat, stored, dy, None, rstd, None, sums, dx, rows, cols)
    assert_close(t, dx, want, factor=8)


@pytest.mark.parametrize(("t", "group"), cases("layer_norm_forward"))
def test_layer_norm(run, t, group):
    rng, r = np.random.default_rng(5), real(t)
    for rows, cols in {8: [(1, 5), (33, 31), (200, 33)], 32: [(31, 33), (64, 200)], 256: [(3, 1000), (9, 300)]}[group]:
        x, dy = to_storage(t, rng.normal(size=(rows, cols)) + 2), to_storage(t, rng.normal(size=(rows, cols)))
        gamma, beta = to_storage(r, rng.uniform(0.5, 2, cols)), to_storage(r, rng.normal(size=cols))
        values, slopes = to_float64(t, x), to_float64(t, dy)
        want_dx, xhat = backward(values, slopes, gamma.astype(float), 1)
        launch = table.rows(rows, group, MULTIPROCESSORS)
        y, mean, var, rstd = empty(t, x.shape), empty(r, rows), empty(r, rows), empty(r, rows)
        run("layer_norm_forward", (t, group), launch, x, gamma, beta, y, mean, var, rstd, rows, cols, EPS)
        assert_close(t, y, xhat * gamma + beta, factor=4)
        assert_close(r, mean, values.mean(axis=1), factor=4)
        assert_close(r, var, values.var(axis=1), factor=4)

        width = table.vector_width(t, cols)
        columns = table.columns(rows, cols, width, MULTIPROCESSORS)
        partial, dbeta, dgamma = empty(r, (2, columns.grid[1], cols)), empty(r, cols), empty(r, cols)
        run("norm_gradient_sums", (t, width, 1), columns, x, dy, mean, rstd, partial, rows, cols)
        done = table.finish_columns(cols, 2)
        run("finish_column_sums", (r, r), done, partial, columns.grid[1], cols, None, dbeta, dgamma, 0.0)
        assert_close(r, dbeta, slopes.sum(axis=0), factor=8)
        assert_close(r, dgamma, (slopes * xhat).sum(axis=0), factor=8)

        dx = empty(t, x.shape)
        run("layer_norm_backward", (t, group), launch, x, dy, mean, rstd, gamma, dx, rows, cols, 1)
        assert_close(t, dx, want_dx, factor=8)
        run("layer_norm_backward", (t, group), launch, x, dy, mean, rstd, gamma, dy, rows, cols, 1)
        np.testing.assert_array_equal(dx, dy)


@pytest.mark.parametrize(("t", "group"), cases("layer_norm_forward"))
def test_rms_norm(run, t, group):
    """Without a mean, with xhat in the place of x in the backward pass."""
    rng, r = np.random.default_rng(6), real(t)
    for rows, cols in {8: [(1, 5), (33, 31)], 32: [(31, 33), (64, 200)], 256: [(3, 1000), (9, 300)]}[group]:
        x, dy = to_storage(t, rng.normal(size=(rows, cols)) + 2), to_storage(t, rng.normal(size=(rows, cols)))
        values, slopes = to_float64(t, x), to_float64(t, dy)
        launch = table.rows(rows, group, MULTIPROCESSORS)
        y, square, rstd = empty(t, x.shape), empty(r, rows), empty(r, rows)
        run("layer_norm_forward", (t, group), launch, x, None, None, y, None, square, rstd, rows, cols, EPS)
        squares = (values**2).mean(axis=1, keepdims=True)
        want = values / np.sqrt(squares + EPS)
        assert_close(t, y, want, factor=4)
        assert_close(r, square, squares[:, 0], factor=4)
        xhat, dx = to_float64(t, y), empty(t, x.shape)
        run("layer_norm_backward", (t, group), launch, y, dy, None, rstd, None, dx, rows, cols, 0)
        want_dx = (slopes - xhat * (slopes * xhat).mean(axis=1, keepdims=True)) / np.sqrt(squares + EPS)
        assert_close(t, dx, want_dx, factor=8)
