"""Processes that torchrun or SLURM started without MPI: they meet at the address of rank 0, and their GPUs add up through NCCL.

What goes over the sockets is JSON and the bytes of arrays: weights at the beginning, decisions and scores now and then, and
never gradients.
"""

from __future__ import annotations

import json
import time
from multiprocessing.connection import Client, Connection, Listener

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.distributed.communicator import Communicator, T
from gpubackprop.distributed.gpus import all_reduce
from gpubackprop.errors import DeviceError

PATIENCE = 120.0
"""Seconds to wait for rank 0 to listen."""


class SocketCommunicator(Communicator):
    """Every rank has a connection to rank 0, which listens at (host, port).

    Training is for GPUs alone: CPU ranks need MPI. Raises DeviceError where the processes do not find each other, and where one
    that is waited for has gone; ending the others at once is the launcher's part, as torchrun does, and srun -K.
    """

    def __init__(self, rank: int, size: int, local_rank: int, host: str, port: int) -> None:
        super().__init__(rank, size, local_rank)
        self._links: dict[int, Connection] = {}
        at = f"{host}:{port}"
        try:
            if self.leads:
                # On every address: the name may be that of another of this machine's.
                with Listener(("", port), backlog=size) as listener:
                    while len(self._links) < size - 1:
                        link = listener.accept()
                        hello = json.loads(link.recv_bytes(1000))
                        if hello.get("size") != size or hello.get("rank") not in {*range(1, size)} - self._links.keys():
                            raise DeviceError(f"{at}: {hello} came to a training of {size} processes")
                        self._links[hello["rank"]] = link
            else:
                self._links[0] = _reach(host, port)
                self._send(0, {"rank": rank, "size": size})
        except (OSError, EOFError, ValueError) as error:
            raise DeviceError(f"rank {rank} of {size} did not find the others at {at}: {error}") from error

    def gather(self, value: T) -> list[T]:
        if self.leads:
            return self.broadcast([value, *(json.loads(self._receive(r)) for r in range(1, self.size))])
        self._send(0, value)
        return self.broadcast(None)

    def broadcast(self, value: T | None) -> T:
        if self.leads:
            for r in range(1, self.size):
                self._send(r, value)
        led: T = json.loads(json.dumps(value) if self.leads else self._receive(0))
        return led

    def share(self, host: np.ndarray) -> None:
        flat = host.reshape(-1).view(np.uint8)
        for r in range(1, self.size) if self.leads else ():
            self._links[r].send_bytes(flat.data)
        if not self.leads:
            flat[:] = np.frombuffer(self._receive(0), np.uint8)

    def _connect(self, be: Backend) -> None:
        self._gpus, reason = all_reduce(self, be)
        if self._gpus is None:
            why = reason or f"this one trains on {be.name!r}"
            raise DeviceError(
                f"processes that torchrun or SLURM started train together on GPUs, through NCCL, and {why}. On CPUs start them "
                f'by MPI: pip install "gpubackprop[mpi]", then mpiexec -n {self.size} python ...'
            )

    def sum(self, be: Backend, array: Array) -> None:
        assert self._gpus is not None
        self._gpus.sum(array)

    def _send(self, rank: int, value: object) -> None:
        try:
            self._links[rank].send_bytes(json.dumps(value).encode())
        except OSError as error:
            raise DeviceError(f"rank {rank} has gone: {error}") from error

    def _receive(self, rank: int) -> bytes:
        try:
            return self._links[rank].recv_bytes()
        except (OSError, EOFError) as error:
            raise DeviceError(f"rank {rank} has gone: {error or 'its connection ended'}") from error


def _reach(host: str, port: int) -> Connection:
    """A connection to rank 0, which may not listen yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Client((host, port))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
