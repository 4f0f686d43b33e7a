"""Seconds a call, from groups of calls that are long enough for the clock, and what a device does at best."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import numpy as np

from gpubackprop.backend.base import Backend

GROUP = 2e-3
"""Seconds that a group of calls lasts at least: 10^4 times the cost of reading the clock."""


def seconds_a_call(run: Callable[[], object], wait: Callable[[], None], budget: float) -> float:
    """The median over groups of calls of the seconds that one call takes, measured for about `budget` seconds.

    wait: for the device, once a group. What the first calls take is left out, unless one alone lasts for the budget.
    """

    def group(count: int) -> None:
        for _ in range(count):
            run()
        wait()

    count, first = 1, _seconds(group, 1)
    warm = first
    while warm < budget / 4:
        again = _seconds(group, count)
        warm += again
        first = again / count
        count = max(1, min(2 * count, int(GROUP / first) + 1))
    return seconds_each(group, count, budget)


def seconds_each(group: Callable[[int], object], count: int, budget: float) -> float:
    """The median of the seconds that each of `count` things takes, over groups that are done for `budget` seconds at least.

    group: does that many things, and is done with them on return.
    """
    found: list[float] = []
    spent = 0.0
    while spent < budget or not found:
        seconds = _seconds(group, count)
        spent += seconds
        found.append(seconds / count)
    return median(found)


def calls_for(group: Callable[[int], object], seconds: float) -> int:
    """How many things last for about so many seconds, a power of 2; warms up on the way."""
    count = 1
    # Twice each, as the first time may compile something for a loop of this length.
    while _seconds(group, count) < seconds or _seconds(group, count) < seconds:
        count *= 2
    return count


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


def _seconds(group: Callable[[int], object], count: int) -> float:
    before = perf_counter()
    group(count)
    return perf_counter() - before


# -- what a device does at best -----------------------------------------------------------------------------------------

PRODUCTS = {False: (1024, 2048), True: (2048, 4096, 8192)}
"""Rows and columns of the square products that are tried on the CPU, and on a GPU."""
COPY = {False: 128 << 20, True: 1 << 30}
"""Bytes of the array that is copied: more than any cache holds."""
BUDGET = 0.15
"""Seconds that each is tried for; the fastest counts, as everything else on a machine only takes away from it."""


def ceilings(backend: Backend, dtype: str) -> dict[str, float]:
    """ "flops" a second of the fastest square product, and "bytes" read and written a second by the largest copy.

    Both through the same operations as the steps. dtype: of the parameters.
    """
    gpu = backend.is_gpu
    with undisturbed():
        return {
            "flops": max(2 * k**3 / product_seconds(backend, k, dtype) for k in PRODUCTS[gpu]),
            "bytes": 2 * COPY[gpu] / copy_seconds(backend, COPY[gpu]),
        }


def product_seconds(backend: Backend, k: int, dtype: str) -> float:
    """Seconds that a (k, k) by (k, k) product takes at least, in the type in which activations are stored."""
    rng = np.random.default_rng(0)
    a, b = (backend.asarray(rng.random((k, k), np.float32).astype(backend.storage(dtype))) for _ in range(2))
    out = backend.empty((k, k), a.dtype)
    return _fastest(backend, lambda: backend.dot(a, b, out))


def copy_seconds(backend: Backend, size: int) -> float:
    """Seconds that a copy of so many bytes takes at least."""
    source = backend.zeros((size,), np.uint8)
    backend.fill(source, 1)
    target = backend.zeros((size,), np.uint8)
    return _fastest(backend, lambda: backend.copy_in(source, target))


def _fastest(backend: Backend, run: Callable[[], object]) -> float:
    run()
    backend.synchronize()
    best, started = float("inf"), perf_counter()
    while perf_counter() - started < BUDGET or best == float("inf"):
        before = perf_counter()
        run()
        backend.synchronize()
        best = min(best, perf_counter() - before)
    return best
