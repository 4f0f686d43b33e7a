"""All-reduce between GPUs of several processes, through CuPy's binding of NCCL: one process a GPU."""

from __future__ import annotations

import ctypes
from importlib import import_module
from types import ModuleType
from typing import Any

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda.cupy_backend import CupyBackend

_TYPES = {"float16": "NCCL_FLOAT16", "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}
CAPTURED_BY = 20900, 11030
"""The versions of NCCL and of CUDA, 2.9 and 11.3, from which on an all-reduce can be a part of a CUDA graph."""


def binding() -> ModuleType:
    """CuPy's binding. `cupy.cuda` does not import it by itself; without the library it warns, and has `available` alone."""
    return import_module("cupy.cuda.nccl")


def nccl_problem(be: CupyBackend) -> str | None:
    """Why the GPU of a CuPy backend cannot be reached through NCCL, or None."""
    install = f"pip install nvidia-nccl-cu{be.cupy.cuda.runtime.runtimeGetVersion() // 1000}"
    try:
        nccl = binding()
        if not nccl.available:
            return f"no NCCL for CuPy here, libnccl.so.2 is missing ({install})"
        nccl.get_version()
    except Exception as error:  # no binding, or a library that does not fit: each is a reason, none is hidden
        return f"no NCCL for CuPy here ({install}): {error}"
    return None


def is_captured(be: CupyBackend) -> bool:
    """Whether steps become graphs here, and an all-reduce can be a part of one, by the versions that are here."""
    if not be.graphs:
        return False
    cuda = be.cupy.cuda
    found = binding().get_version(), min(cuda.runtime.runtimeGetVersion(), cuda.runtime.driverGetVersion())
    # NCCL wrote 2.8 as 2800.
    return all(here >= least for here, least in zip(found, CAPTURED_BY, strict=True))


def place_of(be: CupyBackend) -> str:
    """Where the GPU sits in its machine. Its number says nothing of that where each process was given a GPU of its own to see."""
    return str(be.cupy.cuda.Device(be.index).pci_bus_id)


def new_unique_id() -> dict[str, Any]:
    """What the processes of one communicator find each other by, as plain values: made by one, handed to all."""
    made = binding().get_unique_id()
    # CuPy's older versions hand out numbers in a tuple, the newer ones bytes, and take what they hand out.
    return {"bytes": isinstance(made, bytes), "numbers": list(made)}


class NcclAllReduce:
    """The all-reduce of `size` processes, of which this one, number `rank`, has the GPU of `be`.

    Made by all of them at the same time, which wait for each other. What it does is queued on CuPy's current stream, between
    what was queued before and what comes after; the host does not wait. It is to be used inside `with be:`.
    capturable: whether that may be while the stream is captured. It must be so in all processes or in none, and then they must
    launch their graphs together.
    """

    def __init__(self, be: CupyBackend, size: int, unique_id: dict[str, Any], rank: int, capturable: bool) -> None:
        self.capturable = capturable
        self._cupy, self._nccl = be.cupy, binding()
        numbers = unique_id["numbers"]
        with be:
            key = bytes(numbers) if unique_id["bytes"] else tuple(numbers)
            self._communicator = self._nccl.NcclCommunicator(size, key, rank)
            self._aside = self._cupy.cuda.Stream(non_blocking=True)
        # ncclCommDestroy waits for the end of all graphs that have a sum in them, and which of the two Python takes down first is
        # left open. So it is never called: the process's end does it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._communicator))

    def sum(self, array: Array) -> None:
        """array <- the sum of the arrays of all processes."""
        self._sum(array, self._cupy.cuda.get_current_stream())

    def begin(self, array: Array) -> None:
        """The same on a stream of its own, after what is queued by now. The array must be left alone until `join`."""
        self._wait(self._aside, self._cupy.cuda.get_current_stream())
        self._sum(array, self._aside)

    def join(self) -> None:
        """Queue what comes after all sums that were begun."""
        self._wait(self._cupy.cuda.get_current_stream(), self._aside)

    def _wait(self, stream: Any, other: Any) -> None:
        stream.wait_event(other.record(self._cupy.cuda.Event(disable_timing=True)))

    def _sum(self, array: Array, stream: Any) -> None:
        kind = getattr(self._nccl, _TYPES[array.dtype.name])
        at = array.data.ptr
        self._communicator.allReduce(at, at, array.size, kind, self._nccl.NCCL_SUM, stream.ptr)
