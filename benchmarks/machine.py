"""The machine that a benchmark ran on, in words and numbers that belong beside its results."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gpubackprop.backend.cpu.numpy_backend import describe_cpu

PACKAGES = ("numpy", "torch", "jax", "scikit-learn", "thinc", "numba", "scipy")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, Python, and the versions of what is compared."""
    cpu = describe_cpu()
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu.description,
        "cores": os.cpu_count(),
        "memory_gib": round(cpu.memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
