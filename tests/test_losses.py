from __future__ import annotations

from math import exp, log, log1p
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import Tensors
from gpubackprop.losses import LOSSES, MANY_CLASSES, Loss, get_loss
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
    assert not delta.any()
    value, delta = evaluate(backend, get_loss(name), a, wrong)
    assert value == pytest.approx(2 * scale if name == "cross_entropy" else scale, rel=1e-6)
    np.testing.assert_allclose(
        delta, [[0.5, -0.5], [-0.5, 0.5]] if name == "cross_entropy" else [[0.25, -0.25], [-0.25, 0.25]]
    )


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
