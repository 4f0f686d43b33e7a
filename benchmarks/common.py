"""What the benchmarks have in common: which libraries are here, and the files that they write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def available(names: Iterable[str], needs: Mapping[str, str]) -> list[str]:
    """Those whose library is installed, with a line for each that is not. needs: the beginning of a name -> the module that it
    cannot do without."""
    found = []
    for name in names:
        missing = [module for word, module in needs.items() if name.startswith(word) and find_spec(module) is None]
        if missing:
            print(f"{name}: left out, as {missing[0]} is not installed")
        else:
            found.append(name)
    return found


def write(path: Path, content: object, default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON, which replaces what was there only when it is whole. default: as of `json.dumps`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, default=default) + "\n", encoding="utf-8")
    partial.replace(path)
