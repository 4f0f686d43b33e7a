"""The quickest algorithms on a kind of device, as they were measured, kept from run to run."""

from __future__ import annotations

import json
from typing import Any

from gpubackprop.backend.cuda.timing import HOW
from gpubackprop.files import cache

FILES = "algorithms-"
"""How the names of the files begin, one for each kind of device and version of cuBLASLt."""


class Measurements:
    """Those for a device of this name with this version of cuBLASLt, measured in the way that this library measures now."""

    def __init__(self, device: str, version: int) -> None:
        self._file = f"{FILES}{cache.digest(device, version)}.json"
        self._found: dict[str, Any] = {"device": device, "cublasLt": version, "measured": HOW}
        self._unsaved = False
        before = json.loads(cache.load(self._file) or b"null")
        if isinstance(before, dict) and before.get("measured") == HOW:
            self._found = before

    def of(self, kind: str) -> dict[str, Any]:
        """All of a kind, by what they are for."""
        found = self._found.get(kind)
        return found if isinstance(found, dict) else {}

    def add(self, kind: str, key: str, value: object) -> None:
        """One more; written down by `save`."""
        self._found[kind] = {**self.of(kind), key: value}
        self._unsaved = True

    def save(self) -> None:
        """Write down what is new, for the runs to come."""
        if self._unsaved:
            self._unsaved = False
            cache.store(self._file, json.dumps(self._found, indent=1).encode())
