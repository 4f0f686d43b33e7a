"""How long the GPU itself is busy, and how much of its memory is taken."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

LEAST = 5
"""Runs that a figure is the median of, at least."""


def device_seconds(backend: Any, run: Callable[[], object], budget: float) -> float:
    """The median over single runs of the seconds between two CUDA events around what `run` puts on the current stream.

    budget: about how many seconds of the device's time to measure for. Where the host is slower at launching than the
    device at computing, its gaps are in it, but for the first one.
    """
    import cupy

    with cupy.cuda.Device(backend.index):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        taken: list[float] = []
        spent = 0.0
        while spent < budget or len(taken) < LEAST:
            backend.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(begin, end) * 1e-3)
            spent += taken[-1]
    return median(taken)


def memory_in_use(backend: Any) -> int:
    """Bytes of the GPU's memory that are taken, by whatever process, after CuPy gave back what it keeps in reserve."""
    import cupy

    with cupy.cuda.Device(backend.index):
        cupy.get_default_memory_pool().free_all_blocks()
        free, total = cupy.cuda.runtime.memGetInfo()
    return int(total - free)
