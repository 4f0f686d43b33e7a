"""How long the GPU itself is busy, and how much of its memory is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from statistics import median
from types import ModuleType
from typing import Any

log = logging.getLogger("gpubackprop.cuda")

LEAST = 5
"""Runs that a figure is the median of, at least."""
CALLS = 20
"""Calls in a CUDA graph that is timed: the host is slower at launching one than the device is at a small product."""
LONG = 2e-4
"""Seconds from which on a single call is timed by itself."""
HOW = f"median of {LEAST} runs of {CALLS} calls in a CUDA graph, or of one call where it takes more than {LONG:g} s"
"""How `seconds_a_call` measures, written beside every time that is kept."""


def device_seconds(backend: Any, run: Callable[[], object], budget: float) -> float:
    """The median over single runs of the seconds between two CUDA events around what `run` puts on the current stream.

    budget: about how many seconds of the device's time to measure for. Where the host is slower at launching than the
    device at computing, its gaps are in it, but for the first one.
    """
    import cupy

    with cupy.cuda.Device(backend.index):
        taken: list[float] = []
        spent = 0.0
        while spent < budget or len(taken) < LEAST:
            backend.synchronize()
            taken.append(_seconds_between(cupy, run))
            spent += taken[-1]
    return median(taken)


def _seconds_between(cupy: ModuleType, run: Callable[[], object]) -> float:
    """Seconds between two events around what `run` puts on the current stream. Waits for the second one."""
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) * 1e-3


def seconds_a_call(cupy: ModuleType, work: Callable[[], object]) -> float:
    """Seconds of the device's time for one of many calls of `work`, which queues something on the current stream that can
    be done again and again: `HOW` says how they are measured. Raises what `work` raises."""

    def many() -> None:
        for _ in range(CALLS):
            work()

    work()
    if _seconds_between(cupy, work) > LONG:
        return median(_seconds_between(cupy, work) for _ in range(LEAST))
    try:
        what = _graph_of(cupy, many)
    except RuntimeError as error:  # CuPy's, for whatever the driver says
        log.warning("work that is timed could not be captured, and is timed without a graph: %s", error)
        what = many
    what()
    return median(_seconds_between(cupy, what) for _ in range(LEAST)) / CALLS


def _graph_of(cupy: ModuleType, work: Callable[[], object]) -> Callable[[], object]:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            work()
        finally:
            graph = stream.end_capture()
    launch: Callable[[], object] = graph.launch
    return launch


def memory_in_use(backend: Any) -> int:
    """Bytes of the GPU's memory that are taken, by whatever process, after CuPy gave back what it keeps in reserve."""
    import cupy

    with cupy.cuda.Device(backend.index):
        cupy.get_default_memory_pool().free_all_blocks()
        free, total = cupy.cuda.runtime.memGetInfo()
    return int(total - free)
