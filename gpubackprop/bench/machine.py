"""The machine and the versions that belong beside a measurement."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import gpubackprop
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
        found["packages"] = {name: there for name in packages if (there := _version(name))}
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
