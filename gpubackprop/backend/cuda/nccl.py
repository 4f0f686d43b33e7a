"""All-reduce between GPUs of several processes, through CuPy's binding of NCCL: one process a GPU."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend.base import Array

_TYPES = {"float16": "NCCL_FLOAT16", "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}


def nccl_problem(be: Any) -> str | None:
    """Why the GPUs of a CuPy backend cannot be reached through NCCL, or None."""
    nccl = getattr(be.cupy.cuda, "nccl", None)
    if nccl is None or not getattr(nccl, "available", False):
        return "CuPy finds no NCCL here (pip install nvidia-nccl-cu12, or -cu13)"
    return None


def new_unique_id(be: Any) -> list[int]:
    """What the processes of one communicator find each other by: made by one, handed to all."""
    return [int(byte) for byte in be.cupy.cuda.nccl.get_unique_id()]


class NcclAllReduce:
    """The all-reduce of `size` processes, of which this one, number `rank`, has the GPU of `be`.

    Made by all of them at the same time, which wait for each other. What it does is queued on CuPy's current stream, between
    what was queued before and what comes after; the host does not wait. It is to be used inside `with be:`.
    """

    def __init__(self, be: Any, size: int, unique_id: list[int], rank: int) -> None:
        self._cupy, self._nccl = be.cupy, be.cupy.cuda.nccl
        with be:
            self._communicator = self._nccl.NcclCommunicator(size, tuple(unique_id), rank)

    def sum(self, array: Array) -> None:
        """array <- the sum of the arrays of all processes."""
        stream = self._cupy.cuda.get_current_stream()
        kind = getattr(self._nccl, _TYPES[array.dtype.name])
        at = array.data.ptr
        self._communicator.allReduce(at, at, array.size, kind, self._nccl.NCCL_SUM, stream.ptr)
