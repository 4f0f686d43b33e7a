"""What a comparison found, as objects and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.errors import DataError
from gpubackprop.files.atomic import replacing

FORMAT = "gpubackprop-benchmark"
VERSION = 1


@dataclass
class Timing:
    """Seconds a call: the median over the blocks of their medians, and the 10th and 90th percentile as its spread."""

    median: float
    low: float
    high: float
    blocks: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, blocks: Sequence[float]) -> Timing:
        """The timing of at least one block."""
        low, middle, high = (float(q) for q in np.percentile(blocks, (10, 50, 90)))
        return cls(middle, low, high, list(blocks))

    @property
    def spread(self) -> float:
        """Half of what lies between low and high, as a share of the median."""
        return (self.high - self.low) / (2 * self.median) if self.median else 0.0

    def differs(self, other: Timing) -> bool:
        """Whether the two ranges from low to high have nothing in common: a difference larger than the noise."""
        return self.low > other.high or other.low > self.high


@dataclass
class Cell:
    """One contender at one batch size.

    timings: "step", "step_with_transfer", "transfer", "host", "device" and perhaps the phases (`Measurement.block`); empty
    where `failed` says why there are none. memory: peak bytes. work: `Measurement.work`.
    """

    timings: dict[str, Timing] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    memory: int | None = None
    failed: str | None = None


@dataclass
class Case:
    """One network at one batch size, and what each contender did with it, by label."""

    network: str
    widths: list[int]
    batch_size: int
    cells: dict[str, Cell] = field(default_factory=dict)

    def seconds(self, label: str, part: str = "step") -> float | None:
        """The median of a part of a contender's step, None where there is none."""
        timing = self.timing(label, part)
        return None if timing is None else timing.median

    def timing(self, label: str, part: str = "step") -> Timing | None:
        """The timing of a part of a contender's step, None where there is none."""
        cell = self.cells.get(label)
        return None if cell is None else cell.timings.get(part)


@dataclass
class Column:
    """A contender, what it ran on, and the best that its device can do: `ceilings` a second, "flops" and "bytes"."""

    label: str
    device: str
    dtype: str
    precision: str
    threads: int | None = None
    how: str = ""
    ceilings: dict[str, float] = field(default_factory=dict)
    failed: str | None = None


@dataclass
class Result:
    """All that one run of `benchmark` found. `print(result)` shows it as text.

    machine and settings: plain values to be shown. interrupted: whether Ctrl-C ended it early.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    contenders: list[Column]
    cases: list[Case] = field(default_factory=list)
    interrupted: bool = False

    @property
    def labels(self) -> list[str]:
        """The contenders' labels, in the order in which they were asked for."""
        return [c.label for c in self.contenders]

    @property
    def networks(self) -> list[str]:
        """The names of the networks, in the order in which they were measured."""
        return list(dict.fromkeys(case.network for case in self.cases))

    def of(self, network: str) -> list[Case]:
        """The cases of one network, by batch size."""
        return sorted((c for c in self.cases if c.network == network), key=lambda c: c.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON. Raises DataError where the file cannot be written; one that was there stays then."""
        with replacing(path) as file:
            file.write((json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote. Raises DataError for a file that is missing, damaged or of another kind."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read as the JSON of a benchmark: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise DataError(f"{path}: is not what gpubackprop bench --json writes")
        if found.get("version") != VERSION:
            raise DataError(f"{path}: has version {found.get('version')!r}, and this library reads version {VERSION}")
        try:
            cases = [_case(c) for c in found["cases"]]
            columns = [_plain(Column, c) for c in found["contenders"]]
            return cls(found["machine"], found["settings"], columns, cases, bool(found["interrupted"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: damaged: {type(error).__name__}: {error}") from None

    def __str__(self) -> str:
        from gpubackprop.bench.table import to_text

        return to_text(self)


def _plain(kind: type[Any], values: dict[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{k: v for k, v in values.items() if k in known})


def _case(values: dict[str, Any]) -> Case:
    case: Case = _plain(Case, {k: v for k, v in values.items() if k != "cells"})
    for label, cell in values["cells"].items():
        timings = {part: _plain(Timing, t) for part, t in cell["timings"].items()}
        for t in timings.values():
            if not all(float(v) >= 0 for v in (t.low, t.median, t.high)):
                raise ValueError(f"a time of {t}")
        case.cells[label] = _plain(Cell, {**cell, "timings": timings})
    return case
