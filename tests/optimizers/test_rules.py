"""Every rule against its formula, one number at a time in Python's floats, over several steps."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.network.parameters import Parameters
from gpubackprop.optimizers import OPTIMIZERS as RULES
from tests.small import OPTIMIZERS, make_optimizer

LR = 0.05
STEPS = 8
SHAPES = {"0.weight": (2, 3), "0.bias": (3,)}


def sgd(p: float, gradients: list[float], momentum: float = 0.0, nesterov: bool = False) -> float:
    v = 0.0
    for g in gradients:
        v = momentum * v + g
        p -= LR * (g + momentum * v if nesterov else v)
    return p


def rmsprop(p: float, gradients: list[float], momentum: float = 0.0, centered: bool = False) -> float:
    s = average = v = 0.0
    for g in gradients:
        s = 0.99 * s + 0.01 * g * g
        average = 0.99 * average + 0.01 * g
        v = momentum * v + g / (sqrt(s - average**2 if centered else s) + 1e-8)
        p -= LR * v
    return p


def adagrad(p: float, gradients: list[float], lr_decay: float = 0.0) -> float:
    s = 0.0
    for t, g in enumerate(gradients):
        s += g * g
        p -= LR / (1 + t * lr_decay) * g / (sqrt(s) + 1e-10)
    return p


def adadelta(p: float, gradients: list[float]) -> float:
    s = u = 0.0
    for g in gradients:
        s = 0.9 * s + 0.1 * g * g
        d = sqrt(u + 1e-6) / sqrt(s + 1e-6) * g
        u = 0.9 * u + 0.1 * d * d
        p -= LR * d
    return p


def adam(p: float, gradients: list[float], weight_decay: float = 0.0) -> float:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p *= 1 - LR * weight_decay
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= LR * (m / (1 - 0.9**t)) / (sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def adamax(p: float, gradients: list[float]) -> float:
    m = u = 0.0
    for t, g in enumerate(gradients, 1):
        m, u = 0.9 * m + 0.1 * g, max(0.999 * u, abs(g) + 1e-8)
        p -= LR / (1 - 0.9**t) * m / u
    return p


def nadam(p: float, gradients: list[float]) -> float:
    m = v = 0.0
    product = 1.0
    for t, g in enumerate(gradients, 1):
        mu, after = (0.9 * (1 - 0.5 * 0.96 ** (k * 0.004)) for k in (t, t + 1))
        product *= mu
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = (1 - mu) / (1 - product) * g + after / (1 - product * after) * m
        p -= LR * step / (sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


def radam(p: float, gradients: list[float]) -> float:
    m = v = 0.0
    limit = 2 / (1 - 0.999) - 1
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        corrected = m / (1 - 0.9**t)
        rho = limit - 2 * t * 0.999**t / (1 - 0.999**t)
        if rho > 5:
            r = sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            p -= LR * corrected * r * sqrt(1 - 0.999**t) / (sqrt(v) + 1e-8)
        else:
            p -= LR * corrected
    return p


ELEMENTWISE: dict[str, Callable[..., float]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "adam": adam,
    "adamw": lambda p, gradients: adam(p, gradients, weight_decay=0.01),
    "adamax": adamax,
    "nadam": nadam,
    "radam": radam,
}


def test_every_rule_is_here() -> None:
    assert {key.split()[0] for key in OPTIMIZERS} == set(RULES)
    assert {*ELEMENTWISE, "lars", "lamb"} == set(RULES)


def values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def run(be: Backend, key: str, gradients: list[dict[str, np.ndarray]], **options: Any) -> dict[str, np.ndarray]:
    """The parameters after a step for each of the gradients; what lies between the arrays must stay zero."""
    parameters = Parameters(be, SHAPES, np.dtype(np.float64))
    parameters.write(values(0))
    optimizer = make_optimizer(key, learning_rate=LR, **options)
    optimizer.bind(parameters)
    used = np.zeros(parameters.P.shape, bool)
    for s in parameters.segments:
        used[s.start : s.start + s.size] = True
    for g in gradients:
        host = np.zeros(parameters.G.shape)
        for s in parameters.segments:
            s.of(host)[...] = g[s.name]
        be.copy_in(host, parameters.G)
        optimizer.prepare()
        optimizer.apply(be)
        assert not be.to_host(parameters.P)[~used].any()
    return parameters.to_host(parameters.P)


@pytest.mark.parametrize("key", [k for k in OPTIMIZERS if k.split()[0] in ELEMENTWISE])
def test_formula(backend: Backend, key: str) -> None:
    gradients = [values(i + 1) for i in range(STEPS)]
    found, start = run(backend, key, gradients), values(0)
    reference = ELEMENTWISE[key.split()[0]]
    for name, shape in SHAPES.items():
        for index in np.ndindex(shape):
            expected = reference(
                float(start[name][index]), [float(g[name][index]) for g in gradients], **OPTIMIZERS[key]
            )
            assert found[name][index] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_lars_formula(backend: Backend) -> None:
    gradients, decay = [values(i + 1) for i in range(STEPS)], 0.1
    found = run(backend, "lars", gradients, weight_decay=decay)
    for name, p in values(0).items():
        v = np.zeros_like(p)
        for g in (g[name] for g in gradients):
            norms = np.linalg.norm(p), np.linalg.norm(g)
            ratio = 1e-3 * norms[0] / (norms[1] + decay * norms[0]) if p.ndim > 1 else 1.0
            v = 0.9 * v + LR * ratio * (g + decay * p)
            p = p - v
        np.testing.assert_allclose(found[name], p, rtol=1e-12, atol=1e-14)


def test_lamb_formula(backend: Backend) -> None:
    gradients, decay = [values(i + 1) for i in range(STEPS)], 0.1
    found = run(backend, "lamb", gradients, weight_decay=decay)
    for name, p in values(0).items():
        m, v = np.zeros_like(p), np.zeros_like(p)
        for t, g in enumerate((g[name] for g in gradients), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + decay * p
            ratio = np.linalg.norm(p) / np.linalg.norm(r) if p.ndim > 1 else 1.0
            p = p - LR * ratio * r
        np.testing.assert_allclose(found[name], p, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_a_gradient_of_zero_stays_finite(backend: Backend, key: str) -> None:
    zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    found = run(backend, key, [zero, values(1), zero])
    assert all(np.isfinite(p).all() for p in found.values())
    if key != "adamw":
        for name, p in run(backend, key, [zero, zero]).items():
            np.testing.assert_array_equal(p, values(0)[name])


@pytest.mark.parametrize("key", ["lars", "lamb"])
def test_weights_of_zero_can_leave_it(backend: Backend, key: str) -> None:
    """|w| = 0 takes the ratio 1: a ratio of 0 would hold them there for ever."""
    parameters = Parameters(backend, SHAPES, np.dtype(np.float64))
    optimizer = make_optimizer(key, learning_rate=LR)
    optimizer.bind(parameters)
    backend.fill(parameters.G, 1.0)
    optimizer.prepare()
    optimizer.apply(backend)
    assert all((p < 0).all() for p in parameters.to_host(parameters.P).values())


def test_lars_and_lamb_as_in_their_papers() -> None:
    """LAMB's table of untuned rates: 5 / (2^3 1000) at 512 rows, warm-up 1/320, to 5 / 1000 at 32K, warm-up 1/5."""
    for i, size in enumerate((512, 1024, 2048, 4096, 8192, 16384, 32768)):
        lamb = gb.LAMB.paper(size, steps=32_000)
        assert lamb.learning_rate == pytest.approx(5e-3 / 2 ** (3 - i / 2), rel=1e-12)
        assert lamb.schedule.warmup == 32_000 * 2**i // 320
        assert (lamb.weight_decay, lamb.decay, lamb.schedule(31_999)) == (0.01, "weights", pytest.approx(0, abs=1e-4))
    lars = gb.LARS.paper(2.0, steps=1000, warmup=100)
    assert (lars.momentum, lars.trust, lars.weight_decay) == (0.9, 1e-3, 5e-4)
    assert lars.schedule(99 + 451) == pytest.approx(0.25, rel=1e-2)
    assert gb.LAMB.paper(1 << 20, steps=10).schedule.warmup == 9
