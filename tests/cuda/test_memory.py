"""What is dropped gives its GPU memory back at once: nothing waits for Python's collector of circles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from tests.cuda.stand_in import gpu, shim  # noqa: F401

BACKENDS = {
    "plain CuPy": lambda: CupyBackend(0),
    "own kernels": lambda: CudaBackend(0, products=False),
    "eager": lambda: CudaBackend(0, graphs=False),
    "graphs": lambda: CudaBackend(0),
    "bf16": lambda: CudaBackend(0, "bf16"),
    "fp16": lambda: CudaBackend(0, "fp16"),
}


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 12)).astype(np.float32), rng.integers(0, 4, n)


def network(device: Any) -> gb.Network:
    parts = [
        gb.Dense(12, 40, "relu"),
        gb.Dropout(0.1),
        gb.Dense(40, 16, "gelu_tanh"),
        gb.LayerNorm(16),
        gb.Dense(16, 4),
    ]
    return gb.Network(parts, loss="cross_entropy", device=device, seed=1)


@pytest.mark.parametrize("level", BACKENDS)
def test_a_dropped_network_gives_its_memory_back(gpu, level):  # noqa: F811
    x, y = data(400)
    backend = BACKENDS[level]()
    # What a backend keeps for every network that comes: scratch, partial sums, the library's workspace.
    kept = []
    for _ in range(3):
        net, rule = network(backend), gb.Adam(0.01)
        gb.Trainer(net, rule).fit(x, y, epochs=3, batch_size=8)
        net.train_step(x, y, rule, micro_batch_size=100)
        net.loss_and_gradients(x, y)
        net.predict(x)
        held = gpu.state.live
        del net, rule
        kept.append(gpu.state.live)
        assert held - gpu.state.live > 2 * 400 * (40 + 16) * 4, "the buffers of the largest batch at least"
    assert kept[1] == kept[2]


@pytest.mark.parametrize("level", BACKENDS)
def test_a_dropped_backend_gives_all_of_it_back(gpu, level):  # noqa: F811
    x, y = data(64)
    left = []
    for _ in range(3):
        net, rule = network(BACKENDS[level]()), gb.SGD(0.01, momentum=0.9)
        gb.Trainer(net, rule).fit(x, y, epochs=3, batch_size=8)
        del net, rule
        left.append(gpu.state.live)
    # The workspace of cuBLASLt belongs to the device.
    assert left[0] == left[1] == left[2]


class Temporary(gb.Layer):
    """Twice its input, in memory of a moment."""

    recordable = True

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.copyto(v.a, v.x + v.x)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.copyto(dx, v.delta + v.delta)


def test_what_a_dropped_graph_took_for_a_moment_is_given_back(gpu):  # noqa: F811
    x, y = data(64)
    backend = CudaBackend(0)
    taken = []
    for _ in range(3):
        layers = [gb.Dense(12, 40, "relu"), Temporary(), gb.Dense(40, 4)]
        net, rule = gb.Network(layers, loss="cross_entropy", device=backend, seed=1), gb.SGD(0.01)
        for _ in range(4):
            net.train_step(x, y, rule)
        assert backend.recorder.failure is None
        del net, rule
        backend.release_memory()
        taken.append(gpu.state.taken[0])
    assert taken[1] == taken[2]


def test_a_data_set_is_not_kept_by_the_loop_that_read_it(gpu):  # noqa: F811
    net, rule = network(CudaBackend(0)), gb.SGD(0.01)
    trainer = gb.Trainer(net, rule)
    x, y = data(64)
    trainer.fit(x, y, epochs=3, batch_size=8)
    before = gpu.state.live
    for n in (640, 6400):
        trainer.fit(*data(n), epochs=1, batch_size=8)
    assert gpu.state.live - before < 6400 * 12 * 4


def test_a_network_that_moved_gives_its_memory_back(gpu):  # noqa: F811
    x, y = data(64)
    before = gpu.state.live
    net, rule = network(CudaBackend(0)), gb.Adam(0.01)
    gb.Trainer(net, rule).fit(x, y, epochs=3, batch_size=8)
    net.to("cpu").train_step(x, y, rule)
    assert gpu.state.live - before <= 33 * 2**20


@pytest.mark.parametrize("level", ["plain CuPy", "eager", "graphs"])
def test_memory_that_garbage_holds_is_taken_before_a_batch_is_cut(gpu, level):  # noqa: F811
    x, y = data(4000)
    backend = BACKENDS[level]()
    net, rule = network(backend), gb.SGD(0.1)
    net.train_step(x[:8], y[:8], rule)
    net.train_step(x, y, rule)
    held = gpu.state.live
    net.engine.release()
    needed = held - gpu.state.live
    circle: list[object] = [backend.zeros((needed // 2,), np.uint8)]
    circle.append(circle)
    del circle
    backend.cupy.get_default_memory_pool().free_all_blocks()
    gpu.state.limit = gpu.state.taken[0] + needed * 3 // 4
    net.train_step(x, y, rule)
    assert net.engine.rows_at_once is None
    assert rule.t == 3


def test_no_memory_for_a_graph_is_no_reason_to_stop(gpu, monkeypatch, caplog):  # noqa: F811
    """The step itself has run by then."""
    backend = CudaBackend(0)

    def refuse(step: Any) -> Any:
        raise backend.memory_errors[0](10, 10)

    monkeypatch.setattr(backend.recorder, "capture", refuse)
    net, reference = network(backend), network("cpu")
    for n in (net, reference):
        gb.Trainer(n, gb.SGD(0.1)).fit(*data(100), epochs=2, batch_size=8)
    assert "eager (no graph: OutOfMemoryError" in backend.describe()
    assert net.engine.rows_at_once is None
    for name, want in reference.get_weights().items():
        np.testing.assert_allclose(net.get_weights()[name], want, rtol=1e-3, atol=1e-5)
