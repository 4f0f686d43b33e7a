from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from tests.small import make_data


def test_without_bias(backend: Backend) -> None:
    net = gb.Network([gb.Dense(3, 2, bias=False)], device=backend, dtype="float64")
    x, y = make_data(5, 3, 2)
    W = net.get_weights()["0.weight"]
    assert set(net.parameters) == {"0.weight"}
    np.testing.assert_allclose(backend.to_host(net.forward(x)), x @ W, rtol=1e-13)
    _, gradients = net.loss_and_gradients(x, y)
    np.testing.assert_allclose(gradients["0.weight"], x.T @ (x @ W - y) / 5, rtol=1e-12)


def test_one_input_one_unit_one_row(backend: Backend) -> None:
    net = gb.Network([gb.Dense(1, 1, "tanh"), gb.Dense(1, 1)], device=backend, dtype="float64")
    w = {k: v.item() for k, v in net.get_weights().items()}
    x, y = 0.7, -0.2
    a = np.tanh(x * w["0.weight"])
    delta = a * w["1.weight"] - y
    _, gradients = net.loss_and_gradients([[x]], [[y]])
    assert gradients["1.weight"].item() == pytest.approx(delta * a, rel=1e-13)
    assert gradients["0.bias"].item() == pytest.approx(delta * w["1.weight"] * (1 - a * a), rel=1e-13)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0, 2), ArgumentError, "inputs must be at least 1; got 0"),
        ((3, -1), ArgumentError, "outputs must be at least 1; got -1"),
        ((3.0, 2), ArgumentTypeError, "inputs must be a whole number; got 3.0 of type float"),
        ((True, 2), ArgumentTypeError, "inputs must be a whole number"),
        ((3, None), ArgumentTypeError, "outputs must be a whole number; got None"),
        ((3, 2, "rleu"), ArgumentError, "unknown activation 'rleu': did you mean 'relu'"),
        ((3, 2, "softmax"), ArgumentError, 'take loss="cross_entropy"'),
    ],
)
def test_refused(arguments: tuple[object, ...], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        gb.Dense(*arguments)  # type: ignore[arg-type]


def test_settings_make_it_again() -> None:
    for layer in (gb.Dense(3, 2), gb.Dense(np.int64(3), 2, "gelu", bias=False)):
        again = gb.Dense(**layer.settings())
        assert repr(again) == repr(layer)
        assert again.parameter_shapes() == layer.parameter_shapes()
    assert repr(gb.Dense(3, 2, "relu")) == "Dense(inputs=3, outputs=2, activation='relu')"
