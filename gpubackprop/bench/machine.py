"""The machine and the versions that belong beside a measurement, and what a device does at best."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import numpy as np

import gpubackprop
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.blas_info import blas_name
from gpubackprop.backend.select import devices


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Devices, system and versions, as plain values, and how busy the machine was before the measurement.

    packages: whose versions are to be in it too, under "packages", where they are installed.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "devices": {d.name: d.description for d in devices() if d.working and d.name != "strict"},
        "cores": available_cores(),
        "memory": next((d.memory for d in devices() if d.name == "cpu"), 0),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_name(),
        "gpubackprop": gpubackprop.__version__,
        "load": None if load is None else round(load, 2),
    }
    if packages:
        found["packages"] = {name: there for name in packages if (there := version_of(name))}
    return found


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def was_busy(described: dict[str, Any]) -> bool:
    """Whether other programs were at work on it when the measurement began."""
    load, cores = described.get("load"), described.get("cores")
    return bool(load and cores and load > 0.25 * cores)


def version_of(package: str) -> str | None:
    """The version of an installed package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# -- what a device does at best -----------------------------------------------------------------------------------------

PRODUCTS = {False: (1024, 2048), True: (2048, 4096, 8192)}
"""Rows and columns of the square products that are tried on the CPU, and on a GPU."""
COPY = {False: 128 << 20, True: 1 << 30}
"""Bytes of the array that is copied: more than any cache holds."""
BUDGET = 0.15
"""Seconds that each is tried for; the fastest counts, as everything else on a machine only takes away from it."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the garbage collector, as `timeit` does it."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ceilings(backend: Backend, dtype: str) -> dict[str, float]:
    """ "flops" a second of the fastest square product, and "bytes" read and written a second by the largest copy.

    Both through the same operations as the steps, products in the type in which activations are stored. dtype: of the parameters.
    """
    rng, stored, size = np.random.default_rng(0), backend.storage(dtype), COPY[backend.is_gpu]
    rates = []
    with undisturbed():
        for k in PRODUCTS[backend.is_gpu]:
            a, b = (backend.asarray(rng.random((k, k), np.float32).astype(stored)) for _ in range(2))
            product = partial(backend.dot, a, b, backend.empty((k, k), a.dtype))
            rates.append(2 * k**3 / _fastest(backend, product))
        source, target = (backend.zeros((size,), np.uint8) for _ in range(2))
        backend.fill(source, 1)
        copy = _fastest(backend, lambda: backend.copy_in(source, target))
    return {"flops": max(rates), "bytes": 2 * size / copy}


def _fastest(backend: Backend, run: Callable[[], object]) -> float:
    run()
    backend.synchronize()
    best, started = float("inf"), perf_counter()
    while perf_counter() - started < BUDGET or best == float("inf"):
        before = perf_counter()
        run()
        backend.synchronize()
        best = min(best, perf_counter() - before)
    return best
