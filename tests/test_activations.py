from __future__ import annotations

from collections.abc import Callable
from math import cosh, erfc, exp, expm1, log1p, pi, sqrt, tanh

import numpy as np
import pytest

from gpubackprop.activations import ACTIVATIONS, Activation, get_activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError

Z = [
    -1e4,
    -200.0,
    -88.0,
    -40.0,
    -9.5,
    -3.0,
    -1.0,
    -0.3,
    -1e-3,
    -1e-9,
    0.0,
    1e-9,
    1e-3,
    0.3,
    1.0,
    3.0,
    9.5,
    40.0,
    200.0,
    1e4,
]
ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805
C, K = sqrt(2 / pi), 0.044715


def sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


def phi(z: float) -> float:
    return exp(-z * z / 2) / sqrt(2 * pi)


def cdf(z: float) -> float:
    return erfc(-z / sqrt(2)) / 2


def gelu_tanh_slope(z: float) -> float:
    u = C * (z + K * z**3)
    sech2 = 0.0 if abs(u) > 300 else 1 / cosh(u) ** 2
    return (1 + tanh(u)) / 2 + z * sech2 * C * (1 + 3 * K * z * z) / 2


# Written for one number at a time, with a branch where the definition has one: f and f'.
REFERENCE: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "identity": (lambda z: z, lambda z: 1.0),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (tanh, lambda z: 0.0 if abs(z) > 300 else 1 / cosh(z) ** 2),
    "relu": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda z: 1.0 if z > 0 else 0.01),
    "elu": (lambda z: z if z > 0 else expm1(z), lambda z: 1.0 if z > 0 else exp(z)),
    "selu": (
        lambda z: SCALE * (z if z > 0 else ALPHA * expm1(z)),
        lambda z: SCALE * (1.0 if z > 0 else ALPHA * exp(z)),
    ),
    "gelu": (lambda z: z * cdf(z), lambda z: cdf(z) + z * phi(z)),
    "gelu_tanh": (lambda z: z * (1 + tanh(C * (z + K * z**3))) / 2, gelu_tanh_slope),
    "softplus": (lambda z: max(z, 0.0) + log1p(exp(-abs(z))), sigmoid),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
}


def test_every_activation_has_a_reference() -> None:
    assert set(REFERENCE) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_value_and_derivative(backend: Backend, name: str, dtype: type) -> None:
    f, (value, slope) = get_activation(name), REFERENCE[name]
    z_host = np.array([Z], dtype)
    z = backend.asarray(z_host)
    a = backend.empty(z.shape, dtype)
    delta = backend.asarray(np.full_like(z_host, -1.5))
    backend.activate(f, z, a)
    saved = a if f.saves == "a" else z
    before = backend.to_host(saved)
    backend.times_derivative(f, saved, delta)

    eps = np.finfo(dtype).eps
    points = [float(v) for v in z_host[0]]
    np.testing.assert_allclose(backend.to_host(a)[0], [value(v) for v in points], rtol=16 * eps, atol=4 * eps)
    np.testing.assert_allclose(
        backend.to_host(delta)[0], [-1.5 * slope(v) for v in points], rtol=16 * eps, atol=8 * eps
    )
    np.testing.assert_array_equal(backend.to_host(z), z_host)
    np.testing.assert_array_equal(backend.to_host(saved), before)


@pytest.mark.parametrize("name", sorted(n for n, f in ACTIVATIONS.items() if f.saves == "a"))
def test_in_place_is_the_same(backend: Backend, name: str) -> None:
    f = get_activation(name)
    z, apart = backend.asarray(np.array([Z])), backend.empty((1, len(Z)), np.float64)
    backend.activate(f, z, apart)
    backend.activate(f, z, z)
    np.testing.assert_array_equal(backend.to_host(z), backend.to_host(apart))


def test_lookup() -> None:
    assert get_activation(None).name == "identity"
    own = Activation()
    assert get_activation(own) is own
    with pytest.raises(ArgumentError, match="unknown activation 'rellu': did you mean 'relu'"):
        get_activation("rellu")
    with pytest.raises(ArgumentError, match="unknown activation 3"):
        get_activation(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match='take loss="cross_entropy"'):
        get_activation("softmax")


def test_one_of_ones_own_must_define_both(backend: Backend) -> None:
    class Half(Activation):
        name = "half"

    with pytest.raises(NotImplementedError, match="Half must define forward"):
        Half().forward(backend, None, None)
    with pytest.raises(NotImplementedError, match="Half must define times_derivative"):
        Half().times_derivative(backend, None, None)
