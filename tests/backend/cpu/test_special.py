from __future__ import annotations

from math import erfc, exp, pi, sqrt

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.special import Blocks, normal_cdf


def evaluate(z: np.ndarray) -> np.ndarray:
    out = np.empty_like(z)
    normal_cdf(z, out, np.empty_like(z), np.empty_like(z))
    return out


def exact(z: np.ndarray) -> np.ndarray:
    return np.array([erfc(-float(v) / sqrt(2)) / 2 for v in z.reshape(-1)]).reshape(z.shape)


def test_float64_over_the_whole_range() -> None:
    z = np.concatenate([np.linspace(-40, 40, 160_001), [0.0, -0.0, 5e-324, -1e-300, 1e8, -1e8, 1e150, -1e150]])
    found, expected = evaluate(z), exact(z)
    assert np.abs(found - expected).max() <= 2e-15
    seen = z > -37
    assert np.abs(found[seen] / expected[seen] - 1).max() <= 1e-12
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_float32_over_the_whole_range() -> None:
    z = np.concatenate([np.linspace(-13, 13, 52_001), [0.0, 1e10, -1e10]]).astype(np.float32)
    found, expected = evaluate(z), exact(z)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 3e-7
    seen = z > -12
    # z^2 / 2 in the exponent carries z^2 / 2 roundings into the tail.
    bound = 4e-7 * (1 + z[seen].astype(float) ** 2)
    assert (np.abs(found[seen] / expected[seen] - 1) <= bound).all()


def test_limits() -> None:
    np.testing.assert_array_equal(evaluate(np.array([-np.inf, np.inf])), [0.0, 1.0])
    assert np.isnan(evaluate(np.array([np.nan]))[0])


def test_complex_step_gives_the_density() -> None:
    z = np.linspace(-6, 6, 25)
    slope = evaluate(z + 1e-30j).imag / 1e-30
    np.testing.assert_allclose(slope, [exp(-v * v / 2) / sqrt(2 * pi) for v in z], rtol=1e-11)


@pytest.mark.parametrize("size", [1, Blocks.SIZE, Blocks.SIZE + 1])
def test_on_each_device_in_blocks(backend: Backend, size: int) -> None:
    z = np.random.default_rng(0).normal(size=(1, size)) * 3
    out = backend.empty(z.shape, np.float64)
    backend.normal_cdf(backend.asarray(z), out)
    np.testing.assert_allclose(backend.to_host(out), exact(z), rtol=1e-12, atol=2e-15)


def test_blocks_are_made_once() -> None:
    blocks = Blocks()
    first, second = blocks.take(2, np.float32)
    assert first.shape == second.shape == (Blocks.SIZE,)
    assert blocks.take(2, "float32")[0] is first
    assert not np.shares_memory(first, second)
