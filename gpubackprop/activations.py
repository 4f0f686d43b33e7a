"""Activation functions f and their derivatives, each written once, in array expressions.

f' is written from the stored output a = f(z) where that is possible (`saves = "a"`); GELU and SiLU are not
one-to-one, so that theirs is written from z (`saves = "z"`). Definitions and default constants are PyTorch's.

Every function writes into memory that it is handed, with scratch from the backend (`t`, `u`), and leaves its inputs as they
were. |z| is spelled max(z, -z) so that a complex step (Squire and Trapp, 1998) passes through it.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, ClassVar

from gpubackprop.backend.base import Array, Backend
from gpubackprop.errors import ArgumentError, unknown_name


class Activation:
    """A function f that is applied to each element, and its derivative.

    A function of one's own: derive from this class, set `name`, define both methods, and hand an instance to a
    layer as `activation=`. `gpubackprop.testing.check_layer` tells whether the derivative is right.
    """

    name: ClassVar[str]
    saves: ClassVar[str] = "a"
    """What f' is written from: the output "a", or "z"."""
    family: ClassVar[str] = "glorot"
    """The initialisation that suits it: "he", "lecun" or "glorot"."""
    smooth: ClassVar[bool] = True
    """Whether f has all its derivatives at z = 0, where else a finite difference may not be trusted."""
    recordable: ClassVar[bool] = False
    """Whether all work goes through `be` with `out=` and depends on no value, so that it can be recorded once and done again.
    False, which is right for any function, runs both methods anew at each step."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass with mathematics of its own must say so itself, whatever its parent says.
        if "recordable" not in vars(cls) and {"forward", "times_derivative"} & vars(cls).keys():
            cls.recordable = False

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        """a = f(z). `a` may be `z` itself where `saves == "a"`."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(be, z, a)")

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        """delta = delta * f'(z), from `saved`, which is a or z as `saves` says."""
        raise NotImplementedError(f"{type(self).__name__} must define times_derivative(be, saved, delta)")

    def __repr__(self) -> str:
        return f"<activation {self.name}>"


class Identity(Activation):
    """f(z) = z."""

    name = "identity"
    recordable = True

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        if a is not z:
            be.xp.copyto(a, z)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        return


class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z)) = (1 + tanh(z/2)) / 2, which overflows nowhere; f' = a (1 - a)."""

    name = "sigmoid"
    recordable = True

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp = be.xp
        xp.multiply(z, 0.5, out=a)
        xp.tanh(a, out=a)
        xp.multiply(a, 0.5, out=a)
        xp.add(a, 0.5, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        xp.multiply(delta, saved, out=delta)
        xp.subtract(1.0, saved, out=t)
        xp.multiply(delta, t, out=delta)


class Tanh(Activation):
    """f(z) = tanh z; f' = 1 - a^2."""

    name = "tanh"
    recordable = True

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        be.xp.tanh(z, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        xp.multiply(saved, saved, out=t)
        xp.subtract(1.0, t, out=t)
        xp.multiply(delta, t, out=delta)


class ReLU(Activation):
    """f(z) = max(z, 0); f' = 1 where a > 0, else 0."""

    name = "relu"
    recordable = True
    family = "he"
    smooth = False

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        be.xp.maximum(z, 0.0, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        t = be.scratch(delta)
        be.heaviside(saved, t)
        be.xp.multiply(delta, t, out=delta)


class LeakyReLU(Activation):
    """f(z) = z where z > 0, else 0.01 z (Maas et al., 2013); f' = 1 where a > 0, else 0.01."""

    name = "leaky_relu"
    recordable = True
    family = "he"
    smooth = False
    slope = 0.01

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
    """f(z) = scale z where z > 0, else scale alpha (exp(z) - 1) (Clevert et al., 2016, with alpha = scale = 1).

    f' = scale where a > 0, else a + scale alpha.
    """

    name = "elu"
    recordable = True
    family = "he"
    smooth = False
    alpha = 1.0
    scale = 1.0

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t = be.xp, be.scratch(z)
        xp.minimum(z, 0.0, out=t)
        xp.expm1(t, out=t)
        xp.multiply(t, self.scale * self.alpha, out=t)
        xp.maximum(z, 0.0, out=a)
        xp.multiply(a, self.scale, out=a)
        xp.add(a, t, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        xp.minimum(saved, 0.0, out=t)
        xp.add(t, self.scale * self.alpha, out=t)
        xp.multiply(delta, t, out=delta)
        if self.alpha != 1.0:
            # Where a > 0 the factor so far is scale alpha, and 1/alpha of that is what it should be.
            be.heaviside(saved, t)
            xp.multiply(t, 1 / self.alpha - 1, out=t)
            xp.add(t, 1.0, out=t)
            xp.multiply(delta, t, out=delta)


class SELU(ELU):
    """ELU with the constants that keep mean 0 and variance 1 (Klambauer et al., 2017)."""

    name = "selu"
    family = "lecun"
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946


class Softplus(Activation):
    """f(z) = log(1 + exp(z)) = max(z, 0) + log1p(exp(-|z|)); f' = 1 - exp(-a)."""

    name = "softplus"
    recordable = True
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        xp, t = be.xp, be.scratch(z)
        xp.negative(z, out=t)
        xp.minimum(z, t, out=t)
        xp.exp(t, out=t)
        xp.log1p(t, out=t)
        xp.maximum(z, 0.0, out=a)
        xp.add(a, t, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t = be.xp, be.scratch(delta)
        xp.negative(saved, out=t)
        xp.expm1(t, out=t)
        xp.negative(t, out=t)
        xp.multiply(delta, t, out=delta)


class SiLU(Activation):
    """f(z) = z sigmoid(z) (Elfwing et al., 2018); f' = s (1 + z (1 - s)) with s = sigmoid(z)."""

    name = "silu"
    recordable = True
    saves = "z"
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        s = be.scratch(z)
        _SIGMOID.forward(be, z, s)
        be.xp.multiply(z, s, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, s = be.xp, be.scratch(delta)
        _SIGMOID.forward(be, saved, s)
        xp.multiply(delta, s, out=delta)
        xp.subtract(1.0, s, out=s)
        xp.multiply(saved, s, out=s)
        xp.add(s, 1.0, out=s)
        xp.multiply(delta, s, out=delta)


class GELU(Activation):
    """f(z) = z Phi(z), exact (Hendrycks and Gimpel, 2016); f' = Phi(z) + z phi(z)."""

    name = "gelu"
    recordable = True
    saves = "z"
    family = "he"

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        t = be.scratch(z)
        be.normal_cdf(z, t)
        be.xp.multiply(z, t, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, t, u = be.xp, be.scratch(delta), be.scratch(delta, 1)
        xp.multiply(saved, saved, out=u)
        xp.multiply(u, -0.5, out=u)
        xp.exp(u, out=u)
        xp.multiply(u, 1 / sqrt(2 * pi), out=u)
        xp.multiply(u, saved, out=u)
        be.normal_cdf(saved, t)
        xp.add(t, u, out=t)
        xp.multiply(delta, t, out=delta)


class GELUTanh(Activation):
    """f(z) = z s, s = (1 + tanh(c (z + k z^3))) / 2, c = sqrt(2/pi), k = 0.044715: GELU's approximation.

    f' = s (1 + 2 c z (1 - s) (1 + 3 k z^2)).
    """

    name = "gelu_tanh"
    recordable = True
    saves = "z"
    family = "he"
    c = sqrt(2 / pi)
    k = 0.044715

    def forward(self, be: Backend, z: Array, a: Array) -> None:
        s = be.scratch(z)
        self._s(be, z, s)
        be.xp.multiply(z, s, out=a)

    def times_derivative(self, be: Backend, saved: Array, delta: Array) -> None:
        xp, s, u = be.xp, be.scratch(delta), be.scratch(delta, 1)
        self._s(be, saved, s)
        xp.multiply(delta, s, out=delta)
        xp.multiply(saved, saved, out=u)
        xp.multiply(u, 3 * self.k, out=u)
        xp.add(u, 1.0, out=u)
        xp.multiply(u, saved, out=u)
        xp.multiply(u, 2 * self.c, out=u)
        xp.subtract(1.0, s, out=s)
        xp.multiply(u, s, out=u)
        xp.add(u, 1.0, out=u)
        xp.multiply(delta, u, out=delta)

    def _s(self, be: Backend, z: Array, s: Array) -> None:
        xp = be.xp
        xp.multiply(z, z, out=s)
        xp.multiply(s, self.k, out=s)
        xp.add(s, 1.0, out=s)
        xp.multiply(s, z, out=s)
        xp.multiply(s, self.c, out=s)
        xp.tanh(s, out=s)
        xp.multiply(s, 0.5, out=s)
        xp.add(s, 0.5, out=s)


_SIGMOID = Sigmoid()
ACTIVATIONS: dict[str, type[Activation]] = {
    f.name: f for f in (Identity, Sigmoid, Tanh, ReLU, LeakyReLU, ELU, SELU, GELU, GELUTanh, Softplus, SiLU)
}


def get_activation(f: str | Activation | None) -> Activation:
    """The activation with that name (None: identity), or `f` itself. Raises ArgumentError for an unknown name."""
    if isinstance(f, Activation):
        return f
    if f is None:
        return Identity()
    if f == "softmax":
        raise ArgumentError(
            'activation="softmax": leave the last layer without an activation and take loss="cross_entropy", which '
            "works on logits; predict() then returns the softmax"
        )
    if not isinstance(f, str) or f not in ACTIVATIONS:
        raise unknown_name("activation", f, ACTIVATIONS)
    return ACTIVATIONS[f]()
