"""Narrow networks in one kernel, against float64 NumPy and against the layers one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.loop import STEPS
from tests.cuda.stand_in import gpu, shim  # noqa: F401

TOLERANCE = {"tf32": 2e-3, "fp16": 4e-3, "bf16": 3e-2}
SHAPES = [[5, 3, 2], [33, 17, 29, 10], [64, 64, 64, 1], [100, 128, 70, 128]]


def network(precision: str, widths: list[int], hidden: str, narrow: bool = True, **options: Any) -> gb.Network:
    device = CudaBackend(0, precision, narrow=narrow) if precision else "cpu"
    pairs = list(pairwise(widths))
    layers = [gb.Dense(d, m, hidden, bias=i != 1) for i, (d, m) in enumerate(pairs[:-1])]
    layers.append(gb.Dense(*pairs[-1]))
    return gb.Network(layers, device=device, seed=3, **options)


def data(n: int, widths: list[int], labels: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, widths[0])).astype(np.float32)
    return x, rng.integers(0, widths[-1], n) if labels else rng.uniform(size=(n, widths[-1])).astype(np.float32)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("hidden", ["relu", "sigmoid", "tanh", "identity"])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_passes_are_those_of_the_layers(gpu, precision, hidden, widths):  # noqa: F811
    """Loss, outputs and all gradients, for a batch of several blocks and turns, the last one not full."""
    loss = "half_squared_error" if widths[-1] == 1 else "cross_entropy"
    x, y = data(300, widths, loss == "cross_entropy")
    net, exact = network(precision, widths, hidden, loss=loss), network("", widths, hidden, loss=loss, dtype="float64")
    exact.set_weights(net.get_weights())
    assert "in one kernel" in net.summary()
    (value, gradients), (wanted, slopes) = (each.loss_and_gradients(x, y) for each in (net, exact))
    assert value == pytest.approx(wanted, rel=TOLERANCE[precision])
    # A z near 0 may fall on the other side of a ReLU's kink.
    factor = 12 if hidden == "relu" else 2
    for name, gradient in gradients.items():
        assert relative(gradient, slopes[name]) < factor * TOLERANCE[precision], name
    outputs = [np.asarray(each.backend.to_host(each.predict(x))) for each in (net, exact)]
    assert relative(*outputs) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", TOLERANCE)
def test_training_is_that_of_the_layers(gpu, precision):  # noqa: F811
    """In the device's loop, with momentum, penalties and parts of batches, beside the layers one by one."""
    widths = [20, 33, 17, 5]
    x, y = data(200, widths, True)
    found = []
    for narrow in (True, False):
        net = network(precision, widths, "tanh", narrow=narrow, loss="cross_entropy", l2=1e-3)
        gb.Trainer(net, gb.SGD(0.1, momentum=0.9)).fit(x, y, epochs=2, batch_size=50, micro_batch_size=30)
        history = gb.Trainer(net, gb.Adam(1e-2)).fit(x, y, epochs=2, batch_size=10)
        found.append((history["loss"][-1], net.get_weights()))
    assert found[0][0] == pytest.approx(found[1][0], rel=TOLERANCE[precision])
    for name, array in found[0][1].items():
        assert relative(array, found[1][1][name]) < 5 * TOLERANCE[precision], name


@pytest.mark.parametrize("precision", TOLERANCE)
def test_deltas_are_kept_for_whoever_asks(gpu, precision):  # noqa: F811
    widths = [20, 33, 17, 5]
    report = gb.check_parity(network(precision, widths, "sigmoid", loss="cross_entropy"), *data(40, widths, True))
    assert report.passed, str(report)


@pytest.mark.parametrize(("precision", "nodes"), [("tf32", 6), ("bf16", 6), ("fp16", 8)])
def test_nodes_of_a_step(gpu, precision, nodes):  # noqa: F811
    """Rows and labels, forward, loss, backward, the sums of its blocks, the update; fp16 two more, as ever."""
    net = network(precision, [24, 32, 16, 8], "relu", loss="cross_entropy")
    gb.Trainer(net, gb.Adam()).fit(*data(8 * (STEPS + 1), [24, 8], True), epochs=1, batch_size=8)
    assert len(gpu.launched[-1].nodes) == STEPS * nodes + 1


def test_what_it_is_not_taken_for(gpu):  # noqa: F811
    taken: list[Any] = []
    for precision, layers in (
        ("native", [gb.Dense(8, 8, "relu"), gb.Dense(8, 4)]),
        ("bf16", [gb.Dense(8, 129, "relu"), gb.Dense(129, 4)]),
        ("bf16", [gb.Dense(8, 8, "gelu"), gb.Dense(8, 4)]),
        ("bf16", [gb.Dense(8, 8, "relu"), gb.Dropout(0.1), gb.Dense(8, 4)]),
        ("bf16", [gb.Dense(8, 8)]),
    ):
        net = gb.Network(layers, device=CudaBackend(0, precision), seed=1)
        taken.append("in one kernel" in net.summary())
    assert taken == [False] * 5


def test_a_layer_that_is_not_trained_and_the_gradient_by_x(gpu):  # noqa: F811
    widths = [8, 16, 16, 4]
    x, y = data(20, widths, True)
    found = []
    for narrow in (True, False):
        net = network("bf16", widths, "tanh", narrow=narrow, loss="cross_entropy")
        net.layers[0].trainable = False
        before = net.get_weights()["0.weight"]
        net.train_step(x, y, gb.SGD(0.1))
        np.testing.assert_array_equal(net.get_weights()["0.weight"], before)
        found.append(net.input_gradient(x, y))
    assert relative(*found) < TOLERANCE["bf16"]


def test_nan_comes_through(gpu):  # noqa: F811
    """In its own row and nowhere else, whatever lies beside it in a tile."""
    widths = [8, 16, 4]
    x, _ = data(20, widths, True)
    net = network("bf16", widths, "relu", loss="cross_entropy")
    batch = net.engine.load(x)
    x[3, 2], x[5, 1] = np.nan, np.inf
    net.backend.copy_in(x, batch.x)
    net.engine.run(batch, "forward")
    finite = np.isfinite(net.backend.to_host(batch.outputs))
    assert not finite[[3, 5]].any()
    assert np.delete(finite, [3, 5], axis=0).all()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_device_whose_products_differ_takes_the_layers_one_by_one(gpu, monkeypatch, precision, caplog):  # noqa: F811
    for broken in (False, True):
        device = CudaBackend(0, precision)
        launch = device.kernels.launch

        def wrong(name: str, template: Any, geometry: Any, *arguments: Any, launch: Any = launch) -> None:
            launch(name, template, geometry, *arguments)
            if name == "narrow_backward":
                arguments[4][0] += 1

        if broken:
            monkeypatch.setattr(device.kernels, "launch", wrong)
        net = gb.Network([gb.Dense(8, 8, "relu"), gb.Dense(8, 4)], device=device, seed=1)
        assert ("in one kernel" in net.summary()) is not broken
    assert "came out wrong" in caplog.text
