"""Losses of a few numbers, worked out by hand as in the tests of Keras: values, gradients, extreme logits."""

from __future__ import annotations

from math import exp, log, log1p

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend

PREDICTED = np.array([[4.0, 8.0, 12.0], [8.0, 1.0, 3.0]])
TARGETS = np.array([[1.0, 9.0, 2.0], [-5.0, -2.0, 6.0]])
"""Differences 3, -1, 10 and 13, 3, -3: squares 9, 1, 100, 169, 9, 9."""


def loss_and_slope(loss: str, outputs: np.ndarray, y: np.ndarray, be: Backend) -> tuple[float, np.ndarray]:
    """C and dC/da for a network whose outputs are its inputs."""
    m = outputs.shape[1]
    net = gb.Network([gb.Dense(m, m, bias=False)], loss=loss, device=be, dtype="float64")
    net.set_weights({"0.weight": np.eye(m)})
    (slope,) = net.deltas(outputs, y)
    return net.loss(outputs, y), slope


@pytest.mark.parametrize(
    ("loss", "value", "slope"),
    [
        ("mean_squared_error", 297 / 6, (PREDICTED - TARGETS) / 3),
        ("half_squared_error", 297 / 4, (PREDICTED - TARGETS) / 2),
        ("mean_absolute_error", 33 / 6, np.sign(PREDICTED - TARGETS) / 6),
    ],
)
def test_distances(backend: Backend, loss: str, value: float, slope: np.ndarray) -> None:
    found, delta = loss_and_slope(loss, PREDICTED, TARGETS, backend)
    assert found == pytest.approx(value, rel=1e-15)
    np.testing.assert_allclose(delta, slope, rtol=1e-15)


@pytest.mark.parametrize("loss", ["mean_squared_error", "half_squared_error", "mean_absolute_error"])
def test_no_distance_is_no_loss(backend: Backend, loss: str) -> None:
    found, delta = loss_and_slope(loss, TARGETS, TARGETS, backend)
    assert found == 0
    assert not delta.any()


def test_binary_cross_entropy_of_certain_logits(backend: Backend) -> None:
    """Right with certainty costs nothing, wrong with certainty costs the logit: 100 for each of 2 in 6."""
    z = np.array([[100.0, -100.0, 100.0], [100.0, 100.0, -100.0]])
    y = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    value, slope = loss_and_slope("binary_cross_entropy", z, y, backend)
    assert value == pytest.approx(200 / 6, rel=1e-15)
    np.testing.assert_allclose(slope, [[0, 0, 0], [1 / 6, 0, -1 / 6]], rtol=1e-15, atol=1e-17)


def test_binary_cross_entropy_of_probabilities(backend: Backend) -> None:
    """p = 3/4 and 1/4 against certain and undecided targets."""
    z = np.array([[log(3), -log(3), log(3)]])
    value, slope = loss_and_slope("binary_cross_entropy", z, np.array([[1.0, 1.0, 0.5]]), backend)
    assert value == pytest.approx(-(log(3 / 4) + log(1 / 4) + log(3 / 4) / 2 + log(1 / 4) / 2) / 3, rel=1e-14)
    np.testing.assert_allclose(slope, [[-1 / 12, -1 / 4, 1 / 12]], rtol=1e-14)


LOGITS = np.array([[8.0, 1.0, 1.0], [0.0, 9.0, 1.0], [2.0, 3.0, 5.0]])
ROW_LOSSES = [log1p(2 * exp(-7)), log1p(exp(-9) + exp(-8)), log1p(exp(-3) + exp(-2))]


@pytest.mark.parametrize("y", [np.arange(3), np.eye(3)], ids=["labels", "one-hot"])
def test_cross_entropy(backend: Backend, y: np.ndarray) -> None:
    value, slope = loss_and_slope("cross_entropy", LOGITS, y, backend)
    assert value == pytest.approx(sum(ROW_LOSSES) / 3, rel=1e-13)
    by_hand = [[exp(z - max(row) - own) for z in row] for row, own in zip(LOGITS, ROW_LOSSES, strict=True)]
    np.testing.assert_allclose(slope, (np.array(by_hand) - np.eye(3)) / 3, rtol=1e-12, atol=1e-16)


def test_cross_entropy_of_distributions(backend: Backend) -> None:
    """softmax(0, log 2, log 5) = 1/8, 2/8, 5/8."""
    z, y = np.array([[0.0, log(2), log(5)]]), np.array([[0.5, 0.25, 0.25]])
    value, slope = loss_and_slope("cross_entropy", z, y, backend)
    assert value == pytest.approx(0.5 * log(8) + 0.25 * log(4) + 0.25 * log(8 / 5), rel=1e-14)
    np.testing.assert_allclose(slope, [[1 / 8 - 1 / 2, 0, 5 / 8 - 1 / 4]], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("scale", [1e3, 1e30, 1e300])
@pytest.mark.parametrize("y", [np.array([0, 1]), np.eye(2)], ids=["labels", "one-hot"])
def test_cross_entropy_of_large_logits(backend: Backend, scale: float, y: np.ndarray) -> None:
    """The second row is wrong by 3 scale; the first is right."""
    value, slope = loss_and_slope("cross_entropy", np.array([[scale, -scale], [2 * scale, -scale]]), y, backend)
    assert value == pytest.approx(1.5 * scale, rel=1e-15)
    np.testing.assert_array_equal(slope, [[0, 0], [0.5, -0.5]])
