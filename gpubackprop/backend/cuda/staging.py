"""Host arrays on their way to the device, through a little page-locked memory that is used again and again.

A copy from page-locked memory is queued and the host goes on; one from other memory waits for everything that was queued
before (CUDA's API documentation, "API synchronization behavior"). CuPy's own way page-locks as much memory as the array has,
and keeps it.
"""

from __future__ import annotations

import logging
from threading import Lock
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array
from gpubackprop.errors import ArgumentError

log = logging.getLogger("gpubackprop.cuda")

SLOTS = 4
"""Pieces that may be on their way at a time: x and y of two batches."""
PIECE = 8 * 2**20
"""Bytes of a piece; a row that is longer is a piece of its own."""


class Staging:
    """`copy(host, out)`: write a host array into a C-contiguous device array of its shape, converting the type."""

    def __init__(self, cupy: ModuleType) -> None:
        self._cupy = cupy
        self._slots: list[_Slot] = []
        self._turn = Lock()

    def copy(self, host: np.ndarray, out: Array) -> None:
        """Queue the copy on the current stream. `host` may be changed as soon as this returns; it waits for the device only
        while all slots are on their way.

        Raises ArgumentError where the shapes differ.
        """
        if host.shape != out.shape:
            raise ArgumentError(f"an array of shape {host.shape} cannot be copied into one of shape {out.shape}")
        if not out.size:
            return
        if not out.ndim:
            host, out = host.reshape(1), out.reshape(1)
        rows = max(PIECE // (out.nbytes // len(out)), 1)
        for start in range(0, len(out), rows):
            part, there = host[start : start + rows], out[start : start + rows]
            with self._turn:
                slot = self._next()
                staged = slot.room(there.nbytes).view(out.dtype).reshape(there.shape)
                np.copyto(staged, part, casting="unsafe")
                there.set(staged)
                slot.free.record()

    def _next(self) -> _Slot:
        """A slot whose last copy is done."""
        ready = next((i for i, slot in enumerate(self._slots) if slot.free.done), None)
        if ready is not None:
            slot = self._slots.pop(ready)
        elif len(self._slots) < SLOTS:
            slot = _Slot(self._cupy)
        else:
            slot = self._slots.pop(0)
            slot.free.synchronize()
        self._slots.append(slot)
        return slot


class _Slot:
    """One piece's page-locked memory, and the event that says that the device has read it."""

    def __init__(self, cupy: ModuleType) -> None:
        self.free = cupy.cuda.Event(disable_timing=True)
        self._memory = np.empty(0, np.uint8)

    def room(self, nbytes: int) -> np.ndarray:
        """Memory for so many bytes."""
        if len(self._memory) < nbytes:
            self._memory = page_locked((1 << (nbytes - 1).bit_length(),), np.uint8)
        return self._memory[:nbytes]


def page_locked(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array in page-locked memory; in ordinary memory, from which copies wait, where the system gives none."""
    import cupyx

    try:
        memory: np.ndarray = cupyx.empty_pinned(shape, dtype)
    except (RuntimeError, MemoryError) as error:  # CuPy's, for whatever the driver says
        log.warning("no page-locked memory for copies to the GPU, which are slower without: %s", error)
        memory = np.empty(shape, dtype)
    return memory
