"""activation.cu against the definitions in float64."""

from __future__ import annotations

from math import erf, pi, sqrt

import numpy as np
import pytest

from gpubackprop import activations
from gpubackprop.backend.cuda import kernel_table as table
from tests import exact
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import assert_close, empty, to_float64, to_storage

SHAPES = [(1, 1), (3, 31), (33, 32), (7, 33), (19, 64), (1000, 37)]
FUNCTIONS = tuple(table.functors("activation.cu"))
ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805

cdf = np.vectorize(lambda x: 0.5 * (1 + erf(x / sqrt(2))), otypes=[float])


def value(f, x):
    """f(x) in float64."""
    hard, negative = np.clip(x / 6 + 0.5, 0, 1), np.expm1(np.minimum(x, 0))
    return {
        "Identity": lambda: x,
        "Sigmoid": lambda: 0.5 * (1 + np.tanh(0.5 * x)),
        "Tanh": lambda: np.tanh(x),
        "ReLU": lambda: np.maximum(x, 0),
        "LeakyReLU": lambda: np.where(x > 0, x, 0.01 * x),
        "ELU": lambda: np.where(x > 0, x, negative),
        "SELU": lambda: SCALE * np.where(x > 0, x, ALPHA * negative),
        "CELU": lambda: np.where(x > 0, x, negative),
        "GELU": lambda: x * cdf(x),
        "GELUTanh": lambda: 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),
        "Softplus": lambda: np.logaddexp(0, x),
        "SiLU": lambda: x * 0.5 * (1 + np.tanh(0.5 * x)),
        "Mish": lambda: x * np.tanh(np.logaddexp(0, x)),
        "Softsign": lambda: x / (1 + np.abs(x)),
        "HardSigmoid": lambda: hard,
        "HardSwish": lambda: x * hard,
    }[f]()


def slope(f, x):
    """f'(x) by a central difference of the definition, good to about 1e-10."""
    h = 1e-5
    return (value(f, x + h) - value(f, x - h)) / (2 * h)


FROM_OUTPUT = ("Identity", "ReLU", "LeakyReLU", "HardSigmoid")


def saved_for(f, t, z):
    """What the forward pass keeps for the derivative: the output or z."""
    kept = to_float64(t, to_storage(t, z))
    return to_storage(t, value(f, kept) if f in FROM_OUTPUT else kept)


def derivative_from(f, saved):
    """f' as a function of what was saved, in float64."""
    density = np.exp(-0.5 * saved**2) / sqrt(2 * pi)
    root, sigma = sqrt(2 / pi), 0.5 * (1 + np.tanh(0.5 * saved))
    t = np.tanh(root * (saved + 0.044715 * saved**3))
    return {
        "GELU": lambda z: cdf(z) + z * density,
        "GELUTanh": lambda z: 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * root * (1 + 3 * 0.044715 * z**2),
        "SiLU": lambda z: sigma * (1 + z * (1 - sigma)),
        "Identity": lambda a: np.ones_like(a),
        "Sigmoid": lambda z: sigma * (1 - sigma),
        "Tanh": lambda z: 1 / np.cosh(z) ** 2,
        "ReLU": lambda a: (a > 0) * 1.0,
        "LeakyReLU": lambda a: np.where(a > 0, 1, 0.01),
        "ELU": lambda z: np.where(z > 0, 1, np.exp(np.minimum(z, 0))),
        "SELU": lambda z: SCALE * np.where(z > 0, 1, ALPHA * np.exp(np.minimum(z, 0))),
        "CELU": lambda z: np.where(z > 0, 1, np.exp(np.minimum(z, 0))),
        "Softplus": lambda z: sigma,
        "Mish": lambda z: np.tanh(np.logaddexp(0, z)) + z * sigma / np.cosh(np.logaddexp(0, z)) ** 2,
        "Softsign": lambda z: 1 / (1 + np.abs(z)) ** 2,
        "HardSigmoid": lambda a: ((a > 0) & (a < 1)) / 6,
        "HardSwish": lambda z: np.clip(z / 6 + 0.5, 0, 1) + z / 6 * (np.abs(z) < 3),
    }[f](saved)


def test_references_agree_with_each_other():
    """The derivative from the output is the derivative of the definition."""
    z = np.linspace(-4, 4, 81) + 0.013
    for f in FUNCTIONS:
        kept = value(f, z) if f in FROM_OUTPUT else z
        np.testing.assert_allclose(derivative_from(f, kept), slope(f, z), atol=1e-9)


@pytest.mark.parametrize(("t", "f"), cases("bias_activation"))
def test_bias_activation(run, t, f):
    rng = np.random.default_rng(1)
    for rows, cols in SHAPES:
        z, b = to_storage(t, 3 * rng.normal(size=(rows, cols))), to_storage(t, rng.normal(size=cols))
        s = to_float64(t, z) + to_float64(t, b)
        a, saved = empty(t, z.shape), empty(t, z.shape)
        launch = table.flat(z.size, 1, MULTIPROCESSORS)
        run("bias_activation", (t, f), launch, z, b, a, saved, rows, cols)
        assert_close(t, a, value(f, s))
        assert_close(t, saved, s)
        run("bias_activation", (t, f), launch, z, b, z, None, rows, cols)
        np.testing.assert_array_equal(z, a)


@pytest.mark.parametrize("t", table.STORAGE)
def test_bias_activation_of_unaligned_arrays(run, t):
    rng = np.random.default_rng(2)
    z, b = to_storage(t, rng.normal(size=(9, 32))), to_storage(t, rng.normal(size=32))
    a, aligned = empty(t, z.shape), empty(t, z.shape)
    launch = table.flat(z.size, 1, MULTIPROCESSORS)
    run("bias_activation", (t, "GELU"), launch, z, b, a, None, 9, 32, offset=1)
    run("bias_activation", (t, "GELU"), launch, z, b, aligned, None, 9, 32)
    np.testing.assert_array_equal(a, aligned)


@pytest.mark.parametrize(("t", "f"), cases("activation"))
def test_activation_and_derivative(run, t, f):
    rng = np.random.default_rng(3)
    for n in (1, 31, 33, 5003):
        z, delta = to_storage(t, 3 * rng.normal(size=n)), to_storage(t, rng.normal(size=n))
        a, launch = empty(t, n), table.flat(n, 1, MULTIPROCESSORS)
        for offset in (0, 1):
            run("activation", (t, f), launch, z, a, n, offset=offset)
            assert_close(t, a, value(f, to_float64(t, z)))
            saved, d = saved_for(f, t, to_float64(t, z)), delta.copy()
            run("activation_derivative", (t, f), launch, d, saved, n, offset=offset)
            assert_close(t, d, to_float64(t, delta) * derivative_from(f, to_float64(t, saved)), factor=2)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_activations_at_the_ends(run, f):
    """Large arguments overflow nowhere, the smallest keep their sign, and a NaN stays one."""
    z = np.array([-1e4, -100, -30, -1e-30, 0.0, 1e-30, 30, 100, 1e4, np.nan], np.float32)
    a = empty("float", z.shape)
    run("activation", ("float", f), table.flat(z.size, 1, 1), z, a, z.size)
    assert np.isnan(a[-1])
    np.testing.assert_allclose(a[:-1], value(f, z[:-1].astype(float)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("t", "f"), cases("activation", lambda t, f: t in ("float", "double")))
def test_every_digit_from_end_to_end(run, t, f):
    name, dtype = getattr(activations, f).name, {"float": "float32", "double": "float64"}[t]
    z = exact.points(dtype)
    a, d, launch = empty(t, z.shape), np.ones_like(z), table.flat(z.size, 1, 1)
    run("activation", (t, f), launch, z, a, z.size)
    run("activation_derivative", (t, f), launch, d, a if f in FROM_OUTPUT else z, z.size)
    exact.assert_exact(name, dtype, a, d)


@pytest.mark.parametrize(("t", "v"), cases("column_sums"))
def test_column_sums(run, t, v):
    rng = np.random.default_rng(4)
    total = "double" if t == "double" else "float"
    for rows, cols in [(1, 1), (31, 33), (1000, 37)] if v == 1 else [(1, 8), (33, 16), (300, 264)]:
        values = to_storage(t, rng.normal(size=(rows, cols)) + 0.5)
        launch = table.columns(rows, cols, v, MULTIPROCESSORS)
        splits = launch.grid[1]
        partial, sums = empty(total, (1, splits, cols)), empty(total, cols)
        run("column_sums", (t, v), launch, values, partial, rows, cols)
        finish = "finish_column_sums", (total, total), table.finish_columns(cols), partial, splits, cols, sums
        run(*finish, 0.0)
        assert_close(total, sums, to_float64(t, values).sum(axis=0), factor=2)


@pytest.mark.parametrize(("a", "g"), cases("finish_column_sums"))
def test_finish_column_sums(run, a, g):
    """Two sums at once, into gradients of any type, with and without what was there."""
    partial = to_storage(a, np.random.default_rng(5).normal(size=(2, 13, 45)))
    want, out = partial.astype(float).sum(axis=1), empty(g, (2, 45))
    finish = "finish_column_sums", (a, g), table.finish_columns(45, 2), partial, 13, 45, out
    run(*finish, 0.0)
    assert_close(g, out, want)
    old = to_float64(g, out)
    run(*finish, 1.0)
    assert_close(g, out, old + want)
