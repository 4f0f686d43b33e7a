"""Every optimizer that PyTorch has: 100 steps of training side by side in float64, weights to 1e-12 at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.optimizers import Optimizer
from gpubackprop.optimizers.schedules import get_schedule
from tests.oracles.random_networks import relative

pytestmark = pytest.mark.usefixtures("_float64")
STEPS, TOLERANCE = 100, 1e-12

# Rates are small enough for stable training: where it is not, rounding errors grow exponentially in either library.
# name: (this library's, PyTorch's class, PyTorch's settings)
RULES: dict[str, tuple[Callable[[], Optimizer], str, dict[str, Any]]] = {
    "sgd": (lambda: gb.SGD(0.1), "SGD", {"lr": 0.1}),
    "sgd momentum": (lambda: gb.SGD(0.05, momentum=0.9), "SGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd nesterov": (
        lambda: gb.SGD(0.05, momentum=0.9, nesterov=True),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    ),
    "sgd decay": (
        lambda: gb.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "rmsprop": (lambda: gb.RMSprop(0.01), "RMSprop", {"lr": 0.01}),
    "rmsprop centered": (
        lambda: gb.RMSprop(0.01, centered=True),
        "RMSprop",
        {"lr": 0.01, "centered": True},
    ),
    "rmsprop all": (
        lambda: gb.RMSprop(0.003, alpha=0.9, eps=1e-6, momentum=0.8, centered=True, weight_decay=0.1),
        "RMSprop",
        {"lr": 0.003, "alpha": 0.9, "eps": 1e-6, "momentum": 0.8, "centered": True, "weight_decay": 0.1},
    ),
    "adagrad": (lambda: gb.Adagrad(0.05), "Adagrad", {"lr": 0.05}),
    "adagrad decay": (
        lambda: gb.Adagrad(0.05, lr_decay=0.01, weight_decay=0.1),
        "Adagrad",
        {"lr": 0.05, "lr_decay": 0.01, "weight_decay": 0.1},
    ),
    "adadelta": (lambda: gb.Adadelta(), "Adadelta", {}),
    "adadelta decay": (
        lambda: gb.Adadelta(0.5, rho=0.8, weight_decay=0.1),
        "Adadelta",
        {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1},
    ),
    "adam": (lambda: gb.Adam(0.01), "Adam", {"lr": 0.01}),
    "adam decay": (
        lambda: gb.Adam(0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
        "Adam",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (lambda: gb.AdamW(0.01), "AdamW", {"lr": 0.01}),
    "adamw decay": (lambda: gb.AdamW(0.01, weight_decay=0.2), "AdamW", {"lr": 0.01, "weight_decay": 0.2}),
    "adamax": (lambda: gb.Adamax(), "Adamax", {}),
    "adamax decay": (lambda: gb.Adamax(0.01, weight_decay=0.1), "Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    "nadam": (lambda: gb.NAdam(), "NAdam", {}),
    "nadam decay": (
        lambda: gb.NAdam(0.003, momentum_decay=0.01, weight_decay=0.1),
        "NAdam",
        {"lr": 0.003, "momentum_decay": 0.01, "weight_decay": 0.1},
    ),
    "nadam decoupled": (
        lambda: gb.NAdam(0.003, weight_decay=0.1, decoupled_weight_decay=True),
        "NAdam",
        {"lr": 0.003, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "radam": (lambda: gb.RAdam(), "RAdam", {}),
    "radam decay": (
        lambda: gb.RAdam(0.01, betas=(0.8, 0.95), weight_decay=0.1),
        "RAdam",
        {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1},
    ),
    "radam decoupled": (
        lambda: gb.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
}

SCHEDULES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "step": ({"every": 30, "gamma": 0.3}, "StepLR", {"step_size": 30, "gamma": 0.3}),
    "exponential": ({"gamma": 0.97}, "ExponentialLR", {"gamma": 0.97}),
    "cosine": ({"total": STEPS}, "CosineAnnealingLR", {"T_max": STEPS}),
    "polynomial": ({"power": 2.0, "total": STEPS}, "PolynomialLR", {"total_iters": STEPS, "power": 2.0}),
}

_RNG = np.random.default_rng(0)
X, Y = _RNG.standard_normal((12, 5)), _RNG.standard_normal((12, 3))


@pytest.fixture
def _float64(torch: Any) -> Iterator[None]:
    """PyTorch keeps the scalars of its optimizers (NAdam's product) in its default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def trajectory(
    torch: Any,
    optimizer: Optimizer,
    make: Callable[[list[Any]], Any],
    schedule: Callable[[Any], Any] | None = None,
    clip: Callable[[list[Any]], Any] | None = None,
    device: str | Backend = "cpu",
    steps: int = STEPS,
) -> float:
    """The largest relative error of a parameter over all steps of training in both libraries."""
    net = gb.mlp([5, 7, 3], activation="tanh", loss="mean_squared_error", dtype="float64", device=device, seed=4)
    p = {k: torch.tensor(w, requires_grad=True) for k, w in net.get_weights().items()}
    other = make(list(p.values()))
    scheduler = schedule(other) if schedule else None
    x, y = torch.tensor(X), torch.tensor(Y)
    worst = 0.0
    for _ in range(steps):
        other.zero_grad()
        a = torch.tanh(x @ p["0.weight"] + p["0.bias"]) @ p["1.weight"] + p["1.bias"]
        torch.nn.functional.mse_loss(a, y).backward()
        if clip:
            clip(list(p.values()))
        other.step()
        if scheduler:
            scheduler.step()
        net.train_step(X, Y, optimizer)
        for name, weight in net.get_weights().items():
            worst = max(worst, relative(weight, p[name].detach().numpy()))
    return worst


def pytorch(torch: Any, name: str) -> Callable[[list[Any]], Any]:
    _, kind, settings = RULES[name]
    return lambda parameters: getattr(torch.optim, kind)(parameters, **settings)


@pytest.mark.parametrize("name", RULES)
def test_100_steps_follow_pytorch(torch: Any, name: str) -> None:
    assert trajectory(torch, RULES[name][0](), pytorch(torch, name)) <= TOLERANCE


@pytest.mark.parametrize("name", ["sgd nesterov", "rmsprop all", "adam decay", "radam decay"])
def test_every_device_follows_pytorch(torch: Any, backend: Backend, name: str) -> None:
    off = trajectory(torch, RULES[name][0](), pytorch(torch, name), device=backend, steps=20)
    assert off <= TOLERANCE


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_follow_pytorch(torch: Any, name: str) -> None:
    ours, kind, theirs = SCHEDULES[name]

    def schedule(optimizer: Any) -> Any:
        return getattr(torch.optim.lr_scheduler, kind)(optimizer, **theirs)

    optimizer = gb.SGD(0.1, momentum=0.9, schedule=get_schedule(name, **ours))
    off = trajectory(torch, optimizer, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), schedule)
    assert off <= TOLERANCE


def test_clipping_by_norm_follows_pytorch(torch: Any) -> None:
    optimizer = gb.Adam(0.01, clip_norm=0.05)
    off = trajectory(
        torch,
        optimizer,
        lambda p: torch.optim.Adam(p, lr=0.01),
        clip=lambda p: torch.nn.utils.clip_grad_norm_(p, 0.05),
    )
    assert off <= TOLERANCE


def test_clipping_by_value_follows_pytorch(torch: Any) -> None:
    optimizer = gb.SGD(0.1, momentum=0.9, clip_value=0.01)
    off = trajectory(
        torch,
        optimizer,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        clip=lambda p: torch.nn.utils.clip_grad_value_(p, 0.01),
    )
    assert off <= TOLERANCE
