"""loss.cu against the definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp, mpf

from gpubackprop.backend.cuda import kernel_table as table
from tests import exact
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import assert_close, empty, to_float64, to_storage

CLASSES = {8: (1, 2, 10, 31, 33), 32: (5, 33, 100), 256: (1000, 2100)}


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def launch_loss(run, name, template, launch, a, y, delta, *rest, offset=0):
    """Launch with a value, a sum that it is added to (5 times), and the blocks' memory; the value."""
    partial, counter = empty("double", launch.blocks), np.zeros(1, np.uint32)
    value, total = empty("double", 1), np.array([3.0])
    run(name, template, launch, a, y, delta, *rest, partial, counter, value, total, 5.0, offset=offset)
    assert counter[0] == 0
    np.testing.assert_array_equal(total, 3 + 5 * value)
    return float(value[0])


def cross_entropy(run, template, z, y, count, loss_scale=None):
    launch = table.rows(len(z), template[-1], MULTIPROCESSORS)
    delta = empty(template[0], z.shape)
    loss = launch_loss(run, "cross_entropy", template, launch, z, y, delta, *z.shape, 1 / count, loss_scale)
    return loss, delta


def tolerance(t):
    return 1e-13 if t == "double" else 1e-6


@pytest.mark.parametrize("template", [pytest.param(c.values, marks=c.marks, id=c.id) for c in cases("cross_entropy")])
def test_cross_entropy(run, template):
    t, target, group = template
    rng = np.random.default_rng(0)
    for classes in CLASSES[group]:
        for rows in (1, 33) if classes > 100 else (1, 31, 200):
            z = to_storage(t, 4 * rng.normal(size=(rows, classes)))
            logits = to_float64(t, z)
            if target in ("int", "long long"):
                y = rng.integers(0, classes, rows).astype(np.int32 if target == "int" else np.int64)
                p = np.eye(classes)[y]
            else:
                y = to_storage(target, rng.dirichlet(np.ones(classes), rows))
                p = to_float64(target, y)
            count = rows + 5  # a part of a larger batch
            loss, delta = cross_entropy(run, template, z, y, count)
            assert loss == pytest.approx(-(p * log_softmax(logits)).sum() / count, rel=tolerance(t))
            want = (np.exp(log_softmax(logits)) * p.sum(axis=1, keepdims=True) - p) / count
            if classes > 1:
                assert_close(t, delta, want, factor=2)


def test_cross_entropy_in_place_and_value_alone(run):
    rng = np.random.default_rng(1)
    z, y = to_storage("float", rng.normal(size=(50, 10))), rng.integers(0, 10, 50).astype(np.int32)
    template, launch = ("float", "int", 8), table.rows(50, 8, MULTIPROCESSORS)
    loss, delta = cross_entropy(run, template, z, y, 50)
    for target in (None, z):
        assert launch_loss(run, "cross_entropy", template, launch, z, y, target, 50, 10, 1 / 50, None) == loss
    np.testing.assert_array_equal(z, delta)


def test_cross_entropy_of_extreme_logits(run):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], np.float32)
    loss, delta = cross_entropy(run, ("float", "int", 8), z, np.array([1, 0, 1], np.int32), 3)
    assert loss == pytest.approx((2e4 + np.log(3) + np.log(2)) / 3, rel=1e-6)
    np.testing.assert_allclose(delta * 3, [[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("label", [-1, 3])
def test_label_out_of_range_gives_nan_and_not_a_number(run, label):
    z = np.zeros((2, 3), np.float32)
    loss, delta = cross_entropy(run, ("float", "int", 8), z, np.array([0, label], np.int32), 2)
    assert np.isnan(loss)
    assert np.isfinite(delta[0]).all()
    assert np.isnan(delta[1]).all()


def test_loss_scale_multiplies_delta_alone(run):
    rng = np.random.default_rng(2)
    z, y = to_storage("float", rng.normal(size=(20, 10))), rng.integers(0, 10, 20).astype(np.int32)
    template = ("float", "int", 8)
    plain = cross_entropy(run, template, z, y, 20)
    scaled = cross_entropy(run, template, z, y, 20, np.array([1024], np.float32))
    assert plain[0] == scaled[0]
    np.testing.assert_array_equal(plain[1] * 1024, scaled[1])


def reference(loss, a, y):
    """The sum over elements, and its derivative."""
    d = a - y
    if loss == "HalfSquaredError":
        return 0.5 * (d**2).sum(), d
    if loss == "MeanSquaredError":
        return (d**2).sum(), 2 * d
    if loss == "Huber":
        c = np.clip(d, -1, 1)
        return (c * (d - c / 2)).sum(), c
    if loss == "Poisson":
        return (np.exp(a) - y * a).sum(), np.exp(a) - y
    if loss == "MeanAbsoluteError":
        return np.abs(d).sum(), np.sign(d)
    return (np.logaddexp(0, a) - a * y).sum(), 0.5 * (1 + np.tanh(0.5 * a)) - y


@pytest.mark.parametrize(("t", "y_type", "loss"), cases("elementwise_loss"))
def test_elementwise_losses(run, t, y_type, loss):
    rng = np.random.default_rng(4)
    for n in (1, 31, 33, 5003):
        a = to_storage(t, 2 * rng.normal(size=n))
        y = to_storage(y_type, rng.uniform(0.05, 0.95, size=n))
        y[::5] = a[::5] if t == y_type else y[::5]
        scale = np.array([8], np.float32)
        value, slope = reference(loss, to_float64(t, a), to_float64(y_type, y))
        launch = table.flat(n, 4, MULTIPROCESSORS)
        for offset in (0, 1):
            delta, template = empty(t, n), (t, y_type, loss)
            got = launch_loss(run, "elementwise_loss", template, launch, a, y, delta, n, 0.25, scale, offset=offset)
            assert got == pytest.approx(value / 4, rel=tolerance(t), abs=1e-300)
            assert_close(t, delta, slope * 2, factor=4)


def test_binary_cross_entropy_of_extreme_logits(run):
    a, y = np.array([1e4, -1e4, 1e4, -1e4], np.float32), np.array([1, 0, 0, 1], np.float32)
    delta, template = empty("float", 4), ("float", "float", "BinaryCrossEntropy")
    loss = launch_loss(run, "elementwise_loss", template, table.flat(4, 4, 1), a, y, delta, 4, 1.0, None)
    np.testing.assert_array_equal(delta, [0, 0, 1, -1])
    assert loss == 2e4


@pytest.mark.parametrize("t", ["float", "double"])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_binary_cross_entropy_keeps_all_digits(run, t, y):
    z = exact.points({"float": "float32", "double": "float64"}[t])
    sign, n, info, template = (1 if y == 0 else -1), z.size, np.finfo(z.dtype), (t, t, "BinaryCrossEntropy")
    delta = empty(t, n)
    launch_loss(run, "elementwise_loss", template, table.flat(n, 4, 1), z, np.full_like(z, y), delta, n, 1.0, None)
    want = np.array([float(sign * exact.sigmoid(sign * mpf(float(v)))) for v in z])
    assert (np.abs(delta - want) <= 10 * float(info.eps) * np.abs(want) + float(info.tiny)).all()
    for v in z[np.abs(z) < 1e30][::9]:
        one, target = np.array([v]), np.array([y], z.dtype)
        loss = launch_loss(run, "elementwise_loss", template, table.flat(1, 4, 1), one, target, None, 1, 1.0, None)
        want = float(mp.log1p(mp.exp(sign * mpf(float(v)))))
        assert loss == pytest.approx(want, rel=10 * float(info.eps), abs=float(info.tiny))


@pytest.mark.parametrize("y_type", ["int", "float"])
def test_logits_as_far_apart_as_the_type_reaches(run, y_type):
    largest = np.finfo(np.float32).max
    z = np.array([[largest, -largest, -largest]], np.float32)
    y = np.zeros(1, np.int32) if y_type == "int" else np.array([[1, 0, 0]], np.float32)
    loss, delta = cross_entropy(run, ("float", y_type, 8), z, y, 1)
    assert loss == 0
    np.testing.assert_array_equal(delta, 0)
    if y_type == "float":
        loss, _ = cross_entropy(run, ("float", y_type, 8), z, np.array([[0.5, 0.5, 0]], np.float32), 1)
        assert loss == pytest.approx(float(largest), rel=1e-6)


def test_the_last_block_adds_up_what_all_blocks_left(run):
    """Far more blocks than one, each with a share that shows, and no sum asked for."""
    a = np.arange(100_000, dtype=np.float32) % 7
    launch = table.flat(a.size, 1, 200)
    assert launch.blocks > 256
    value, counter, zeros = empty("double", 1), np.zeros(1, np.uint32), np.zeros_like(a)
    partial = empty("double", launch.blocks)
    run("elementwise_loss", ("float", "float", "MeanAbsoluteError"), launch, a, zeros, None, a.size, 1.0, None, partial, counter,
        value, None, 0.0)  # fmt: skip
    assert value[0] == a.sum(dtype=float)


@pytest.mark.parametrize("t", [c.values[0] for c in cases("penalty")])
@pytest.mark.parametrize("n", [1, 31, 5003])
def test_penalty(run, t, n):
    rng = np.random.default_rng(6)
    w, slope = to_storage(t, rng.normal(size=n)), to_storage(t, rng.normal(size=n))
    w[::7] = 0
    launch = table.flat(n, 1, MULTIPROCESSORS)
    for offset in (0, 1):
        value, counter, partial = np.array([2.0]), np.zeros(1, np.uint32), empty("double", launch.blocks)
        run("penalty", (t,), launch, w, n, 0.25, 0.5, partial, counter, value, offset=offset)
        wide = w.astype(float)
        assert value[0] == pytest.approx(2 + 0.25 * np.abs(wide).sum() + 0.25 * (wide**2).sum(), rel=1e-6)
        got = slope.copy()
        run("penalty_gradient", (t,), launch, w, got, n, 0.25, 0.5, offset=offset)
        assert_close(t, got, slope + 0.25 * np.sign(wide) + 0.5 * wide)
