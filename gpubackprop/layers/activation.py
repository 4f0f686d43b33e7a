"""An activation as a layer of its own."""

from __future__ import annotations

from typing import Any

from gpubackprop.activations import Activation as Function
from gpubackprop.activations import get_activation
from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.layers.base import Layer


class Activation(Layer):
    """a = f(x), elementwise, with f by name: the same as a `Dense` layer's `activation`, on its own.

    Raises ArgumentError for an unknown name.
    """

    passes_delta = True

    def __init__(self, activation: str | dict[str, Any] | Function) -> None:
        self.activation = get_activation(activation)

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        arrays = v.x, v.z, v.a
        for x, z, a in be.row_parts(*arrays) if self.activation.recordable else [arrays]:
            be.xp.copyto(z, x)
            be.activate(self.activation, z, a)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        if dx is not v.delta:
            be.xp.copyto(dx, v.delta)

    def settings(self) -> dict[str, Any]:
        return {"activation": self.activation.described()}
