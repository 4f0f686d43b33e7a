"""A result as rows of figures: what the tables, the CSV file and the page show."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpubackprop.bench.crossover import fastest
from gpubackprop.bench.measure import PHASES
from gpubackprop.bench.results import Case, Cell, Column, Result

PARTS = ("step", "step_with_transfer", "transfer", "host", "device", *PHASES)


@dataclass(frozen=True)
class Row:
    """One contender at one batch size. Rates are a second; shares are of the device's ceilings."""

    case: Case
    column: Column
    cell: Cell
    fastest: bool

    def seconds(self, part: str = "step") -> float | None:
        """The median of a part of the step."""
        return self.case.seconds(self.column.label, part)

    @property
    def spread(self) -> float | None:
        """Of the step: half the range between the 10th and the 90th percentile, as a share of the median."""
        return self.cell.timings["step"].spread if "step" in self.cell.timings else None

    @property
    def samples(self) -> float | None:
        """Rows a second."""
        return self._rate(self.case.batch_size)

    @property
    def flops(self) -> float | None:
        """Operations of the matrix products a second."""
        return self._rate(self.cell.work.get("flops"))

    @property
    def bytes(self) -> float | None:
        """Bytes that have to be moved, a second."""
        return self._rate(self.cell.work.get("bytes"))

    def share(self, what: str) -> float | None:
        """What is reached of the ceiling for "flops" or "bytes"."""
        rate, ceiling = getattr(self, what), self.column.ceilings.get(what)
        return rate / ceiling if rate and ceiling else None

    def _rate(self, amount: float | None) -> float | None:
        step = self.seconds()
        return amount / step if amount and step else None


def rows(result: Result, network: str) -> Iterator[Row]:
    """The rows of one network, by batch size and in the order of the contenders."""
    for case in result.of(network):
        first = fastest(case, result.labels)
        for column in result.contenders:
            if column.label in case.cells:
                yield Row(case, column, case.cells[column.label], column.label in first)


def parts(result: Result) -> list[str]:
    """The parts of a step that were timed."""
    timed = {part for case in result.cases for cell in case.cells.values() for part in cell.timings}
    return [part for part in PARTS if part in timed]


def to_csv(result: Result) -> str:
    """One line a contender and batch size: seconds (median, and the step's 10th and 90th percentile), rates, bytes."""
    timed = parts(result)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["network", "batch_size", "contender", "device", "dtype", "precision", "threads"]
    rates = ["samples_per_second", "flops_per_second", "flops_ceiling", "bytes_per_second", "bytes_ceiling"]
    writer.writerow([*fixed, *timed, "step_low", "step_high", *rates, "memory_bytes", "failed"])
    for network in result.networks:
        for row in rows(result, network):
            c, step = row.column, row.cell.timings.get("step")
            values: list[Any] = [network, row.case.batch_size, c.label, c.device, c.dtype, c.precision, c.threads]
            values += [row.seconds(part) for part in timed]
            values += [step.low, step.high] if step else [None, None]
            values += [row.samples, row.flops, c.ceilings.get("flops"), row.bytes, c.ceilings.get("bytes")]
            writer.writerow([*values, row.cell.memory, row.cell.failed])
    return text.getvalue()
