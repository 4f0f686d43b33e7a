"""Which devices there are, and why not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache

from gpubackprop.backend.base import Backend, DeviceInfo
from gpubackprop.backend.cpu import mkl
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend, describe_cpu
from gpubackprop.backend.measured import fastest_device
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import ArgumentError, DeviceError, unknown_name

_NAMES = ("auto", "cpu", "cpu:mkl", "cuda", "cuda:0", "strict")


def get_backend(device: str | Backend = "auto", *, precision: str = "native") -> Backend:
    """A backend for a device.

    device: "cpu" (NumPy), "cpu:mkl" (NumPy with MKL's products, extra `mkl`), "cuda" or "cuda:1" (CuPy), "strict" (the
    stand-in for a GPU), or "auto": the first GPU if an allocation and a small product work there, else the CPU;
    `fallback_reason()` then says why; or "auto:bench.json@256": what `choose_device` takes from that measurement for a batch of
    256 rows. A `Backend` is returned as it is.
    precision: "native", or "tf32", "bf16", "fp16" on a GPU.

    Raises ArgumentError for an unknown name, and DeviceError where the device is not there or cannot do the precision:
    "cuda" never falls back to the CPU. DataError for a measurement that cannot be read.
    """
    if isinstance(device, Backend):
        if precision not in ("native", device.precision):
            raise DeviceError(
                f'precision="{precision}" was asked for, but this backend of {device.name!r} was made with '
                f'"{device.precision}"; make it with get_backend({device.name!r}, precision="{precision}")'
            )
        return device
    if isinstance(device, str) and (measured := re.fullmatch(r"auto:(.+?)(?:@(\d+))?", device)):
        size = int(measured[2]) if measured[2] else None
        device = choose_device(measured[1], batch_size=size, precision=precision)
    if device == "auto":
        return NumpyBackend(precision) if _cuda_problem(0) else _cuda(0, precision)
    if device == "cpu":
        return NumpyBackend(precision)
    if device == "cpu:mkl":
        return mkl.MklBackend(precision)
    if device == "strict":
        return StrictBackend(precision)
    match = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if match is None:
        if str(device).lower() == "gpu":  # "cpu" is the nearest name to it, and the opposite
            raise ArgumentError(f"unknown device {device!r}: did you mean 'cuda'? known: {', '.join(_NAMES)}")
        raise unknown_name("device", device, _NAMES)
    index = int(match[1] or 0)
    problem = _cuda_problem(index)
    if problem:
        raise DeviceError(f'device "{device}" cannot be used: {problem}. device="auto" or "cpu" runs on the CPU')
    return _cuda(index, precision)


def choose_device(
    measurement: str | os.PathLike[str],
    layers: Sequence[int] | None = None,
    batch_size: int | None = None,
    *,
    dtype: str = "float32",
    precision: str = "native",
) -> str:
    """The device that was fastest on this machine, for `device=`: measure once, choose each time without measuring.

        gpubackprop bench --layers 784,512,10 --json bench.json
        net = gb.mlp(layers, device=gb.choose_device("bench.json", layers, batch_size=256))

    measurement: what `gpubackprop bench --json` or `benchmark(...).save` wrote. layers: widths of the network, inputs first;
    the measured network nearest in its number of weights stands for it. batch_size: between those that were measured the
    times are interpolated. Both may be left out where the answer does not depend on them. dtype, precision: as for `Network`;
    only what was measured with these counts, and only devices that work here.

    Raises ArgumentError where the answer depends on what was left out, and DataError for a file that cannot be read or holds
    no device that can be taken.
    """
    return fastest_device(measurement, layers, batch_size, dtype=dtype, precision=precision, usable=_usable)


def _usable(device: str) -> bool:
    match = re.fullmatch(r"cuda:(\d+)", device)
    if device == "cpu:mkl":
        return mkl.problem() is None
    return device == "cpu" or (match is not None and _cuda_problem(int(match[1])) is None)


def devices() -> list[DeviceInfo]:
    """The devices of this machine that `get_backend` knows: the CPU, the CPU with MKL, every CUDA GPU, and `strict`.

    A GPU that does not work is listed with the reason, and so is the absence of any.
    """
    without = mkl.problem()
    found = [describe_cpu(), DeviceInfo("cpu:mkl", "the CPU with MKL's products", 0, without is None, without or "")]
    problem = _cuda_problem(0)
    if problem:
        found.append(DeviceInfo("cuda", "NVIDIA GPU", working=False, reason=problem))
    else:
        from gpubackprop.backend.cuda import describe_cuda

        found.extend(describe_cuda())
    found.append(DeviceInfo("strict", "a GPU's manners on the CPU, for tests"))
    return found


def fallback_reason() -> str | None:
    """Why device="auto" takes the CPU, or None where it takes a GPU."""
    return _cuda_problem(0)


def _cuda(index: int, precision: str) -> Backend:
    from gpubackprop.backend.cuda import make_backend

    return make_backend(index, precision)


@cache
def _cuda_problem(index: int) -> str | None:
    """Why a GPU cannot be used, or None if an allocation and a small product worked there. Asked once a process."""
    if index < 0:
        raise ArgumentError(f"a device's number must be 0 or more; got {index}")
    from gpubackprop.backend.cuda import problem

    return problem(index)
