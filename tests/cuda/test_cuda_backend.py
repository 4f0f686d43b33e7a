"""The CUDA backend as a whole, on stand-ins: every level of its chain held to the CPU and to the level below, step by step."""

from __future__ import annotations

import logging
import re
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda import libraries
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.backend.cuda.precision import half_type
from gpubackprop.errors import DeviceError, MissingExtraError
from gpubackprop.losses import MANY_CLASSES, CrossEntropy
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers.schedules import Cosine
from tests.cuda.stand_in import gpu, shim  # noqa: F401

ROWS, INPUTS, CLASSES = 33, 7, 5
LEVELS = {
    "plain CuPy": lambda: CupyBackend(0),
    "own kernels": lambda: CudaBackend(0, products=False),
    "cuBLASLt, eager": lambda: CudaBackend(0, epilogues=False, graphs=False),
    "epilogues, eager": lambda: CudaBackend(0, graphs=False),
    "graphs, no epilogues": lambda: CudaBackend(0, epilogues=False),
    "graphs, epilogues": lambda: CudaBackend(0),
}
PRECISIONS = {"tf32": 2e-3, "bf16": 2e-2, "fp16": 4e-3}
"""Relative error of a tensor after one step of a smooth network."""
KINKS = 15
"""How much more the ReLUs of a small batch make of it, whose masks rounding turns."""


def layers(normalized: bool = True) -> list[Any]:
    """Every kind of layer, widths on both sides of the multiples that epilogues want, and every kind of product."""
    return [
        gb.Dense(INPUTS, 16, "gelu_tanh"),
        gb.Dropout(0.2),
        gb.Dense(16, 9, "relu"),
        *([gb.BatchNorm(9)] if normalized else []),
        gb.Dense(9, 8, "silu"),
        *([gb.LayerNorm(8)] if normalized else []),
        gb.Dense(8, 130, "relu"),
        gb.Dense(130, 24, "relu", bias=False),
        gb.Activation("tanh"),
        gb.Dense(24, 11, "gelu_tanh"),
        gb.Dense(11, CLASSES),
    ]


def data(n: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, n)


def network(device: Any, normalized: bool = True, **options: Any) -> gb.Network:
    options = {"loss": "cross_entropy", "seed": 1, **options}
    return gb.Network(layers(normalized), device=device, **options)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-6))


def assert_same_steps(net: gb.Network, reference: gb.Network, optimizer: Any, tolerance: float, steps: int = 4) -> None:
    """A few steps of both; losses and weights must agree."""
    x, y = data()
    losses = []
    for n in (net, reference):
        rule = optimizer()
        losses.append([float(n.backend.to_host(n.train_step(x, y, rule))) for _ in range(steps)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=tolerance)
    for name, want in reference.get_weights().items():
        assert relative(net.get_weights()[name], want) < 10 * tolerance, name


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_trains_as_the_cpu_does(gpu, level):  # noqa: F811
    net, reference = network(LEVELS[level](), l1=1e-3, l2=1e-3), network("cpu", l1=1e-3, l2=1e-3)
    assert_same_steps(net, reference, lambda: gb.AdamW(0.01, clip_norm=1.0, schedule=Cosine(total=9)), 1e-5)
    x, _ = data(50, seed=3)
    np.testing.assert_allclose(net.predict(x), reference.predict(x), rtol=1e-3, atol=1e-5)


OPTIMIZERS = {
    "sgd": lambda: gb.SGD(0.1, weight_decay=0.01),
    "sgd, weights": lambda: gb.SGD(0.1, momentum=0.5, weight_decay=0.1, decay="weights"),
    "adamw, weights": lambda: gb.AdamW(0.01, weight_decay=2.0, decay="weights"),
    "momentum": lambda: gb.SGD(0.1, momentum=0.9),
    "nesterov": lambda: gb.SGD(0.1, momentum=0.9, nesterov=True, clip_value=0.01),
    "rmsprop": lambda: gb.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: gb.Adagrad(0.05, lr_decay=0.1),
    "adadelta": lambda: gb.Adadelta(),
    "adam": lambda: gb.Adam(0.01),
    "adamax": lambda: gb.Adamax(0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "nadam": lambda: gb.NAdam(0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "radam": lambda: gb.RAdam(0.01),
    "lars": lambda: gb.LARS(0.5, weight_decay=0.01),
    "lamb": lambda: gb.LAMB(0.01, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_in_a_graph(gpu, name):  # noqa: F811
    backend = CudaBackend(0)
    assert_same_steps(network(backend), network("cpu"), OPTIMIZERS[name], 2e-4)
    assert backend.recorder.failure is None
    assert backend.recorder.graphs == 1


def smooth(device: Any) -> gb.Network:
    parts = [
        gb.Dense(INPUTS, 16, "tanh"),
        gb.Dense(16, 24, "gelu_tanh"),
        gb.Dense(24, 9, "sigmoid"),
        gb.Dense(9, CLASSES),
    ]
    return gb.Network(parts, loss="cross_entropy", device=device, seed=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kinks", [False, True])
def test_gradients_in_lower_precision(gpu, precision, kinks):  # noqa: F811
    tolerance = PRECISIONS[precision] * (KINKS if kinks else 1)
    net, reference = (network(d, False) if kinks else smooth(d) for d in (CudaBackend(0, precision), "cpu"))
    x, y = data()
    loss, gradients = net.loss_and_gradients(x, y)
    want_loss, want = reference.loss_and_gradients(x, y)
    assert loss == pytest.approx(want_loss, rel=tolerance)
    errors = {name: relative(gradients[name], want[name]) for name in want}
    assert max(errors.values()) < tolerance, errors
    # What is no worse than float32 was not computed in the precision that was asked for.
    assert max(errors.values()) > 1e-5
    assert {g.dtype for g in gradients.values()} == {np.dtype(np.float32)}
    for got, delta in zip(net.deltas(x, y), reference.deltas(x, y), strict=True):
        assert relative(got, delta) < tolerance
    assert relative(net.input_gradient(x, y), reference.input_gradient(x, y)) < tolerance


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_in_lower_precision(gpu, precision):  # noqa: F811
    net, reference = smooth(CudaBackend(0, precision)), smooth("cpu")
    assert_same_steps(net, reference, lambda: gb.SGD(0.05, momentum=0.9), PRECISIONS[precision])
    assert {v.dtype for v in net.parameters.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("layer", [gb.BatchNorm, gb.LayerNorm])
def test_normalisation_in_half_precision_keeps_its_statistics_in_float32(gpu, precision, layer):  # noqa: F811
    x, y = data(200)
    nets = []
    for device in (CudaBackend(0, precision), "cpu"):
        parts = [gb.Dense(INPUTS, 16), layer(16), gb.Dense(16, 24, "tanh"), layer(24), gb.Dense(24, CLASSES)]
        nets.append(gb.Network(parts, loss="cross_entropy", device=device, seed=1))
        # Off zero: sums of squares of such numbers, kept in half precision, would say nothing about their variance.
        nets[-1].set_weights({k: w + 5 * (k == "0.bias") for k, w in nets[-1].get_weights().items()})
    tolerance = 3 * PRECISIONS[precision]
    (loss, got), (want_loss, want) = (net.loss_and_gradients(x, y, training=True) for net in nets)
    assert loss == pytest.approx(want_loss, rel=tolerance)
    for name, gradient in want.items():
        # The bias under a batch normalisation has no gradient but rounding.
        assert relative(got[name], gradient) < tolerance or np.linalg.norm(gradient) < 1e-6, name
    for net in nets:
        net.train_step(x, y, gb.SGD(0.1))
    for name, array in nets[1].get_weights().items():
        if "running" in name:
            assert relative(nets[0].get_weights()[name], array) < tolerance, name
    np.testing.assert_allclose(nets[0].predict(x), nets[1].predict(x), atol=tolerance)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sums_in_half_precision_are_of_float32(gpu, precision):  # noqa: F811
    """Squares of deviations and sums over units are too large, or too small beside others, for the type of the activations."""
    x, y = data(64)
    nets = []
    for device in (CudaBackend(0, precision), "cpu"):
        parts = [gb.BatchNorm(INPUTS, synchronized=True), gb.Dense(INPUTS, 16), gb.PReLU(16), gb.Dense(16, CLASSES)]
        nets.append(gb.Network(parts, loss="cross_entropy", device=device, seed=1))
    (_, got), (_, want) = (net.loss_and_gradients(1000 * x, y, training=True) for net in nets)
    for name, gradient in want.items():
        assert relative(got[name], gradient) < 3 * PRECISIONS[precision], name


def test_the_norm_of_a_step_that_is_left_out_is_no_number_of_the_history(gpu):  # noqa: F811
    backend = CudaBackend(0, "fp16")
    net, rule, (x, y) = network(backend, False), gb.SGD(0.1, clip_norm=1.0), data()
    rule.track_norm = True
    net.engine.reset()
    rows = Rows(backend, x, y, net.dtype)
    net.engine.train(rows, 0, 1, rule, len(x))
    loss, norm = net.engine.read()
    backend.fill(backend.loss_scale.scale, 2.0**40)
    backend.fill(backend.loss_scale.inverse, 2.0**-40)
    net.engine.train(rows, 0, 1, rule, len(x))
    more, same = net.engine.read()
    assert more > loss > 0
    assert same == norm > 0


def test_a_checkpoint_keeps_the_loss_scale(gpu, tmp_path):  # noqa: F811
    nets = [network(CudaBackend(0, "fp16"), False) for _ in range(2)]
    (x, y), rule = data(), gb.Adam(0.01)
    nets[0].train_step(x, y, rule)
    scale = nets[0].backend.loss_scale
    scale.set_state(np.array([2.0**11, 7], np.float32))
    gb.save(tmp_path / "net.safetensors", nets[0], optimizer=rule)
    restored = gb.load_checkpoint(tmp_path / "net.safetensors", device=nets[1].backend)
    assert nets[1].backend.loss_scale.state().tolist() == [2.0**11, 7]
    assert float(nets[1].backend.to_host(nets[1].backend.loss_scale.inverse)) == 2.0**-11
    on_cpu = gb.load_checkpoint(tmp_path / "net.safetensors", device="cpu")
    for found in (restored, on_cpu):
        assert found.optimizer.t == 1


@pytest.mark.parametrize("name", ["lars", "lamb", "adam"])
def test_optimizers_under_loss_scaling(gpu, name):  # noqa: F811
    assert_same_steps(smooth(CudaBackend(0, "fp16")), smooth("cpu"), OPTIMIZERS[name], 10 * PRECISIONS["fp16"])


@pytest.mark.parametrize("precision", ["native", "bf16"])
def test_functions_and_layers_with_and_without_a_kernel(gpu, precision):  # noqa: F811
    """Constants that are the kernel's, and others, for which array expressions stand in."""
    tolerance = 1e-5 if precision == "native" else PRECISIONS[precision]
    make = gb.activations

    def net(device):
        parts = [
            gb.Dense(INPUTS, 12, "mish"), gb.RMSNorm(12), gb.Dense(12, 12, "hard_swish"), gb.PReLU(12, shared=False),
            gb.Dense(12, 12, make.ELU(0.5)), gb.Dense(12, 12, make.CELU()), gb.Dense(12, 12, make.Softplus(2.0)),
            gb.Dense(12, CLASSES, "softsign"),
        ]  # fmt: skip
        loss = gb.losses.CrossEntropy(class_weights=range(1, CLASSES + 1), label_smoothing=0.1, ignore_index=0)
        return gb.Network(parts, loss=loss, device=device, seed=2)

    assert_same_steps(net(CudaBackend(0, precision)), net("cpu"), lambda: gb.SGD(0.01), tolerance)


def test_float64(gpu):  # noqa: F811
    net, reference = network(CudaBackend(0), dtype="float64"), network("cpu", dtype="float64")
    assert_same_steps(net, reference, lambda: gb.Adam(0.01), 1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        "half_squared_error", "mean_squared_error", "mean_absolute_error", "binary_cross_entropy", "huber", "poisson",
        {"name": "huber", "delta": 0.25},
    ],
    ids=str,
)  # fmt: skip
def test_other_losses(gpu, loss):  # noqa: F811
    x, _ = data()
    y = np.random.default_rng(1).uniform(size=(ROWS, CLASSES)).astype(np.float32)
    results = [network(device, loss=loss).loss_and_gradients(x, y) for device in (CudaBackend(0), "cpu")]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name, want in results[1][1].items():
        assert relative(results[0][1][name], want) < 1e-5, name


class OwnCrossEntropy(CrossEntropy):
    """One that there is no kernel for: it runs in its array expressions, with its own layout for many classes."""

    name = "own"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("classes", [5, MANY_CLASSES + 2])
def test_a_loss_of_ones_own(gpu, level, classes):  # noqa: F811
    x, _ = data()
    y = np.random.default_rng(1).integers(0, classes, ROWS)
    results = []
    for device in (LEVELS[level](), "cpu"):
        net = gb.Network([gb.Dense(INPUTS, classes)], loss=OwnCrossEntropy(), device=device, seed=1)
        results.append(net.loss_and_gradients(x, y))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, want in results[1][1].items():
        assert relative(results[0][1][name], want) < 1e-5, name


def test_graph_and_eager_give_the_same_bits(gpu):  # noqa: F811
    x, y = data()
    weights = []
    for options in ({}, {"capture": False}):
        net = network(CudaBackend(0), **options)
        optimizer = gb.Adam(0.01)
        for _ in range(4):
            net.train_step(x, y, optimizer)
        weights.append(net.get_weights())
    assert len(gpu.launched) == 2 * 1 + 1  # steps 2, 3 and 4 of the first network; none of the second
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


def test_a_steady_step_allocates_and_waits_for_nothing(gpu):  # noqa: F811
    x, y = data()
    net, optimizer = network(CudaBackend(0)), gb.Adam(0.01)
    for _ in range(3):
        net.train_step(x, y, optimizer)
    before, launches = gpu.state.counts(), len(gpu.launched)
    for _ in range(5):
        net.train_step(x, y, optimizer)
    allocations, transfers, waits = (b - a for a, b in zip(before, gpu.state.counts(), strict=True))
    # A device that puts everything off lets the memory for copies run out.
    assert (allocations, transfers, waits) == (0, 2 * 5, 2 * 5 if gpu.state.deferred else 0)
    assert len(gpu.launched) - launches == 5


@pytest.mark.parametrize("refused", [False, True])
def test_a_step_without_a_graph_allocates_nothing(gpu, refused):  # noqa: F811
    """No masks either, where the epilogue that would write them is refused."""
    if refused:
        gpu.library.refused |= {(epilogue, "float32") for epilogue in ("RELU_AUX", "RELU_AUX_BIAS")}
    x, y = data()
    net, optimizer = network(CudaBackend(0, graphs=False)), gb.SGD(0.01)
    for _ in range(3):
        net.train_step(x, y, optimizer)
    before = gpu.state.allocations
    for _ in range(3):
        net.train_step(x, y, optimizer)
    assert gpu.state.allocations == before


def test_a_short_last_batch_and_a_larger_one(gpu):  # noqa: F811
    nets, rules = (network(CudaBackend(0)), network("cpu")), (gb.Adam(0.01), gb.Adam(0.01))
    for n in (20, 20, 20, 7, 20, 7, 7, 41, 20, 20, 41, 41):
        x, y = data(n, seed=n)
        for net, rule in zip(nets, rules, strict=True):
            net.train_step(x, y, rule)
    for name, want in nets[1].get_weights().items():
        assert relative(nets[0].get_weights()[name], want) < 1e-3, name


@pytest.mark.parametrize("capture", [True, False])
def test_micro_batches_add_up(gpu, capture):  # noqa: F811
    x, y = data()
    nets = [network(device, False, capture=capture) for device in (CudaBackend(0), "cpu")]
    rules = [gb.SGD(0.1), gb.SGD(0.1)]
    for size in (10, 10, 10, 33, 33):
        for net, rule in zip(nets, rules, strict=True):
            net.train_step(x, y, rule, micro_batch_size=size)
    for name, want in nets[1].get_weights().items():
        assert relative(nets[0].get_weights()[name], want) < 1e-5, name


def test_trainer(gpu):  # noqa: F811
    x, y = data(200)
    histories = []
    for device in (CudaBackend(0), "cpu"):
        net = network(device, False)
        histories.append(gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=3, batch_size=64, validation_data=(x, y)))
    for column in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(histories[0][column], histories[1][column], rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "sgd", "lamb"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_many_steps_in_one_launch(gpu, optimizer, shuffle):  # noqa: F811
    """20 full batches and a short one, three times: the steps between the first and the last run without the host."""
    x, y = data(20 * 8 + 3)
    weights = []
    for loops in (True, False):
        backend = CudaBackend(0)
        backend.loops = loops
        net = network(backend, l2=1e-3)
        rule = gb.AdamW(0.01, clip_norm=1.0, schedule=Cosine()) if optimizer == "adamw" else OPTIMIZERS[optimizer]()
        launches = len(gpu.launched)
        gb.Trainer(net, rule).fit(x, y, epochs=3, batch_size=8, shuffle=shuffle)
        assert rule.t == 63
        # 16 in one and 3 or 4 singly, and the short batch from its second epoch on.
        assert len(gpu.launched) - launches == ((1 + 3) + (1 + 4) + (1 + 4) + 2 if loops else 59 + 2)
        weights.append(net.get_weights())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


DTYPES = [
    (np.int32, np.int16),
    (np.bool_, np.uint8),
    (np.float64, np.int64),
    (np.float16, np.int32),
    (np.uint8, np.int64),
]


@pytest.mark.parametrize("level", ["plain CuPy", "own kernels", "graphs, epilogues"])
@pytest.mark.parametrize(("x_type", "y_type"), DTYPES)
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_on_device_arrays_of_another_type(gpu, level, x_type, y_type, labels, shuffle):  # noqa: F811
    """Converted once, not at each step, and to what the host's arrays are converted to."""
    x = np.random.default_rng(0).integers(0, 2, (200, INPUTS)).astype(x_type)
    y = np.random.default_rng(1).integers(0, CLASSES, 200 if labels else (200, CLASSES)).astype(y_type)
    loss, weights = "cross_entropy" if labels else "half_squared_error", []
    for device in (LEVELS[level](), "cpu"):
        net = gb.Network([gb.Dense(INPUTS, 8, "tanh"), gb.Dense(8, CLASSES)], loss=loss, device=device, seed=1)
        there = (x, y) if device == "cpu" else tuple(net.backend.asarray(a) for a in (x, y))
        gb.Trainer(net, gb.SGD(0.1)).fit(*there, epochs=2, batch_size=16, shuffle=shuffle)
        weights.append(net.get_weights())
    for name, want in weights[1].items():
        assert relative(weights[0][name], want) < 1e-5, name


@pytest.mark.parametrize("level", ["plain CuPy", "epilogues, eager", "graphs, epilogues"])
def test_out_of_memory_halves_the_batch(gpu, level):  # noqa: F811
    x, y = data(4096)
    nets, rules = [network(LEVELS[level](), False), network("cpu", False)], [gb.SGD(0.1), gb.SGD(0.1)]
    nets[0].train_step(x[:16], y[:16], rules[0])
    nets[1].train_step(x[:16], y[:16], rules[1])
    gpu.state.limit = gpu.state.live + 3_000_000
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nets[0].train_step(x, y, rules[0])
    assert re.search("no memory for 4096 rows at once .* parts of 2048", str(caught[0].message))
    nets[1].train_step(x, y, rules[1])
    assert nets[0].engine.rows_at_once < 4096
    for net, rule in zip(nets, rules, strict=True):
        net.train_step(x, y, rule)
    assert rules[0].t == 3
    for name, want in nets[1].get_weights().items():
        assert relative(nets[0].get_weights()[name], want) < 1e-4, name


def test_out_of_memory_is_an_error_where_parts_would_differ(gpu):  # noqa: F811
    net = network(CudaBackend(0))
    gpu.state.limit = gpu.state.live + 100_000
    with pytest.raises(DeviceError, match="BatchNorm would normalise smaller parts differently"):
        net.train_step(*data(4096), gb.SGD(0.1))


class Doubled(gb.Layer):
    """A layer of a user's own, in plain array expressions: it cannot be captured."""

    def forward(self, be, v, training):
        v.a[...] = v.x * 2

    def backward(self, be, v, dx, training):
        dx[...] = v.delta * 2


def test_a_layer_that_is_not_recordable_stands_between_graphs(gpu):  # noqa: F811
    x, y = data()
    make = lambda device: gb.Network(  # noqa: E731
        [gb.Dense(INPUTS, 8, "relu"), Doubled(), gb.Dense(8, CLASSES)], loss="cross_entropy", device=device, seed=2
    )
    backend = CudaBackend(0)
    nets, rules = (make(backend), make("cpu")), (gb.SGD(0.1), gb.SGD(0.1))
    for net, rule in zip(nets, rules, strict=True):
        for _ in range(4):
            net.train_step(x, y, rule)
    for name, want in nets[1].get_weights().items():
        assert relative(nets[0].get_weights()[name], want) < 1e-5, name
    assert backend.recorder.failure is None
    assert len(gpu.launched) == 3 * 4  # the layer's three calls cut the step into four


# -- down the chain -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epilogue", ["RELU_AUX_BIAS", "BIAS", "BGRADA", "DRELU", "GELU_AUX_BIAS", "DGELU", "RELU_AUX"])
@pytest.mark.parametrize("how", ["refused", "broken"])
def test_an_epilogue_that_cannot_be_had(gpu, caplog, epilogue, how):  # noqa: F811
    if how == "refused":
        gpu.library.refused.add((epilogue, "float32"))
    else:
        gpu.library.broken.add(epilogue)
    backend = CudaBackend(0)
    with caplog.at_level(logging.WARNING, "gpubackprop.cuda"):
        assert_same_steps(network(backend), network("cpu"), lambda: gb.SGD(0.05), 1e-5)
    assert f"{epilogue} in float32" in backend.products.refused
    assert f"{epilogue} in float32 is not used" in caplog.text
    assert epilogue in backend.describe()


def test_what_epilogues_were_used(gpu):  # noqa: F811
    backend = CudaBackend(0)
    net = network(backend)
    net.train_step(*data(), gb.SGD(0.1))
    gpu.library.matmuls.clear()
    net.loss_and_gradients(*data())
    used = set(gpu.library.matmuls)
    assert {"GELU_AUX_BIAS", "RELU_AUX_BIAS", "RELU_AUX", "BIAS", "BGRADA", "DRELU"} <= used
    # 11 columns are no multiple of 8: the last GELU is a plain product and a kernel.
    assert gpu.library.matmuls.count("GELU_AUX_BIAS") == 1


def test_a_capture_that_fails_runs_eagerly(gpu, caplog, monkeypatch):  # noqa: F811
    backend = CudaBackend(0)
    net, reference = network(backend), network("cpu")
    plain = backend.times_derivative

    def waits(*arguments):
        backend.synchronize()
        plain(*arguments)

    monkeypatch.setattr(backend, "times_derivative", waits)
    with caplog.at_level(logging.WARNING, "gpubackprop.cuda"):
        assert_same_steps(net, reference, lambda: gb.SGD(0.1), 1e-5)
    assert "could not be captured" in caplog.text
    assert "eager (no graph: CUDARuntimeError: cudaErrorStreamCaptureUnsupported" in net.summary()


def test_without_cublaslt_own_kernels_are_left(gpu, monkeypatch):  # noqa: F811
    def missing(name, majors):
        raise MissingExtraError("loading libcublasLt.so.12", "cuda12")

    monkeypatch.setattr(libraries, "load", missing)
    net = network("cuda")
    assert net.backend.products is None
    assert "no cuBLASLt and CUDA graphs: MissingExtraError: loading libcublasLt.so.12" in net.summary()
    assert_same_steps(net, network("cpu"), lambda: gb.SGD(0.1), 1e-5)
    with pytest.raises(DeviceError, match="tf32"):
        network("cuda", precision="tf32")


def test_without_a_compiler_plain_cupy_is_left(gpu, monkeypatch):  # noqa: F811
    from gpubackprop.backend.cuda import compile as compiler

    def refuse(*arguments: Any) -> Any:
        raise DeviceError("NVRTC could not compile kernels.cu for sm_90")

    monkeypatch.setattr(compiler, "compile_cubin", refuse)
    net = network("cuda")
    assert type(net.backend) is CupyBackend
    assert "no own kernels: DeviceError: NVRTC could not compile" in net.summary()
    assert_same_steps(net, network("cpu"), lambda: gb.SGD(0.1), 1e-5)


def test_auto_takes_the_gpu(gpu):  # noqa: F811
    assert type(network("auto").backend) is CudaBackend
    assert next(d for d in gb.devices() if d.name == "cuda:0").working


# -- loss scaling ---------------------------------------------------------------------------------------------------


def test_an_overflow_is_left_out_and_halves_the_scale(gpu):  # noqa: F811
    backend = CudaBackend(0, "fp16")
    net, rule = network(backend, False), gb.SGD(0.1)
    x, y = data()
    net.train_step(x, y, rule)
    before, scale = net.get_weights(), float(backend.to_host(backend.loss_scale.scale))
    backend.fill(backend.loss_scale.scale, 2.0**40)
    net.train_step(x, y, rule)
    for name, array in net.get_weights().items():
        np.testing.assert_array_equal(array, before[name])
    assert float(backend.to_host(backend.loss_scale.scale)) < 2.0**40
    backend.fill(backend.loss_scale.scale, scale)
    backend.fill(backend.loss_scale.inverse, 1 / scale)
    net.train_step(x, y, rule)
    assert any((array != before[name]).any() for name, array in net.get_weights().items())


@pytest.mark.parametrize(
    ("cupy", "numpy", "message"), [("13.6.0", "2.2.0", "CuPy 14 or later"), ("14.2.0", "2.1.1", "NumPy 2.1.2 or later")]
)
def test_bfloat16_needs_newer_packages(monkeypatch, cupy, numpy, message):
    monkeypatch.setattr(np, "__version__", numpy)
    with pytest.raises(DeviceError, match=message):
        half_type("bf16", SimpleNamespace(__version__=cupy))


def test_half_precision_needs_float32_parameters(gpu):  # noqa: F811
    with pytest.raises(DeviceError, match="float32"):
        CudaBackend(0, "bf16").storage(np.float64)


@pytest.mark.parametrize("device", ["cuda", ("cuda", "tf32"), ("cuda", "fp16")])
def test_parity_check(gpu, device):  # noqa: F811
    report = gb.check_parity(smooth("cpu"), *data(64), devices=("cpu", device), steps=5)
    assert report, str(report)
