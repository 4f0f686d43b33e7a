"""A stand-in for cupy.cuda.nccl, over the stand-in for CuPy: ranks are threads of this process, each with its device.

It refuses what NCCL would answer with wrong sums, or never: calls of the ranks that differ in order, count, type or operation,
a stream that is not the one on which the array is made, another current device than that of the communicator.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from typing import Any

import numpy as np

from tests.cuda.fake_cupy import queue_of, state

NCCL_SUM = 0
NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = 6, 7, 8
_TYPES = {NCCL_FLOAT16: np.float16, NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}
TIMEOUT = 5.0

_numbers = itertools.count(200)
_cliques: dict[Any, _Clique] = {}
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
        self.barrier = threading.Barrier(size, timeout=TIMEOUT)
        self.brought: dict[int, tuple[Any, np.ndarray]] = {}
        self.calls: list[tuple[int, int]] = []
        """(elements, type) of the calls that all ranks have made."""


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
        self._clique.barrier.wait()

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        """recvbuf = the sum of the ranks' sendbufs, in the order of the stream."""
        assert state.device == self._device, "another device is current than that of the communicator"
        assert stream == state.streams(state.device)[-1].ptr, "not on the current stream"
        assert isinstance(stream, int)
        queue_of(stream).finish()
        kind = np.dtype(_TYPES[datatype])
        size = count * kind.itemsize
        mine = np.frombuffer(ctypes.string_at(sendbuf, size), kind)
        clique = self._clique
        clique.brought[self._rank] = (count, datatype, op), mine
        clique.barrier.wait()
        calls = [clique.brought[r][0] for r in range(clique.size)]
        assert len(set(calls)) == 1, f"the ranks call for different things: {calls}"
        assert op == NCCL_SUM
        total = np.sum([clique.brought[r][1] for r in range(clique.size)], axis=0, dtype=kind)
        if clique.barrier.wait() == 0:
            clique.calls.append((count, datatype))
        ctypes.memmove(recvbuf, np.ascontiguousarray(total).ctypes.data, size)
