from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS, Activation, get_activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from tests import exact

Z = np.array([[-1e4, -200.0, -40.0, -9.5, -3.0, -0.3, -1e-9, 0.0, 1e-9, 0.3, 1.0, 3.0, 9.5, 40.0, 200.0, 1e4]])


def value_and_slope(be: Backend, name: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f(z) and f'(z) as a layer gets them: what the forward pass leaves in z is what the derivative is taken from."""
    f = get_activation(name)
    there = be.asarray(z.copy())
    a = there if f.saves == "a" else be.empty(z.shape, z.dtype)
    delta = be.asarray(np.ones_like(z))
    be.activate(f, there, a)
    output = be.to_host(a)
    be.times_derivative(f, there, delta)
    np.testing.assert_array_equal(be.to_host(a), output)
    return output, be.to_host(delta)


def test_every_activation_has_a_reference() -> None:
    assert set(exact.EXACT) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_value_and_derivative_have_all_their_digits(backend: Backend, name: str, dtype: str) -> None:
    # The largest |z| times 2 is beyond the type, and its exponential is 0, which is right.
    with np.errstate(over="ignore"):
        a, slope = value_and_slope(backend, name, exact.points(dtype)[None])
    exact.assert_exact(name, dtype, a[0], slope[0])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_no_warning_for_what_a_network_meets(backend: Backend, name: str) -> None:
    for dtype in (np.float32, np.float64):
        a, slope = value_and_slope(backend, name, np.concatenate([Z, Z * 1e30], axis=1).astype(dtype))
        assert np.isfinite(a).all()
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_is_no_number_stays_none(backend: Backend, name: str) -> None:
    z = np.array([[np.nan, 1.0]])
    with np.errstate(invalid="ignore"):
        a, slope = value_and_slope(backend, name, z)
    assert np.isnan(a[0, 0])
    assert np.isfinite(a[0, 1])
    # Of a straight line the derivative is a number even there.
    assert np.isnan(slope[0, 0]) or name in ("identity", "relu", "leaky_relu", "hard_sigmoid")


@pytest.mark.parametrize("size", [(1, 16), (3, 70_000)])
@pytest.mark.parametrize("name", sorted(n for n, f in ACTIVATIONS.items() if f.saves != "z"))
def test_in_place_is_the_same(backend: Backend, name: str, size: tuple[int, int]) -> None:
    f = get_activation(name)
    host = np.random.default_rng(0).standard_normal(size) * 4
    z, apart = backend.asarray(host.copy()), backend.empty(size, np.float64)
    backend.activate(f, z, apart)
    z = backend.asarray(host.copy())
    backend.activate(f, z, z)
    np.testing.assert_array_equal(backend.to_host(z), backend.to_host(apart))


PARAMETERS: dict[str, tuple[dict[str, float], Any, Any]] = {
    "leaky_relu": ({"slope": 0.2}, lambda z: z if z > 0 else 0.2 * z, lambda z: 1 if z > 0 else 0.2),
    "elu": ({"alpha": 0.3}, lambda z: z if z > 0 else 0.3 * mp.expm1(z), lambda z: 1 if z > 0 else 0.3 * mp.exp(z)),
    "celu": (
        {"alpha": 2.5},
        lambda z: z if z > 0 else 2.5 * mp.expm1(z / 2.5),
        lambda z: 1 if z > 0 else mp.exp(z / 2.5),
    ),
    "softplus": ({"beta": 3.0}, lambda z: mp.log1p(mp.exp(3 * z)) / 3, lambda z: exact.sigmoid(3 * z)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_constants_of_ones_own_choice(backend: Backend, name: str) -> None:
    settings, value, slope = PARAMETERS[name]
    f, z = get_activation({"name": name, **settings}), np.linspace(-9, 9, 61)
    there, delta = backend.asarray(z[None].copy()), backend.asarray(np.ones((1, z.size)))
    a = there if f.saves == "a" else backend.empty(there.shape, np.float64)
    backend.activate(f, there, a)
    found = backend.to_host(a)[0]
    backend.times_derivative(f, there, delta)
    np.testing.assert_allclose(found, [float(value(mpf(v))) for v in z], rtol=1e-13)
    np.testing.assert_allclose(backend.to_host(delta)[0], [float(slope(mpf(v))) for v in z], rtol=1e-13)
    assert get_activation(f.described()).settings() == f.settings() == settings
    net = gb.Network([gb.Dense(3, 4, f), gb.Dense(4, 2)], device=backend, dtype="float64")
    rng = np.random.default_rng(0)
    assert gb.gradcheck(net, rng.normal(size=(5, 3)), rng.normal(size=(5, 2)))


def test_every_constant_has_a_default_and_a_range() -> None:
    assert set(PARAMETERS) == {name for name, f in ACTIVATIONS.items() if signature(f).parameters}
    assert not any(f().settings() for f in ACTIVATIONS.values())
    for name in PARAMETERS:
        (key,) = PARAMETERS[name][0]
        with pytest.raises(ArgumentError, match=f"{key} must be"):
            get_activation({"name": name, key: -1.0})
        with pytest.raises(ArgumentError, match=f"activation '{name}'.*unexpected keyword argument 'gamma'"):
            get_activation({"name": name, "gamma": 1.0})
    assert repr(get_activation({"name": "elu", "alpha": 0.5})) == "<activation elu(alpha=0.5)>"


def test_lookup() -> None:
    assert get_activation(None).name == "identity"
    own: Any = ACTIVATIONS["tanh"]()
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
