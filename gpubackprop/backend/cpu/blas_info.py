"""The BLAS that NumPy's products run on: the same weights come out again only with the same number of its threads."""

from __future__ import annotations

import ctypes
import glob
import os
from functools import cache
from typing import Any

import numpy as np

_THREAD_COUNTS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
    "bli_thread_get_num_threads",
    "MKL_Get_Max_Threads",
)
"""The functions without arguments by which the libraries tell how many threads they use."""


def blas_name() -> str:
    """The library that NumPy was built with, and its version: "scipy-openblas 0.3.30"."""
    build: Any = np.show_config(mode="dicts")
    blas = build.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def blas_threads() -> int | None:
    """How many threads NumPy's BLAS uses now, or None where the library does not say."""
    found = blas_library()
    return None if found is None else int(found[0][found[1]]())


@cache
def blas_library() -> tuple[Any, str] | None:
    """NumPy's BLAS and the name of its function that tells its number of threads, or None where none is known."""
    for path in _loaded_libraries():
        try:
            library = ctypes.CDLL(path)
        except OSError:  # the file was replaced or removed since it was loaded
            continue
        for name in _THREAD_COUNTS:
            if hasattr(library, name):
                return library, name
    return None


def _loaded_libraries() -> list[str]:
    """Paths of the BLAS libraries in this process (Linux), or of those that came with NumPy."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    except OSError:  # not Linux
        root = os.path.dirname(np.__file__)
        paths = {*glob.glob(f"{root}/.dylibs/*"), *glob.glob(f"{root}.libs/*")}
    found = [p for p in paths if any(k in os.path.basename(p).lower() for k in ("blas", "mkl_rt", "blis"))]
    # Of several, NumPy's is the one that came with it: MKL may have been loaded beside it.
    own = os.path.dirname(np.__file__)
    return sorted(found, key=lambda path: (not path.startswith(own), path))
