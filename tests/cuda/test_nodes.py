"""How many nodes a training step's graph has: each one costs the device a launch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.loop import STEPS
from tests.cuda.stand_in import gpu, shim  # noqa: F401

PRECISIONS = ["native", "tf32", "bf16", "fp16"]


def data(n: int, targets: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 24)).astype(np.float32)
    return x, rng.uniform(size=(n, 8)).astype(np.float32) if targets else rng.integers(0, 8, n)


def network(precision: str, loss: str = "cross_entropy", narrow: bool = False, **options: Any) -> gb.Network:
    """Three layers whose widths every epilogue takes."""
    layers = [gb.Dense(24, 32, "relu"), gb.Dense(32, 16, "relu"), gb.Dense(16, 8)]
    return gb.Network(layers, loss=loss, device=CudaBackend(0, precision, narrow=narrow), seed=1, **options)


def in_the_loop(gpu: Any, net: gb.Network, rule: Any, targets: bool = False) -> int:  # noqa: F811
    """Nodes of the graph of many steps, launched once for all but the first of 17."""
    gpu.launched.clear()
    gb.Trainer(net, rule).fit(*data(8 * (STEPS + 1), targets), epochs=1, batch_size=8)
    (graph,) = gpu.launched
    return len(graph.nodes)


# What each step takes: rows and labels; three products; the loss; three gradients; two deltas; the update. fp16 has a pass over
# the gradients more, and the scale of the next step. Once a graph: moving on in the order of the rows.
@pytest.mark.parametrize(("precision", "nodes"), [*zip(PRECISIONS, [11, 11, 11, 13], strict=True)])
def test_a_step_in_the_devices_loop(gpu, precision, nodes):  # noqa: F811
    for rule in (gb.SGD(0.1), gb.SGD(0.1, momentum=0.9), gb.Adam()):
        assert in_the_loop(gpu, network(precision), rule) == STEPS * nodes + 1


@pytest.mark.parametrize("loss", ["half_squared_error", "binary_cross_entropy"])
def test_other_losses_take_no_more(gpu, loss):  # noqa: F811
    assert in_the_loop(gpu, network("native", loss), gb.Adam(), targets=True) == STEPS * 11 + 1


def test_penalties_take_two_nodes_a_weight_and_two_for_the_sum(gpu):  # noqa: F811
    assert in_the_loop(gpu, network("native", l1=1e-3, l2=1e-3), gb.Adam()) == STEPS * (11 + 2 * 3 + 2) + 1


def test_clipping_takes_its_norm_and_a_pass(gpu):  # noqa: F811
    # and the sum of the epoch's norms
    assert in_the_loop(gpu, network("native"), gb.Adam(clip_norm=1.0)) == STEPS * (11 + 2 + 1) + 1


@pytest.mark.parametrize(("precision", "nodes"), [*zip(PRECISIONS, [10, 10, 11, 13], strict=True)])
def test_a_step_that_the_host_launches(gpu, precision, nodes):  # noqa: F811
    """No gathering; in half precision the parameters, which the host may have written, are converted first."""
    net, rule = network(precision), gb.Adam()
    for _ in range(3):
        net.train_step(*data(8), rule)
    gpu.launched.clear()
    net.train_step(*data(8), rule)
    assert [len(graph.nodes) for graph in gpu.launched] == [nodes]


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("graphs_on", [True, False])
def test_parameters_are_converted_once_a_step_at_most(gpu, monkeypatch, capture, precision, graphs_on):  # noqa: F811
    x, y = data(8)
    backend = CudaBackend(0, precision, graphs=graphs_on)
    names: list[str] = []
    launch = backend.kernels.launch
    monkeypatch.setattr(backend.kernels, "launch", lambda name, *rest: (names.append(name), launch(name, *rest)))
    layers = [gb.Dense(24, 32, "relu"), gb.Dense(32, 16, "relu"), gb.Dense(16, 8)]
    net = gb.Network(layers, loss="cross_entropy", device=backend, seed=1, capture=capture)
    for run in (
        lambda: net.train_step(x, y, gb.SGD(0.1)),
        lambda: net.loss_and_gradients(x, y),
        lambda: net.predict(x),
    ):
        for _ in range(2):
            names.clear()
            run()
            assert names.count("convert") <= 1, names
