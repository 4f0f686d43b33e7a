from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError, GpuBackpropError
from gpubackprop.optimizers import Optimizer
from tests.small import LOSSES, assert_same_bits, make_data


def full_network(backend: Backend | str = "cpu", **options: Any) -> gb.Network:
    """One of each layer."""
    layers = [
        gb.Dense(5, 8, "tanh"),
        gb.BatchNorm(8),
        gb.Activation("gelu"),
        gb.Dropout(0.2),
        gb.Dense(8, 6, "relu", bias=False),
        gb.LayerNorm(6),
        gb.Dense(6, 3),
    ]
    return gb.Network(layers, device=backend, **{"dtype": "float64", "loss": "cross_entropy", "seed": 1, **options})


def trained(net: gb.Network, steps: int = 4, optimizer: Optimizer | None = None, n: int = 9) -> dict[str, np.ndarray]:
    x, y = make_data(n * steps, net.widths[0], net.widths[-1], net.loss_function.name)
    optimizer = optimizer or gb.Adam(0.01)
    for i in range(steps):
        part = slice(i * n, (i + 1) * n)
        net.train_step(x[part], y[part], optimizer)
    return net.get_weights()


# -- the mathematics, written out ------------------------------------------------------------------------------------


def test_step_by_hand(backend: Backend) -> None:
    """tanh then linear with half the squared error: every line of the derivation, in NumPy."""
    net = gb.mlp([4, 5, 2], activation="tanh", device=backend, dtype="float64", seed=3)
    x, y = make_data(6, 4, 2)
    w = net.get_weights()
    W1, b1, W2, b2 = w["0.weight"], w["0.bias"], w["1.weight"], w["1.bias"]
    a1 = np.tanh(x @ W1 + b1)
    a2 = a1 @ W2 + b2
    delta2 = (a2 - y) / 6
    delta1 = (delta2 @ W2.T) * (1 - a1**2)
    gradients = {"0.weight": x.T @ delta1, "0.bias": delta1.sum(0), "1.weight": a1.T @ delta2, "1.bias": delta2.sum(0)}
    loss = 0.5 * ((a2 - y) ** 2).sum() / 6

    close = {"rtol": 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(backend.to_host(net.forward(x)), a2, **close)
    assert net.loss(x, y) == pytest.approx(loss, rel=1e-14)
    found, found_gradients = net.loss_and_gradients(x, y)
    assert found == pytest.approx(loss, rel=1e-14)
    assert found_gradients.keys() == gradients.keys() == net.parameters.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found_gradients[name], gradient, err_msg=name, **close)
    for delta, expected in zip(net.deltas(x, y), (delta1, delta2), strict=True):
        np.testing.assert_allclose(delta, expected, **close)
    np.testing.assert_allclose(net.input_gradient(x, y), delta1 @ W1.T, **close)
    value = net.train_step(x, y, gb.SGD(0.5))
    assert float(backend.to_host(value)) == pytest.approx(loss, rel=1e-14)
    after = net.get_weights()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(after[name], w[name] - 0.5 * gradient, err_msg=name, **close)


@pytest.mark.parametrize("loss", LOSSES)
def test_l1_and_l2_are_in_the_loss_and_in_the_gradient(backend: Backend, loss: str) -> None:
    settings = {"loss": loss, "device": backend, "dtype": "float64", "seed": 2}
    x, y = make_data(7, 4, 3, loss)
    plain, net = gb.mlp([4, 5, 3], **settings), gb.mlp([4, 5, 3], l1=0.01, l2=0.3, **settings)
    w = plain.get_weights()
    weights = [v for k, v in w.items() if k.endswith("weight")]
    penalty = sum(0.01 * np.abs(W).sum() + 0.15 * (W**2).sum() for W in weights)
    value, gradients = plain.loss_and_gradients(x, y)
    found, found_gradients = net.loss_and_gradients(x, y)
    assert found == pytest.approx(value + penalty, rel=1e-14)
    assert net.loss(x, y) == pytest.approx(value + penalty, rel=1e-14)
    for name, gradient in gradients.items():
        extra = 0.01 * np.sign(w[name]) + 0.3 * w[name] if name.endswith("weight") else 0
        np.testing.assert_allclose(found_gradients[name], gradient + extra, rtol=1e-12, atol=1e-15)
    step = float(backend.to_host(net.train_step(x, y, gb.SGD(0.1))))
    assert step == pytest.approx(value + penalty, rel=1e-14)
    np.testing.assert_allclose(
        net.get_weights()["0.weight"], w["0.weight"] - 0.1 * found_gradients["0.weight"], rtol=1e-12
    )


# -- the same bits -----------------------------------------------------------------------------------------------------


def test_same_seed_same_bits(backend: Backend) -> None:
    for dtype in ("float32", "float64"):
        first = trained(full_network(backend, dtype=dtype))
        assert_same_bits(first, trained(full_network(type(backend)(), dtype=dtype)))
        other = trained(full_network(backend, dtype=dtype, seed=2))
        assert not np.array_equal(first["0.weight"], other["0.weight"])


@pytest.mark.parametrize("loss", LOSSES)
def test_recorded_and_eager_are_bit_equal(backend: Backend, loss: str) -> None:
    results = []
    for capture in (True, False):
        net = full_network(backend, capture=capture, loss=loss, l1=1e-3, l2=1e-2)
        trained(net, steps=3, optimizer=gb.Adam(0.01, clip_norm=0.5, clip_value=0.1, weight_decay=0.1), n=7)
        x, y = make_data(11, 5, 3, loss)
        value, gradients = net.loss_and_gradients(x, y, training=True)
        results.append({**net.get_weights(), **{f"d{k}": g for k, g in gradients.items()}, "loss": np.array(value)})
        results[-1]["predictions"] = net.predict(x)
        results[-1]["dx"] = net.input_gradient(x, y)
    assert_same_bits(*results)


def test_losses_handed_out_stay_as_they_are(backend: Backend) -> None:
    net, optimizer = gb.mlp([3, 4, 2], device=backend), gb.SGD(0.1)
    x, y = make_data(8, 3, 2)
    handed, read = [], []
    # More than are kept in one piece of memory.
    for _ in range(1030):
        handed.append(net.train_step(x, y, optimizer))
        read.append(float(backend.to_host(handed[-1])))
    assert [float(backend.to_host(v)) for v in handed] == read
    assert read[0] > read[10] > read[-1]
    assert handed[0].shape == ()
    assert handed[0].dtype == np.float64


def test_forward_hands_out_a_copy(backend: Backend) -> None:
    net = gb.mlp([3, 4, 2], device=backend)
    x, y = make_data(8, 3, 2)
    outputs = net.forward(x)
    before = backend.to_host(outputs)
    net.train_step(x, y, gb.SGD(1.0))
    net.forward(x + 1)
    np.testing.assert_array_equal(backend.to_host(outputs), before)
    assert outputs.shape == (8, 2)


# -- weights and devices -----------------------------------------------------------------------------------------------


def test_weights_there_and_back(backend: Backend) -> None:
    net = full_network(backend)
    weights = trained(net)
    assert weights.keys() == {*net.parameters, "1.running_mean", "1.running_var"}
    assert weights["1.running_mean"].any()
    other = full_network(backend, seed=9)
    other.set_weights(weights)
    assert_same_bits(other.get_weights(), weights)
    x, _ = make_data(6, 5, 3)
    np.testing.assert_array_equal(net.predict(x), other.predict(x))
    # Copies, not views.
    weights["0.weight"][:] = 0
    assert net.get_weights()["0.weight"].any()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda w: w.pop("0.bias"), ArgumentError, r"missing \['0.bias'\]"),
        (lambda w: w.update(extra=np.zeros(2)), ArgumentError, r"not known here \['extra'\]"),
        (
            lambda w: w.update({"6.bias": np.zeros((3, 1))}),
            ArgumentError,
            r"weights\['6.bias'\] must have shape \(3,\)",
        ),
        (lambda w: w.update({"6.bias": [0, np.nan, 0]}), ArgumentError, r"weights\['6.bias'\]\[1\] is nan"),
        (lambda w: w.update({"1.running_var": np.full(8, np.inf)}), ArgumentError, "running_var.* is inf"),
        (lambda w: w.update({"6.bias": np.zeros(3, complex)}), ArgumentTypeError, "has dtype complex128"),
        (lambda w: w.update({"6.bias": ["a", "b", "c"]}), ArgumentTypeError, "has dtype <U1"),
    ],
)
def test_set_weights_is_all_or_nothing(backend: Backend, change: Any, kind: type, message: str) -> None:
    net = full_network(backend)
    before = net.get_weights()
    weights = {name: array + 1 for name, array in before.items()}
    change(weights)
    with pytest.raises(kind, match=message):
        net.set_weights(weights)
    assert_same_bits(net.get_weights(), before)


def test_set_weights_out_of_float32(backend: Backend) -> None:
    net = gb.mlp([2, 1], device=backend)
    before = net.get_weights()
    with pytest.raises(ArgumentError, match="inf once converted to float32, from 1e"):
        net.set_weights({"0.weight": np.full((2, 1), 1e300), "0.bias": np.zeros(1)})
    with pytest.raises(ArgumentTypeError, match="weights must be a dict"):
        net.set_weights([np.zeros((2, 1)), np.zeros(1)])  # type: ignore[arg-type]
    assert_same_bits(net.get_weights(), before)


def test_to_another_device_and_back(backend: Backend) -> None:
    net, optimizer = full_network("cpu"), gb.Adam(0.01)
    trained(net, optimizer=optimizer)
    stay, other_optimizer = full_network("cpu"), gb.Adam(0.01)
    trained(stay, optimizer=other_optimizer)
    before = net.get_weights()
    assert net.to(backend) is net
    assert net.backend is backend
    assert_same_bits(net.get_weights(), before)
    # The optimizer's moments and step, and the step that dropout counts by, come along.
    there, here = trained(net, optimizer=optimizer), trained(stay, optimizer=other_optimizer)
    for name, expected in here.items():
        np.testing.assert_allclose(there[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)
    assert_same_bits(net.to("cpu").get_weights(), there)
    assert optimizer.t == 8


def test_a_device_that_is_not_there_leaves_the_network_as_it_is() -> None:
    net = gb.mlp([3, 2], device="cpu")
    before = net.get_weights()
    with pytest.raises(GpuBackpropError):
        net.to("cuda:99")
    with pytest.raises(ArgumentError, match="unknown device 'gpu'"):
        net.to("gpu")
    assert net.backend.name == "cpu"
    assert_same_bits(net.get_weights(), before)


def test_parameters_are_views_on_the_device(backend: Backend) -> None:
    net = gb.mlp([3, 4, 2], device=backend)
    assert set(net.parameters) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    backend.fill(net.parameters["1.bias"], 2.5)
    assert (net.get_weights()["1.bias"] == 2.5).all()
    assert backend.owns(net.parameters["1.bias"])
    assert net.parameter_count == 3 * 4 + 4 + 4 * 2 + 2


# -- arrays in any order and of any type -------------------------------------------------------------------------------


def test_layout_and_type_of_the_data_do_not_matter(backend: Backend) -> None:
    x, y = make_data(8, 3, 2)
    x, y = np.round(x * 3), np.round(y * 3)
    read_only = x.copy()
    read_only.flags.writeable = False
    kinds = [x, np.asfortranarray(x), x[::-1].copy()[::-1], read_only, x.astype(">f8"), x.astype(np.int16), x.tolist()]
    results = []
    for kind in kinds:
        net = gb.mlp([3, 4, 2], device=backend)
        net.train_step(kind, y.astype(">f4"), gb.SGD(0.1))
        results.append(net.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_data_on_the_device_is_taken_as_it_is(backend: Backend) -> None:
    x, y = make_data(8, 3, 2, "cross_entropy")
    results = []
    for data in ((x, y), (backend.asarray(x), backend.asarray(y)), (backend.asarray(x.astype(np.float32)), y)):
        net = gb.mlp([3, 4, 2], device=backend, loss="cross_entropy")
        net.train_step(*data, gb.SGD(0.1))
        net.train_step(*data, gb.SGD(0.1), micro_batch_size=3)
        results.append(net.get_weights())
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_bad_data_changes_nothing(backend: Backend) -> None:
    net, optimizer = full_network(backend), gb.Adam()
    x, y = make_data(4, 5, 3, "cross_entropy")
    net.train_step(x, y, optimizer)
    before, step = net.get_weights(), optimizer.t
    bad = x.copy()
    bad[1, 1] = np.nan
    for arguments in ((bad, y), (x[:, :4], y), (x, y[:3]), (x, y - 1), (x, y.astype(float)), (x[:0], y[:0])):
        with pytest.raises(GpuBackpropError):
            net.train_step(*arguments, optimizer)
    for size in (0, -1, 2.0, True, "4"):
        with pytest.raises(GpuBackpropError, match="micro_batch_size must be"):
            net.train_step(x, y, optimizer, micro_batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="optimizer must be an Optimizer, such as"):
        net.train_step(x, y, "adam")  # type: ignore[arg-type]
    assert_same_bits(net.get_weights(), before)
    assert optimizer.t == step


# -- building one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "options", "kind", "message"),
    [
        ([], {}, ArgumentError, "at least one layer"),
        (gb.Dense(2, 2), {}, ArgumentTypeError, "put a single layer into a list"),
        ([784, 10], {}, ArgumentTypeError, r"layers\[0\] must be a Layer, such as Dense\(784, 10\); got 784"),
        ([gb.Dense], {}, ArgumentTypeError, r"layers\[0\] must be a Layer"),
        ([gb.Dropout()], {}, ArgumentError, "no layer says how many inputs"),
        ([gb.Dense(3, 4), gb.Dense(5, 2)], {}, ArgumentError, r"layer 1 \(Dense\(.*takes 5 inputs, but .* 4 outputs"),
        ([gb.Dense(3, 4), gb.BatchNorm(3)], {}, ArgumentError, "layer 1 .*normalises 3 units, but .* 4 outputs"),
        ([gb.Dense(3, 2)], {"loss": "mse"}, ArgumentError, "unknown loss 'mse'"),
        ([gb.Dense(3, 2)], {"device": "gpu"}, ArgumentError, "unknown device 'gpu'"),
        ([gb.Dense(3, 2)], {"dtype": "int32"}, ArgumentError, "dtype must be one of"),
        ([gb.Dense(3, 2)], {"precision": "tf32"}, DeviceError, "needs an NVIDIA GPU"),
        ([gb.Dense(3, 2)], {"seed": -1}, ArgumentError, "seed must be at least 0"),
        ([gb.Dense(3, 2)], {"seed": 1.5}, ArgumentTypeError, "seed must be a whole number"),
        ([gb.Dense(3, 2)], {"l1": -1}, ArgumentError, "l1 must be"),
        ([gb.Dense(3, 2)], {"l2": float("nan")}, ArgumentError, "l2 must be"),
        ([gb.Dense(3, 2, "sigmoid")], {"loss": "binary_cross_entropy"}, ArgumentError, "works on logits"),
        ([gb.Dense(3, 2), gb.Activation("sigmoid")], {"loss": "cross_entropy"}, ArgumentError, "works on logits"),
    ],
)
def test_refused(layers: Any, options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        gb.Network(layers, **{"device": "cpu", **options})


def test_a_layer_belongs_to_one_network() -> None:
    dense = gb.Dense(2, 2)
    with pytest.raises(ArgumentError, match="stands in the list twice"):
        gb.Network([dense, dense], device="cpu")
    gb.Network([dense], device="cpu")
    with pytest.raises(ArgumentError, match="already belongs to a network"):
        gb.Network([dense], device="cpu")


def test_optimizer_refuses_a_second_network() -> None:
    x, y = make_data(4, 3, 2)
    optimizer = gb.Adam()
    gb.mlp([3, 2], device="cpu").train_step(x, y, optimizer)
    other = gb.mlp([3, 2], device="cpu")
    before = other.get_weights()
    with pytest.raises(ArgumentError, match="this Adam already trains another network"):
        other.train_step(x, y, optimizer)
    assert_same_bits(other.get_weights(), before)
    assert optimizer.t == 1


def test_two_optimizers_may_take_turns(backend: Backend) -> None:
    x, y = make_data(6, 3, 2)
    results = []
    for capture in (True, False):
        net = gb.mlp([3, 4, 2], device=backend, capture=capture)
        fast, slow = gb.SGD(0.5), gb.Adam(1e-3)
        for _ in range(3):
            net.train_step(x, y, fast)
            net.train_step(x, y, slow)
        results.append(net.get_weights())
    assert_same_bits(*results)


def test_a_move_that_fails_leaves_the_network_where_it_was(monkeypatch):
    net = gb.Network([gb.Dense(3, 4, "relu"), gb.Dropout(0.5), gb.Dense(4, 2)], loss="cross_entropy", device="cpu")
    x, y, optimizer = np.ones((5, 3)), np.zeros(5, int), gb.SGD(0.1, momentum=0.9)
    net.train_step(x, y, optimizer)
    weights = net.get_weights()

    def no_room(*args, **options):
        raise MemoryError("no room for the workspace")

    with monkeypatch.context() as m:
        m.setattr("gpubackprop.network.engine.Workspace", no_room)
        with pytest.raises(MemoryError):
            net.to("strict")
    assert net.backend.name == "cpu"
    for name, w in net.get_weights().items():
        np.testing.assert_array_equal(w, weights[name])
    net.train_step(x, y, optimizer)
    assert any((w != weights[name]).any() for name, w in net.get_weights().items())


def test_cross_entropy_of_one_output_is_refused():
    with pytest.raises(gb.GpuBackpropError, match="binary_cross_entropy"):
        gb.mlp([3, 1], loss="cross_entropy")


def test_predict_never_lets_a_layer_write_into_the_users_rows():
    class Greedy(gb.Layer):
        def forward(self, be, v, training):
            v.x *= 2
            be.xp.copyto(v.a, v.x)

    net = gb.Network([Greedy(), gb.Dense(3, 2)], loss="half_squared_error", device="cpu")
    x = np.ones((500, 3), np.float32)
    net.predict(x)
    np.testing.assert_array_equal(x, 1)


@pytest.mark.parametrize("name", sorted(gb.losses.LOSSES))
def test_the_loss_row_by_row(backend: Backend, name: str) -> None:
    net = gb.mlp([4, 6, 3], activation="tanh", loss=name, device=backend, dtype="float64", l2=0.1)
    (x, y), weights = make_data(9, 4, 3, name), np.arange(9.0)
    rows = net.loss(x, y, reduction="none")
    assert rows.shape == (9,)
    assert rows.dtype == np.float64
    penalty = 0.05 * sum((w**2).sum() for k, w in net.get_weights().items() if k.endswith("weight"))
    assert rows.mean() + penalty == pytest.approx(net.loss(x, y), rel=1e-12)
    assert net.loss(x, y, reduction="sum") == pytest.approx(rows.sum(), rel=1e-12)
    alone = [net.loss(x[i : i + 1], y[i : i + 1]) - penalty for i in range(9)]
    np.testing.assert_allclose(rows, alone, rtol=1e-9, atol=1e-12)
    weighted = net.loss(x, y, sample_weight=weights, reduction="none")
    np.testing.assert_allclose(weighted, rows * weights, rtol=1e-12)
    with pytest.raises(ArgumentError, match="reduction must be"):
        net.loss(x, y, reduction="median")


def test_what_the_engine_was_made_of_cannot_change() -> None:
    loss = gb.losses.Huber(1.0)
    layers = [gb.Dense(4, 3, gb.activations.LeakyReLU(0.1)), gb.Dense(3, 2)]
    net = gb.Network(layers, loss=loss, device="cpu")
    changes = {"loss_function": gb.losses.Huber(2.0), "layers": (), "dtype": "float64", "seed": 1, "capture": False}
    for name, value in changes.items():
        with pytest.raises(ArgumentError, match=f"{name} of this network was "):
            setattr(net, name, value)
        setattr(net, name, getattr(net, name))
    with pytest.raises(TypeError):
        net.layers[0] = gb.Dense(4, 3)  # type: ignore[index]
    with pytest.raises(ArgumentError, match=r"delta of this Huber was 1\.0"):
        loss.delta = 2.0
    # What a device looks at to find its own code for it.
    assert vars(loss) == {"delta": 1.0}
    assert len(vars(layers[0].activation)) == 1
    slope = next(iter(vars(layers[0].activation)))
    with pytest.raises(ArgumentError, match=f"{slope} of this LeakyReLU was 0.1"):
        setattr(layers[0].activation, slope, 0.2)
