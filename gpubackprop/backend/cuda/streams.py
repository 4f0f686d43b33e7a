"""A data set that stays on the host, in memory or in a memory-mapped file, and reaches the GPU batch by batch.

While the GPU works on one batch, a thread gathers the rows of the next into page-locked memory and a stream of its own copies
them over: two slots, used in turn, and events that keep their order. The step never waits for the host, unless gathering
takes longer than the step.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda.staging import page_locked

if TYPE_CHECKING:
    import cupy

SLOTS = 2


class _Slot:
    """Room for one batch on both sides, and the events that say whose turn it is."""

    def __init__(self, be: Any, arrays: tuple[np.ndarray, ...], n: int) -> None:
        self.host = tuple(page_locked((n, *a.shape[1:]), a.dtype) for a in arrays)
        self.device = tuple(be.empty((n, *a.shape[1:]), a.dtype) for a in arrays)
        self.copied = be.cupy.cuda.Event(disable_timing=True)
        self.free = be.cupy.cuda.Event(disable_timing=True)
        self.free.record()


class StreamedRows:
    """A `RowSource` for rows that are not on the device: x (n, d), y, (n,) or (n, m), and weights, (n, 1), on the host.

    be: a CuPy backend.
    """

    def __init__(self, be: Any, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.be, self.x, self.y, self.weights = be, x, y, weights
        self.n = len(x)
        self.kind = "labels" if y.ndim == 1 else "targets"
        self._order: np.ndarray | None = None
        self._stream = be.cupy.cuda.Stream(non_blocking=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpubackprop-rows")
        self._slots: list[_Slot] = []
        weakref.finalize(self, _close, self._thread, self._stream, self._slots).atexit = False
        self._next: tuple[int, int, _Slot, Future[None]] | None = None

    @property
    def permutation(self) -> None:
        """None: the order is on the host."""
        return

    def order(self, permutation: np.ndarray) -> None:
        """Hand out the rows in this order, (n,) integers, from now on."""
        self._drop()
        self._order = np.array(permutation, np.int64)

    def load(self, start: int, x: Array, y: Array, weights: Array | None = None) -> None:
        """Write the len(x) rows from place `start` of the order into the buffers, and begin with the next ones."""
        n = len(x)
        if self._next is None or self._next[:2] != (start, n):
            self._drop()
            self._begin(start, n)
        assert self._next is not None
        _, _, slot, filled = self._next
        filled.result()
        self._next = None
        stream = self.be.cupy.cuda.get_current_stream()
        stream.wait_event(slot.copied)
        for source, out in zip(slot.device, (x, y) if weights is None else (x, y, weights), strict=True):
            self.be.xp.copyto(out, source[:n], casting="unsafe")
        slot.free.record(stream)
        after = start + n
        if after < self.n:
            self._begin(after, min(n, self.n - after))

    def _begin(self, start: int, n: int) -> None:
        if not self._slots or len(self._slots[0].host[0]) < n:
            # The pool must not hand out memory that copies are still being written to.
            self._stream.synchronize()
            self._slots[:] = [_Slot(self.be, self._arrays, n) for _ in range(SLOTS)]
        slot = self._slots.pop(0)
        self._slots.append(slot)
        self._next = (start, n, slot, self._thread.submit(_fill, self.be, self._stream, slot, *self._rows(start, n)))

    @property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)

    def _rows(self, start: int, n: int) -> tuple[Any, ...]:
        index = slice(start, start + n) if self._order is None else self._order[start : start + n]
        return index, n, self._arrays

    def _drop(self) -> None:
        """Forget what was fetched ahead, once it is done with its slot."""
        if self._next is not None:
            self._next[3].result()
            self._next = None


def _close(thread: ThreadPoolExecutor, stream: cupy.cuda.Stream, slots: list[_Slot]) -> None:
    """Let go of the slots once nothing is copied to them any more: in the thread, after what it is doing."""

    def last() -> None:
        stream.synchronize()
        slots.clear()

    thread.submit(last)
    thread.shutdown(wait=False)


def _fill(
    be: Any, stream: cupy.cuda.Stream, slot: _Slot, index: np.ndarray | slice, n: int, sources: tuple[np.ndarray, ...]
) -> None:
    """In the thread: gather rows into page-locked memory, and queue their copies."""
    with be.cupy.cuda.Device(be.index):
        slot.free.synchronize()
        for source, host, device in zip(sources, slot.host, slot.device, strict=True):
            if isinstance(index, slice):
                host[:n] = source[index]
            else:
                # mode="clip" writes into `out` directly; the indices are a permutation's.
                np.take(source, index, axis=0, out=host[:n], mode="clip")
            device[:n].set(host[:n], stream=stream)
        slot.copied.record(stream)
