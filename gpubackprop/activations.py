"""Activation functions f and their derivatives, each written once, in array expressions.

Most share their exponential between f and f': the forward pass leaves f' in the place of z (`saves = "slope"`), and the
backward pass is one product. Where f' follows from the output without a loss of digits it is written from a (`saves = "a"`),
so that a needs no memory beside it. Definitions and default constants are PyTorch's.

Both are right to a few units in the last place wherever they are normal numbers, and no finite z overflows on the way
(but for |z| within a factor 2 of the largest number): exponentials are taken of what is at most the type's largest
exponent, above which f or f' no longer changes.

Every function writes into memory that it is handed, with scratch from the backend (`t`, `u`).
What f is computed from is analytic but for the sign of z, so that a complex step (Squire and Trapp, 1998) passes through it.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, ClassVar

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import Formula, fraction, from_table, positive
from gpubackprop.errors import ArgumentError
from gpubackprop.precision import largest_exponent


class Activation(Formula):
    """A function f that is applied to each element, and its derivative.

    A user-defined function derives from this class, sets `name` and defines both methods; an instance is handed to a layer as
    `activation=`. It keeps the arguments of its constructor as attributes of the same names. `gpubackprop.testing.check_layer`
    checks its derivative.
    """

    _noun = "activation"
    _mathematics: ClassVar[set[str]] = {"forward", "times_derivative"}
    saves: ClassVar[str] = "a"
    """The array that is kept for the backward pass: the output "a", "z", or "slope": f'(z), which `forward` writes over z."""
    family: ClassVar[str] = "glorot"
    """The initialisation that suits it: "he", "lecun" or "glorot"."""
    smooth: ClassVar[bool] = True
    """Whether f has all its derivatives everywhere, where else a finite difference may not be trusted."""
    kinks: ClassVar[tuple[float, ...]] = (0.0,)
    """The values of a at which f' jumps, where f is not smooth."""

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        """a = f(z), and z = f'(z) where `saves` is "slope" and z is not a itself. `a` may be `z` unless `saves` is "z"."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(be, z, a)")

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        """delta = delta * f'(z), from `saved`, which is a, z or f'(z), as `saves` says."""
        if self.saves != "slope":
            raise NotImplementedError(f"{type(self).__name__} must define times_derivative(be, saved, delta)")
        be.xp.multiply(delta, saved, out=delta)


class Identity(Activation):
    """f(z) = z."""

    name = "identity"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        if a is not z:
            be.xp.copyto(a, z)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        return


class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)) = e / (1 + e) with e = exp(z); f' = f / (1 + e)."""

    name = "sigmoid"
    saves = "slope"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t = be.xp, be.scratch(z)
        xp.minimum(z, largest_exponent(z.dtype), out=t)
        xp.exp(t, out=a)
        xp.add(a, 1.0, out=t)
        xp.divide(a, t, out=a)
        if a is not z:
            xp.divide(a, t, out=z)


class Tanh(Activation):
    """f(z) = tanh z; f' = 1 / cosh(z)^2 = 4 e / (1 + e)^2 with e = exp(-2 |z|)."""

    name = "tanh"
    saves = "slope"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t = be.xp, be.scratch(z)
        xp.tanh(z, out=a)
        if a is z:
            return
        xp.abs(z, out=z)
        xp.multiply(z, -2.0, out=z)
        xp.exp(z, out=z)
        xp.add(z, 1.0, out=t)
        xp.divide(2.0, t, out=t)
        xp.multiply(z, t, out=z)
        xp.multiply(z, t, out=z)


class ReLU(Activation):
    """f(z) = max(z, 0); f' = 1 where a > 0, else 0."""

    name = "relu"
    family = "he"
    smooth = False

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        be.xp.maximum(z, 0.0, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        t = be.scratch(delta)
        be.heaviside(saved, t)
        be.xp.multiply(delta, t, out=delta)


class LeakyReLU(Activation):
    """f(z) = z where z > 0, else slope z (Maas et al., 2013); f' = 1 where a > 0, else slope.

    Raises ArgumentError unless 0 <= slope <= 1.
    """

    name = "leaky_relu"
    family = "he"
    smooth = False

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = fraction("slope", slope)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        t = be.scratch(z)
        be.xp.multiply(z, self.slope, out=t)
        be.xp.maximum(z, t, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        be.heaviside(saved, t)
        xp.multiply(t, 1 - self.slope, out=t)
        xp.add(t, self.slope, out=t)
        xp.multiply(delta, t, out=delta)


class ELU(Activation):
    """f(z) = scale z where z > 0, else scale alpha (exp(z) - 1) (Clevert et al., 2016, with scale = 1).

    f' = scale where z > 0, else scale alpha exp(z). Raises ArgumentError unless alpha > 0.
    """

    name = "elu"
    saves = "slope"
    family = "he"
    smooth = False
    scale = 1.0

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = positive("alpha", alpha)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, u = be.xp, be.scratch(z), be.scratch(z, 1)
        below = self.scale * self.alpha
        apart = a is not z
        xp.minimum(z, 0.0, out=t)
        if apart and self.alpha != 1.0:
            # The factor of the exponential: scale alpha where z <= 0, scale elsewhere.
            be.heaviside(z, u)
            xp.multiply(u, self.scale - below, out=u)
            xp.add(u, below, out=u)
        xp.maximum(z, 0.0, out=a)
        if self.scale != 1.0:
            xp.multiply(a, self.scale, out=a)
        if apart:
            xp.exp(t, out=z)
            if self.alpha != 1.0:
                xp.multiply(z, u, out=z)
        xp.expm1(t, out=t)
        if below != 1.0:
            xp.multiply(t, below, out=t)
        xp.add(a, t, out=a)


class SELU(ELU):
    """ELU with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""

    name = "selu"
    family = "lecun"
    scale = 1.0507009873554804934193349852946

    def __init__(self) -> None:
        super().__init__(1.6732632423543772848170429916717)


class CELU(Activation):
    """f(z) = z where z > 0, else alpha (exp(z / alpha) - 1) (Barron, 2017); f' = 1 where z > 0, else exp(z / alpha).

    Raises ArgumentError unless alpha > 0.
    """

    name = "celu"
    saves = "slope"
    family = "he"
    # f' is continuous at 0, and its own derivative is not.
    smooth = False

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = positive("alpha", alpha)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, u = be.xp, be.scratch(z), be.scratch(z, 1)
        xp.minimum(z, 0.0, out=t)
        xp.multiply(t, 1 / self.alpha, out=t)
        xp.expm1(t, out=u)
        xp.multiply(u, self.alpha, out=u)
        xp.maximum(z, 0.0, out=a)
        xp.add(a, u, out=a)
        if a is not z:
            xp.exp(t, out=z)


class Softplus(Activation):
    """f(z) = log(1 + e) / beta with e = exp(beta z), never below z; f' = e / (1 + e). Raises ArgumentError unless beta > 0."""

    name = "softplus"
    saves = "slope"
    family = "he"

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = positive("beta", beta)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, u = be.xp, be.scratch(z), be.scratch(z, 1)
        if self.beta == 1.0:
            xp.minimum(z, largest_exponent(z.dtype), out=t)
        else:
            xp.multiply(z, self.beta, out=t)
            xp.minimum(t, largest_exponent(z.dtype), out=t)
        xp.exp(t, out=t)
        xp.log1p(t, out=u)
        if self.beta != 1.0:
            xp.multiply(u, 1 / self.beta, out=u)
        # z itself above the largest exponent.
        xp.maximum(z, u, out=a)
        if a is not z:
            xp.add(t, 1.0, out=u)
            xp.divide(t, u, out=z)


class SiLU(Activation):
    """f(z) = z s, s = sigmoid(z) (Elfwing et al., 2018); f' = s (1 + z (1 - s)), 1 - s = 1 / (1 + exp(z))."""

    name = "silu"
    saves = "slope"
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, u = be.xp, be.scratch(z), be.scratch(z, 1)
        xp.minimum(z, largest_exponent(z.dtype), out=t)
        xp.exp(t, out=u)
        if a is z:
            xp.add(u, 1.0, out=t)
            xp.divide(u, t, out=u)
            xp.multiply(z, u, out=a)
            return
        xp.add(u, 1.0, out=a)
        xp.divide(u, a, out=u)
        xp.divide(t, a, out=t)
        xp.multiply(z, u, out=a)
        xp.add(t, 1.0, out=t)
        xp.multiply(u, t, out=z)


class GELU(Activation):
    """f(z) = z Phi(z), exact (Hendrycks and Gimpel, 2016); f' = Phi(z) + z phi(z).

    With t = |z| and the tail Q(t) = 1 - Phi(t): f = max(z, 0) - t Q, and f' = 1 - d where z > 0, else d, d = Q - t phi.
    """

    name = "gelu"
    saves = "slope"
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, q, density = be.xp, be.scratch(z), be.scratch(z, 1), be.scratch(z, 2)
        xp.negative(z, out=t)
        xp.maximum(z, t, out=t)
        xp.minimum(t, _END[z.dtype.itemsize <= 4], out=t)
        _normal_tail(be, t, q, density, be.scratch(z, 3))
        apart = a is not z
        if apart:
            xp.multiply(t, density, out=density)
            xp.subtract(q, density, out=density)
        xp.multiply(t, q, out=q)
        xp.maximum(z, 0.0, out=a)
        if apart:
            be.heaviside(z, t)
            xp.subtract(a, q, out=a)
            # d + h (1 - 2 d), h = 1 where z > 0, else 0.
            xp.multiply(density, -2.0, out=q)
            xp.add(q, 1.0, out=q)
            xp.multiply(q, t, out=q)
            xp.add(density, q, out=z)
        else:
            xp.subtract(a, q, out=a)


class GELUTanh(Activation):
    """f(z) = z s, s = (1 + tanh(c (z + k z^3))) / 2 = sigmoid(2 c (z + k z^3)), c = sqrt(2/pi), k = 0.044715: GELU's
    approximation.

    f' = s (1 + 2 c z (1 - s) (1 + 3 k z^2)).
    """

    name = "gelu_tanh"
    saves = "slope"
    family = "he"
    c = sqrt(2 / pi)
    k = 0.044715

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, u = be.xp, be.scratch(z), be.scratch(z, 1)
        # Below the first s is 0 in this type, above the second it is 1.
        least, most = (-11.0, 9.9) if z.dtype.itemsize <= 4 else (-22.0, 21.0)
        xp.maximum(z, least, out=t)
        xp.minimum(t, most, out=t)
        xp.multiply(t, t, out=u)
        xp.multiply(u, 2 * self.c * self.k, out=u)
        xp.add(u, 2 * self.c, out=u)
        xp.multiply(u, t, out=u)
        xp.exp(u, out=u)
        if a is z:
            xp.add(u, 1.0, out=t)
            xp.divide(u, t, out=u)
            xp.multiply(z, u, out=a)
            return
        xp.add(u, 1.0, out=a)
        xp.divide(u, a, out=u)
        # z (1 - s) (1 + 3 k z^2) 2 c, from z / (1 + e) and z^2.
        w = be.scratch(z, 2)
        xp.multiply(t, t, out=w)
        xp.multiply(w, 6 * self.c * self.k, out=w)
        xp.add(w, 2 * self.c, out=w)
        xp.multiply(w, t, out=w)
        xp.divide(w, a, out=w)
        xp.multiply(z, u, out=a)
        xp.add(w, 1.0, out=w)
        xp.multiply(u, w, out=z)


class Mish(Activation):
    """f(z) = z tanh(log(1 + e)) with e = exp(z) (Misra, 2020), which is z w / (w + 2) with w = e (e + 2).

    f' = w / (w + 2) + 4 z e (e + 1) / (w + 2)^2.
    """

    name = "mish"
    saves = "slope"
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t, e, w = be.xp, be.scratch(z), be.scratch(z, 1), be.scratch(z, 2)
        # The square of e must not overflow; beyond that, f is z.
        xp.minimum(z, largest_exponent(z.dtype) // 2 - 1, out=t)
        xp.exp(t, out=e)
        xp.add(e, 2.0, out=w)
        xp.multiply(w, e, out=w)
        if a is z:
            xp.add(w, 2.0, out=t)
            xp.divide(w, t, out=w)
            xp.multiply(z, w, out=a)
            return
        xp.add(w, 2.0, out=a)
        xp.divide(w, a, out=w)
        xp.divide(e, a, out=e)
        xp.divide(t, a, out=t)
        xp.multiply(t, e, out=t)
        xp.multiply(t, 4.0, out=t)
        # e (e + 1) / (w + 2)^2 = (e / (w + 2))^2 + e / (w + 2) / (w + 2), whose first factor is t's.
        xp.multiply(e, a, out=e)
        xp.add(e, 1.0, out=e)
        xp.multiply(t, e, out=t)
        xp.multiply(z, w, out=a)
        xp.add(w, t, out=z)


class Softsign(Activation):
    """f(z) = z / (1 + |z|) (Bergstra et al., 2009); f' = 1 / (1 + |z|)^2."""

    name = "softsign"
    saves = "slope"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t = be.xp, be.scratch(z)
        xp.negative(z, out=t)
        xp.maximum(z, t, out=t)
        xp.add(t, 1.0, out=t)
        xp.divide(z, t, out=a)
        if a is not z:
            xp.divide(1.0, t, out=z)
            xp.multiply(z, z, out=z)


class HardSigmoid(Activation):
    """f(z) = z / 6 + 1/2, cut to 0 .. 1 (Courbariaux et al., 2015, with this slope in Howard et al., 2019); f' = 1/6 where
    0 < a < 1, else 0."""

    name = "hard_sigmoid"
    smooth = False
    kinks = (0.0, 1.0)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp = be.xp
        xp.add(z, 3.0, out=a)
        xp.multiply(a, 1 / 6, out=a)
        xp.maximum(a, 0.0, out=a)
        xp.minimum(a, 1.0, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        xp.multiply(saved, saved, out=t)
        xp.subtract(saved, t, out=t)
        be.heaviside(t, t)
        xp.multiply(t, 1 / 6, out=t)
        xp.multiply(delta, t, out=delta)


class HardSwish(Activation):
    """f(z) = z h, h = z / 6 + 1/2 cut to 0 .. 1 (Howard et al., 2019); f' = h + z / 6 where 0 < h < 1, else h."""

    name = "hard_swish"
    saves = "slope"
    family = "he"
    smooth = False
    kinks = (0.0, 3.0)

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, h, t = be.xp, be.scratch(z), be.scratch(z, 1)
        xp.add(z, 3.0, out=h)
        xp.multiply(h, 1 / 6, out=h)
        xp.maximum(h, 0.0, out=h)
        xp.minimum(h, 1.0, out=h)
        if a is z:
            xp.multiply(z, h, out=a)
            return
        xp.multiply(h, h, out=t)
        xp.subtract(h, t, out=t)
        be.heaviside(t, t)
        xp.multiply(t, 1 / 6, out=t)
        xp.multiply(t, z, out=t)
        xp.multiply(z, h, out=a)
        xp.add(h, t, out=z)


# The tail of the normal distribution, Q(t) = 1 - Phi(t) for t >= 0, is exp(-t^2 / 2) P(t) / R(t): a rational interpolant of
# Mills' ratio over sqrt(2 pi) in Chebyshev points, computed with 60 digits, lowest power first. Relative error 8e-9 up to
# t = 14.6 (float32) and 1e-16 up to t = 39 (float64), beyond which Q is 0.
_END = {True: 14.6, False: 39.0}
_TAIL = {
    True: (
        (0.5000000020506422, 0.4378142613211235, 0.18283367337260892, 0.0404847019286859, 0.004090530151362216),
        (1.0, 1.6735134066003716, 1.2009338901871243, 0.4683995012927978, 0.10148652284607851, 0.010253320010003864),
    ),
    False: (
        (
            0.5, 0.7758577209030002, 0.5954446719693803, 0.2903132931433541, 0.0981308959658345, 0.023751350888201746,
            0.004115983017212425, 0.0004941506706428816, 3.757916535870989e-05, 1.3993048118643565e-06,
        ),
        (
            1.0, 2.349600002608859, 2.5655989100829704, 1.718839864814702, 0.7848013162542371, 0.2561065130662715,
            0.06076744505109421, 0.010411436397331716, 0.0012421595801411335, 9.419699842335464e-05, 3.5075370062550256e-06,
        ),
    ),
}  # fmt: skip


def _normal_tail(be: Backend, t: Array, q: Array, density: Array, u: Array) -> None:
    """q = 1 - Phi(t), density = exp(-t^2 / 2) / sqrt(2 pi), for 0 <= t <= _END. u: memory to work in."""
    xp = be.xp
    above, below = _TAIL[t.dtype.itemsize <= 4]
    # exp(-t^2 / 2) = exp(-h^2 / 2) exp(-(t - h) (t + h) / 2) with t rounded to eighths: the square of h is exact.
    xp.multiply(t, 8.0, out=q)
    xp.rint(q, out=q)
    xp.multiply(q, 0.125, out=q)
    xp.subtract(t, q, out=density)
    xp.add(t, q, out=u)
    xp.multiply(density, u, out=density)
    xp.multiply(density, -0.5, out=density)
    xp.exp(density, out=density)
    xp.multiply(q, q, out=q)
    xp.multiply(q, -0.5, out=q)
    xp.exp(q, out=q)
    xp.multiply(density, q, out=density)
    for coefficients, out in ((above, q), (below, u)):
        xp.multiply(t, coefficients[-1], out=out)
        for c in coefficients[-2:0:-1]:
            xp.add(out, c, out=out)
            xp.multiply(out, t, out=out)
        xp.add(out, coefficients[0], out=out)
    xp.divide(q, u, out=q)
    xp.multiply(q, density, out=q)
    xp.multiply(density, 1 / sqrt(2 * pi), out=density)


ACTIVATIONS: dict[str, type[Activation]] = {
    f.name: f
    for f in (
        Identity, Sigmoid, Tanh, ReLU, LeakyReLU, ELU, SELU, CELU, GELU, GELUTanh, Softplus, SiLU, Mish, Softsign, HardSigmoid,
        HardSwish,
    )
}  # fmt: skip


def get_activation(f: str | dict[str, Any] | Activation | None) -> Activation:
    """The activation with that name (None: identity), {"name": ..., its settings}, or `f` itself.

    Raises ArgumentError for an unknown name or setting.
    """
    if isinstance(f, Activation):
        return f
    if f is None:
        return Identity()
    if (f.get("name") if isinstance(f, dict) else f) == "softmax":
        raise ArgumentError(
            'activation="softmax": leave the last layer without an activation and take loss="cross_entropy", which '
            "works on logits; predict() then returns the softmax"
        )
    return from_table("activation", f, ACTIVATIONS)
