"""Optimizers for very large batches, whose step is scaled array by array to the norm of what it changes.

Biases and the gains of normalisations (one-dimensional arrays) are not scaled, as the papers' authors do.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import positive, share, whole_number
from gpubackprop.network.parameters import Parameters
from gpubackprop.optimizers.base import Common, Optimizer
from gpubackprop.optimizers.moments import BetaOptions, _Moments
from gpubackprop.optimizers.schedules import Polynomial

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Layerwise(Optimizer):
    workspace = ("_w", "_u", "_both", "_other")
    elementwise = False
    asks_of = True

    def bind(self, parameters: Parameters) -> None:
        if self.parameters is not parameters:
            be, P = parameters.backend, parameters.P
            self._w, self._u, self._both, self._other = (be.zeros((), P.dtype) for _ in range(4))
        super().bind(parameters)

    def rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        assert self.parameters is not None
        for s in self.parameters.segments:
            rule = self.of(s.name)
            if rule is not None:
                views = [flat[s.start : s.start + s.size] for flat in (p, g, *state)]
                assert isinstance(rule, _Layerwise)
                rule.segment_rule(be, views[0], views[1], tuple(views[2:]), s.is_weight)

    def segment_rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], is_weight: bool) -> None:
        """The rule for one array, flat; `is_weight`: whether it is a weight, whose step is scaled."""
        raise NotImplementedError

    def _ratio(self, be: Backend, numerator: Array, denominator: Array) -> Array:
        """numerator / denominator where both are above 0, else 1; 0-d, into `numerator`, without looking at them."""
        xp, both = be.xp, self._both
        be.heaviside(numerator, both)
        be.heaviside(denominator, self._other)
        xp.multiply(both, self._other, out=both)
        xp.multiply(numerator, both, out=numerator)
        xp.multiply(denominator, both, out=denominator)
        xp.subtract(1.0, both, out=both)
        xp.add(numerator, both, out=numerator)
        xp.add(denominator, both, out=denominator)
        xp.divide(numerator, denominator, out=numerator)
        return numerator


class LARS(_Layerwise):
    """v <- mu v + eta r (g + lambda w); w <- w - v, r = trust |w| / (|g| + lambda |w|) (You, Gitman and Ginsburg, 2017)."""

    states = ("velocity",)

    def __init__(
        self, learning_rate: float = 0.1, momentum: float = 0.9, trust: float = 1e-3, **common: Unpack[Common]
    ) -> None:
        super().__init__(learning_rate, **common)
        self.momentum = share("momentum", momentum)
        self.trust = positive("trust", trust)

    @classmethod
    def paper(cls, learning_rate: float, steps: int, warmup: int) -> LARS:
        """As You, Gitman and Ginsburg, "Large batch training of convolutional networks" (2017), trained: momentum 0.9, trust
        0.001, weight decay 0.0005, and after a linear warm-up the learning rate falls as (1 - p)^2 over the run. steps: of the
        whole run, of which `warmup` come first.

        The rate they sought for each network and batch size; it grows more slowly than the batch, and than its root. In their
        tables 3 and 4, runs of 100 epochs: ResNet-50 4, 9, 30, 33, 40 for batches of 256, 1K, 8K, 16K, 32K, with 5 epochs of
        warm-up for 1K and 8K and 12 beyond; AlexNet with BatchNorm 2, 10, 14, 23, 22 for 512, 4K, 8K, 16K, 32K, with 5."""
        falling = Polynomial(power=2.0, warmup=warmup, total=steps)
        return cls(learning_rate, momentum=0.9, trust=1e-3, weight_decay=5e-4, schedule=falling)

    def segment_rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], is_weight: bool) -> None:
        xp, w, u, (v,) = be.xp, self._w, self._u, state
        if is_weight:
            be.norm(p, w)
            be.norm(g, u)
            if self.weight_decay and not self.decoupled_weight_decay:
                xp.multiply(w, self.weight_decay, out=self._both)
                xp.add(u, self._both, out=u)
            xp.multiply(w, self.trust, out=w)
            self._ratio(be, w, u)
        self.add_decay(be, p, g, self.h, is_weight)
        xp.multiply(g, self.h[0], out=g)
        if is_weight:
            xp.multiply(g, w, out=g)
        xp.multiply(v, self.momentum, out=v)
        xp.add(v, g, out=v)
        xp.subtract(p, v, out=p)


class LAMB(_Layerwise, _Moments):
    """r = (m/c1) / (sqrt(v/c2) + eps) + lambda w; w <- w - eta (|w| / |r|) r: Algorithm 2 of You et al. (2020)."""

    def __init__(self, learning_rate: float = 1e-3, eps: float = 1e-6, **options: Unpack[BetaOptions]) -> None:
        _Moments.__init__(self, learning_rate, eps=eps, **options)

    @classmethod
    def paper(cls, batch_size: int, steps: int) -> LAMB:
        """As You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (2020), did without tuning,
        by a square-root rule and a warm-up of the same epochs for every batch: learning rate 0.005 sqrt(batch_size / 32768), a
        linear warm-up over the share batch_size / 163840 of the run (their table: 0.000625 and 1/320 at 512 rows to 0.005 and 1/5
        at 32768), then a linear fall to 0; weight decay 0.01, of weights alone. steps: of the whole run."""
        k = whole_number("batch_size", batch_size) / 32768
        warmup = min(round(whole_number("steps", steps, least=2) * k / 5), steps - 1)
        falling = Polynomial(warmup=warmup, total=steps)
        return cls(5e-3 * sqrt(k), weight_decay=0.01, decay="weights", schedule=falling)

    def scalars(self, lr: float, t: int) -> tuple[float, ...]:
        c1, c2 = self._corrections(t)
        return (lr, 1 / c1, sqrt(c2))

    def segment_rule(self, be: Backend, p: Array, g: Array, state: tuple[Array, ...], is_weight: bool) -> None:
        xp, t, w, u, (m, v), h = be.xp, be.scratch(p), self._w, self._u, state, self.h
        self._update_moments(be, g, m, v, t)
        xp.sqrt(v, out=t)
        xp.divide(t, h[2], out=t)
        xp.add(t, self.eps, out=t)
        xp.multiply(m, h[1], out=g)
        xp.divide(g, t, out=g)
        # Here the decay belongs to r, inside the ratio: it is not the L2 penalty of the other rules.
        if self.decays(is_weight):
            xp.multiply(p, self.weight_decay, out=t)
            xp.add(g, t, out=g)
        if is_weight:
            be.norm(p, w)
            be.norm(g, u)
            self._ratio(be, w, u)
            xp.multiply(g, w, out=g)
        xp.multiply(g, h[0], out=g)
        xp.subtract(p, g, out=p)
