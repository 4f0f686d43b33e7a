"""Seconds a call, from groups of calls that are long enough for the clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

GROUP = 2e-3
"""Seconds that a group of calls lasts at least: 10^4 times the cost of reading the clock."""


def seconds_a_call(run: Callable[[], object], wait: Callable[[], None], budget: float) -> float:
    """The median over groups of calls of the seconds that one call takes, measured for about `budget` seconds.

    wait: for the device, once a group. What the first calls take is left out, unless one alone lasts for the budget.
    """
    count, first = 1, _group(run, wait, 1)
    warm = first
    while warm < budget / 4:
        again = _group(run, wait, count)
        warm += again
        first = again / count
        count = max(1, min(2 * count, int(GROUP / first) + 1))
    groups: list[float] = []
    spent = 0.0
    while spent < budget or not groups:
        seconds = _group(run, wait, count)
        spent += seconds
        groups.append(seconds / count)
    return median(groups)


def seconds_to_launch(run: Callable[[], object], wait: Callable[[], None], budget: float) -> float:
    """The median of the seconds until a call returns when the device is idle before it and nobody waits for it."""
    taken: list[float] = []
    started = perf_counter()
    while perf_counter() - started < budget or len(taken) < 3:
        wait()
        before = perf_counter()
        run()
        taken.append(perf_counter() - before)
    wait()
    return median(taken)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the garbage collector, as `timeit` does it."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _group(run: Callable[[], object], wait: Callable[[], None], count: int) -> float:
    before = perf_counter()
    for _ in range(count):
        run()
    wait()
    return perf_counter() - before
