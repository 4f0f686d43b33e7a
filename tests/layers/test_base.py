from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import LAYERS, Tensors, layer_from


@pytest.mark.parametrize(
    "layer",
    [gb.Dense(3, 2, "selu", bias=False), gb.Activation("tanh"), gb.Dropout(0.3), gb.BatchNorm(4), gb.LayerNorm(4)],
)
def test_each_layer_is_made_again_from_its_settings(layer: gb.Layer) -> None:
    again = layer_from(type(layer).__name__, layer.settings())
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)


def test_the_table_is_closed() -> None:
    assert set(LAYERS) == {"Dense", "Activation", "PReLU", "Dropout", "BatchNorm", "LayerNorm", "RMSNorm", "Residual"}
    with pytest.raises(ArgumentError, match="unknown layer 'Dens': did you mean 'Dense'"):
        layer_from("Dens", {})
    with pytest.raises(ArgumentError, match=r"layer Dropout: .*width"):
        layer_from("Dropout", {"width": 3})


def test_a_bare_layer() -> None:
    layer = gb.Layer()
    assert layer.build(7) == 7
    assert layer.parameter_shapes() == layer.state_shapes() == layer.settings() == {}
    assert layer.initial(np.random.default_rng(0)) == layer.buffers(np.float32) == {}
    assert repr(layer) == "Layer()"
    v = Tensors()
    with pytest.raises(NotImplementedError, match=r"must define forward\(be, v, training\)"):
        layer.forward(None, v, True)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match=r"must define backward\(be, v, dx, training\)"):
        layer.backward(None, v, None, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (gb.Dense(4, 4), {"activation": "relu", "inputs": 3, "bias": False}),
        (gb.Dropout(0.5), {"p": 0.0}),
        (gb.BatchNorm(4), {"momentum": 1.0, "eps": 1e-3, "synchronized": True}),
        (gb.LayerNorm(4), {"eps": 1e-3}),
        (gb.PReLU(4), {"shared": False}),
        (gb.Residual([gb.Dense(4, 4)]), {"layers": (gb.Dense(4, 4),)}),
    ],
)
def test_a_setting_that_is_part_of_the_recorded_step_cannot_change(layer: gb.Layer, changes: dict[str, Any]) -> None:
    for name in changes:
        setattr(layer, name, getattr(layer, name))
    net = gb.Network([layer, gb.Dense(4, 1)], device="cpu")
    before = repr(layer)
    for name, value in changes.items():
        with pytest.raises(ArgumentError, match=f"{name} of this {type(layer).__name__} was .* when its network was"):
            setattr(layer, name, value)
        setattr(layer, name, getattr(layer, name))
    assert repr(layer) == before
    layer.trainable = False
    net.to("strict")
    free = copy.deepcopy(layer)
    for name, value in changes.items():
        setattr(free, name, value)


def test_a_layer_that_is_run_anew_may_change_its_settings() -> None:
    class Scaled(gb.Layer):
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def forward(self, be: Any, v: Any, training: bool) -> None:
            be.xp.multiply(v.x, self.scale, out=v.a)

    net = gb.Network([gb.Dense(4, 4), Scaled(1.0)], device="cpu")
    x = np.ones((3, 4), np.float32)
    before = net.predict(x)
    net.layers[1].scale = 2.0
    np.testing.assert_array_equal(net.predict(x), 2 * before)


@pytest.mark.parametrize("what", ["forward", "gradients"])
@pytest.mark.parametrize("capture", [True, False])
def test_a_layer_that_returns_its_result_is_refused(backend: Backend, what: str, capture: bool) -> None:
    """As PyTorch's do: what it returns would be lost, and the arrays that it was to fill hold anything."""

    class Returns(gb.Dense):
        def forward(self, be: Any, v: Any, training: bool) -> Any:
            if what == "forward":
                return v.x @ self.W
            return super().forward(be, v, training)

        def gradients(self, be: Any, v: Any, beta: float) -> Any:
            super().gradients(be, v, beta)
            return self.gradient_arrays["weight"]

    net = gb.Network([Returns(3, 2)], device=backend, capture=capture)
    with pytest.raises(ArgumentError, match=rf"Returns.{what} returned an array"):
        net.train_step(np.ones((4, 3)), np.ones((4, 2)), gb.SGD(0.1))
