"""The machine and the versions that belong beside a measurement."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from typing import Any

import numpy as np

import gpubackprop
from gpubackprop.backend.cpu.blas_info import blas_name
from gpubackprop.backend.select import devices
from gpubackprop.bench.contenders import available_cores


def machine() -> dict[str, Any]:
    """Devices, system and versions, as plain values, and how busy the machine was before the measurement."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
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


def was_busy(described: dict[str, Any]) -> bool:
    """Whether other programs were at work on it when the measurement began."""
    load, cores = described.get("load"), described.get("cores")
    return bool(load and cores and load > 0.25 * cores)
