from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

import gpubackprop as gb
from gpubackprop.backend import select
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.backend.cuda import libraries
from gpubackprop.backend.select import fallback_reason, get_backend
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import ArgumentError, DeviceError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without CuPy and without a driver, whatever this one has."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(libraries, "driver", lambda: None)
    select._cuda_problem.cache_clear()
    yield
    select._cuda_problem.cache_clear()


def test_by_name() -> None:
    assert type(get_backend("cpu")) is NumpyBackend
    assert type(get_backend("strict")) is StrictBackend
    assert get_backend("cpu").name == "cpu"
    be = get_backend("strict")
    assert get_backend(be) is be
    assert isinstance(be, Backend)


@pytest.mark.usefixtures("no_gpu")
def test_auto_falls_back_and_says_why() -> None:
    assert get_backend().name == get_backend("auto").name == "cpu"
    reason = fallback_reason()
    assert reason is not None
    assert reason.startswith("this machine has no NVIDIA driver")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_never_falls_back(name: str) -> None:
    with pytest.raises(
        DeviceError, match=rf'device "{name}" cannot be used: this machine has no NVIDIA driver.*"cpu" runs on the CPU'
    ):
        get_backend(name)
    with pytest.raises(DeviceError, match="cannot be used"):
        gb.mlp([2, 1], device=name)


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:0:1", "", None, 0, "strict:1"])
def test_unknown(name: object) -> None:
    with pytest.raises(ArgumentError, match="unknown device"):
        get_backend(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gpu", "GPU"])
def test_a_gpu_is_not_taken_for_a_cpu(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"unknown device '{name}': did you mean 'cuda'"):
        get_backend(name)


@pytest.mark.usefixtures("no_gpu")
def test_precision() -> None:
    with pytest.raises(DeviceError, match='precision="tf32" needs an NVIDIA GPU'):
        get_backend("cpu", precision="tf32")
    with pytest.raises(DeviceError, match='precision="tf32" needs an NVIDIA GPU'):
        get_backend("auto", precision="tf32")
    with pytest.raises(
        DeviceError, match='precision="bf16" was asked for, but this backend of \'cpu\' was made with "native"'
    ):
        gb.mlp([2, 1], device=get_backend("cpu"), precision="bf16")


@pytest.mark.usefixtures("no_gpu")
def test_devices() -> None:
    found = {d.name: d for d in gb.devices()}
    assert list(found) == ["cpu", "cpu:mkl", "cuda", "strict"]
    assert found["cpu"].working
    assert found["cpu"].memory > 0
    assert not found["cuda"].working
    assert "no NVIDIA driver" in found["cuda"].reason
    assert found["strict"].working
