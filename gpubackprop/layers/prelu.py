"""The rectifier whose slope below zero is learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.checks import finite, whole_number
from gpubackprop.errors import ArgumentError
from gpubackprop.layers.base import AccumulatingLayer


class PReLU(AccumulatingLayer):
    """a = x where x > 0, else slope x, with a trained slope (He et al., 2015): one for all units, or one for each.

    x (n, width). initial: the slope to begin with. Raises ArgumentError for a wrong width or a slope that is no finite number.

        dC/dslope = sum of delta * min(x, 0)        delta_below = delta where x > 0, else slope * delta
    """

    kinks = (0.0,)

    def __init__(self, width: int, *, shared: bool = True, initial: float = 0.25) -> None:
        self.width = whole_number("width", width)
        self.shared = bool(shared)
        self.start = finite("initial", initial)

    def build(self, width: int) -> int:
        if width != self.width:
            raise ArgumentError(f"takes {self.width} units, but what comes before it has {width} outputs")
        return width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"slope": (1 if self.shared else self.width,)}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"slope": np.full(1 if self.shared else self.width, self.start)}

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        xp, t = be.xp, be.scratch(v.x)
        xp.minimum(v.x, 0.0, out=t)
        xp.multiply(t, self.parameters["slope"], out=t)
        xp.maximum(v.x, 0.0, out=v.a)
        xp.add(v.a, t, out=v.a)

    def gradients_into(self, be: Backend, v: Tensors, arrays: dict[str, Array], beta: float) -> None:
        gradient = arrays["slope"]
        xp, t = be.xp, be.scratch(v.x, dtype=gradient.dtype)
        xp.minimum(v.x, 0.0, out=t)
        xp.multiply(t, v.delta, out=t)
        part = be.scratch(gradient, 1)
        if self.shared:
            sums = be.scratch(v.x[0], 2, gradient.dtype)
            be.column_sums(t, sums)
            be.column_sums(sums.reshape(-1, 1), part)
        else:
            be.column_sums(t, part)
        if beta:
            xp.multiply(gradient, beta, out=gradient)
            xp.add(gradient, part, out=gradient)
        else:
            xp.copyto(gradient, part)

    def backward(self, be: Backend, v: Tensors, dx: Array, training: bool) -> None:
        # h + slope (1 - h), h = 1 where x > 0, else 0.
        xp, h, t = be.xp, be.scratch(v.delta), be.scratch(v.delta, 1)
        be.heaviside(v.x, h)
        xp.subtract(1.0, h, out=t)
        xp.multiply(t, self.parameters["slope"], out=t)
        xp.add(t, h, out=t)
        xp.multiply(v.delta, t, out=dx)

    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "shared": self.shared, "initial": self.start}
