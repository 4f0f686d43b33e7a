"""Small networks and data that many tests use."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.optimizers import Optimizer, get_optimizer

LOSSES = (
    "half_squared_error", "mean_squared_error", "mean_absolute_error", "huber", "poisson", "binary_cross_entropy",
    "cross_entropy",
)  # fmt: skip

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd momentum": {"momentum": 0.9},
    "sgd nesterov": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {},
    "rmsprop centered": {"momentum": 0.5, "centered": True},
    "adagrad": {"lr_decay": 0.1},
    "adadelta": {},
    "adam": {},
    "adamw": {},
    "adamax": {},
    "nadam": {},
    "radam": {},
    "lars": {},
    "lamb": {},
}
"""Every rule, and those of its settings that change what it computes: "<name> <which>" -> options."""


def make_optimizer(key: str, **options: Any) -> Optimizer:
    """The optimizer for a key of `OPTIMIZERS`, with further options."""
    return get_optimizer(key.split()[0], **{**OPTIMIZERS[key], **options})


def make_data(n: int, d: int, m: int, loss: str = "half_squared_error", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, d) and targets that `loss` takes: (n,) labels for cross_entropy, else (n, m)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if loss == "cross_entropy":
        return x, rng.integers(0, m, n)
    if loss == "binary_cross_entropy":
        return x, rng.integers(0, 2, (n, m)).astype(float)
    if loss == "poisson":
        return x, rng.poisson(1.5, (n, m)).astype(float)
    return x, rng.normal(size=(n, m))


def assert_same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Both hold the same names and the very same numbers."""
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)
