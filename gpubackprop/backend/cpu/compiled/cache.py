"""Generated source on disk, where Numba keeps the machine code that it makes of it from one process to the next."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType


def cache_folder() -> Path:
    """$GPUBACKPROP_CACHE, else gpubackprop in $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("GPUBACKPROP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpubackprop"


def load(source: str) -> ModuleType:
    """The module with this source: from the cache folder, or, where that cannot be written, from a temporary one."""
    name = f"gpubackprop_{_hash(source)}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        path = _written(_path(cache_folder(), source), source)
    except OSError:  # a read-only home: it is compiled anew in each process
        path = _written(_path(Path(tempfile.mkdtemp(prefix="gpubackprop-")), source), source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _path(folder: Path, source: str) -> Path:
    return folder / "compiled" / f"step_{_hash(source)}.py"


def _hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:24]


def _written(path: Path, source: str) -> Path:
    """The file with this content, put in its place whole: another process may write or read it at the same time."""
    if path.exists() and path.read_text(encoding="utf-8") == source:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(source)
    os.replace(temporary, path)
    return path
