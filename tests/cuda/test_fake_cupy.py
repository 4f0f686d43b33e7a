"""What the stand-in for CuPy is for: work that is put off, memory handed out again, captures that go wrong, two devices."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

from tests.cuda import fake_cupy
from tests.cuda.fake_cupy import memory
from tests.cuda.fake_cupy.device import CUDARuntimeError


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_cupy.install(monkeypatch, deferred=True)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_cupy.install(monkeypatch, deferred=False)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_cupy.install(monkeypatch, devices=2)


def streams(cupy: Any, count: int = 2) -> list[Any]:
    return [cupy.cuda.Stream(non_blocking=True) for _ in range(count)]


# -- work that is put off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False])
def test_a_missing_wait_between_streams_shows(late: Any, waits: bool) -> None:
    first, second = streams(late)
    a, out = late.zeros((3,)), late.zeros((3,))
    late.cuda.Device(0).synchronize()
    with first:
        late.add(a, 1, out=a)
        written = first.record()
    with second:
        if waits:
            second.wait_event(written)
        late.copyto(out, a)
        assert out.get().tolist() == [1.0 if waits else 0.0] * 3


def test_only_what_is_waited_for_is_done(late: Any) -> None:
    first, second = streams(late)
    done: list[int] = []
    for i, stream in enumerate((first, second)):
        with stream:
            fake_cupy.run(lambda i=i: done.append(i))
    assert done == []
    assert not first.done
    second.synchronize()
    assert done == [1]
    assert (first.done, second.done) == (False, True)
    late.cuda.Device(0).synchronize()
    assert done == [1, 0]


def test_page_locked_memory_is_read_when_its_turn_comes(late: Any) -> None:
    for pinned in (True, False):
        host = sys.modules["cupyx"].empty_pinned((3,), np.float32) if pinned else np.empty(3, np.float32)
        host[...] = 1
        there = late.empty((3,), np.float32)
        there.set(host)
        host[...] = 2
        assert there.get().tolist() == ([2, 2, 2] if pinned else [1, 1, 1])


def test_a_copy_from_other_memory_waits_for_the_stream(late: Any) -> None:
    done: list[int] = []
    fake_cupy.run(lambda: done.append(1))
    before = fake_cupy.state.waits
    late.empty((3,), np.float32).set(np.ones(3, np.float32))
    assert done == [1]
    assert fake_cupy.state.waits == before + 1


def test_the_legacy_stream_waits_for_blocking_ones(late: Any) -> None:
    done: list[str] = []
    for name, stream in (("blocking", late.cuda.Stream()), ("other", late.cuda.Stream(non_blocking=True))):
        with stream:
            fake_cupy.run(lambda name=name: done.append(name))
    fake_cupy.run(lambda: done.append("null"))
    late.cuda.Stream.null.synchronize()
    assert done == ["blocking", "null"]


def test_a_stream_that_is_gone_still_does_its_work(late: Any) -> None:
    a = late.zeros((3,))
    (stream,) = streams(late, 1)
    with stream:
        late.add(a, 1, out=a)
    del stream
    gc.collect()
    late.cuda.Device(0).synchronize()
    assert a.get().tolist() == [1, 1, 1]
    assert not fake_cupy.state.queues


# -- memory -------------------------------------------------------------------------------------------------------------


def test_memory_is_handed_out_again_on_its_own_stream(late: Any) -> None:
    a = late.empty((100,), np.float32)
    where = a.data.ptr
    del a
    (stream,) = streams(late, 1)
    with stream:
        other = late.empty((100,), np.float32)
    assert other.data.ptr != where
    assert late.empty((100,), np.float32).data.ptr == where


def test_blocks_are_cut_and_joined(at_once: Any) -> None:
    pool = at_once.get_default_memory_pool()
    whole = at_once.empty((2048,), np.uint8)
    assert (pool.used_bytes(), pool.total_bytes()) == (2048, 2048)
    del whole
    parts = [at_once.empty((n,), np.uint8) for n in (1, 513)]
    assert (pool.used_bytes(), pool.total_bytes(), pool.free_bytes()) == (512 + 1024, 2048, 512)
    pool.free_all_blocks()
    assert pool.total_bytes() == 2048, "a block of which a part is in use cannot go"
    del parts
    pool.free_all_blocks()
    assert pool.total_bytes() == 0


def test_what_is_written_to_freed_memory_shows(at_once: Any) -> None:
    first = at_once.zeros((100,), np.float32)
    stale = first.host
    del first
    second = at_once.zeros((100,), np.float32)
    stale[...] = 7
    assert (second.get() == 7).all()


def test_unwritten_memory_is_no_number(at_once: Any) -> None:
    at_once.zeros((100,), np.float32)
    assert np.isnan(at_once.empty((100,), np.float32).get()).all()


def test_limits(at_once: Any) -> None:
    pool = at_once.get_default_memory_pool()
    pool.set_limit(size=4096)
    held = at_once.empty((4096,), np.uint8)
    with pytest.raises(
        at_once.cuda.memory.OutOfMemoryError, match=r"512 bytes \(allocated so far: 4,096 .*limit set to: 4,096"
    ):
        at_once.empty((1,), np.uint8)
    pool.set_limit(size=0)
    fake_cupy.state.limit = 8192
    at_once.empty((4096,), np.uint8)
    with pytest.raises(at_once.cuda.memory.OutOfMemoryError):
        at_once.empty((8192,), np.uint8)
    assert fake_cupy.state.live == held.nbytes


def test_memory_that_garbage_holds_is_freed_before_giving_up(at_once: Any) -> None:
    circle: list[Any] = [at_once.empty((4096,), np.uint8)]
    circle.append(circle)
    fake_cupy.state.limit = 4096
    gc.disable()
    try:
        del circle
        assert fake_cupy.state.live == 4096, "only the collector finds it"
        at_once.empty((4096,), np.uint8)
    finally:
        gc.enable()


def test_a_pool_of_ones_own_goes_with_its_memory(at_once: Any) -> None:
    pool = at_once.cuda.MemoryPool()
    with at_once.cuda.using_allocator(pool.malloc):
        a = at_once.zeros((100,), np.float32)
    assert fake_cupy.state.taken[0] == 512
    del pool
    gc.collect()
    assert a.get().sum() == 0
    del a
    assert fake_cupy.state.live == 0
    assert fake_cupy.state.taken[0] == 0


def test_page_locked_memory_is_kept_and_handed_out_again(at_once: Any) -> None:
    pinned = sys.modules["cupyx"].empty_pinned
    first = pinned((100, 3), np.float32)
    where = first.ctypes.data
    part = first[3:]
    del first
    gc.collect()
    assert pinned((300,), np.float32).ctypes.data != where, "a part of it is in use"
    del part
    gc.collect()
    assert pinned((300,), np.float32).ctypes.data == where
    assert fake_cupy.state.pinned == 2 * 2048
    assert memory.pinned_pool.contains(pinned((1,), np.uint8))
    assert not memory.pinned_pool.contains(np.empty(1, np.uint8))


# -- captures -----------------------------------------------------------------------------------------------------------


def test_after_a_mistake_a_capture_takes_nothing_more(at_once: Any) -> None:
    a = at_once.zeros((3,))
    (stream,) = streams(at_once, 1)
    with stream:
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            stream.synchronize()
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            at_once.add(a, 1, out=a)
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated") as error:
            stream.end_capture()
    assert error.value.status == 901
    assert not stream.is_capturing()


@pytest.mark.parametrize("joined", [True, False])
def test_a_capture_over_two_streams(at_once: Any, joined: bool) -> None:
    a = at_once.zeros((3,))
    first, second = streams(at_once)
    with first:
        first.begin_capture()
        second.wait_event(first.record())
        assert second.is_capturing()
        with second:
            at_once.add(a, 1, out=a)
        if not joined:
            with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureUnjoined"):
                first.end_capture()
            return
        first.wait_event(second.record())
        graph = first.end_capture()
    graph.launch()
    assert a.get().tolist() == [1, 1, 1]


def test_a_blocking_stream_in_a_capture_keeps_the_legacy_stream_from_working(at_once: Any) -> None:
    stream = at_once.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
        at_once.zeros((3,))


def test_a_graph_whose_memory_is_gone(at_once: Any) -> None:
    a, out = at_once.ones((3,)), at_once.ones((3,))
    (stream,) = streams(at_once, 1)
    with stream:
        stream.begin_capture()
        at_once.add(out, a, out=out)
        graph = stream.end_capture()
    graph.launch()
    del a
    with pytest.raises(AssertionError, match="memory was given back"):
        graph.launch()


# -- two devices --------------------------------------------------------------------------------------------------------


def test_each_device_has_its_memory_and_streams(two: Any) -> None:
    assert two.cuda.runtime.getDeviceCount() == 2
    a = two.ones((3,))
    with two.cuda.Device(1):
        b = two.ones((3,))
        assert (two.cuda.runtime.getDevice(), b.device.id) == (1, 1)
        stream = two.cuda.Stream(non_blocking=True)
    assert (two.cuda.runtime.getDevice(), a.device.id, stream.device_id) == (0, 0, 1)
    assert fake_cupy.state.used == {0: 512, 1: 512}
    with pytest.raises(ValueError, match="different from the current device"):
        two.add(a, b)
    with two.cuda.Device(1), pytest.raises(ValueError, match="different from the current device"):
        b + a
    with pytest.raises(RuntimeError, match="created on device 1"), stream:
        pass
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidDevice"):
        two.cuda.Device(2).use()
    assert b.get().tolist() == [1, 1, 1]


def test_a_thread_begins_on_the_first_device(two: Any) -> None:
    import threading

    found: list[int] = []
    with two.cuda.Device(1):
        thread = threading.Thread(target=lambda: found.append(two.cuda.runtime.getDevice()))
        thread.start()
        thread.join()
    assert found == [0]


def test_an_event_belongs_to_the_device_of_its_stream(two: Any) -> None:
    with two.cuda.Device(1):
        stream = two.cuda.Stream(non_blocking=True)
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        two.cuda.Event().record(stream)
