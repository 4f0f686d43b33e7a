"""A second GPU, and other threads: work goes to the backend's own device, and the caller's current device stays as it is."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from tests.cuda import fake_cupy
from tests.cuda.fake_cupy import device
from tests.cuda.stand_in import gpu, shim  # noqa: F401

LEVELS = {
    "plain CuPy": lambda index: CupyBackend(index),
    "own kernels": lambda index: CudaBackend(index, products=False),
    "eager": lambda index: CudaBackend(index, graphs=False),
    "graphs": lambda index: CudaBackend(index),
    "fp16": lambda index: CudaBackend(index, "fp16"),
}


@pytest.fixture
def two(gpu: Any, shim: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:  # noqa: F811
    """Two GPUs. `seen`: the devices that work was queued on; `state.used`: the bytes that arrays hold on each."""
    cupy, seen = fake_cupy.install(monkeypatch, shim, devices=2), []
    put = device.Queue.put

    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        seen.append(self.device)
        put(self, *arguments, **options)

    def use(self: Any) -> None:
        raise AssertionError("the current device was changed for good")

    monkeypatch.setattr(device.Queue, "put", noted)
    monkeypatch.setattr(device.Device, "use", use)
    return SimpleNamespace(cupy=cupy, state=gpu.state, seen=seen)


def data(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 4, n)


def network(device: Any) -> gb.Network:
    parts = [gb.Dense(6, 16, "relu"), gb.Dropout(0.1), gb.Dense(16, 8, "gelu"), gb.LayerNorm(8), gb.Dense(8, 4)]
    return gb.Network(parts, loss="cross_entropy", device=device, seed=1)


def everything(net: gb.Network) -> dict[str, np.ndarray]:
    """All that a network offers, once."""
    x, y = data()
    optimizer = gb.Adam(0.01, clip_norm=1.0)
    gb.Trainer(net, optimizer).fit(x, y, epochs=2, batch_size=4, validation_data=(x, y))
    for size in (None, 7):
        net.train_step(x, y, optimizer, micro_batch_size=size)
    (
        net.loss(x, y),
        net.loss_and_gradients(x, y),
        net.deltas(x, y),
        net.input_gradient(x, y),
        net.predict(x),
        net.forward(x),
    )
    net.set_weights(net.get_weights())
    optimizer.set_state(optimizer.get_state())
    return net.get_weights()


@pytest.mark.parametrize("level", LEVELS)
def test_all_work_is_done_on_the_backends_own_device(two, level):
    wanted = everything(network("cpu"))
    got = everything(network(LEVELS[level](1)))
    assert set(two.seen) == {1}
    assert two.state.used[0] == 0
    assert two.state.device == 0
    if level != "fp16":
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=2e-2, atol=1e-4)


def test_two_devices_side_by_side(two):
    x, y = data()
    nets, rules = [network(f"cuda:{i}") for i in (0, 1)], [gb.Adam(0.01), gb.Adam(0.01)]
    assert [net.backend.name for net in nets] == ["cuda:0", "cuda:1"]
    for _ in range(4):
        for net, rule in zip(nets, rules, strict=True):
            net.train_step(x, y, rule)
    for name, array in nets[0].get_weights().items():
        np.testing.assert_array_equal(array, nets[1].get_weights()[name])
    nets[0].to("cuda:1").train_step(x, y, rules[0])
    assert gb.check_parity(nets[1], x, y, devices=("cuda:0", "cuda:1"), steps=3)
    assert two.state.device == 0


def test_work_in_a_thread_goes_to_the_device_of_the_network(two):
    x, y = data()
    net, failures = network("cuda:1"), []

    def work() -> None:
        try:
            rule = gb.SGD(0.1)
            for _ in range(4):
                net.train_step(x, y, rule)
            net.predict(x)
            assert two.state.device == 0
        except BaseException as error:
            failures.append(error)

    two.seen.clear()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert set(two.seen) == {1}


def test_a_device_that_cannot_be_entered_leaves_the_lock_free(two, monkeypatch):
    backend = CupyBackend(1)

    def refuse(self: Any) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(backend.cupy.cuda.Device, "__enter__", refuse)
    with pytest.raises(RuntimeError, match="no such device"), backend:
        pass
    assert backend.lock.acquire(blocking=False)
    backend.lock.release()
