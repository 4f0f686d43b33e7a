"""norm.cu: the gradient's norm, clipping, and the loss scale."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import empty, to_float64, to_storage


def squared_norm(run, template, g, scale, max_norm, offset=0):
    """(sum, norm, clip) of one launch."""
    launch = table.flat(len(g), 1, MULTIPROCESSORS)
    partial, counter = empty("double", launch.blocks), np.zeros(1, np.uint32)
    results = [empty(template[1], 1) for _ in range(3)]
    run("squared_norm", template, launch, g, len(g), partial, counter, scale, max_norm, *results, offset=offset)
    assert counter[0] == 0
    return [float(r[0]) for r in results]


@pytest.mark.parametrize(("t", "r"), cases("squared_norm"))
@pytest.mark.parametrize("n", [1, 31, 33, 37000])
def test_norm_and_clip_factor(run, t, r, n):
    g = to_storage(t, np.random.default_rng(0).normal(size=n) + 0.1)
    want = np.linalg.norm(to_float64(t, g))
    tolerance = 1e-12 if t == "double" else 2e-6
    for offset in (0, 1):
        total, norm, clip = squared_norm(run, (t, r), g, 0.25, want / 2, offset)
        np.testing.assert_allclose(
            [total, norm, clip], [0.25 * want**2, want, want / 2 / (want + 1e-6)], rtol=tolerance
        )
    assert squared_norm(run, (t, r), g, 1.0, want * 2)[2] == 1


def test_what_is_not_wanted_is_not_written(run):
    g, norm, counter = np.ones(4, np.float32), empty("float", 1), np.zeros(1, np.uint32)
    run(
        "squared_norm",
        ("float", "float"),
        table.flat(4, 4, 1),
        g,
        4,
        empty("double", 1),
        counter,
        1.0,
        1.0,
        None,
        norm,
        None,
    )
    assert norm[0] == 2


@pytest.mark.parametrize("largest", [3e37, 1e19, 1e-25])
def test_norm_of_floats_whose_squares_are_beyond_float(run, largest):
    g = np.linspace(-largest, largest, 100).astype(np.float32)
    want = float(np.linalg.norm(g.astype(np.float64)))
    _, norm, clip = squared_norm(run, ("float", "float"), g, 1.0, want / 2)
    np.testing.assert_allclose(norm, want, rtol=1e-6)
    np.testing.assert_allclose(clip, want / 2 / (want + 1e-6), rtol=1e-6)


def test_clip_factor_of_nan_is_nan(run):
    assert np.isnan(squared_norm(run, ("float", "float"), np.array([1, np.nan], np.float32), 1.0, 1.0)).all()


def unscale(run, t, g, inverse):
    launch = table.flat(len(g), 1, MULTIPROCESSORS)
    skip, counter = np.array([7], np.int32), np.zeros(1, np.uint32)
    partial = empty("double", launch.blocks)
    run("unscale", (t,), launch, g, len(g), np.array([inverse], np.float32), partial, counter, skip)
    assert counter[0] == 0
    return int(skip[0])


@pytest.mark.parametrize("t", [c.values[0] for c in cases("unscale")])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_unscale(run, t, bad):
    for n in (1, 33, 3001):
        g = to_storage(t, np.random.default_rng(0).normal(size=n))
        scaled = g * np.asarray(2.0**16, g.dtype)
        assert unscale(run, t, scaled, 2.0**-16) == 0
        np.testing.assert_array_equal(scaled, g)
        for place in {0, n // 2, n - 1}:
            spoiled = g.copy()
            spoiled[place] = bad
            assert unscale(run, t, spoiled, 1.0) == 1


@pytest.mark.parametrize("t", [c.values[0] for c in cases("restore")])
@pytest.mark.parametrize("skip", [0, 1])
def test_restore(run, t, skip):
    saved, out = to_storage(t, np.arange(70)), empty(t, 70)
    run("restore", (t,), table.flat(70, 1, 1), saved, out, 70, np.array([skip], np.int32))
    assert np.array_equal(out, saved) if skip else np.isnan(out).all()


def test_loss_scale_halves_on_overflow_and_doubles_after_good_steps(run):
    scale, inverse = np.array([1024], np.float32), empty("float", 1)
    good, seen = np.zeros(1, np.int32), []
    for overflow in [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]:
        skip = np.array([overflow], np.int32)
        run("update_loss_scale", (), table.one_block(), scale, inverse, good, skip, 3, 1.0, 2048.0)
        assert scale[0] * inverse[0] == 1
        seen.append(int(scale[0]))
    assert seen == [1024, 1024, 2048, 1024, 1024, 1024, 512, 256, 256, 256, 512, 512, 512, 1024]


def test_loss_scale_stays_within_its_bounds(run):
    for start, overflow, want in [(1.0, 1, 1.0), (2048.0, 0, 2048.0)]:
        scale, inverse = np.array([start], np.float32), empty("float", 1)
        arguments = (scale, inverse, np.zeros(1, np.int32), np.array([overflow], np.int32), 1, 1.0, 2048.0)
        run("update_loss_scale", (), table.one_block(), *arguments)
        assert scale[0] == want
