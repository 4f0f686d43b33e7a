from __future__ import annotations

import copy

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.network.twin import twin

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 2))


def net(**options: object) -> gb.Network:
    layers = [gb.Dense(4, 5, "selu", initializer="zeros"), gb.Dropout(0.3), gb.BatchNorm(5), gb.Dense(5, 2)]
    return gb.Network(layers, **{"dtype": "float64", "device": "cpu", "seed": 7, "l1": 0.1, "l2": 0.2, **options})


def test_a_twin_goes_on_as_the_network_would(backend: Backend) -> None:
    original = net()
    original.train_step(X, Y, gb.SGD(0.1))
    other = twin(original, backend)
    assert other.backend is backend
    rules = gb.SGD(0.1), gb.SGD(0.1)
    for _ in range(3):
        losses = [
            float(n.backend.to_host(n.train_step(X, Y, r))) for n, r in zip((original, other), rules, strict=True)
        ]
        np.testing.assert_allclose(*losses, rtol=1e-13)
    weights = other.get_weights()
    for name, weight in original.get_weights().items():
        np.testing.assert_allclose(weights[name], weight, rtol=1e-12, atol=1e-13)


def test_the_original_is_left_alone() -> None:
    original = net()
    before = original.get_weights()
    twin(original).train_step(X, Y, gb.SGD(0.5))
    assert all(np.array_equal(w, before[k]) for k, w in original.get_weights().items())
    assert int(original.step) == 0


def test_a_twin_takes_compiled_steps_where_the_network_does() -> None:
    pytest.importorskip("numba")
    compiled = net(compile=True)
    for other in (twin(compiled), twin(compiled, "cpu", dtype="float32"), twin(compiled, "cpu", dtype=np.complex128)):
        assert other.engine.describe() == compiled.engine.describe()
    assert not twin(net()).compile
    assert gb.gradcheck(compiled, X, Y)
    assert gb.gradcheck(compiled, X, Y, method="complex", training=False)


def test_another_type() -> None:
    assert twin(net(), dtype="float32").dtype == np.float32
    other = twin(net(), "cpu", dtype=np.complex128)
    assert other.parameters["0.weight"].dtype == np.complex128
    np.testing.assert_array_equal(np.array(other.forward(X)).real, net().forward(X))


def test_an_unbound_layer_can_go_into_another_network() -> None:
    layer = gb.Dense(4, 2)
    gb.Network([layer], device="cpu")
    other = copy.copy(layer)
    assert other is not layer
    assert not hasattr(other, "parameters")
    gb.Network([other], device="cpu")
    assert hasattr(layer, "parameters")
