"""LARS and LAMB against the formulas of their papers, written out in float64: 100 steps to 1e-12."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.optimizers import Optimizer
from tests.oracles.random_networks import relative

Arrays = dict[str, np.ndarray]
Rule = Callable[[int, np.ndarray, np.ndarray, dict[str, np.ndarray]], np.ndarray]


def lars(eta: float, trust: float, momentum: float, decay: float) -> Rule:
    """You, Gitman and Ginsburg (2017), algorithm 1, with the local rate 1 for one-dimensional arrays."""

    def step(t: int, w: np.ndarray, g: np.ndarray, state: Arrays) -> np.ndarray:
        local = trust * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w)) if w.ndim > 1 else 1.0
        state["v"] = momentum * state.get("v", 0.0) + eta * local * (g + decay * w)
        return w - state["v"]

    return step


def lamb(eta: float, b1: float, b2: float, eps: float, decay: float) -> Rule:
    """You et al. (2020), algorithm 2, with phi(z) = z, and a ratio of 1 for one-dimensional arrays."""

    def step(t: int, w: np.ndarray, g: np.ndarray, state: Arrays) -> np.ndarray:
        state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g**2
        r = state["m"] / (1 - b1**t) / (np.sqrt(state["v"] / (1 - b2**t)) + eps) + decay * w
        ratio = np.linalg.norm(w) / np.linalg.norm(r) if w.ndim > 1 else 1.0
        return w - eta * ratio * r

    return step


CASES = {
    "lars": (lambda: gb.LARS(0.5, momentum=0.9, trust=0.02), lars(0.5, 0.02, 0.9, 0.0)),
    "lars decay": (lambda: gb.LARS(0.5, trust=0.02, weight_decay=0.01), lars(0.5, 0.02, 0.9, 0.01)),
    "lamb": (lambda: gb.LAMB(0.01), lamb(0.01, 0.9, 0.999, 1e-6, 0.0)),
    "lamb decay": (
        lambda: gb.LAMB(0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        lamb(0.01, 0.8, 0.95, 1e-3, 0.1),
    ),
}


def worst_error(optimizer: Optimizer, rule: Rule, device: str | Backend = "cpu") -> float:
    """The largest relative error of a parameter over 100 steps, each with the gradient at the formula's own weights."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((10, 4)), rng.standard_normal((10, 2))
    net, other = (gb.mlp([4, 6, 2], activation="tanh", dtype="float64", device=d, seed=3) for d in (device, "cpu"))
    states: dict[str, Arrays] = {name: {} for name in net.parameters}
    worst = 0.0
    for t in range(1, 101):
        _, gradients = other.loss_and_gradients(x, y)
        other.set_weights({k: rule(t, w, gradients[k], states[k]) for k, w in other.get_weights().items()})
        net.train_step(x, y, optimizer)
        weights = net.get_weights()
        worst = max(worst, *(relative(weights[k], w) for k, w in other.get_weights().items()))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_100_steps_follow_the_paper(backend: Backend, name: str) -> None:
    make, rule = CASES[name]
    assert worst_error(make(), rule, backend) <= 1e-12


def test_an_array_of_zeros_or_without_a_gradient_is_not_scaled() -> None:
    for optimizer, expected in ((gb.LARS(0.5, momentum=0.0), 0.5), (gb.LAMB(0.5, eps=1e-300), 0.5)):
        net = gb.Network([gb.Dense(1, 1, bias=False, initializer="zeros")], dtype="float64", device="cpu")
        net.train_step(np.ones((1, 1)), np.ones((1, 1)), optimizer)
        assert net.get_weights()["0.weight"][0, 0] == pytest.approx(expected, rel=1e-12)
