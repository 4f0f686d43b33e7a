from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from tests.small import make_data


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_same_as_inside_a_dense_layer(backend: Backend, name: str) -> None:
    x, y = make_data(6, 4, 2)
    inside = gb.Network([gb.Dense(4, 5, name), gb.Dense(5, 2)], device=backend, dtype="float64")
    apart = gb.Network([gb.Dense(4, 5), gb.Activation(name), gb.Dense(5, 2)], device=backend, dtype="float64")
    w = inside.get_weights()
    apart.set_weights({k.replace("1.", "2."): v for k, v in w.items()})
    value, gradients = inside.loss_and_gradients(x, y)
    found, found_gradients = apart.loss_and_gradients(x, y)
    assert found == pytest.approx(value, rel=1e-14)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(found_gradients[key.replace("1.", "2.")], gradient, rtol=1e-13, atol=1e-16)
    for a, b in zip(inside.deltas(x, y), apart.deltas(x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(inside.input_gradient(x, y), apart.input_gradient(x, y), rtol=1e-12, atol=1e-16)


def test_first_and_last_and_twice(backend: Backend) -> None:
    """f at the very input and at the very output, where delta(L) and dC/dx have no layer beyond."""
    layers = [gb.Activation("tanh"), gb.Dense(3, 2), gb.Activation("gelu"), gb.Activation("sigmoid")]
    net = gb.Network(layers, device=backend, dtype="float64", seed=4)
    x, y = make_data(4, 3, 2)
    dx, h = net.input_gradient(x, y), 1e-6
    for i, j in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i, j] = h
        slope = (net.loss(x + step, y) - net.loss(x - step, y)) / (2 * h)
        assert dx[i, j] == pytest.approx(slope, abs=1e-9)


def test_lookup_and_settings() -> None:
    assert repr(gb.Activation("selu")) == "Activation(activation='selu')"
    assert gb.Activation(**gb.Activation("selu").settings()).activation.name == "selu"
    with pytest.raises(ArgumentError, match="unknown activation 'tan'"):
        gb.Activation("tan")
