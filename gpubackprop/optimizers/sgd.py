"""Gradient descent, with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import share
from gpubackprop.errors import ArgumentError
from gpubackprop.optimizers.base import Common, Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SGD(Optimizer):
    """p <- p - eta g; with momentum mu: v <- mu v + g, p <- p - eta v, or, with nesterov, p <- p - eta (g + mu v).

    Sutskever et al. (2013), in PyTorch's form, where eta multiplies the velocity and not the gradient.
    """

    def __init__(
        self, learning_rate: float = 1e-3, momentum: float = 0.0, nesterov: bool = False, **common: Unpack[Common]
    ) -> None:
        super().__init__(learning_rate, **common)
        self.momentum = share("momentum", momentum)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ArgumentError("nesterov=True needs a momentum above 0")

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("velocity",) if self.momentum else ()

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, lr = be.xp, h[0]
        self.add_decay(be, p, g, h)
        step = g
        if self.momentum:
            (step,) = state
            xp.multiply(step, self.momentum, out=step)
            xp.add(step, g, out=step)
        if self.nesterov:
            t = be.scratch(p)
            xp.multiply(step, self.momentum, out=t)
            xp.add(g, t, out=g)
            step = g
        xp.multiply(step, lr, out=g)
        xp.subtract(p, g, out=p)

    def accumulator(self) -> tuple[Array, float] | None:
        changed = (
            self.is_split
            or self.weight_decay
            or self.clip_norm is not None
            or self.clip_value is not None
            or self.track_norm
        )
        if not self.momentum or self.nesterov or changed:
            return None
        return self.state["velocity"], self.momentum

    def descend(self, be: Backend) -> None:
        assert self.parameters is not None
        be.subtract_scaled(self.parameters.P, self.h[0], self.state["velocity"])
