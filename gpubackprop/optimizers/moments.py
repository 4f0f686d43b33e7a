"""Adam and its relatives: steps from decaying averages of the gradient (m) and of its square (v)."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import positive, share
from gpubackprop.errors import ArgumentError
from gpubackprop.optimizers.base import Common, Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BetaOptions(Common, total=False):
    """With the decays of the two averages."""

    betas: tuple[float, float]


class MomentOptions(BetaOptions, total=False):
    """With what keeps the quotient finite."""

    eps: float


class _Moments(Optimizer):
    """m <- b1 m + (1-b1) g; v <- b2 v + (1-b2) g^2; c1 = 1 - b1^t and c2 = 1 - b2^t take out their start at zero."""

    states = ("m", "v")
    betas = (0.9, 0.999)

    def __init__(
        self,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(learning_rate, **common)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ArgumentError(f"betas must be two numbers in [0, 1), as in (0.9, 0.999); got {betas!r}")
        self.betas = (share("betas[0]", betas[0]), share("betas[1]", betas[1]))
        self.eps = positive("eps", eps)

    def _corrections(self, t: int) -> tuple[float, float]:
        return 1 - self.betas[0] ** t, 1 - self.betas[1] ** t

    def _update_moments(self, be: Backend, g: Array, m: Array, v: Array, t: Array) -> None:
        be.xp.multiply(g, g, out=t)
        be.decaying_average(v, self.betas[1], t, t)
        be.decaying_average(m, self.betas[0], g, t)


class Adam(_Moments):
    """p <- p - eta (m/c1) / (sqrt(v/c2) + eps): Algorithm 1 of Kingma and Ba (2015), with eps outside the root."""

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        c1, c2 = self._corrections(t)
        return (lr / c1, sqrt(c2))

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, (m, v) = be.xp, be.scratch(p), state
        self.add_decay(be, p, g, h)
        self._update_moments(be, g, m, v, t)
        # sqrt(c2) goes to the numbers, as in section 2 of the paper: (eta/c1) sqrt(c2) m / (sqrt(v) + eps sqrt(c2)).
        rate, eps = be.scratch(h[0], 1), be.scratch(h[0], 2)
        xp.multiply(h[0], h[1], out=rate)
        xp.multiply(h[1], self.eps, out=eps)
        xp.sqrt(v, out=t)
        xp.add(t, eps, out=t)
        xp.divide(m, t, out=t)
        be.subtract_scaled(p, rate, t)


class AdamW(Adam):
    """Adam with decoupled weight decay, 0.01 by default (Loshchilov and Hutter, 2019)."""

    def __init__(self, learning_rate: float = 1e-3, **options: Unpack[MomentOptions]) -> None:
        options.setdefault("decoupled_weight_decay", True)
        options.setdefault("weight_decay", 0.01)
        super().__init__(learning_rate, **options)


class Adamax(_Moments):
    """u <- max(b2 u, |g| + eps); p <- p - (eta/c1) m / u: Algorithm 2 of Kingma and Ba (2015)."""

    states = ("m", "u")

    def __init__(self, learning_rate: float = 2e-3, **options: Unpack[MomentOptions]) -> None:
        super().__init__(learning_rate, **options)

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return (lr / self._corrections(t)[0],)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, (m, u) = be.xp, be.scratch(p), state
        self.add_decay(be, p, g, h)
        be.decaying_average(m, self.betas[0], g, t)
        # Not into g: what is added there would stay in the gaps of the flat buffer, and grow from step to step.
        xp.abs(g, out=t)
        xp.add(t, self.eps, out=t)
        xp.multiply(u, self.betas[1], out=u)
        xp.maximum(u, t, out=u)
        xp.divide(m, u, out=t)
        be.subtract_scaled(p, h[0], t)


class NAdam(_Moments):
    """Adam with Nesterov's momentum (Dozat, 2016): p <- p - (a g + b m) / (sqrt(v/c2) + eps), where
    mu_t = b1 (1 - 0.96^(t psi) / 2), a = eta (1 - mu_t) / (1 - prod mu_i), b = eta mu_{t+1} / (1 - mu_{t+1} prod mu_i)
    and psi is `momentum_decay`."""

    def __init__(
        self, learning_rate: float = 2e-3, momentum_decay: float = 4e-3, **options: Unpack[MomentOptions]
    ) -> None:
        super().__init__(learning_rate, **options)
        self.momentum_decay = positive("momentum_decay", momentum_decay)
        self._product = (0, 1.0)

    def _mu(self, t: int) -> float:
        return self.betas[0] * (1 - 0.5 * float(0.96 ** (t * self.momentum_decay)))

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        done, product = self._product if self._product[0] <= t else (0, 1.0)
        for i in range(done + 1, t + 1):
            product *= self._mu(i)
        self._product = (t, product)
        mu, after = self._mu(t), self._mu(t + 1)
        return (lr * (1 - mu) / (1 - product), lr * after / (1 - product * after), sqrt(self._corrections(t)[1]))

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, (m, v) = be.xp, be.scratch(p), state
        self.add_decay(be, p, g, h)
        self._update_moments(be, g, m, v, t)
        xp.multiply(g, h[0], out=g)
        xp.multiply(m, h[1], out=t)
        xp.add(g, t, out=g)
        xp.sqrt(v, out=t)
        xp.divide(t, h[2], out=t)
        xp.add(t, self.eps, out=t)
        xp.divide(g, t, out=g)
        xp.subtract(p, g, out=p)


class RAdam(_Moments):
    """Rectified Adam (Liu et al., 2020): while the variance of the adaptive step is unbounded (rho_t <= 5), the step
    is eta m / c1; after that it is Adam's, times the rectification r_t, with eps beside sqrt(v) as in PyTorch."""

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        c1, c2 = self._corrections(t)
        limit = 2 / (1 - self.betas[1]) - 1
        rho = limit - 2 * t * self.betas[1] ** t / c2
        if rho <= 5:
            return (lr / c1, 0.0)
        r = sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        return (0.0, lr * r * sqrt(c2) / c1)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        xp, t, (m, v) = be.xp, be.scratch(p), state
        self.add_decay(be, p, g, h)
        self._update_moments(be, g, m, v, t)
        xp.sqrt(v, out=t)
        xp.add(t, self.eps, out=t)
        xp.divide(h[1], t, out=t)
        xp.add(t, h[0], out=t)
        xp.multiply(t, m, out=t)
        xp.subtract(p, t, out=p)
