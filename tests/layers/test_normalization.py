from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.testing import check_layer
from tests.small import make_data


def network(backend: Backend, layer: gb.Layer, **options: Any) -> gb.Network:
    """The layer behind a Dense and in front of another, with a gain and a shift that are not 1 and 0."""
    net = gb.Network([gb.Dense(4, 5, "tanh"), layer, gb.Dense(5, 2)], device=backend, dtype="float64", **options)
    w = net.get_weights()
    w["1.gamma"], w["1.beta"] = np.linspace(0.5, 2, 5), np.linspace(-1, 1, 5)
    net.set_weights(w)
    return net


def normalized(net: gb.Network, x: np.ndarray, axis: int, eps: float = 1e-5) -> np.ndarray:
    w = net.get_weights()
    a = np.tanh(x @ w["0.weight"] + w["0.bias"])
    a = (a - a.mean(axis, keepdims=True)) / np.sqrt(a.var(axis, keepdims=True) + eps)
    return (a * w["1.gamma"] + w["1.beta"]) @ w["2.weight"] + w["2.bias"]


@pytest.mark.parametrize(("make", "axis"), [(gb.BatchNorm, 0), (gb.LayerNorm, 1)])
def test_value_and_gradients(backend: Backend, make: Any, axis: int) -> None:
    net = network(backend, make(5))
    x, y = make_data(7, 4, 2)
    np.testing.assert_allclose(backend.to_host(net.forward(x, training=True)), normalized(net, x, axis), rtol=1e-12)
    w, h = net.get_weights(), 1e-6
    for training in (True, False):
        _, gradients = net.loss_and_gradients(x, y, training=training)
        dx = net.input_gradient(x, y, training=training)
        # Looking at the loss in training moves the running statistics; here they stay.
        frozen = net.get_weights()
        for name in ("0.weight", "1.gamma", "1.beta"):
            for index in np.ndindex(w[name].shape):
                values = []
                for sign in (1, -1):
                    changed = {k: v.copy() for k, v in frozen.items()}
                    changed[name][index] += sign * h
                    net.set_weights(changed)
                    values.append(net.loss(x, y, training=training))
                net.set_weights(frozen)
                slope = (values[0] - values[1]) / (2 * h)
                assert gradients[name][index] == pytest.approx(slope, abs=2e-8), (name, training)
        step = np.zeros_like(x)
        step[3, 1] = h
        slope = (net.loss(x + step, y, training=training) - net.loss(x - step, y, training=training)) / (2 * h)
        assert dx[3, 1] == pytest.approx(slope, abs=2e-8)


def test_running_statistics(backend: Backend) -> None:
    net = gb.Network([gb.BatchNorm(3, momentum=0.2), gb.Dense(3, 1)], device=backend, dtype="float64")
    rng = np.random.default_rng(0)
    mean, var = np.zeros(3), np.ones(3)
    optimizer = gb.SGD(1e-3)
    for n in (6, 4, 2):
        x = rng.normal(size=(n, 3)) * [1, 2, 3] + [5, 0, -5]
        net.train_step(x, np.zeros((n, 1)), optimizer)
        mean = 0.8 * mean + 0.2 * x.mean(0)
        var = 0.8 * var + 0.2 * x.var(0, ddof=1)
    w = net.get_weights()
    np.testing.assert_allclose(w["0.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(w["0.running_var"], var, rtol=1e-12)
    x = rng.normal(size=(4, 3))
    expected = ((x - mean) / np.sqrt(var + 1e-5) * w["0.gamma"] + w["0.beta"]) @ w["1.weight"] + w["1.bias"]
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-12)
    np.testing.assert_allclose(net.predict(x[:1]), expected[:1], rtol=1e-12)


def test_evaluation_leaves_the_running_statistics(backend: Backend) -> None:
    net = network(backend, gb.BatchNorm(5))
    x, y = make_data(7, 4, 2)
    before = net.get_weights()
    net.loss(x, y)
    net.predict(x)
    net.loss_and_gradients(x, y)
    for name, array in net.get_weights().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("make", [gb.BatchNorm, gb.LayerNorm])
def test_degenerate_batches_stay_finite(backend: Backend, make: Any) -> None:
    """Equal rows, and equal units: the variance is 0, and the output is beta."""
    net = gb.Network([make(3), gb.Dense(3, 3)], device=backend, dtype="float32")
    net.set_weights({**net.get_weights(), "0.beta": np.array([1.0, 2, 3]), "1.weight": np.eye(3)})
    x = np.full((2, 3), 7.0)
    np.testing.assert_array_equal(backend.to_host(net.forward(x, training=True)), [[1, 2, 3]] * 2)
    net.train_step(x, np.zeros((2, 3)), gb.SGD(0.1))
    assert all(np.isfinite(v).all() for v in net.get_weights().values())


@pytest.mark.parametrize("capture", [True, False])
def test_one_row_has_no_variance_to_learn_from(backend: Backend, capture: bool) -> None:
    net = gb.Network([gb.Dense(3, 2), gb.BatchNorm(2)], device=backend, capture=capture)
    assert [layer.mixes_rows for layer in net.layers] == [False, True]
    before, x, y = net.get_weights(), np.ones((1, 3)), np.ones((1, 2))
    for work in (
        lambda: net.train_step(x, y, gb.SGD(0.1)),
        lambda: net.forward(x, training=True),
        lambda: net.train_step(np.ones((3, 3)), np.ones((3, 2)), gb.SGD(0.1), micro_batch_size=2),
    ):
        with pytest.raises(ArgumentError, match="this batch has one row"):
            work()
    np.testing.assert_array_equal(net.get_weights()["0.weight"], before["0.weight"])
    assert net.predict(x).shape == (1, 2)


def test_large_offsets_keep_their_variance(backend: Backend) -> None:
    """The two-pass variance: E[x^2] - E[x]^2 would lose all digits in float32."""
    net = gb.Network([gb.BatchNorm(1), gb.Dense(1, 1)], device=backend)
    net.set_weights({**net.get_weights(), "1.weight": np.ones((1, 1))})
    x = np.array([[10_000.0], [10_001.0], [10_002.0], [10_003.0]])
    out = backend.to_host(net.forward(x, training=True)).ravel()
    np.testing.assert_allclose(out, (x.ravel() - x.mean()) / np.sqrt(x.var() + 1e-5), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: gb.BatchNorm(0), ArgumentError, "width must be at least 1"),
        (lambda: gb.LayerNorm(2.5), ArgumentTypeError, "width must be a whole number"),
        (lambda: gb.BatchNorm(3, eps=0), ArgumentError, "eps must be a finite number above 0"),
        (lambda: gb.BatchNorm(3, momentum=0), ArgumentError, "momentum must be"),
        (lambda: gb.BatchNorm(3, momentum=1.5), ArgumentError, r"momentum must be in \(0, 1\]; got 1.5"),
    ],
)
def test_refused(make: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_settings_make_it_again() -> None:
    for layer in (gb.BatchNorm(4, 1e-3, 0.5), gb.LayerNorm(4, 1e-3)):
        assert repr(type(layer)(**layer.settings())) == repr(layer)


def test_rms_norm_as_in_pytorch(backend: Backend, torch: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)) + 1, rng.normal(size=(7, 5))
    gamma = rng.normal(size=5)
    net = gb.Network([gb.RMSNorm(5)], device=backend, dtype="float64")
    net.set_weights({"0.gamma": gamma})
    there, scale = torch.tensor(x, requires_grad=True), torch.tensor(gamma, requires_grad=True)
    a = torch.nn.functional.rms_norm(there, (5,), scale, eps=float(np.finfo(np.float32).eps))
    (0.5 * ((a - torch.tensor(y)) ** 2).sum() / 7).backward()
    np.testing.assert_allclose(backend.to_host(net.forward(x)), a.detach().numpy(), rtol=1e-13)
    _, gradients = net.loss_and_gradients(x, y)
    np.testing.assert_allclose(gradients["0.gamma"], scale.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(net.input_gradient(x, y), there.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_rms_norm_keeps_the_contract_of_every_layer() -> None:
    assert check_layer(gb.RMSNorm(6))
    assert gb.RMSNorm(**gb.RMSNorm(4, 1e-3).settings()).eps == 1e-3


def test_synchronized_batchnorm_alone_is_batchnorm(backend: Backend, tmp_path: Any) -> None:
    """With its own formulas; what it gives in several processes is in tests/distributed."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((9, 3)) + 5, rng.standard_normal((9, 2))
    nets = [
        gb.Network(
            [gb.Dense(3, 4), gb.BatchNorm(4, synchronized=together), gb.Dense(4, 2)],
            loss="half_squared_error",
            dtype="float64",
            device=backend,
            seed=1,
        )
        for together in (False, True)
    ]
    for net in nets:
        gb.Trainer(net, gb.SGD(0.05)).fit(x, y, epochs=3, batch_size=None)
    (value, wanted), (found_value, found) = (net.loss_and_gradients(x, y, training=True) for net in nets)
    assert found_value == pytest.approx(value, rel=1e-12)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
    for name, w in nets[0].get_weights().items():
        np.testing.assert_allclose(nets[1].get_weights()[name], w, rtol=1e-9, atol=1e-12, err_msg=name)
    gb.save(tmp_path / "net.safetensors", nets[1])
    assert gb.load(tmp_path / "net.safetensors", device=backend).layers[1].synchronized  # type: ignore[attr-defined]
