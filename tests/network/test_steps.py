from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.backend.strict import Counts, StrictBackend
from gpubackprop.layers import Tensors
from gpubackprop.optimizers import Optimizer
from gpubackprop.optimizers.schedules import Exponential
from tests.small import LOSSES, OPTIMIZERS, assert_same_bits, make_data, make_optimizer


class Scaled(gb.Layer):
    """A layer of a user: a = x * (1 + |s|), in plain array expressions with a branch on a value."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.calls = 0

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"scale": (self.width,)}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"scale": np.linspace(-0.5, 0.5, self.width)}

    def forward(self, be: Backend, v: Tensors, training: bool) -> None:
        self.calls += 1
        s = self.parameters["scale"]
        if float(be.to_host(s).sum()) > 1e6:
            raise AssertionError("the weights ran away")
        v.a[...] = v.x * (1 + abs(s))

    def gradients(self, be: Backend, v: Tensors, beta: float) -> None:
        g = self.gradient_arrays["scale"]
        new = (v.delta * v.x).sum(axis=0) if isinstance(v.x, np.ndarray) else be.xp.sum(v.delta * v.x, axis=0)
        g[...] = g * beta + new * be.xp.sign(self.parameters["scale"])

    def backward(self, be: Backend, v: Tensors, dx: Any, training: bool) -> None:
        dx[...] = v.delta * (1 + abs(self.parameters["scale"]))


def layers_with_everything_random() -> list[gb.Layer]:
    return [
        gb.Dense(5, 7, "tanh"),
        gb.Dropout(0.4),
        gb.Dense(7, 6, "gelu"),
        gb.LayerNorm(6),
        gb.Dropout(0.3),
        gb.Dense(6, 3),
    ]


def network(backend: Backend, loss: str = "cross_entropy", **options: Any) -> gb.Network:
    settings = {"loss": loss, "device": backend, "dtype": "float64", "seed": 5, **options}
    return gb.Network(layers_with_everything_random(), **settings)


# -- parts of a batch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("size", [1, 5, 50])
def test_parts_are_the_whole_batch_with_dropout_too(backend: Backend, size: int, capture: bool) -> None:
    for loss in ("cross_entropy", "half_squared_error"):
        x, y = make_data(12, 5, 3, loss)
        nets = [network(backend, loss, l2=0.1, capture=capture) for _ in range(2)]
        optimizers = [gb.SGD(0.3, momentum=0.9) for _ in nets]
        for _ in range(3):
            whole = nets[0].train_step(x, y, optimizers[0])
            parts = nets[1].train_step(x, y, optimizers[1], micro_batch_size=size)
            assert float(backend.to_host(parts)) == pytest.approx(float(backend.to_host(whole)), rel=1e-12)
        expected = nets[0].get_weights()
        for name, found in nets[1].get_weights().items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-11, atol=1e-14, err_msg=f"{loss} {name}")


def test_parts_leave_no_trace_in_later_steps(backend: Backend) -> None:
    x, y = make_data(12, 5, 3, "cross_entropy")
    results = []
    for capture in (True, False):
        net, optimizer = network(backend, capture=capture), gb.SGD(0.3)
        net.train_step(x, y, optimizer, micro_batch_size=4)
        net.train_step(x[:4], y[:4], optimizer)
        net.forward(x[:4], training=True)
        results.append(net.get_weights())
    assert_same_bits(*results)
    once = network(backend)
    optimizer = gb.SGD(0.3)
    once.train_step(x, y, optimizer)
    once.train_step(x[:4], y[:4], optimizer)
    for name, array in once.get_weights().items():
        np.testing.assert_allclose(results[0][name], array, rtol=1e-11, atol=1e-14)


def test_dropout_draws_a_new_mask_each_step_and_none_outside(backend: Backend) -> None:
    net = gb.Network([gb.Dropout(0.5), gb.Dense(30, 1)], device=backend, dtype="float64", seed=0)
    x, y = np.ones((4, 30)), np.zeros((4, 1))
    optimizer = gb.SGD(1e-12)
    seen = []
    for _ in range(3):
        seen.append(backend.to_host(net.forward(x, training=True)))
        # The loss is a function of the weights: its masks are those of the next step.
        assert net.loss(x, y, training=True) == net.loss(x, y, training=True)
        net.train_step(x, y, optimizer)
        seen.append(backend.to_host(net.forward(x, training=True)))
    for i, outputs in enumerate(seen):
        assert not any(np.allclose(outputs, other) for other in seen[:i])
    rows = backend.to_host(net.forward(x))
    np.testing.assert_array_equal(rows, np.tile(rows[0], (4, 1)))


# -- any order of batch sizes ----------------------------------------------------------------------------------------------


def test_batches_that_shrink_grow_and_come_back(backend: Backend) -> None:
    sizes = [8, 3, 8, 1, 20, 3, 8, 7, 6, 5, 4, 2, 9, 10, 20, 1]
    x, y = make_data(20, 5, 3, "cross_entropy")
    results = []
    for capture in (True, False):
        net, optimizer = network(backend, capture=capture), gb.Adam(0.01)
        for n in sizes:
            net.train_step(x[:n], y[:n], optimizer)
        results.append(net.get_weights())
    # The same steps, each in memory that has never held anything else.
    fresh, optimizer = network(backend), gb.Adam(0.01)
    for n in sizes:
        weights, step, state = fresh.get_weights(), fresh.step, optimizer.get_state() if optimizer.t else None
        done = int(backend.to_host(step))
        fresh, optimizer = network(type(backend)()), gb.Adam(0.01)
        fresh.set_weights(weights)
        fresh.backend.fill(fresh.step, done)
        if state is not None:
            optimizer.bind(fresh.engine.parameters)
            optimizer.set_state(state)
        fresh.train_step(x[:n], y[:n], optimizer)
        backend = fresh.backend
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], fresh.get_weights())


# -- what a steady step costs -----------------------------------------------------------------------------------------------


def steady_cost(net: gb.Network, optimizer: Optimizer, x: np.ndarray, y: np.ndarray, **options: Any) -> Counts:
    be = net.backend
    assert isinstance(be, StrictBackend)
    for _ in range(2):
        net.train_step(x, y, optimizer, **options)
    before = be.counts()
    for _ in range(5):
        net.train_step(x, y, optimizer, **options)
    return be.counts() - before


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_a_steady_step_waits_for_nothing_and_moves_its_batch_only(key: str) -> None:
    x, y = make_data(6, 5, 3, "cross_entropy")
    clipping = {"clip_norm": 1.0, "clip_value": 0.5, "weight_decay": 0.1}
    for options in ({}, clipping, {"schedule": Exponential(gamma=0.9)}):
        net = network(get_backend("strict"), l1=0.1, l2=0.1, dtype="float32")
        assert steady_cost(net, make_optimizer(key, **options), x, y) == Counts(transfers=10)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_steady_step_of_any_loss(loss: str) -> None:
    x, y = make_data(6, 5, 3, loss)
    assert steady_cost(network(get_backend("strict"), loss), gb.Adam(), x, y) == Counts(transfers=10)


def test_a_steady_step_of_every_activation_and_layer() -> None:
    for name in ACTIVATIONS:
        layers = [gb.Dense(5, 4, name), gb.BatchNorm(4), gb.Activation(name), gb.Dropout(0.5), gb.Dense(4, 3)]
        net = gb.Network(layers, device="strict", loss="mean_squared_error")
        assert steady_cost(net, gb.SGD(1e-3), *make_data(6, 5, 3)) == Counts(transfers=10), name


def test_a_steady_step_in_parts_and_with_data_on_the_device() -> None:
    x, y = make_data(6, 5, 3, "cross_entropy")
    net = network(get_backend("strict"))
    assert steady_cost(net, gb.Adam(), x, y, micro_batch_size=2) == Counts(transfers=2 * 3 * 5)
    on_device = net.backend.asarray(x, np.float64), net.backend.asarray(y)
    assert steady_cost(net, gb.Adam(), *on_device, micro_batch_size=2) == Counts()


def peak_of_steady_steps(net: gb.Network, optimizer: Optimizer) -> tuple[int, int]:
    """The most bytes that Python and NumPy held during a step beyond those before it, and those left behind."""
    x, y = make_data(640, net.widths[0], net.widths[-1], "cross_entropy")
    x = x.astype(np.float32)
    for _ in range(2):
        net.train_step(x, y, optimizer)
    gc.collect()
    tracemalloc.start()
    try:
        net.train_step(x, y, optimizer)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        for _ in range(2):
            net.train_step(x, y, optimizer)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - held, after - held


# NumPy's own buffers hold 8,192 elements, 16 bytes each at most, for two operands; the smallest matrix of these steps,
# 640 x 64 float32, and the flat parameters have 156 kB or more.
NUMPY_BUFFERS = 140_000


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_a_steady_recorded_step_allocates_no_array_on_the_cpu(key: str) -> None:
    layers = [
        gb.Dense(64, 144, "gelu"),
        gb.BatchNorm(144),
        gb.Dropout(0.2),
        gb.Dense(144, 144, "selu"),
        gb.LayerNorm(144),
        gb.Dense(144, 64),
    ]
    net = gb.Network(layers, loss="cross_entropy", device="cpu", l1=1e-4, l2=1e-3)
    peak, left = peak_of_steady_steps(net, make_optimizer(key, clip_norm=1.0, clip_value=0.5))
    assert peak < NUMPY_BUFFERS
    assert left < 20_000


def test_an_allocation_would_be_seen() -> None:
    net = gb.Network([gb.Dense(64, 128), Scaled(128), gb.Dense(128, 64)], loss="cross_entropy", device="cpu")
    peak, _ = peak_of_steady_steps(net, gb.SGD())
    assert peak > 640 * 128 * 4


# -- user-defined layers -----------------------------------------------------------------------------------------------------


def test_a_layer_in_plain_expressions_on_every_device(backend: Backend) -> None:
    x, y = make_data(10, 4, 2)
    results = []
    for capture in (True, False):
        own = Scaled(6)
        net = gb.Network(
            [gb.Dense(4, 6, "tanh"), own, gb.Dense(6, 2)], device=backend, dtype="float64", capture=capture, seed=1
        )
        optimizer = gb.Adam(0.01)
        for i in range(6):
            # Run anew at each step, though the layers around it are recorded.
            assert own.calls == i
            net.train_step(x, y, optimizer)
        net.train_step(x, y, optimizer, micro_batch_size=4)
        assert own.calls == 9
        value, gradients = net.loss_and_gradients(x, y)
        results.append({**net.get_weights(), **{f"d{k}": g for k, g in gradients.items()}, "p": net.predict(x)})
        h = 1e-6
        weights = net.get_weights()
        for i in range(6):
            moved = []
            for sign in (1, -1):
                changed = weights["1.scale"].copy()
                changed[i] += sign * h
                net.set_weights({**weights, "1.scale": changed})
                moved.append(net.loss(x, y))
            assert gradients["1.scale"][i] == pytest.approx((moved[0] - moved[1]) / (2 * h), abs=1e-8)
        assert value > 0
    assert_same_bits(*results)


def test_a_dense_layer_of_ones_own_trains_as_dense_does(backend: Backend) -> None:
    class Own(gb.Dense):
        recordable = False

    x, y = make_data(40, 130, 140)
    results = []
    for kind in (gb.Dense, Own):
        layers = [kind(130, 130, "relu"), gb.Dense(130, 140)]
        net, optimizer = gb.Network(layers, device=backend, dtype="float64"), gb.SGD(0.05, momentum=0.9)
        for _ in range(3):
            net.train_step(x, y, optimizer)
        results.append(net.get_weights())
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_layer_that_says_it_is_recordable_but_is_not_is_found_out() -> None:
    class Careless(gb.Layer):
        recordable = True

        def forward(self, be: Backend, v: Tensors, training: bool) -> None:
            be.xp.multiply(v.x, 2.0)

    net = gb.Network([gb.Dense(2, 2), Careless()], device="cpu")
    with pytest.raises(
        gb.GpuBackpropError, match=r"xp.multiply without out= makes a new array, which cannot be recorded"
    ):
        net.forward(np.zeros((1, 2)))


def test_a_layer_on_a_device_must_not_look_at_values_unasked() -> None:
    class Peeking(gb.Layer):
        def forward(self, be: Backend, v: Tensors, training: bool) -> None:
            v.a[...] = v.x if v.x[0, 0] > 0 else -v.x

    net = gb.Network([gb.Dense(2, 2), Peeking()], device="strict")
    with pytest.raises(gb.GpuBackpropError, match=r"bool\(\), or a branch on the value"):
        net.forward(np.ones((1, 2)))


def test_an_unrecorded_layer_sees_where_its_part_begins(backend: Backend) -> None:
    seen: list[int] = []

    class Looking(gb.Layer):
        random = True

        def forward(self, be: Backend, v: Tensors, training: bool) -> None:
            seen.append(v.first_row)
            be.xp.copyto(v.a, v.x)

        def backward(self, be: Backend, v: Tensors, dx: Any, training: bool) -> None:
            be.xp.copyto(dx, v.delta)

    net, optimizer = gb.Network([gb.Dense(3, 2), Looking()], device=backend), gb.SGD()
    x, y = make_data(5, 3, 2)
    for _ in range(2):
        net.train_step(x, y, optimizer, micro_batch_size=2)
    net.train_step(x[:2], y[:2], optimizer)
    assert seen == [0, 2, 4, 0, 2, 4, 0]


def test_a_layer_without_its_methods_says_which() -> None:
    class Nothing(gb.Layer):
        pass

    net = gb.Network([gb.Dense(2, 2), Nothing()], device="cpu")
    with pytest.raises(NotImplementedError, match=r"Nothing must define forward\(be, v, training\)"):
        net.forward(np.zeros((1, 2)))


@pytest.mark.parametrize("micro", [None, 3])
def test_the_penalty_of_a_layer_that_is_not_trained_does_not_add_up(backend: Backend, micro: int | None) -> None:
    net, (x, y) = gb.mlp([3, 4, 2], l1=0.1, l2=0.1, device=backend, dtype="float64"), make_data(6, 3, 2)
    net.layers[0].trainable = False
    for _ in range(3):
        net.train_step(x, y, optimizer := gb.SGD(0.1), micro_batch_size=micro)
    assert optimizer.t == 1
    frozen = net.engine.parameters.gradients["0.weight"]
    assert not backend.to_host(frozen).any()
    assert net.loss_and_gradients(x, y)[1]["0.weight"].any()
