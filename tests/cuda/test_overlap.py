"""Own kernels of a graph that begin while the one before ends: they wait first, and only where device and driver can do it."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda import compile as compiler
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda import libraries, overlap
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from tests.cuda.fake_driver import NOT_SUPPORTED, Driver
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.cuda.test_compile import compile_ptx, needs_nvrtc, widest
from tests.cuda.test_cuda_backend import data, network

WAIT = 'asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory");'


def test_every_kernel_waits_first_and_nothing_else_is_changed():
    text = overlap.waiting(compiler.source())
    heads = re.findall(r"__global__ void (\w+)\([^)]*\) \{(.*)", text)
    assert {name for name, _ in heads} == set(table.kernels())
    assert all(rest.strip().startswith(WAIT) for _, rest in heads)
    assert text.replace(f" {WAIT}", "") == compiler.source()
    assert "griddepcontrol" not in compiler.source()


def test_a_kernel_that_is_written_otherwise_is_noticed():
    with pytest.raises(AssertionError, match="another way"):
        overlap.waiting("__global__ __launch_bounds__(128) void f(float* x) { *x = 1; }")


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_90", "sm_100", "sm_120"])
def test_compiled_kernels_wait_before_they_touch_memory_or_branch(arch):
    if arch not in compiler.supported_architectures():
        pytest.skip(f"this NVRTC does not compile for {arch}")
    names = [table.kernel(name).expression(*t) for name, templates in widest().items() for t in templates[:1]]
    ptx = compile_ptx(overlap.waiting(compiler.source()), arch, names)
    entries = re.findall(r"\.entry (\w+)\(.*?^\{(.*?)^\}", ptx, re.DOTALL | re.MULTILINE)
    assert len(entries) == len(names)
    for name, body in entries:
        before, wait, after = body.partition("griddepcontrol.wait;")
        assert wait, name
        assert after.lstrip().startswith("griddepcontrol.launch_dependents;"), name
        # What stands before are declarations and the launch's own arguments, which are no device memory.
        assert not re.search(r"\b(bra|ret|exit|call|bar|st|atom|red|cp|ld(?!\.param))\b", before), (name, before)


@needs_nvrtc
def test_kernels_that_wait_compile_to_machine_code():
    name = table.kernel("activation").expression("float", "ReLU")
    assert compiler.compile_cubin(overlap.waiting(compiler.source()), "sm_90", name)[0][:4] == b"\x7fELF"


def test_the_structures_are_as_documented():
    config, attribute = overlap._Config, overlap._Attribute
    assert (ctypes.sizeof(config), ctypes.sizeof(attribute)) == (56, 72)
    assert (config.block.offset, config.shared.offset, config.stream.offset) == (12, 24, 32)
    assert (config.attributes.offset, config.count.offset, attribute.allowed.offset) == (40, 48, 8)


def weights(backend: Any, narrow: bool = False) -> dict[str, np.ndarray]:
    """After some steps in graphs of one step and of many."""
    x, y = data(20 * 8 + 3)
    parts = [gb.Dense(7, 16, "relu"), gb.Dense(16, 8, "tanh"), gb.Dense(8, 5)]
    net = gb.Network(parts, loss="cross_entropy", device=backend, seed=1) if narrow else network(backend, l2=1e-3)
    rule = gb.Adam(0.01, clip_norm=1.0)
    gb.Trainer(net, rule).fit(x, y, epochs=2, batch_size=8)
    for _ in range(3):
        net.train_step(x[:8], y[:8], rule)
    return net.get_weights()


@pytest.mark.parametrize("precision", ["native", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("narrow", [False, True])
def test_results_are_the_same_to_the_bit(gpu, precision, narrow):  # noqa: F811
    found = []
    for on in (False, True):
        backend = CudaBackend(0, precision, overlap=on)
        found.append(weights(backend, narrow))
        assert backend.recorder.failure is None
        assert bool(gpu.driver.launched) == on
        assert ("own kernels overlap" in backend.describe()) == on
    assert all(launch.overlaps for launch in gpu.driver.launched)
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name])


def test_only_what_is_captured_is_launched_so(gpu):  # noqa: F811
    net = network(CudaBackend(0, overlap=True), capture=False)
    gpu.driver.launched.clear()
    launches = gpu.state.launches
    for _ in range(3):
        net.train_step(*data(), gb.SGD(0.1))
    # What is timed, each way of doing something, is timed in a graph, and as it will run in one.
    timed = {launch.kernel for launch in gpu.driver.launched}
    assert not any("optimizer_step" in kernel or "cross_entropy" in kernel for kernel in timed)
    assert gpu.state.launches - launches > len(gpu.driver.launched)


def test_every_own_kernel_of_a_graph_is_launched_so(gpu):  # noqa: F811
    backend = CudaBackend(0, overlap=True)
    net, rule = network(backend), gb.SGD(0.1)
    net.train_step(*data(), rule)
    gpu.driver.launched.clear()
    launches = gpu.state.launches
    net.train_step(*data(), rule)  # is captured, and nothing is launched besides
    assert backend.recorder.graphs == 2  # one was tried out
    assert len(gpu.driver.launched) == gpu.state.launches - launches > 5


def without(gpu: Any, reason: str, **options: Any) -> None:  # noqa: F811
    """Asked for and not to be had: all goes on, and says why."""
    backend = CudaBackend(0, overlap=True, **options)
    net = network(backend)
    assert f"own kernels do not overlap: {reason}" in net.summary()
    gpu.driver.launched.clear()
    for _ in range(3):
        net.train_step(*data(), gb.SGD(0.1))
    assert gpu.driver.launched == []
    assert backend.recorder.failure is None


def test_a_driver_that_is_too_old(gpu, monkeypatch):  # noqa: F811
    driver = Driver(12020)
    monkeypatch.setattr(libraries, "driver", lambda: driver)
    without(gpu, "it takes a driver for CUDA 12.3, and this one is for 12.2")
    assert driver.launched == []


def test_a_device_that_is_too_old(gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(compiler, "supported_architectures", lambda: ["sm_80", "sm_89"])
    monkeypatch.setattr(gpu.cupy.cuda.Device, "compute_capability", "89")
    without(gpu, "it takes compute capability 9.0, and kernels here are for sm_89")


def test_a_driver_that_refuses(gpu):  # noqa: F811
    gpu.driver.fails = NOT_SUPPORTED
    without(gpu, "DeviceError: cuLaunchKernelEx failed (error 801 of the CUDA driver API)")


def test_a_driver_without_the_function(gpu):  # noqa: F811
    del gpu.driver.cuLaunchKernelEx
    without(gpu, "AttributeError")


def test_results_that_are_wrong(gpu, monkeypatch):  # noqa: F811
    capture = overlap.Overlap.capture

    def forgets(self: Any, function: int, geometry: Any, arguments: Any) -> bool:
        return arguments[3] == 9.0 or capture(self, function, geometry, arguments)

    monkeypatch.setattr(overlap.Overlap, "capture", forgets)
    without(gpu, "a small graph came out wrong")


@pytest.mark.parametrize("options", [{"graphs": False}, {"products": False}])
def test_without_graphs(gpu, options):  # noqa: F811
    without(gpu, "there are no graphs", **options)


def test_it_is_off_unless_asked_for(gpu):  # noqa: F811
    assert "overlap" not in network("cuda").summary()


@pytest.mark.parametrize("on", [True, False])
def test_the_stand_in_notices_a_kernel_that_does_not_wait(gpu, monkeypatch, on):  # noqa: F811
    """So that the tests above can fail."""
    monkeypatch.setattr("gpubackprop.backend.cuda.launcher.waiting", overlap.waiting if on else lambda text: text)
    CudaBackend(0, overlap=True)
    assert any("does not wait" in v for v in gpu.driver.violations) is not on
    gpu.driver.violations.clear()
