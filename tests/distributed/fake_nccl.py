"""A stand-in for cupy.cuda.nccl, over the stand-in for CuPy: ranks are threads of this process, each with its device.

As CuPy's own it stands in sys.modules alone: `cupy.cuda` has no such attribute. It refuses what NCCL would answer with wrong
sums, or never: calls of the ranks that differ in order, count, type or operation, or of which some are captured and others not; a
stream that is neither the one on which the array is made nor captured with it; another current device than that of the
communicator. A captured call adds up nothing then, and whenever its graph is launched. `ended` notes what would wait for graphs.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from typing import Any

import numpy as np

from tests.cuda.fake_cupy import queue_of, state
from tests.cuda.fake_cupy.device import Node

available = True
NCCL_SUM = 0
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 6, 7, 8
_TYPES = {NCCL_FLOAT16: np.float16, NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}
TIMEOUT = 60.0
"""Seconds; a rank may have to build a kernel before it comes."""

_numbers = itertools.count(200)
_cliques: dict[Any, _Clique] = {}
ended: list[int] = []
"""The ranks whose communicators were ended though they had captured sums."""
_lock = threading.Lock()


def get_version() -> int:
    """As NCCL writes 2.21.5."""
    return 22105


def get_unique_id() -> bytes:
    """128 bytes that are like no others."""
    return next(_numbers).to_bytes(128, "little")


class _Clique:
    """The ranks of one communicator, and what each has brought to the call in which they are."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Of the lock that work is done under, which is let go of while the others are waited for.
        self.changed = threading.Condition(state.lock)
        self.brought: dict[tuple[int, int], tuple[Any, np.ndarray]] = {}
        """By (number of the call, rank)."""
        self.calls: list[tuple[int, int]] = []
        """(elements, type) of the calls that all ranks have made."""
        self.captured = 0
        """How many of these were launches of what was captured."""

    def meet(self, number: int, rank: int, what: Any, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of all ranks for a call, once they have come to it."""
        with self.changed:
            self.brought[number, rank] = what, array
            self.changed.notify_all()
            there = self.changed.wait_for(lambda: all((number, r) in self.brought for r in range(self.size)), TIMEOUT)
            assert there, "a rank waits for others that do not come"
            found = [self.brought[number, r] for r in range(self.size)]
            assert len({each for each, _ in found}) == 1, (
                f"the ranks call for different things: {[w for w, _ in found]}"
            )
            if rank == 0 and number:
                self.calls.append(what[:2])
                self.captured += what[3]
            return [each for _, each in found]


def cliques() -> list[_Clique]:
    """All that there were."""
    return list(_cliques.values())


class NcclCommunicator:
    """One rank, with the device that is current when it is made."""

    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        assert isinstance(commId, bytes)
        assert len(commId) == 128
        with _lock:
            self._clique = _cliques.setdefault(commId, _Clique(ndev))
        assert self._clique.size == ndev
        assert 0 <= rank < ndev
        self._rank, self._device = rank, state.device
        self._numbers = itertools.count()
        self._captures = False
        self._clique.meet(next(self._numbers), rank, "the beginning", np.zeros(0))

    def __del__(self) -> None:
        if getattr(self, "_captures", False):
            ended.append(self._rank)

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        """recvbuf = the sum of the ranks' sendbufs, in the order of the stream."""
        assert state.device == self._device, "another device is current than that of the communicator"
        assert isinstance(stream, int)
        assert op == NCCL_SUM
        kind, queue, here = np.dtype(_TYPES[datatype]), queue_of(stream), queue_of(state.streams(state.device)[-1].ptr)
        captured = queue.capture is not None
        self._captures |= captured
        assert queue is here or (captured and queue.capture is here.capture), "not after what was queued before"

        # A graph does not hold the communicator, as NCCL's do not.
        clique, rank, numbers = self._clique, self._rank, self._numbers

        def add_up() -> None:
            mine = np.frombuffer(ctypes.string_at(sendbuf, count * kind.itemsize), kind)
            arrays = clique.meet(next(numbers), rank, (count, datatype, op, captured), mine)
            total = np.sum(arrays, axis=0, dtype=kind)
            ctypes.memmove(recvbuf, np.ascontiguousarray(total).ctypes.data, total.nbytes)

        queue.put_all([Node(add_up, 0.01, (sendbuf, recvbuf))])
        if not captured:
            queue.finish()
