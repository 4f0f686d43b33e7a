"""norm.cu: the gradient's norm, clipping, and the loss scale."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import empty, to_float64, to_storage


@pytest.mark.parametrize("t", [c.values[0] for c in cases("squared_norm")])
@pytest.mark.parametrize("n", [1, 31, 33, 37000])
def test_norm_and_clip_factor(run, t, n):
    g = to_storage(t, np.random.default_rng(0).normal(size=n) + 0.1)
    inverse, limit = np.array([0.25], np.float32), 0.3
    launch = table.flat(n, 1, MULTIPROCESSORS)
    for scale, cut, offset in [(None, np.inf, 0), (inverse, limit, 0), (inverse, limit, 1)]:
        values = np.clip(to_float64(t, g) * (1 if scale is None else 0.25), -cut, cut)
        want = np.linalg.norm(values)
        partial = empty("double", launch.blocks)
        run("squared_norm", (t,), launch, g, n, scale, cut, partial, offset=offset)
        norm, clip = empty("float", 1), empty("float", 1)
        run("finish_norm", (), table.one_block(), partial, partial.size, want / 2, norm, clip)
        np.testing.assert_allclose(norm[0], want, rtol=2e-6)
        np.testing.assert_allclose(clip[0], want / 2 / (want + 1e-6), rtol=2e-6)
        run("finish_norm", (), table.one_block(), partial, partial.size, want * 2, None, clip)
        assert clip[0] == 1


def test_clip_factor_of_nan_is_nan(run):
    norm, clip = empty("float", 1), np.ones(1, np.float32)
    run("finish_norm", (), table.one_block(), np.array([np.nan]), 1, 1.0, norm, clip)
    assert np.isnan(norm[0])
    assert np.isnan(clip[0])


@pytest.mark.parametrize("t", table.STORAGE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_find_nonfinite(run, t, bad):
    for n in (1, 33, 3001):
        g = to_storage(t, np.random.default_rng(0).normal(size=n))
        launch = table.flat(n, 1, MULTIPROCESSORS)
        found = np.zeros(1, np.int32)
        run("find_nonfinite", (t,), launch, g, n, found)
        assert found[0] == 0
        for place in {0, n // 2, n - 1}:
            spoiled, found = g.copy(), np.zeros(1, np.int32)
            spoiled[place] = (
                to_storage(t, [bad])[0] if t != "bf16" or not np.isinf(bad) else (0x7F80 if bad > 0 else 0xFF80)
            )
            run("find_nonfinite", (t,), launch, spoiled, n, found)
            assert found[0] == 1


def test_loss_scale_halves_on_overflow_and_doubles_after_good_steps(run):
    scale, inverse = np.array([1024], np.float32), empty("float", 1)
    good, seen = np.zeros(1, np.int32), []
    for overflow in [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]:
        found = np.array([overflow], np.int32)
        run("update_loss_scale", (), table.one_block(), scale, inverse, good, found, 3, 1.0, 2048.0)
        assert found[0] == 0
        assert scale[0] * inverse[0] == 1
        seen.append(int(scale[0]))
    assert seen == [1024, 1024, 2048, 1024, 1024, 1024, 512, 256, 256, 256, 512, 512, 512, 1024]


def test_loss_scale_stays_within_its_bounds(run):
    for start, overflow, want in [(1.0, 1, 1.0), (2048.0, 0, 2048.0)]:
        scale, inverse = np.array([start], np.float32), empty("float", 1)
        arguments = (scale, inverse, np.zeros(1, np.int32), np.array([overflow], np.int32), 1, 1.0, 2048.0)
        run("update_loss_scale", (), table.one_block(), *arguments)
        assert scale[0] == want
