"""Optimizers that scale each parameter's step by the size of its past gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import not_negative, positive, share
from gpubackprop.optimizers.base import Common, Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RMSprop(Optimizer):
    """s <- alpha s + (1-alpha) g^2; p <- p - eta g / (sqrt(s) + eps) (Tieleman and Hinton, 2012; Graves, 2013).

    centered: s minus the square of the gradient's own decaying average stands under the root. momentum: the quotient
    goes through a velocity first.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(learning_rate, **common)
        self.alpha = share("alpha", alpha)
        self.eps = positive("eps", eps)
        self.momentum = share("momentum", momentum)
        self.centered = bool(centered)

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        return (
            "square_average",
            *(("velocity",) if self.momentum else ()),
            *(("gradient_average",) if self.centered else ()),
        )

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, lr, s = be.xp, be.scratch(p), h[0], state[0]
        self.add_decay(be, p, g, h)
        xp.multiply(g, g, out=t)
        be.decaying_average(s, self.alpha, t, t)
        if self.centered:
            be.decaying_average(state[-1], self.alpha, g, t)
            xp.multiply(state[-1], state[-1], out=t)
            xp.subtract(s, t, out=t)
            # Rounding may leave a variance just under zero.
            xp.maximum(t, 0.0, out=t)
            xp.sqrt(t, out=t)
        else:
            xp.sqrt(s, out=t)
        xp.add(t, self.eps, out=t)
        xp.divide(g, t, out=g)
        if self.momentum:
            v = state[1]
            xp.multiply(v, self.momentum, out=v)
            xp.add(v, g, out=v)
            xp.multiply(v, lr, out=g)
        else:
            xp.multiply(g, lr, out=g)
        xp.subtract(p, g, out=p)


class Adagrad(Optimizer):
    """s <- s + g^2; p <- p - eta_t g / (sqrt(s) + eps), eta_t = eta / (1 + (t-1) lr_decay) (Duchi et al., 2011)."""

    states = ("square_sum",)

    def __init__(
        self, learning_rate: float = 0.01, lr_decay: float = 0.0, eps: float = 1e-10, **common: Unpack[Common]
    ) -> None:
        super().__init__(learning_rate, **common)
        self.lr_decay = not_negative("lr_decay", lr_decay)
        self.eps = positive("eps", eps)

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return (lr / (1 + (t - 1) * self.lr_decay),)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, lr, (s,) = be.xp, be.scratch(p), h[0], state
        self.add_decay(be, p, g, h)
        xp.multiply(g, g, out=t)
        xp.add(s, t, out=s)
        xp.sqrt(s, out=t)
        xp.add(t, self.eps, out=t)
        xp.divide(g, t, out=g)
        xp.multiply(g, lr, out=g)
        xp.subtract(p, g, out=p)


class Adadelta(Optimizer):
    """s <- rho s + (1-rho) g^2; d = g sqrt(u + eps) / sqrt(s + eps); u <- rho u + (1-rho) d^2; p <- p - eta d
    (Zeiler, 2012)."""

    states = ("square_average", "delta_average")

    def __init__(
        self, learning_rate: float = 1.0, rho: float = 0.9, eps: float = 1e-6, **common: Unpack[Common]
    ) -> None:
        super().__init__(learning_rate, **common)
        self.rho = share("rho", rho)
        self.eps = positive("eps", eps)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, lr, (s, u) = be.xp, be.scratch(p), h[0], state
        self.add_decay(be, p, g, h)
        xp.multiply(g, g, out=t)
        be.decaying_average(s, self.rho, t, t)
        xp.add(s, self.eps, out=t)
        xp.sqrt(t, out=t)
        xp.divide(g, t, out=g)
        xp.add(u, self.eps, out=t)
        xp.sqrt(t, out=t)
        xp.multiply(g, t, out=g)
        xp.multiply(g, g, out=t)
        be.decaying_average(u, self.rho, t, t)
        xp.multiply(g, lr, out=g)
        xp.subtract(p, g, out=p)
