"""What must not happen for large logits, in half precision and over many rows: infinities, and sums that lose digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.losses import LOSSES, Loss, memory
from gpubackprop.network.inference import to_prediction
from gpubackprop.precision import accumulator, compute_type

LOGITS = {"float32": 1e4, "float16": 6e4}


def value_and_delta(be: Backend, loss: Loss, a: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The backend's answer for outputs a, with delta in the type of a."""
    n, m = a.shape
    v = memory(loss, be, n, m, a.dtype)
    value, delta = be.zeros((), np.float64), be.empty(a.shape, a.dtype)
    be.loss_and_delta(loss, be.asarray(a), be.asarray(y), v, value, delta, n)
    return float(be.to_host(value)), be.to_host(delta)


def exact(loss: str, a: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The same in float64 from the definitions, in forms that overflow nowhere."""
    z, n = a.astype(np.float64), len(a)
    if loss == "cross_entropy":
        t = np.eye(a.shape[1])[y] if y.ndim == 1 else y.astype(np.float64)
        shifted = z - z.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return -(t * log_p).sum() / n, (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) / n
    y = y.astype(np.float64)
    value = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    p = np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))
    return value.mean(), (p - y) / a.size


@pytest.mark.parametrize("kind", ["labels", "distributions", "binary"])
@pytest.mark.parametrize("dtype", LOGITS)
def test_losses_are_right_for_the_largest_logits(backend: Backend, dtype: str, kind: str) -> None:
    largest, rng = LOGITS[dtype], np.random.default_rng(0)
    a = np.concatenate(
        [
            np.array([[largest, -largest, 0], [-largest, -largest, largest], [largest, largest, largest], [0, 0, 0]]),
            rng.uniform(-largest, largest, (60, 3)),
            rng.standard_normal((60, 3)),
        ]
    ).astype(dtype)
    if kind == "labels":
        name, y = "cross_entropy", rng.integers(0, 3, len(a))
    elif kind == "distributions":
        name, y = "cross_entropy", np.eye(3, dtype=dtype)[rng.integers(0, 3, len(a))]
    else:
        name, y = "binary_cross_entropy", rng.integers(0, 2, a.shape).astype(dtype)
    value, delta = value_and_delta(backend, LOSSES[name](), a, y)
    expected_value, expected_delta = exact(name, a, y)
    assert np.isfinite(value)
    assert np.isfinite(delta).all()
    assert value == pytest.approx(expected_value, rel=1e-6)
    # A float16 delta is rounded once, at the end.
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(delta, expected_delta, rtol=2 * unit, atol=4 * unit / len(a))


def test_a_network_stays_finite_on_the_largest_logits(backend: Backend) -> None:
    for loss, y in (("cross_entropy", np.array([0, 1])), ("binary_cross_entropy", np.eye(2))):
        net = gb.Network([gb.Dense(2, 2, bias=False)], loss=loss, device=backend)
        net.set_weights({"0.weight": np.array([[1e4, -1e4], [-1e4, 1e4]])})
        value, gradients = net.loss_and_gradients(np.array([[1.0, 0.0], [1.0, 0.0]]), y)
        assert np.isfinite(value)
        assert np.isfinite(gradients["0.weight"]).all()
        p = net.predict(np.array([[1.0, 0.0]]))
        np.testing.assert_array_equal(p, [[1.0, 0.0]])


@pytest.mark.parametrize("dtype", LOGITS)
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_predictions_are_finite_for_the_largest_logits(dtype: str, loss: str) -> None:
    largest = LOGITS[dtype]
    z = np.array([[largest, -largest], [-largest, -largest], [largest, largest]], dtype)
    p = to_prediction(z, LOSSES[loss]())
    assert np.isfinite(p).all()
    expected = [[1, 0], [0.5, 0.5], [0.5, 0.5]] if loss == "cross_entropy" else [[1, 0], [0, 0], [1, 1]]
    np.testing.assert_array_equal(p, np.array(expected, dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_half_precision_outputs_are_computed_in_float32_and_added_up_wider(
    backend: Backend, loss: str
) -> None:
    """70,000 equal terms: a float16 sum would end at infinity or stand still, a float16 square of 300 is infinite."""
    n = 70_000
    a = np.full((n, 2), 1.5, np.float16)
    y: Any = np.zeros((n, 2), np.float16)
    if loss == "cross_entropy":
        y = np.zeros(n, np.int64)
    value, delta = value_and_delta(backend, LOSSES[loss](), a, y)
    each = {
        "half_squared_error": 2.25,
        "mean_squared_error": 2.25,
        "mean_absolute_error": 1.5,
        "huber": 1.0,
        "poisson": np.exp(1.5),
        "binary_cross_entropy": 1.5 + np.log1p(np.exp(-1.5)),
        "cross_entropy": np.log(2),
    }[loss]
    assert value == pytest.approx(each, rel=1e-6)
    assert np.isfinite(delta).all()
    assert np.count_nonzero(delta) > 0
    if loss.endswith("squared_error"):
        value, _ = value_and_delta(
            backend, LOSSES[loss](), np.full((2, 2), 300, np.float16), np.zeros((2, 2), np.float16)
        )
        assert value == pytest.approx(90_000, rel=1e-6)


def test_nothing_is_added_up_in_less_than_float32() -> None:
    assert compute_type(np.float16) == np.float32
    for dtype in (np.float16, np.float32, np.float64):
        assert accumulator(dtype) == np.float64


@pytest.mark.parametrize("loss", LOSSES)
def test_means_over_ten_million_rows(loss: str) -> None:
    """To 1e-6 relative; a running float32 sum of 10 million terms is off by 1e-3 and more."""
    n, be = 10_000_000, gb.get_backend("cpu")
    rng = np.random.default_rng(1)
    a = rng.standard_normal((n, 1), np.float32)
    a += 3
    if loss == "cross_entropy":
        a, y = np.concatenate([a, np.zeros_like(a)], axis=1), np.zeros(n, np.int64)
        np.random.default_rng(2).shuffle(y[: n // 2])
        y[: n // 3] = 1
    else:
        y = np.zeros_like(a)
    value, delta = value_and_delta(be, LOSSES[loss](), a, y)
    z = a[:, 0].astype(np.float64)
    if loss == "cross_entropy":
        other = np.where(y == 0, -z, z)
        expected = np.logaddexp(0, other).mean()
    else:
        expected = {
            "half_squared_error": lambda: 0.5 * np.square(z).mean(),
            "mean_squared_error": lambda: np.square(z).mean(),
            "mean_absolute_error": lambda: np.abs(z).mean(),
            "huber": lambda: np.where(np.abs(z) <= 1, np.square(z) / 2, np.abs(z) - 0.5).mean(),
            "poisson": lambda: np.exp(z).mean(),
            "binary_cross_entropy": lambda: np.logaddexp(0, z).mean(),
        }[loss]()
    assert value == pytest.approx(expected, rel=1e-6)
    # The gradient of the bias is the sum of all deltas.
    sums = be.empty((a.shape[1],), np.float32)
    be.column_sums(delta, sums)
    np.testing.assert_allclose(sums, delta.sum(axis=0, dtype=np.float64), rtol=1e-6)


def test_statistics_over_ten_million_rows() -> None:
    be, n = gb.get_backend("cpu"), 10_000_000
    x = np.random.default_rng(3).standard_normal((n, 2), np.float32) + np.float32(10)
    mean, var, rstd = (be.empty((1, 2), np.float32) for _ in range(3))
    xhat, one, zero = be.empty((n, 2), np.float32), np.ones(2, np.float32), np.zeros(2, np.float32)
    be.normalize(x, 0, 1e-5, mean, var, rstd, xhat, one, zero, be.empty((n, 2), np.float32))
    np.testing.assert_allclose(mean[0], x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var[0], x.var(axis=0, dtype=np.float64), rtol=1e-6)


def test_the_metrics_over_ten_million_rows() -> None:
    """A mean that is kept while chunks come in: that of `evaluate`, and the loss of an epoch."""
    n = 10_000_000
    net = gb.Network([gb.Dense(1, 1)], loss="mean_squared_error", device="cpu")
    net.set_weights({"0.weight": np.ones((1, 1)), "0.bias": np.zeros(1)})
    x = np.random.default_rng(4).standard_normal((n, 1), np.float32)
    y = np.zeros_like(x)
    expected = np.square(x, dtype=np.float64).mean()
    assert gb.evaluate(net, x, y)["loss"] == pytest.approx(expected, rel=1e-6)
