"""A chain of layers that is added to its own input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.activations import get_activation
from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import stack
from gpubackprop.layers.base import AccumulatingLayer, Layer, Stream

_IDENTITY = get_activation("identity")


class Residual(AccumulatingLayer):
    """a = x + F(x), where F is the chain `layers` (He et al., "Identity mappings in deep residual networks", 2016).

    x, F(x) and a are (n, width): the chain ends as wide as it begins. Its arrays are called "<index here>.<index inside>.<name>",
    such as "2.0.weight". A layer inside that is not `trainable` is left as it is, as one outside would be.

        delta of the last layer of F = delta * f'(z of that layer)        dC/dx = delta + (dF/dx)^T delta

    Raises ArgumentError for a chain of other widths, and what `Network` raises for its list of layers.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = stack.checked(layers)
        self.recordable = all(layer.recordable for layer in self.layers)
        self.random = any(layer.random for layer in self.layers)
        self.mixes_rows = any(layer.mixes_rows for layer in self.layers)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "layers": tuple(copy.copy(layer) for layer in self.layers)}

    def build(self, width: int) -> int:
        out = stack.build(self.layers, width)[-1]
        if out != width:
            raise ArgumentError(f"is added to its input, which has {width} units, and must end as wide; it has {out}")
        return width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return stack.named(layer.parameter_shapes() for layer in self.layers)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return stack.named(layer.state_shapes() for layer in self.layers)

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return stack.named(layer.initial(rng) for layer in self.layers)

    def random_stream(self, seed: int, index: int, step: Array) -> list[Stream]:
        # 2^16 numbers for each layer outside: none inside has that of another.
        first = (index + 1) << 16
        if self.random and first >> 64:
            raise ArgumentError(
                "layers that draw random numbers can stand in at most three Residual blocks inside each other"
            )
        return [layer.random_stream(seed, first + i, step) for i, layer in enumerate(self.layers)]

    def bind(
        self, parameters: dict[str, Array], gradients: dict[str, Array], state: dict[str, Array], stream: Stream
    ) -> None:
        super().bind(parameters, gradients, state, stream)
        assert isinstance(stream, Sequence)
        for i, (layer, own) in enumerate(zip(self.layers, stream, strict=True)):
            inside = [stack.of_layer(arrays, i) for arrays in (parameters, gradients, state)]
            layer.bind(inside[0], inside[1], inside[2], own)

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        for layer, inner in zip(self.layers, v.inner, strict=True):
            layer.forward(be, inner, training)
        be.xp.add(v.x, v.inner[-1].a, out=v.a)

    def begin_backward(self, be: Backend, v: Tensors, training: bool) -> None:
        last = v.inner[-1]
        be.xp.copyto(last.delta, v.delta)
        be.times_derivative(self.layers[-1].activation, last.saved, last.delta)
        for i in range(len(self.layers) - 1, -1, -1):
            layer, inner = self.layers[i], v.inner[i]
            layer.begin_backward(be, inner, training)
            if i:
                layer.propagate(be, inner, v.inner[i - 1], self.layers[i - 1].activation, training)

    @property
    def accumulates(self) -> bool:
        """Whether all layers inside that have gradients do."""
        inside = [layer for layer in self.layers if layer.gradient_arrays]
        return super().accumulates and all(isinstance(e, AccumulatingLayer) and e.accumulates for e in inside)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        for i, (layer, inner) in enumerate(zip(self.layers, v.inner, strict=True)):
            if isinstance(layer, AccumulatingLayer) and layer.accumulates:
                layer.gradients_into(be, inner, stack.of_layer(arrays, i), beta)
            else:
                # Then `arrays` are the usual ones, since this block does not accumulate either.
                layer.gradients(be, inner, beta)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        below = Tensors(saved=v.x, delta=dx)
        self.layers[0].propagate(be, v.inner[0], below, _IDENTITY, training)
        be.xp.add(dx, v.delta, out=dx)

    def __repr__(self) -> str:
        return f"Residual([{', '.join(map(repr, self.layers))}])"
