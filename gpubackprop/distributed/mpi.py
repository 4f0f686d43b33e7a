"""Processes that MPI started, through mpi4py."""

from __future__ import annotations

import atexit
import json
import sys
import time
import warnings

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.backend.cpu.threads import share_cores
from gpubackprop.distributed.communicator import Communicator, T
from gpubackprop.distributed.gpus import all_reduce
from gpubackprop.errors import MissingExtraError

GRACE = 2.0
"""Seconds that a process which an error ended waits for the others to end too, before it ends them."""
FORWARDED = 0.5
"""Seconds for its last words to reach the launcher."""


class MpiCommunicator(Communicator):
    """All processes of MPI_COMM_WORLD.

    Arrays of a CPU go from buffer to buffer; those of GPUs through NCCL, one rank a GPU, or, where that cannot be, through the
    hosts. When a process ends by an error that nobody caught, or that left `with communicator:`, and the others do not end as
    well, it ends them (MPI_Abort): otherwise they would wait for it for ever.

    Raises MissingExtraError without mpi4py.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise MissingExtraError("training in several processes", "mpi") from error
        self._mpi, self._world = MPI, MPI.COMM_WORLD.Dup()
        # Whoever fails speaks here while the others may be in the middle of a sum.
        self._ending = MPI.COMM_WORLD.Dup()
        machine = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        super().__init__(self._world.rank, self._world.size, machine.rank)
        share_cores(machine.size)
        machine.Free()
        if self.size > 1:
            atexit.register(self._end)

    def gather(self, value: T) -> list[T]:
        return [json.loads(text) for text in self._world.allgather(json.dumps(value))]

    def broadcast(self, value: T | None) -> T:
        led: T = json.loads(self._world.bcast(json.dumps(value) if self.leads else None))
        return led

    def share(self, host: np.ndarray) -> None:
        self._world.Bcast(host)

    def _connect(self, be: Backend) -> None:
        self._gpus, reason = all_reduce(self, be)
        if reason and self.leads:
            warnings.warn(f"gradients go through the hosts' memory: {reason}", RuntimeWarning, stacklevel=3)

    def sum(self, be: Backend, array: Array) -> None:
        if self._gpus is not None:
            self._gpus.sum(array)
        elif isinstance(array, np.ndarray):
            self._world.Allreduce(self._mpi.IN_PLACE, array)
        else:
            host = np.ascontiguousarray(be.to_host(array)).reshape(array.shape)
            self._world.Allreduce(self._mpi.IN_PLACE, host)
            be.copy_in(host, array)

    def _end(self) -> None:
        """At the end of the process, before MPI's own."""
        failed = self.failed or getattr(sys, "last_value", None) is not None
        others = self._ending.Ibarrier()
        deadline = time.monotonic() + GRACE
        # Not others.Wait(), which takes a whole core while rank 0 may still have files to write.
        while not others.Test():
            if failed and time.monotonic() > deadline:
                print(f"rank {self.rank} of {self.size} failed; the others are ended", file=sys.stderr, flush=True)
                # The launcher hands on what was printed, and drops what it has not read when it is told to abort.
                time.sleep(FORWARDED)
                self._mpi.COMM_WORLD.Abort(1)
            time.sleep(0.02)
