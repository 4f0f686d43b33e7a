"""Who started this process, and with how many others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache

from gpubackprop.distributed.communicator import Communicator
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError

_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""What Open MPI, MPICH (and Intel's, and those from it) and MVAPICH2 say to the processes that they start."""


def join(distributed: str | Communicator | None = "auto") -> Communicator | None:
    """The processes that this one trains with; None where it is alone.

    "auto": as the environment says, in this order: MPI's launchers, torchrun (RANK, WORLD_SIZE, MASTER_ADDR), a job step of
    SLURM of several tasks. A communicator is returned as it is, None for None. The same process gets the same answer each time.

    Raises MissingExtraError under MPI without mpi4py, DeviceError where the processes do not find each other or mpi4py is of
    another MPI than the launcher, ArgumentError or ArgumentTypeError for anything else.
    """
    if distributed is None or isinstance(distributed, Communicator):
        return distributed
    if not isinstance(distributed, str):
        raise ArgumentTypeError(f'distributed must be "auto", None or a communicator; got {distributed!r}')
    if distributed != "auto":
        raise ArgumentError(f'distributed must be "auto", None or a communicator; got {distributed!r}')
    return _joined()


def local_device(device: str = "auto", distributed: str | Communicator | None = "auto") -> str:
    """The device of this process among those that train together (as for `join`): where several of a machine ask for "auto" or
    "cuda", each gets a GPU of its own, in turn. Another device stays what it is."""
    ranks = join(distributed)
    if ranks is None or device not in ("auto", "cuda"):
        return device
    from gpubackprop.backend.select import devices

    gpus = [d.name for d in devices() if re.fullmatch(r"cuda:\d+", d.name) and d.working]
    return gpus[ranks.local_rank % len(gpus)] if gpus else device


@cache
def _joined() -> Communicator | None:
    return communicator(os.environ)


def communicator(environment: Mapping[str, str]) -> Communicator | None:
    """The communicator that the variables of an environment ask for; None where they tell of one process or of nothing.

    Raises DeviceError where MPI knows of another number of processes than its launcher says, and what `join` raises.
    """
    if told := {name: size for name in _MPI if (size := _number(environment, name)) > 1}:
        from gpubackprop.distributed.mpi import MpiCommunicator

        world = MpiCommunicator()
        # A launcher of another MPI than mpi4py's: each process is alone there, and would train and write all by itself.
        if world.size not in told.values():
            said = " and ".join(f"{name}={size}" for name, size in told.items())
            raise DeviceError(
                f"the launcher says {said}, but mpi4py knows of {world.size}: it belongs to another MPI. Start them by the "
                "mpiexec of the MPI that mpi4py was built with, or unset the variable to train in this process alone"
            )
        return world
    from gpubackprop.distributed.sockets import SocketCommunicator

    if "RANK" in environment and "MASTER_ADDR" in environment and _number(environment, "WORLD_SIZE") > 1:
        # torchrun itself listens at MASTER_PORT.
        port = _number(environment, "MASTER_PORT", 29500) + 1
        rank, local = _number(environment, "RANK"), _number(environment, "LOCAL_RANK")
        return SocketCommunicator(rank, _number(environment, "WORLD_SIZE"), local, environment["MASTER_ADDR"], port)
    # The script of a job has SLURM_NTASKS too, but is no task of a step.
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        size, rank = _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_PROCID")
        first = re.match(r"([^,\[]*)(?:\[(\d+))?", environment.get("SLURM_STEP_NODELIST", ""))
        host = environment.get("MASTER_ADDR") or "".join(part or "" for part in first.groups() if first)  # type: ignore[union-attr]
        job = _number(environment, "SLURM_JOB_ID") + _number(environment, "SLURM_STEP_ID")
        port = _number(environment, "MASTER_PORT", 20000 + job % 10000) + 1
        return SocketCommunicator(rank, size, _number(environment, "SLURM_LOCALID"), host or "localhost", port)
    return None


def _number(environment: Mapping[str, str], name: str, otherwise: int = 0) -> int:
    """A number of the environment. Raises ArgumentError for what is none."""
    text = environment.get(name, str(otherwise))
    if not text.isdecimal():
        raise ArgumentError(f"the environment variable {name} must be a whole number; it is {text!r}")
    return int(text)
