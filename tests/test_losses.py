from __future__ import annotations

from math import exp, log, log1p
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import Tensors
from gpubackprop.losses import LOSSES, MANY_CLASSES, Loss, get_loss
from tests import exact
from tests.small import make_data


def reference(name: str, a: np.ndarray, y: np.ndarray) -> float:
    """The loss as its formula stands in the table, one sample and output at a time, in Python's floats."""
    n, m = a.shape
    total = 0.0
    for i in range(n):
        row = [float(v) for v in a[i]]
        if name == "cross_entropy":
            top = max(row)
            log_sum = top + log(sum(exp(v - top) for v in row))
            target = np.eye(m)[y[i]] if y.ndim == 1 else y[i]
            total += sum(-float(t) * (v - log_sum) for t, v in zip(target, row, strict=True)) / n
            continue
        for v, t in zip(row, y[i], strict=True):
            t = float(t)
            if name == "half_squared_error":
                total += 0.5 * (v - t) ** 2 / n
            elif name == "mean_squared_error":
                total += (v - t) ** 2 / (n * m)
            elif name == "mean_absolute_error":
                total += abs(v - t) / (n * m)
            else:
                total += (max(v, 0) - v * t + log1p(exp(-abs(v)))) / (n * m)
    return total


def evaluate(
    be: Backend, loss: Loss, a: np.ndarray, y: np.ndarray, rows: int | None = None, with_delta: bool = True
) -> tuple[float, np.ndarray]:
    n, m = a.shape
    v = Tensors(
        **{
            name: be.empty(tuple(n if k == "n" else k for k in shape), dtype)
            for name, (shape, dtype) in loss.buffers(m, a.dtype).items()
        }
    )
    device_a, device_y = be.asarray(a), be.asarray(y)
    value, delta = be.empty((), np.float64), be.asarray(np.full_like(a, 7.0))
    be.loss_and_delta(loss, device_a, device_y, v, value, delta if with_delta else None, rows or n)
    np.testing.assert_array_equal(be.to_host(device_a), a)
    np.testing.assert_array_equal(be.to_host(device_y), y)
    return float(be.to_host(value)), be.to_host(delta)


def cases(n: int = 7, m: int = 4) -> list[Any]:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(m), n)
    found = [pytest.param(name, make_data(n, m, m, name, seed=1)[1], id=name) for name in sorted(LOSSES)]
    return [*found, pytest.param("cross_entropy", probabilities, id="cross_entropy probabilities")]


@pytest.mark.parametrize(("name", "y"), cases())
def test_value_and_delta(backend: Backend, name: str, y: np.ndarray) -> None:
    a = np.random.default_rng(0).normal(size=(7, 4)) * 3
    value, delta = evaluate(backend, get_loss(name), a, y)
    assert value == pytest.approx(reference(name, a, y), rel=1e-14)
    h = 1e-5
    for i, j in np.ndindex(a.shape):
        step = np.zeros_like(a)
        step[i, j] = h
        slope = (reference(name, a + step, y) - reference(name, a - step, y)) / (2 * h)
        assert delta[i, j] == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize(("name", "y"), cases())
def test_parts_add_up(backend: Backend, name: str, y: np.ndarray) -> None:
    a, loss = np.random.default_rng(0).normal(size=(7, 4)), get_loss(name)
    value, delta = evaluate(backend, loss, a, y)
    parts = [evaluate(backend, loss, a[p], y[p], rows=7) for p in (slice(0, 3), slice(3, 7))]
    assert sum(v for v, _ in parts) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(np.concatenate([d for _, d in parts]), delta, rtol=1e-13, atol=1e-17)


@pytest.mark.parametrize(("name", "y"), cases())
def test_value_alone_is_the_same_and_leaves_delta(backend: Backend, name: str, y: np.ndarray) -> None:
    a, loss = np.random.default_rng(0).normal(size=(7, 4)), get_loss(name)
    value, delta = evaluate(backend, loss, a, y, with_delta=False)
    assert value == evaluate(backend, loss, a, y)[0]
    assert (delta == 7.0).all()


@pytest.mark.parametrize("scale", [200.0, 1e3, 1e30])
@pytest.mark.parametrize("name", ["binary_cross_entropy", "cross_entropy"])
def test_large_logits(backend: Backend, name: str, scale: float) -> None:
    a = np.array([[scale, -scale], [-scale, scale]], np.float32)
    right = np.array([0, 1]) if name == "cross_entropy" else np.array([[1, 0], [0, 1]], np.float32)
    wrong = 1 - right
    value, delta = evaluate(backend, get_loss(name), a, right)
    assert value == 0.0
    assert np.abs(delta).max() < np.finfo(np.float32).tiny
    value, delta = evaluate(backend, get_loss(name), a, wrong)
    assert value == pytest.approx(2 * scale if name == "cross_entropy" else scale, rel=1e-6)
    np.testing.assert_allclose(
        delta, [[0.5, -0.5], [-0.5, 0.5]] if name == "cross_entropy" else [[0.25, -0.25], [-0.25, 0.25]]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_binary_cross_entropy_keeps_all_digits(backend: Backend, dtype: str, y: float) -> None:
    """Of a target that is met and of one that is missed alike: p - 1 would lose them all where p is close to 1."""
    z, eps, tiny = exact.points(dtype), float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    z = z[np.abs(z) < 1e30]
    a, targets, n = z[:, None], np.full((len(z), 1), y, dtype), len(z)
    _, delta = evaluate(backend, get_loss("binary_cross_entropy"), a, targets)
    sign = 1 if y == 0 else -1
    expected = np.array([float(sign * exact.sigmoid(sign * mpf(float(v)))) for v in z])
    off = np.abs(delta[:, 0] * n - expected)
    assert (off <= 10 * eps * np.abs(expected) + n * tiny).all()
    for v in z[::9]:
        value, _ = evaluate(backend, get_loss("binary_cross_entropy"), np.array([[v]]), targets[:1])
        want = float(mp.log1p(mp.exp(sign * mpf(float(v)))))
        assert value == pytest.approx(want, rel=10 * eps, abs=tiny)


@pytest.mark.parametrize("m", [3, MANY_CLASSES])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_as_far_apart_as_the_type_reaches(backend: Backend, dtype: str, m: int) -> None:
    largest = np.finfo(dtype).max * 0.9
    a = np.full((2, m), -largest, dtype)
    a[:, 1] = largest
    right, soft = np.zeros((2, m), dtype), np.full((2, m), 1 / m, dtype)
    right[:, 1] = 1
    with np.errstate(over="ignore"):
        for y in (right, np.array([1, 1])):
            value, delta = evaluate(backend, get_loss("cross_entropy"), a, y)
            assert value == 0.0
            assert not delta.any()
        value, delta = evaluate(backend, get_loss("cross_entropy"), a, soft)
    assert np.isfinite(delta).all()
    np.testing.assert_allclose(delta[:, 1] * 2, 1 - 1 / m, rtol=1e-6)
    # Right, or beyond the type.
    assert value == np.inf or value == pytest.approx(2 * float(np.float32(largest)) * (m - 1) / m, rel=1e-6)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("m", [2, 5, MANY_CLASSES, 200])
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "targets") for name in sorted(LOSSES)), ("cross_entropy", "labels")]
)
def test_recorded_is_eager_for_every_shape(backend: Backend, name: str, kind: str, m: int, n: int) -> None:
    """On new numbers, so that nothing that was there while recording can stand in for what was not computed."""
    loss, rng, v = get_loss(name), np.random.default_rng(5), Tensors()
    for key, (shape, dtype) in loss.buffers(m, np.float64).items():
        setattr(v, key, backend.empty(tuple(n if k == "n" else int(k) for k in shape), dtype))
    value, delta = backend.zeros((), np.float64), backend.empty((n, m), np.float64)
    a = backend.zeros((n, m), np.float64)
    y = backend.zeros((n,), np.int64) if kind == "labels" else backend.zeros((n, m), np.float64)
    program = backend.record(lambda: backend.loss_and_delta(loss, a, y, v, value, delta, n))
    for _ in range(2):
        outputs = rng.normal(size=(n, m))
        targets = rng.integers(0, m, n) if kind == "labels" else rng.random((n, m))
        backend.copy_in(outputs, a)
        backend.copy_in(targets, y)
        program()
        expected, expected_delta = evaluate(get_backend("strict"), loss, outputs, targets)
        assert float(backend.to_host(value)) == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(backend.to_host(delta), expected_delta, rtol=1e-12, atol=1e-16)


def test_labels_are_one_hot_targets(backend: Backend) -> None:
    a, labels = make_data(9, 5, 5, "cross_entropy")
    value, delta = evaluate(backend, get_loss("cross_entropy"), a, labels)
    same, same_delta = evaluate(backend, get_loss("cross_entropy"), a, np.eye(5)[labels])
    assert value == pytest.approx(same, rel=1e-14)
    np.testing.assert_allclose(delta, same_delta, atol=1e-16)


@pytest.mark.parametrize("m", [MANY_CLASSES - 1, MANY_CLASSES, 1000])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_any_number_of_classes(backend: Backend, kind: str, m: int) -> None:
    rng = np.random.default_rng(4)
    a, n = rng.normal(size=(5, m)) * 3, 5
    y = rng.integers(0, m, n) if kind == "labels" else rng.dirichlet(np.ones(m), n)
    value, delta = evaluate(backend, get_loss("cross_entropy"), a, y)
    assert value == pytest.approx(reference("cross_entropy", a, y), rel=1e-13)
    p = np.exp(a - a.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(delta, (p - (np.eye(m)[y] if kind == "labels" else y)) / n, atol=1e-16)


def test_mean_absolute_error_is_flat_at_the_target(backend: Backend) -> None:
    value, delta = evaluate(backend, get_loss("mean_absolute_error"), np.zeros((2, 2)), np.zeros((2, 2)))
    assert value == 0.0
    assert not delta.any()


def test_float32_is_added_up_in_float64(backend: Backend) -> None:
    a = np.full((200_000, 1), 0.1, np.float32)
    value, _ = evaluate(backend, get_loss("mean_absolute_error"), a, np.zeros_like(a))
    assert value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_lookup() -> None:
    own = Loss()
    assert get_loss(own) is own
    with pytest.raises(ArgumentError, match="unknown loss 'cross_entropi': did you mean 'cross_entropy'"):
        get_loss("cross_entropi")
    with pytest.raises(ArgumentError, match="unknown loss None"):
        get_loss(None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="Loss must define value_and_delta"):
        own.value_and_delta(None, None, None, None, None, None, 1)  # type: ignore[arg-type]
