"""Seconds a call, with a clock that is known, and the best of a device."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.bench import timing


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, seconds: float, first: float = 0.0) -> Callable[[], None]:
        """A function that takes `seconds`, and `first` more when it is called for the first time."""
        pending = [first]

        def work() -> None:
            self.now += seconds + (pending.pop() if pending else 0.0)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 3e-3, 0.5])
def test_a_call_takes_what_it_takes_without_its_first_time(clock: Clock, seconds: float) -> None:
    work = clock.worker(seconds, first=0.02)
    assert timing.seconds_a_call(work, lambda: None, 0.04) == pytest.approx(seconds)


def test_it_stops_when_the_budget_is_spent(clock: Clock) -> None:
    timing.seconds_a_call(clock.worker(1e-4), lambda: None, 0.1)
    assert 0.1 < clock.now < 0.2


def test_waiting_for_the_device_is_part_of_it_once_a_group(clock: Clock) -> None:
    found = timing.seconds_a_call(clock.worker(1e-5), clock.worker(1e-3), 0.1)
    assert 1e-5 < found < 1e-5 + 2 * 1e-3 / (timing.GROUP / 2e-5)


def test_a_loop_is_known_by_the_number_that_lasts_long_enough(clock: Clock) -> None:
    """A thing takes 1 ms, and each new number of things 20 ms more: the first time of a number does not count."""
    known: set[int] = set()

    def group(count: int) -> None:
        clock.now += 1e-3 * count + (0 if count in known else 2e-2)
        known.add(count)

    assert timing.calls_for(group, 1e-2) == 16
    assert timing.seconds_each(group, 16, 0.1) == pytest.approx(1e-3)


def test_launching_is_timed_without_what_runs_on(clock: Clock) -> None:
    assert timing.seconds_to_launch(clock.worker(2e-5), clock.worker(1e-2), 0.05) == pytest.approx(2e-5)


def test_the_garbage_collector_rests_meanwhile() -> None:
    assert gc.isenabled()
    with timing.undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_ceilings_are_a_second_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PRODUCTS", {False: (8, 64)})
    monkeypatch.setattr(timing, "COPY", {False: 1 << 16})
    monkeypatch.setattr(timing, "BUDGET", 0.005)
    monkeypatch.setattr(timing, "product_seconds", lambda be, k, dtype: {8: 1e-6, 64: 1e-5}[k])
    found = timing.ceilings(get_backend("cpu"), "float32")
    assert found["flops"] == pytest.approx(2 * 64**3 / 1e-5)
    assert found["bytes"] > 0


def test_ceilings_run_on_each_device(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PRODUCTS", {False: (16,), True: (16,)})
    monkeypatch.setattr(timing, "COPY", {False: 1 << 12, True: 1 << 12})
    monkeypatch.setattr(timing, "BUDGET", 0.001)
    assert all(rate > 0 for rate in timing.ceilings(backend, "float64").values())
