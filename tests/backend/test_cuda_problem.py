"""Whether a GPU can be used, without one: CuPy missing, broken, or disagreeing with what is there."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend import select
from gpubackprop.backend.cuda import cupy_backend, problem
from gpubackprop.backend.select import fallback_reason, get_backend
from gpubackprop.errors import DeviceError


@pytest.fixture(autouse=True)
def _ask_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cupy_backend, "explain", lambda error: f"explained: {error}")
    select._cuda_problem.cache_clear()
    yield
    select._cuda_problem.cache_clear()


def fake(monkeypatch: pytest.MonkeyPatch, count: Callable[[], int], product: Callable[..., Any] = np.dot) -> None:
    """A module in CuPy's place that has NumPy's arrays and the given number of GPUs."""
    cupy = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(getDeviceCount=count)
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda index: nullcontext())  # type: ignore[attr-defined]
    cupy.ones, cupy.dot, cupy.asnumpy = np.ones, product, np.asarray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)


@pytest.mark.parametrize(
    "failure",
    [
        ImportError("libcuda.so.1: cannot open shared object file"),
        ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
    ],
)
def test_installed_but_not_importable(monkeypatch: pytest.MonkeyPatch, failure: ImportError) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "cupy":
                raise failure

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    said = problem(0)
    assert said == f"explained: {failure}"
    assert fallback_reason() == said
    assert get_backend("auto").name == "cpu"


def test_a_driver_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver")

    fake(monkeypatch, count)
    assert problem(0) == "explained: cudaErrorInsufficientDriver"
    with pytest.raises(DeviceError, match=r'device "cuda" cannot be used: explained: .*"cpu" runs on the CPU'):
        get_backend("cuda")


def test_a_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda: 1)
    assert problem(0) is None
    assert problem(1) == "this machine has 1 GPU, numbered from 0"
    fake(monkeypatch, lambda: 2)
    assert problem(2) == "this machine has 2 GPUs, numbered from 0"


def test_a_product_that_comes_out_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda: 1, product=lambda a, b: np.dot(a, b) * 0.5)
    assert problem(0) == "a product of two 8 x 8 matrices came out wrong there"


def test_memory_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(a: Any, b: Any) -> Any:
        raise MemoryError

    fake(monkeypatch, lambda: 1, product)
    assert problem(0) == "explained: "
