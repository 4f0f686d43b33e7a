"""The multilayer perceptron in one line."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.activations import Activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import Dense, Dropout, Layer
from gpubackprop.losses import Loss
from gpubackprop.network.network import Network


def mlp(
    widths: Sequence[int],
    *,
    activation: str | Activation = "relu",
    output_activation: str | Activation | None = None,
    dropout: float = 0.0,
    loss: str | Loss = "half_squared_error",
    device: str | Backend = "auto",
    dtype: DTypeLike | None = None,
    precision: str | None = None,
    seed: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
    capture: bool = True,
    compile: bool = False,
) -> Network:
    """A multilayer perceptron: `Dense` layers of the given widths, inputs first, with `activation` between them.

    mlp([784, 512, 10], loss="cross_entropy") has one hidden layer of 512 units. dropout: behind each hidden layer.
    All other options are those of `Network`. Raises ArgumentError for fewer than two widths.
    """
    widths = list(widths) if isinstance(widths, (Sequence, np.ndarray)) else [widths]
    if len(widths) < 2:
        raise ArgumentError(f"widths must name at least the inputs and the outputs, as in [784, 512, 10]; got {widths}")
    layers: list[Layer] = []
    for i, (d, m) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(Dense(d, m, output_activation if last else activation))
        if dropout and not last:
            layers.append(Dropout(dropout))
    return Network(
        layers,
        loss=loss,
        device=device,
        dtype=dtype,
        precision=precision,
        seed=seed,
        l1=l1,
        l2=l2,
        capture=capture,
        compile=compile,
    )
