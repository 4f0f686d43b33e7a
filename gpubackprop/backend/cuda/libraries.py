"""NVIDIA's libraries (NVRTC, cuBLASLt), found where CuPy finds them, and which extra of this package brings them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpubackprop.errors import MissingExtraError

MAJORS = (13, 12)
"""Major versions of CUDA that there is an extra for, newest first."""


def load(name: str, majors: Sequence[int] = MAJORS) -> ctypes.CDLL:
    """The library `name` ("nvrtc", "cublasLt") in the first of these major versions that is found.

    In this order: what this process has loaded already (then it is CuPy's), what cuda-pathfinder finds where it is installed,
    the wheels nvidia-*, the environment's own lib folder (conda), CUDA_PATH, and what the system's loader finds.

    Raises MissingExtraError where there is none.
    """
    files = [f"lib{name}.so.{major}" for major in majors]
    for file in files:
        loaded = _open(file, only_if_loaded=True)
        if loaded is not None:
            return loaded
    for file, major in zip(files, majors, strict=True):
        for place in _places(name, file, major):
            library = _open(place)
            if library is not None:
                return library
    raise MissingExtraError(f"loading {' or '.join(files)}", extra(majors))


def extra(majors: Sequence[int] = MAJORS) -> str:
    """The extra of this package to install: that of the CuPy which is installed, else that of the driver's CUDA version."""
    for major in MAJORS:
        if major in majors and _is_installed(f"cupy-cuda{major}x"):
            return f"cuda{major}"
    supported = [major for major in MAJORS if major in majors and 1000 * major <= driver_version()]
    return f"cuda{supported[0] if supported else min(majors)}"


def driver_version() -> int:
    """The CUDA version that the NVIDIA driver supports, as 1000 major + 10 minor; 0 where there is no driver."""
    library, found = driver(), ctypes.c_int(0)
    if library is not None:
        library.cuDriverGetVersion(ctypes.byref(found))
    return found.value


def driver() -> ctypes.CDLL | None:
    """The library of the NVIDIA driver, or None where there is no driver."""
    return _open("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _places(name: str, file: str, major: int) -> Iterator[str]:
    found = _by_pathfinder(name)
    if Path(found).name.startswith((file, f"{name}64_{major}")):  # Windows: nvrtc64_120_0.dll
        yield found
    for folder in sys.path:
        yield from map(str, sorted(Path(folder, "nvidia").glob(f"*/lib/{file}")))
    toolkits = [Path(os.environ[v], "lib64") for v in ("CUDA_PATH", "CUDA_HOME") if v in os.environ]
    yield from (str(f / file) for f in (Path(sys.prefix, "lib"), *toolkits) if (f / file).exists())
    yield file


def _by_pathfinder(name: str) -> str:
    """The file that NVIDIA's own search finds; "" where it finds none that can be loaded or is not installed."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError:
        return ""
    try:
        return str(load_nvidia_dynamic_lib(name).abs_path or "")
    except (RuntimeError, OSError):  # "not found" is one of the first kind, and so is a file that is broken
        return ""


def _open(file: str, only_if_loaded: bool = False) -> ctypes.CDLL | None:
    mode = getattr(os, "RTLD_NOW", 0)
    if only_if_loaded:
        if not hasattr(os, "RTLD_NOLOAD"):  # on Windows
            return None
        mode |= os.RTLD_NOLOAD
    try:
        return ctypes.CDLL(file, mode=mode)
    except OSError:
        return None


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
