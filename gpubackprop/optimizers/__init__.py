"""Optimizers: what replaces the line W <- W - eta dC/dW. Definitions and defaults are PyTorch's where it has them."""

from __future__ import annotations

from typing import Any

from gpubackprop.checks import from_table
from gpubackprop.errors import ArgumentError
from gpubackprop.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from gpubackprop.optimizers.base import Optimizer
from gpubackprop.optimizers.layerwise import LAMB, LARS
from gpubackprop.optimizers.moments import Adam, Adamax, AdamW, NAdam, RAdam
from gpubackprop.optimizers.sgd import SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {
    o.__name__.lower(): o for o in (SGD, RMSprop, Adagrad, Adadelta, Adam, AdamW, Adamax, NAdam, RAdam, LARS, LAMB)
}


def get_optimizer(optimizer: str | Optimizer, **options: Any) -> Optimizer:
    """The optimizer with that name (in any case), made with `options`, or `optimizer` itself.

    Raises ArgumentError for an unknown name or option.
    """
    if isinstance(optimizer, Optimizer):
        if options:
            raise ArgumentError(
                f"options {sorted(options)} are for an optimizer by name; {optimizer!r} is made already"
            )
        return optimizer
    name = optimizer.lower() if isinstance(optimizer, str) else optimizer
    return from_table("optimizer", {**options, "name": name}, OPTIMIZERS)


__all__ = [
    "LAMB",
    "LARS",
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "get_optimizer",
]
