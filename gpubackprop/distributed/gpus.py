"""Which GPU is whose, and whether the GPUs can add up among themselves."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from gpubackprop.backend.base import Backend
from gpubackprop.distributed.communicator import Communicator
from gpubackprop.errors import DeviceError

if TYPE_CHECKING:
    from gpubackprop.backend.cuda.nccl import NcclAllReduce


def all_reduce(ranks: Communicator, be: Backend) -> tuple[NcclAllReduce | None, str]:
    """(NCCL's all-reduce, "") where every process has a GPU; (None, "") where all have CPUs; (None, why) where there are GPUs
    but no NCCL. Every process gets the same answer. Raises DeviceError where some have GPUs and others CPUs."""
    host = socket.gethostname()
    found = ranks.gather({"at": f"{host} {be.name}", "gpu": be.is_gpu, **_found(be, host)})
    if not any(each["gpu"] for each in found):
        return None, ""
    if not all(each["gpu"] for each in found):
        where = ", ".join(f"rank {i}: {each['at']}" for i, each in enumerate(found))
        raise DeviceError(f"all processes must train on GPUs, or all on CPUs; {where}. Say device= in each")
    for i, each in enumerate(found):
        if each["problem"]:
            return None, f"rank {i}: {each['problem']}"
        if (first := next(k for k, other in enumerate(found) if other["place"] == each["place"])) < i:
            return None, f"ranks {first} and {i} have the same GPU, {each['at']}, where NCCL takes one rank a GPU"
    from gpubackprop.backend.cuda.cupy_backend import CupyBackend
    from gpubackprop.backend.cuda.nccl import NcclAllReduce, new_unique_id

    assert isinstance(be, CupyBackend)

    unique_id = ranks.broadcast(new_unique_id() if ranks.leads else None)
    return NcclAllReduce(be, ranks.size, unique_id, ranks.rank, all(each["captured"] for each in found)), ""


def _found(be: Backend, host: str) -> dict[str, Any]:
    """Of a GPU: why NCCL does not reach it, or None; whether graphs can hold what NCCL does; which it is of all machines'."""
    if not be.is_gpu:
        return {}
    from gpubackprop.backend.cuda.cupy_backend import CupyBackend
    from gpubackprop.backend.cuda.nccl import is_captured, nccl_problem, place_of

    assert isinstance(be, CupyBackend)
    problem = nccl_problem(be)
    return {"problem": problem, "captured": problem is None and is_captured(be), "place": f"{host} {place_of(be)}"}
