"""The fully connected layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.activations import Activation, get_activation
from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import check_array, whole_number
from gpubackprop.errors import ArgumentError
from gpubackprop.initializers import Initializer, get_initializer
from gpubackprop.layers.base import AccumulatingLayer, Stream


class Dense(AccumulatingLayer):
    """a = f(x W + b).  x (n, d), W (d, m), b (m,), a (n, m).

    inputs d and outputs m: widths; activation f: a name, {"name": ..., its settings} or an `Activation`; bias: whether there is
    a b; initializer: of W, by default the one that suits f (see `gpubackprop.initializers`); b starts at zero.

        dC/dW = x^T delta        dC/db = column sums of delta        delta_below = (delta W^T) * f'(z_below)

    Raises ArgumentError for widths below 1 and unknown names, ArgumentTypeError for widths that are no integers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: str | dict[str, Any] | Activation | None = None,
        *,
        bias: bool = True,
        initializer: str | Initializer | None = None,
    ) -> None:
        self.inputs = whole_number("inputs", inputs)
        self.outputs = whole_number("outputs", outputs)
        self.activation = get_activation(activation)
        self.bias = bool(bias)
        self.initializer = get_initializer(initializer, self.activation)

    def build(self, width: int) -> int:
        if width != self.inputs:
            raise ArgumentError(f"takes {self.inputs} inputs, but what comes before it has {width} outputs")
        return self.outputs

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.inputs, self.outputs), **({"bias": (self.outputs,)} if self.bias else {})}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        shape, drawn = (self.inputs, self.outputs), self.initializer(rng, self.inputs, self.outputs)
        weight = check_array(drawn, shape, np.dtype(np.float64), "the initializer's weight")
        return {"weight": weight, **({"bias": np.zeros(self.outputs)} if self.bias else {})}

    def bind(
        self, parameters: dict[str, Array], gradients: dict[str, Array], state: dict[str, Array], stream: Stream
    ) -> None:
        super().bind(parameters, gradients, state, stream)
        self.W, self.b = parameters["weight"], parameters.get("bias")

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        be.affine(v.x, self.W, self.b, self.activation, v.z, v.a)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        """dC/dW and dC/db added to beta times what `arrays` ("weight", "bias") holds."""
        be.affine_gradients(v.x, v.delta, arrays["weight"], arrays.get("bias"), beta)

    def propagate(self, be: Backend, v: Tensors, below: Tensors, f: Activation, training: bool) -> None:
        be.propagate(v.delta, self.W, f, below.saved, below.delta)

    def settings(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "activation": self.activation.described(),
            **({} if self.bias else {"bias": False}),
        }
