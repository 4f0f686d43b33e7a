"""layerwise.cu: LARS and LAMB against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import assert_close, empty, to_float64, to_storage

LENGTHS = np.array([1, 37 * 31, 33, 1000], np.int64)
OFFSETS = np.array([0, 4, 1160, 1200], np.int64)
ADAPT = np.array([0, 1, 0, 1], np.int32)
N, STEPS = 2200, 4
PIECES = [np.s_[o : o + n] for o, n in zip(OFFSETS, LENGTHS, strict=True)]


def norm(x):
    return np.linalg.norm(x)


def ratio(w, u, trust, decay):
    """trust |w| / (|u| + decay |w|), 1 where either is 0."""
    below = norm(u) + decay * norm(w)
    return trust * norm(w) / below if norm(w) and below else 1.0


def setup(p_type):
    """Flat parameters with a gap between tensors, one of them all zero, and what the kernels share."""
    rng = np.random.default_rng(0)
    p = to_storage(p_type, rng.normal(size=N))
    launch = table.segments(int(LENGTHS.max()), len(LENGTHS), MULTIPROCESSORS)
    return rng, p, launch, empty("double", (len(LENGTHS), launch.grid[0], 2))


def gradient(rng, p_type):
    """A stored gradient, and the same in float64."""
    g = to_storage(p_type, rng.normal(size=N))
    return g, to_float64(p_type, g)


def outside_is_unchanged(before, after):
    gap = np.ones(N, bool)
    for piece in PIECES:
        gap[piece] = False
    np.testing.assert_array_equal(before[gap], after[gap])


@pytest.mark.parametrize(("p_type", "h_type"), cases("lars_step"))
def test_lars(run, p_type, h_type):
    lr, momentum, trust, decay, kept = 0.5, 0.9, 0.02, 0.01, 0.999
    rng, p, launch, partial = setup(p_type)
    p[PIECES[3]] = 0
    start, velocity, copy, ratios = p.copy(), np.zeros_like(p), to_storage(h_type, np.zeros(N)), empty(p_type, 4)
    w, v = to_float64(p_type, p), np.zeros(N)
    rows = np.array([[lr * t, kept] for t in range(1, STEPS + 1)])
    for t in range(STEPS):
        g, slope = gradient(rng, p_type)
        for piece, adapt in zip(PIECES, ADAPT, strict=True):
            r = ratio(w[piece], slope[piece], trust, decay) if adapt else 1.0
            v[piece] = momentum * v[piece] + rows[t, 0] * r * (slope[piece] + decay * w[piece])
            w[piece] = w[piece] * kept - v[piece]
        run("segment_norms", (p_type,), launch, p, g, OFFSETS, LENGTHS, partial)
        run("segment_ratios", (p_type,), table.segment_ratios(4), partial, launch.grid[0], ADAPT, trust, decay, ratios)
        run("lars_step", (p_type, h_type), launch, p, g, velocity, copy, OFFSETS, LENGTHS, ratios, rows,
            np.array([0], np.uint32), t, None, momentum, decay)  # fmt: skip
    for piece in PIECES:
        assert_close(p_type, p[piece], w[piece], factor=2)
        assert_close(p_type, velocity[piece], v[piece], factor=4)
        np.testing.assert_array_equal(copy[piece], to_storage(h_type, p[piece]))
    outside_is_unchanged(start, p)


@pytest.mark.parametrize(("p_type", "h_type"), cases("lamb_step"))
def test_lamb(run, p_type, h_type):
    lr, b1, b2, eps, decay = 0.1, 0.8, 0.95, 1e-6, 0.03
    rng, p, launch, partial = setup(p_type)
    p[PIECES[3]] = 0
    start, m, v, ratios = p.copy(), np.zeros_like(p), np.zeros_like(p), empty(p_type, 4)
    copy = to_storage(h_type, np.zeros(N))
    w, first, second = to_float64(p_type, p), np.zeros(N), np.zeros(N)
    rows = np.array([[lr, 1 / (1 - b1**t), np.sqrt(1 - b2**t), 1.0] for t in range(1, STEPS + 1)])
    for t in range(STEPS):
        row = np.array([t], np.uint32)
        g, slope = gradient(rng, p_type)
        first, second = b1 * first + (1 - b1) * slope, b2 * second + (1 - b2) * slope**2
        u = first / (1 - b1 ** (t + 1)) / (np.sqrt(second / (1 - b2 ** (t + 1))) + eps) + decay * w
        for piece, adapt in zip(PIECES, ADAPT, strict=True):
            w[piece] -= lr * (ratio(w[piece], u[piece], 1, 0) if adapt else 1.0) * u[piece]
        run(
            "lamb_moments",
            (p_type,),
            launch,
            p,
            g,
            m,
            v,
            OFFSETS,
            LENGTHS,
            partial,
            rows,
            row,
            0,
            None,
            b1,
            b2,
            eps,
            decay,
        )
        run("segment_ratios", (p_type,), table.segment_ratios(4), partial, launch.grid[0], ADAPT, 1.0, 0.0, ratios)
        run(
            "lamb_step",
            (p_type, h_type),
            launch,
            p,
            m,
            v,
            copy,
            OFFSETS,
            LENGTHS,
            ratios,
            rows,
            row,
            0,
            None,
            eps,
            decay,
        )
    for piece in PIECES:
        assert_close(p_type, p[piece], w[piece], factor=4)
        assert_close(p_type, m[piece], first[piece], factor=2)
        assert_close(p_type, v[piece], second[piece], factor=2)
        np.testing.assert_array_equal(copy[piece], to_storage(h_type, p[piece]))
    outside_is_unchanged(start, p)


def test_skip_leaves_everything(run):
    _, p, launch, partial = setup("float")
    g, m, v, ratios = p.copy(), p.copy(), p.copy(), np.ones(4, np.float32)
    before, skip, rows = p.copy(), np.ones(1, np.int32), np.ones((1, 4))
    run("lars_step", ("float",) * 2, launch, p, g, v, None, OFFSETS, LENGTHS, ratios, rows, None, 0, skip, 0.9, 0.0)
    run(
        "lamb_moments",
        ("float",),
        launch,
        p,
        g,
        m,
        v,
        OFFSETS,
        LENGTHS,
        partial,
        rows,
        None,
        0,
        skip,
        0.9,
        0.9,
        1e-6,
        0.0,
    )
    run("lamb_step", ("float",) * 2, launch, p, m, v, None, OFFSETS, LENGTHS, ratios, rows, None, 0, skip, 1e-6, 0.0)
    for array in (p, m, v):
        np.testing.assert_array_equal(array, before)
