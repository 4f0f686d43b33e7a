"""The GPU's own clock and memory: on a stand-in whose time is known, and on a GPU where there is one."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gpubackprop.backend.cuda import timing
from gpubackprop.backend.select import fallback_reason, get_backend


class StandIn:
    """What of CuPy is asked here. Work takes device time when it is put on the stream; waiting takes none."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reserve = 30
        device = self

        class Event:
            def record(self) -> None:
                self.at = device.now

            def synchronize(self) -> None:
                device.waits += 1

        self.waits = 0
        runtime = SimpleNamespace(memGetInfo=lambda: (1000 - 200 - self.reserve, 1000))
        self.cuda = SimpleNamespace(
            Event=Event,
            Device=self.device,
            runtime=runtime,
            get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at),
        )
        self.index: int | None = None

    @contextmanager
    def device(self, index: int) -> Any:
        self.index = index
        yield

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: setattr(self, "reserve", 0))

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    return stand_in


BACKEND = SimpleNamespace(index=3, name="cuda:3", synchronize=lambda: None)


def test_events_give_seconds_a_run(cupy: StandIn) -> None:
    assert timing.device_seconds(BACKEND, lambda: cupy.work(2e-4), 0.01) == pytest.approx(2e-4)
    assert cupy.waits == pytest.approx(0.01 / 2e-4, abs=1)
    assert cupy.index == 3


def test_a_long_run_is_measured_a_few_times(cupy: StandIn) -> None:
    assert timing.device_seconds(BACKEND, lambda: cupy.work(7.0), 0.01) == pytest.approx(7.0)
    assert cupy.waits == timing.LEAST


def test_many_calls_are_timed_at_once() -> None:
    """The host needs some 25 us a launch, where a small product takes one or two."""
    assert timing.CALLS >= 20
    assert f"{timing.CALLS} calls" in timing.HOW


def test_memory_that_cupy_holds_in_reserve_is_not_in_use(cupy: StandIn) -> None:
    assert timing.memory_in_use(BACKEND) == 200


@pytest.mark.cuda
@pytest.mark.skipif(fallback_reason() is not None, reason=f"no GPU to test on: {fallback_reason()}")
def test_on_a_gpu() -> None:
    backend = get_backend("cuda")
    before = timing.memory_in_use(backend)
    a = backend.zeros((4096, 4096), "float32")
    out = backend.zeros((4096, 4096), "float32")
    assert timing.memory_in_use(backend) - before >= 2 * a.nbytes
    seconds = timing.device_seconds(backend, lambda: backend.dot(a, a, out), 0.05)
    assert 2 * 4096**3 / 2e15 < seconds < 1.0
