"""Relative accuracy from end to end of each type, through whole training steps and predictions, whichever way they are run.

One row, x = 1, goes through a layer whose weights are the points z, and a sum of its units. Of a step from velocity 0 the
new velocity is the gradient: that of the second weights is f(z), that of the first f'(z). So these are the numbers that a
network trains on, and not those of an activation by itself.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Backend
from tests import exact

DTYPES = ["float32", "float64"]
ROUTES = ["eager", "recorded", *(["compiled", "one pass"] if find_spec("numba") else []), "strict"]
UNITS = 8
"""Rounding errors (units of the type's eps) that a probability may be off by."""


def step(z: np.ndarray, name: str, route: str) -> tuple[np.ndarray, np.ndarray]:
    """f(z) and f'(z) as a training step has them."""
    net = gb.Network(
        [gb.Dense(1, len(z), name, bias=False), gb.Dense(len(z), 1, bias=False)],
        loss="mean_absolute_error",
        device="strict" if route == "strict" else "cpu",
        dtype=z.dtype,
        capture=route != "eager",
        compile=route == "compiled",
    )
    weights = {"0.weight": z[None], "1.weight": np.ones((len(z), 1))}
    optimizer = gb.SGD(1e-30, momentum=0.5)
    trainer, below = gb.Trainer(net, optimizer), np.array([[-1e30]])
    # Another row first: what is recorded is then done again.
    net.set_weights(weights)
    trainer.fit(np.array([[0.5]]), below, epochs=1)
    net.set_weights(weights)
    optimizer.set_state({k: np.zeros_like(v) for k, v in optimizer.get_state().items()})
    trainer.fit(np.array([[1.0]]), below, epochs=1)
    assert optimizer.parameters is not None
    velocity = optimizer.get_state()["velocity"]
    slope, value = (segment.of(velocity) for segment in optimizer.parameters.segments)
    return value[:, 0], slope[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_a_step_trains_on(name: str, route: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if route == "compiled":
        monkeypatch.setattr("gpubackprop.backend.cpu.compiled.program.LEAST_GAIN", -np.inf)
    if route == "one pass":
        monkeypatch.setattr("gpubackprop.backend.cpu.numpy_backend.FUSED", 0)
    # Beyond, a sum of all units would overflow.
    some = np.abs(exact.points(dtype)) < 1e30
    value, value_error, slope, slope_error = (column[some] for column in exact.table(name, dtype))
    z = exact.points(dtype)[some]
    found = step(z, name, route)
    # A step flushes subnormal numbers to zero, and with them what they would have been multiplied by.
    flushed = float(np.finfo(dtype).tiny) * (2 + np.abs(z.astype(np.float64))) ** 2
    value_error, slope_error = value_error + flushed, slope_error + flushed
    for what, got, want, error in (("f", found[0], value, value_error), ("f'", found[1], slope, slope_error)):
        wrong = np.flatnonzero(~(np.abs(got.astype(np.float64) - want) <= error))
        assert wrong.size == 0, f"{name}, {what} at {z[wrong]}: {got[wrong]} instead of {want[wrong]}"


# -- predictions and losses -----------------------------------------------------------------------------------------------


def logits(dtype: str) -> np.ndarray:
    """From where a probability is no longer a normal number to where it is 1, and beyond."""
    end = -np.log(np.finfo(dtype).tiny)
    z = np.concatenate([np.linspace(-0.99 * end, 0.99 * end, 200), [-30, -17, -1e-3, 0, 1e-3, 17, 30, 1e4, 1e30]])
    return z.astype(dtype)


def classifier(loss: str, width: int, dtype: str, be: Backend) -> gb.Network:
    """A network whose logits are its inputs."""
    net = gb.Network([gb.Dense(width, width, bias=False)], loss=loss, device=be, dtype=dtype)
    net.set_weights({"0.weight": np.eye(width)})
    return net


def assert_relative(found: Any, expected: list[Any], dtype: str, units: Any = UNITS) -> None:
    want = np.array([float(v) for v in expected])
    off = np.abs(np.asarray(found, np.float64) - want)
    limit = units * np.finfo(dtype).eps * np.abs(want) + np.finfo(dtype).tiny
    worst = int(np.argmax(off / limit))
    assert off[worst] <= limit[worst], f"number {worst} is {found[worst]} instead of {want[worst]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_yes(backend: Backend, dtype: str) -> None:
    z = logits(dtype)
    found = classifier("binary_cross_entropy", 1, dtype, backend).predict(z[:, None])[:, 0]
    assert_relative(found, [exact.sigmoid(mpf(float(v))) for v in z], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_classes(backend: Backend, dtype: str) -> None:
    """Of logits z, 0 and 1: exp(z) / (exp(z) + 1 + e), and 1 / that sum. The difference of two logits is rounded: each unit
    of it counts."""
    z = logits(dtype)
    rows = np.column_stack([z, np.zeros_like(z), np.ones_like(z)])
    found = classifier("cross_entropy", 3, dtype, backend).predict(rows)
    tail = [1 / (mp.exp(mpf(float(v))) + 1 + mp.e) for v in z]
    units = UNITS + np.abs(z.astype(np.float64))
    assert_relative(found[:, 0], [mp.exp(mpf(float(v))) * p for v, p in zip(z, tail, strict=True)], dtype, units)
    assert_relative(found[:, 1], tail, dtype, units)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_losses_of_yes_and_no(backend: Backend, dtype: str, y: float) -> None:
    """log(1 + exp(z)) where the answer is no, log(1 + exp(-z)) where it is yes."""
    z = logits(dtype)[::5]
    net = classifier("binary_cross_entropy", 1, dtype, backend)
    found = [net.loss(v.reshape(1, 1), np.array([[y]])) for v in z]
    assert_relative(found, [mp.log1p(mp.exp(mpf(float(v)) * (1 if y == 0 else -1))) for v in z], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_are_logarithms_of_predictions(backend: Backend, dtype: str) -> None:
    """However improbable the class is: down to the smallest probability that the type has."""
    z = logits(dtype)
    z = z[z < 0][::5]
    net = classifier("cross_entropy", 2, dtype, backend)
    rows = np.column_stack([z, np.zeros_like(z)])
    losses = [net.loss(row[None], np.array([0])) for row in rows]
    assert_relative(losses, [mp.log1p(mp.exp(-mpf(float(v)))) for v in z], dtype)
    predictions = net.predict(rows)[:, 0].astype(np.float64)
    np.testing.assert_allclose(-np.log(predictions), losses, rtol=UNITS * np.finfo(dtype).eps)
