"""NVIDIA GPUs through CuPy. Nothing here needs CuPy, a driver or a GPU to be imported."""

from __future__ import annotations

import logging

from gpubackprop.backend.cuda.cupy_backend import CupyBackend, describe_cuda, problem
from gpubackprop.errors import DeviceError

log = logging.getLogger("gpubackprop.cuda")


def make_backend(index: int, precision: str = "native") -> CupyBackend:
    """The best that this machine does: graphs with cuBLASLt and own kernels, else own kernels, else plain CuPy.

    Each step down is logged with its reason and stands in `describe()`. Another precision than "native" is done at the
    first level alone: raises DeviceError with the reason where that cannot be had.
    """
    from gpubackprop.backend.cuda.cuda_backend import CudaBackend

    reasons: list[str] = []
    backend: CupyBackend | None = None
    for products, what in ((True, "cuBLASLt and CUDA graphs"), (False, "own kernels")):
        try:
            backend = CudaBackend(index, precision, products=products)
            break
        except Exception as error:  # libraries fail in many types; each is a reason, and none is hidden
            first = (str(error).strip().splitlines() or [""])[0]
            reasons.append(f"no {what}: {type(error).__name__}: {first}")
            log.warning("cuda:%d runs without %s: %s: %s", index, what, type(error).__name__, error)
            if precision != "native":
                raise DeviceError(f'precision="{precision}" cannot be had on cuda:{index}: {first}') from error
    backend = backend or CupyBackend(index)
    backend.fallback = "".join(f"; {reason}" for reason in reasons)
    return backend


__all__ = ["CupyBackend", "describe_cuda", "make_backend", "problem"]
