"""Each operation of the vocabulary against its formula, on every device, done at once and recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpubackprop.activations import get_activation
from gpubackprop.backend.base import Backend
from gpubackprop.layers.base import Tensors
from gpubackprop.losses import get_loss
from gpubackprop.random import MaskStream
from tests.words import random_words

# Sums of products of up to 200 terms, some of which cancel, and everything else.
PRODUCTS = {np.float32: {"rtol": 1e-4, "atol": 1e-4}, np.float64: {"rtol": 1e-11, "atol": 1e-12}}
TOLERANCE = {np.float32: {"rtol": 2e-5, "atol": 2e-6}, np.float64: {"rtol": 1e-12, "atol": 1e-14}}


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


class Device:
    """Arrays on a device, and operations that are done at once or by way of a recorded program."""

    def __init__(self, be: Backend, recorded: bool, dtype: Any) -> None:
        self.be, self.recorded, self.dtype = be, recorded, dtype
        self.rng = np.random.default_rng(0)

    def random(self, *shape: int) -> tuple[np.ndarray, Any]:
        """The same numbers on the host, in float64, and on the device."""
        host = self.rng.normal(size=shape).astype(self.dtype)
        return host.astype(np.float64), self.be.asarray(host)

    def empty(self, *shape: int) -> Any:
        """Memory that holds NaN, so that what nobody wrote shows."""
        array = self.be.empty(shape, self.dtype)
        self.be.fill(array, np.nan)
        return array

    def do(self, operation: Callable[[], None]) -> None:
        if self.recorded:
            self.be.record(operation)()
        else:
            operation()

    def close(self, array: Any, expected: Any, tolerance: Any = TOLERANCE) -> None:
        found = self.be.to_host(array)
        assert found.dtype == self.dtype
        np.testing.assert_allclose(found, expected, **tolerance[self.dtype])


@pytest.fixture(params=[False, True], ids=["eager", "recorded"])
def device(request: pytest.FixtureRequest, backend: Backend, dtype: Any) -> Device:
    return Device(backend, request.param, dtype)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 4), (200, 90, 100)])
@pytest.mark.parametrize("bias", [True, False])
def test_affine(device: Device, sizes: tuple[int, int, int], bias: bool) -> None:
    n, d, m = sizes
    (x, dx), (W, dW), (b, db) = device.random(n, d), device.random(d, m), device.random(m)
    W, dW = W / np.sqrt(d), device.be.asarray((W / np.sqrt(d)).astype(device.dtype))
    expected = x @ device.be.to_host(dW).astype(float) + (b if bias else 0)
    z, out = device.empty(n, m), device.empty(n, m)
    device.do(lambda: device.be.affine(dx, dW, db if bias else None, get_activation("tanh"), z, out))
    device.close(out, np.tanh(expected))
    relu = get_activation("relu")
    device.do(lambda: device.be.affine(dx, dW, db if bias else None, relu, out, out))
    device.close(out, np.maximum(expected, 0))
    np.testing.assert_array_equal(device.be.to_host(dx), x.astype(device.dtype))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 4), (200, 90, 100)])
def test_propagate(device: Device, sizes: tuple[int, int, int]) -> None:
    n, d, m = sizes
    (delta, ddelta), (W, dW), (z, dz) = device.random(n, m), device.random(d, m), device.random(n, d)
    out, tanh = device.empty(n, d), get_activation("tanh")
    device.do(lambda: device.be.activate(tanh, dz, out))
    device.do(lambda: device.be.propagate(ddelta, dW, tanh, dz, out))
    device.close(out, (delta @ W.T) * (1 - np.tanh(z) ** 2), PRODUCTS)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 4), (60, 150, 140)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.9])
@pytest.mark.parametrize("bias", [True, False])
def test_affine_gradients(device: Device, sizes: tuple[int, int, int], beta: float, bias: bool) -> None:
    n, d, m = sizes
    (x, dx), (delta, ddelta), (W, dW), (b, db) = (device.random(*s) for s in ((n, d), (n, m), (d, m), (m,)))
    device.do(lambda: device.be.affine_gradients(dx, ddelta, dW, db if bias else None, beta))
    device.close(dW, x.T @ delta + beta * W, PRODUCTS)
    device.close(db, delta.sum(0) + beta * b if bias else b, PRODUCTS)


def test_affine_gradients_without_beta_overwrite_whatever_was_there(device: Device) -> None:
    (_, x), (_, delta) = device.random(3, 2), device.random(3, 4)
    dW, db = device.empty(2, 4), device.empty(4)
    device.do(lambda: device.be.affine_gradients(x, delta, dW, db, 0.0))
    assert np.isfinite(device.be.to_host(dW)).all()
    assert np.isfinite(device.be.to_host(db)).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_normalize_and_back(device: Device, axis: int) -> None:
    n, d, eps = 6, 5, 1e-3
    (x, dx), (delta, ddelta) = device.random(n, d), device.random(n, d)
    (gamma, dgamma), (beta, dbeta) = device.random(d), device.random(d)
    statistic = (1, d) if axis == 0 else (n, 1)
    mean, var, rstd, xhat, out = (device.empty(*s) for s in (statistic, statistic, statistic, (n, d), (n, d)))
    device.do(lambda: device.be.normalize(dx, axis, eps, mean, var, rstd, xhat, dgamma, dbeta, out))
    m, v = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    device.close(mean, m)
    device.close(var, v)
    device.close(rstd, 1 / np.sqrt(v + eps))
    h = (x - m) / np.sqrt(v + eps)
    device.close(xhat, h)
    device.close(out, gamma * h + beta)
    sums = device.empty(2, d)
    device.do(lambda: device.be.scale_gradients(ddelta, xhat, sums))
    device.close(sums, np.stack([delta.sum(0), (delta * h).sum(0)]), PRODUCTS)
    device.do(lambda: device.be.normalize_backward(ddelta, axis, dgamma, rstd, xhat, sums, out))
    # Against the derivative of the whole function, by central differences in float64.
    slopes = np.empty_like(x)
    for i, j in np.ndindex(x.shape):
        moved = []
        for sign in (1, -1):
            y = x.copy()
            y[i, j] += sign * 1e-5
            y = (y - y.mean(axis, keepdims=True)) / np.sqrt(y.var(axis, keepdims=True) + eps)
            moved.append((delta * gamma * y).sum())
        slopes[i, j] = (moved[0] - moved[1]) / 2e-5
    np.testing.assert_allclose(device.be.to_host(out), slopes, atol=1e-4 if device.dtype == np.float32 else 1e-8)


def test_dropout(device: Device) -> None:
    x, dx = device.random(6, 5)
    step = device.be.zeros((), np.uint64)
    device.be.fill(step, 9)
    stream, mask, out = MaskStream(3, 1, 0.25, step), device.empty(6, 5), device.empty(6, 5)
    device.do(lambda: device.be.dropout(dx, stream, 10, mask, out))
    kept = random_words(30, seed=3, step=9, layer=1, first=10).reshape(6, 5) < 0.75 * 2**16
    device.close(mask, kept / 0.75)
    device.close(out, x * kept / 0.75)


def test_gather_take_put(device: Device) -> None:
    be = device.be
    (x, dx), (flat, dflat), (_, values) = device.random(6, 3), device.random(8), device.random(3)
    index = be.asarray(np.array([5, 0, 2]))
    rows, taken = device.empty(3, 3), device.empty(3)
    device.do(lambda: be.gather_rows(dx, index, rows))
    device.close(rows, x[[5, 0, 2]])
    device.do(lambda: be.take(dflat, index, taken))
    device.close(taken, flat[[5, 0, 2]])
    device.do(lambda: be.put(dflat, index, values))
    flat[[5, 0, 2]] = be.to_host(values)
    device.close(dflat, flat)


def test_gather_labels(backend: Backend) -> None:
    labels, index = backend.asarray(np.array([7, 8, 9])), backend.asarray(np.array([2, 2, 0]))
    out = backend.zeros((3,), np.int64)
    backend.gather_rows(labels, index, out)
    np.testing.assert_array_equal(backend.to_host(out), [9, 9, 7])


@pytest.mark.parametrize("n", [3, 2000])
def test_steps_at_zero(device: Device, n: int) -> None:
    be = device.be
    a, da = device.random(1, n)
    out = device.empty(1, n)
    device.do(lambda: be.heaviside(da, out))
    device.close(out, a > 0)
    positive = np.maximum(a, 0)
    delta, ddelta = device.random(1, n)
    kept = be.asarray(positive.astype(device.dtype))
    device.do(lambda: be.times_derivative(get_activation("relu"), kept, ddelta))
    device.close(ddelta, delta * (a > 0))


@pytest.mark.parametrize("n", [1, 7, 1500])
def test_sums(device: Device, n: int) -> None:
    be = device.be
    x, dx = device.random(n, 3)
    columns, total = device.empty(3), be.empty((), np.float64)
    device.do(lambda: be.column_sums(dx, columns))
    device.close(columns, x.sum(0), PRODUCTS)
    rows = device.empty(n)
    device.do(lambda: be.column_sums(dx.T, rows))
    device.close(rows, x.sum(1), PRODUCTS)
    for operation, expected in ((be.total, x.sum()), (be.total_of_squares, (x**2).sum())):
        device.do(lambda operation=operation: operation(dx, -0.5, total))
        assert float(be.to_host(total)) == pytest.approx(
            -0.5 * expected, rel=1e-5 if device.dtype == np.float32 else 1e-12, abs=1e-6
        )


@pytest.mark.parametrize(("l1", "l2"), [(0.5, 0.0), (0.0, 0.25), (0.5, 0.25)])
def test_penalty(device: Device, l1: float, l2: float) -> None:
    be = device.be
    (W, on_device), (slope, dW) = device.random(9, 5), device.random(9, 5)
    value = be.zeros((), np.float64)
    be.fill(value, 3.0)
    device.do(lambda: be.add_penalty(on_device, l1, l2, value))
    expected = 3 + l1 * np.abs(W).sum() + l2 / 2 * (W**2).sum()
    assert float(be.to_host(value)) == pytest.approx(expected, rel=1e-6 if device.dtype == np.float32 else 1e-12)
    device.do(lambda: be.add_penalty_gradient(on_device, l1, l2, dW))
    device.close(dW, slope + l1 * np.sign(W) + l2 * W)


def test_loss_adds_to_a_total(device: Device) -> None:
    be, loss = device.be, get_loss("half_squared_error")
    (a, da), (y, dy) = device.random(6, 3), device.random(6, 3)
    value, total, v = be.zeros((), np.float64), be.zeros((), np.float64), Tensors(d=device.empty(6, 3), weights=None)
    be.fill(total, 100.0)
    device.do(lambda: be.loss_and_delta(loss, da, dy, v, value, None, 8, total))
    expected = 0.5 * ((a - y) ** 2).sum() / 8
    tolerance = 1e-6 if device.dtype == np.float32 else 1e-12
    assert float(be.to_host(value)) == pytest.approx(expected, rel=tolerance)
    assert float(be.to_host(total)) == pytest.approx(100 + 8 * expected, rel=tolerance)


def test_norm_and_clip(device: Device) -> None:
    be = device.be
    for scale in (1.0, 100.0):
        G, dG = device.random(50)
        G, dG = G * scale, be.asarray((G * scale).astype(device.dtype))
        norm, factor = device.empty(), device.empty()
        device.do(lambda dG=dG, norm=norm: be.norm(dG, norm))
        length = np.linalg.norm(G)
        device.close(norm, length)
        device.do(lambda dG=dG, norm=norm, factor=factor: be.clip_by_norm(dG, 20.0, norm, factor))
        expected = min(1.0, 20.0 / (length + 1e-6))
        device.close(norm, length)
        device.close(factor, expected)
        device.close(dG, G * expected)
    assert expected < 1


@pytest.mark.parametrize("largest", [1e19, 3e37, 1e-25, 1e-37, 0.0])
def test_norm_of_what_has_no_square(device: Device, largest: float) -> None:
    """The square of each element is beyond float32, on either side; of float64 too, for its own range."""
    if device.dtype == np.float64:
        largest = largest**8
    be, G = device.be, np.linspace(-largest, largest, 50).astype(device.dtype)
    dG, norm, factor = be.asarray(G.copy()), device.empty(), device.empty()
    length = float(np.linalg.norm(G.astype(np.longdouble)))
    device.do(lambda: be.norm(dG, norm))
    np.testing.assert_allclose(be.to_host(norm), length, rtol=1e-6)
    device.do(lambda: be.clip_by_norm(dG, 2.0, norm, factor))
    clipped = np.linalg.norm(be.to_host(dG).astype(np.longdouble))
    assert float(clipped) == pytest.approx(min(2.0, length), rel=1e-5)


def test_products(device: Device) -> None:
    be = device.be
    (a, da), (b, db), (u, du), (v, dv) = (device.random(*s) for s in ((4, 5), (5, 3), (6,), (6,)))
    out, inner = device.empty(4, 3), device.empty()
    device.do(lambda: be.dot(da, db, out))
    device.close(out, a @ b)
    device.do(lambda: be.dot(du, dv, inner))
    device.close(inner, u @ v)


@pytest.mark.parametrize("n", [5, 40_000])
def test_subtract_scaled(device: Device, n: int) -> None:
    be = device.be
    (p, dp), (v, dv) = device.random(n), device.random(n)
    eta = be.zeros((), device.dtype)
    be.fill(eta, 0.25)
    device.do(lambda: be.subtract_scaled(dp, eta, dv))
    device.close(dp, p - 0.25 * v)
    t = be.scratch(dp)
    be.copy_in(v.astype(device.dtype), t)
    device.do(lambda: be.subtract_scaled(dp, eta, t))
    device.close(dp, p - 0.25 * v - 0.25 * v)


@pytest.mark.parametrize("n", [5, 40_000])
@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_decaying_average(device: Device, n: int, beta: float) -> None:
    be = device.be
    (average, da), (value, dv), t = device.random(n), device.random(n), device.empty(n)
    device.do(lambda: be.decaying_average(da, beta, dv, t))
    device.close(da, beta * average + (1 - beta) * value)
    device.close(dv, value)
    device.do(lambda: be.decaying_average(da, beta, dv, dv))
    device.close(da, beta * (beta * average + (1 - beta) * value) + (1 - beta) * value)


# -- memory ------------------------------------------------------------------------------------------------------------------


def test_scratch_of_two_slots_does_not_overlap(backend: Backend) -> None:
    like = backend.zeros((3, 4), np.float32)
    for sizes in (like, backend.zeros((50, 4), np.float32), like):
        a, b = backend.scratch(sizes), backend.scratch(sizes, 1)
        assert a.shape == b.shape == sizes.shape
        assert a.dtype == np.float32
        backend.fill(a, 1.0)
        backend.fill(b, 2.0)
        assert (backend.to_host(a) == 1.0).all()


def test_arange_and_zeros(backend: Backend) -> None:
    for n in (3, 10, 0, 5):
        found = backend.to_host(backend.arange(n))
        np.testing.assert_array_equal(found, np.arange(n, dtype=np.int64), strict=True)
    assert not backend.to_host(backend.zeros((2, 3), np.float64)).any()


def test_across_the_boundary(backend: Backend) -> None:
    host = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    there = backend.asarray(host, np.float32)
    assert backend.owns(there)
    assert not backend.owns([1.0])
    assert there.dtype == np.float32
    back = backend.to_host(there)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, host)
    back[:] = 0
    np.testing.assert_array_equal(backend.to_host(there), host)
    backend.copy_in(host + 1, there)
    np.testing.assert_array_equal(backend.to_host(there), host + 1)
    other = backend.zeros((2, 3), np.float64)
    backend.copy_in(there, other)
    np.testing.assert_array_equal(backend.to_host(other), host + 1)
    backend.fill(there, 2.5)
    assert (backend.to_host(there) == 2.5).all()
    backend.synchronize()


def test_a_program_works_on_what_the_buffers_hold_by_then(backend: Backend) -> None:
    x, out = backend.zeros((3,), np.float64), backend.zeros((3,), np.float64)
    calls: list[int] = []

    def step() -> None:
        backend.xp.multiply(x, 2.0, out=out)
        backend.call(calls.append, 1)
        backend.xp.add(out, 1.0, out=out)

    program = backend.record(step)
    for value in (1.0, 5.0):
        backend.fill(x, value)
        program()
        assert (backend.to_host(out) == 2 * value + 1).all()
    assert calls == [1, 1]
