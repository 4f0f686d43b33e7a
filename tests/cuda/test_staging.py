"""Copies to the device: converted, whole, without waiting for what was queued before, through a bounded amount of memory."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpubackprop.backend.cuda import staging
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.errors import ArgumentError
from tests.cuda import fake_cupy


@pytest.fixture(params=[False, True], ids=["at once", "put off"])
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_cupy.install(monkeypatch, deferred=request.param)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 bytes, so that little data makes many turns."""
    monkeypatch.setattr(staging, "PIECE", 64)


SHAPES = [(), (1,), (0,), (5, 0), (1000,), (37, 3), (5, 100), (2, 3, 4)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.bool_])
def test_what_arrives(cupy: Any, shape: tuple[int, ...], dtype: Any) -> None:
    be = CupyBackend(0)
    host = np.asarray(np.random.default_rng(0).normal(size=shape) * 10)
    there = be.asarray(host, dtype)
    assert (there.shape, there.dtype) == (shape, np.dtype(dtype))
    np.testing.assert_array_equal(there.get(), host.astype(dtype))
    out = be.empty(shape, dtype)
    be.copy_in(np.array(host, order="F"), out)
    np.testing.assert_array_equal(out.get(), host.astype(dtype))
    assert be.asarray(host).dtype == np.float64


@pytest.mark.usefixtures("small")
def test_the_host_may_go_on_writing(cupy: Any) -> None:
    be = CupyBackend(0)
    host = np.zeros((30, 4), np.float32)
    arrived = []
    for i in range(10):
        host[...] = i
        arrived.append(be.asarray(host))
    host[...] = -1
    for i, there in enumerate(arrived):
        assert (there.get() == i).all()


def test_nothing_is_waited_for(cupy: Any) -> None:
    be = CupyBackend(0)
    out = be.zeros((100, 4), np.float32)
    host = np.ones((100, 4))
    before = fake_cupy.state.waits
    for _ in range(staging.SLOTS):
        be.copy_in(host, out)
    assert fake_cupy.state.waits == before
    be.copy_in(host, out)
    # With work put off, the fifth copy finds all slots on their way.
    assert fake_cupy.state.waits == before + fake_cupy.state.deferred


def test_page_locked_memory_is_bounded(cupy: Any) -> None:
    be = CupyBackend(0)
    host = np.arange(8 * staging.PIECE // 8, dtype=np.float64).reshape(-1, 16)
    there = be.asarray(host)
    assert fake_cupy.state.pinned == (staging.SLOTS if fake_cupy.state.deferred else 1) * staging.PIECE
    np.testing.assert_array_equal(there.get(), host)


def test_rows_longer_than_a_piece(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PIECE", 64)
    host = np.random.default_rng(0).normal(size=(3, 100))
    np.testing.assert_array_equal(CupyBackend(0).asarray(host).get(), host)


def test_another_shape_is_refused(cupy: Any) -> None:
    be = CupyBackend(0)
    with pytest.raises(ArgumentError, match=r"\(3,\) cannot be copied into one of shape \(2, 3\)"):
        be.copy_in(np.zeros(3), be.zeros((2, 3), np.float32))


def test_in_a_capture_it_is_refused_and_works_again_afterwards(cupy: Any) -> None:
    be = CupyBackend(0)
    out = be.zeros((3,), np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="H2D transfers are disallowed"):
            be.copy_in(np.ones(3), out)
        stream.end_capture()
    be.copy_in(np.ones(3), out)
    assert (out.get() == 1).all()


def test_without_page_locked_memory(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(sys.modules["cupyx"], "empty_pinned", refuse)
    host = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(CupyBackend(0).asarray(host).get(), host)
    assert "no page-locked memory" in caplog.text
