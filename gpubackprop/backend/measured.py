"""Which device a measurement says to take: what `gpubackprop bench --json` wrote, read without running anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.checks import positive, whole_number
from gpubackprop.errors import ArgumentError, DataError

_Times = dict[str, list[tuple[int, float]]]
"""Device -> (batch size, seconds a step), by batch size."""


def fastest_device(
    path: str | os.PathLike[str],
    layers: Sequence[int] | None,
    batch_size: int | None,
    *,
    dtype: str,
    precision: str,
    usable: Callable[[str], bool],
) -> str:
    """See `gpubackprop.choose_device`. usable: whether a device can be taken here."""
    cases = _cases(path, dtype, precision, usable)
    if layers is not None:
        cases = _nearest(cases, [whole_number(f"layers[{i}]", w) for i, w in enumerate(layers)])
    networks = [_by_device(cases, name) for name in dict.fromkeys(c["network"] for c in cases)]
    sizes = sorted({c["batch_size"] for c in cases}) if batch_size is None else [whole_number("batch_size", batch_size)]
    winners = {(i, n): _winner(times, n) for i, times in enumerate(networks) for n in sizes}
    chosen = set(winners.values())
    if len(chosen) > 1:
        missing = "batch_size" if batch_size is None else "layers"
        how = (
            f'device="auto:{path}@1024"'
            if batch_size is None
            else f"choose_device({str(path)!r}, [784, 512, 10], {sizes[0]})"
        )
        raise ArgumentError(
            f"{path}: which of {', '.join(sorted(chosen))} is faster depends on the {missing}; say which one, as in {how}"
        )
    return chosen.pop()


def _cases(
    path: str | os.PathLike[str], dtype: str, precision: str, usable: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """[{"network", "widths", "batch_size", "seconds": {device: seconds of its fastest contender}}] of the right type."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if found["format"] != "gpubackprop-benchmark":
            raise ValueError("another format")
        devices = {
            c["label"]: c["device"]
            for c in found["contenders"]
            if c["dtype"] == dtype and c["precision"] == precision and c["device"] != "strict" and usable(c["device"])
        }
        cases = []
        for case in found["cases"]:
            seconds: dict[str, float] = {}
            for label, cell in case["cells"].items():
                if label in devices and "step" in cell["timings"] and not cell["failed"]:
                    device, step = devices[label], positive("median", cell["timings"]["step"]["median"])
                    seconds[device] = min(step, seconds.get(device, step))
            if seconds:
                kept = {"network": str(case["network"]), "widths": [whole_number("widths", w) for w in case["widths"]]}
                cases.append({**kept, "batch_size": whole_number("batch_size", case["batch_size"]), "seconds": seconds})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as what gpubackprop bench --json writes: {error}") from None
    if not cases:
        kind = dtype if precision == "native" else precision
        raise DataError(
            f"{path}: measured no device that works here in {kind}; measure this machine: gpubackprop bench"
        )
    return cases


def _nearest(cases: list[dict[str, Any]], layers: list[int]) -> list[dict[str, Any]]:
    """The cases of the network whose number of weights has the ratio nearest to 1 to that of `layers`."""

    def distance(case: dict[str, Any]) -> float:
        return abs(log(_weights(case["widths"]) / _weights(layers)))

    nearest = min(cases, key=distance)["network"]
    return [c for c in cases if c["network"] == nearest]


def _weights(widths: Sequence[int]) -> int:
    if len(widths) < 2:
        raise ArgumentError(f"layers must name at least inputs and outputs, as in [784, 512, 10]; got {list(widths)}")
    return sum(prod(pair) for pair in pairwise(widths))


def _by_device(cases: Sequence[dict[str, Any]], network: str) -> _Times:
    times: _Times = {}
    for case in sorted((c for c in cases if c["network"] == network), key=lambda c: int(c["batch_size"])):
        for device, seconds in case["seconds"].items():
            times.setdefault(device, []).append((case["batch_size"], seconds))
    return times


def _winner(times: _Times, n: int) -> str:
    """The fastest device at n rows, between measured sizes by interpolation in logarithms, outside by the nearest one."""

    def log_seconds(device: str) -> float:
        sizes, taken = zip(*times[device], strict=True)
        return float(np.interp(log(n), [log(s) for s in sizes], [log(t) for t in taken]))

    return min(times, key=log_seconds)
