"""What is expensive to find out and stays true for a machine: compiled kernels, and which algorithm was fastest.

Kept in GPUBACKPROP_CACHE, or else in the user's cache directory. A cache that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def directory() -> Path:
    """Where the cache is; it may not exist yet."""
    named = os.environ.get("GPUBACKPROP_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpubackprop"


def digest(*parts: object) -> str:
    """A name for whatever depends on these."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def path_of(name: str, content: bytes) -> Path:
    """A file with this content: `name` in the cache, or in a temporary directory where the cache cannot be written."""
    for folder in (directory(), Path(tempfile.gettempdir()) / f"gpubackprop-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            target = folder / name
            if not target.exists() or target.read_bytes() != content:
                _replace(target, content)
            return target
        except OSError as error:
            last = error
    raise last


def load(name: str) -> Any:
    """What `store` wrote, or None where there is nothing that can be read."""
    try:
        return json.loads((directory() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def store(name: str, value: Any) -> None:
    """Write a JSON value; a full disk or a read-only home is no reason to stop."""
    try:
        directory().mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(directory() / name, json.dumps(value, indent=0, sort_keys=True).encode())
    except OSError:
        return


def _replace(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, target)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
