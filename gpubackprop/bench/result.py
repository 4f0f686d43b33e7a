"""All that one comparison found: as objects, as JSON, as tables and sentences, as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from gpubackprop.bench import text
from gpubackprop.bench.cases import PARTS, PHASES, Case, Cell, Crossover, Timing, crossover, winners
from gpubackprop.bench.machine import was_busy
from gpubackprop.errors import DataError
from gpubackprop.files.atomic import replacing

FORMAT = "gpubackprop-benchmark"
VERSION = 1
WITH_AND_WITHOUT_COPY = {"step": "with the data on the device", "step_with_transfer": "with each batch copied there"}
NOTES = {
    "step, ±": "a training step as Trainer.fit does it, on data that is on the device: the median over the rounds, and half "
    "the range of their middle 80 %. * is the fastest, or cannot be told from it",
    "with transfer": "one step at a time, with its batch copied to the device first",
    "host, device": "of one step at a time: on the CPU what prepares it, and its operations; on a GPU the time to launch it, "
    "and between CUDA events around it, which overlap",
    "FLOP/s, B/s, of best": "the operations of the step's matrix products, and the bytes of its operands, each counted once; "
    "as a share of the fastest product and of the largest copy of this run. Above 100 % it came out of a cache",
}
"""The meaning of the tables' columns."""

T = TypeVar("T")


@dataclass
class Measured:
    """A contender, what it ran on, and the best that its device can do: `ceilings` a second, "flops" and "bytes"."""

    label: str
    device: str
    dtype: str
    precision: str
    threads: int | None = None
    how: str = ""
    ceilings: dict[str, float] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Row:
    """The figures of one contender at one batch size. Rates are a second; shares are of the device's ceilings."""

    case: Case
    column: Measured
    cell: Cell
    fastest: bool

    def seconds(self, part: str = "step") -> float | None:
        """The median of a part of the step."""
        return self.cell.timings[part].median if part in self.cell.timings else None

    def rate(self, what: str) -> float | None:
        """ "samples", "flops" (operations of the matrix products) or "bytes" (that have to be moved) a second."""
        amount = self.case.batch_size if what == "samples" else self.cell.work.get(what)
        step = self.seconds()
        return amount / step if amount and step else None

    def share(self, what: str) -> float | None:
        """The share that is reached of the ceiling for "flops" or "bytes"."""
        rate, ceiling = self.rate(what), self.column.ceilings.get(what)
        return rate / ceiling if rate and ceiling else None


@dataclass
class Result:
    """All that one run of `benchmark` found. `print(result)` shows it as text.

    machine and settings: plain values to be shown. interrupted: whether Ctrl-C ended it early.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    contenders: list[Measured]
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

    # -- as JSON --------------------------------------------------------------------------------------------------

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
            columns = [_plain(Measured, c) for c in found["contenders"]]
            return cls(found["machine"], found["settings"], columns, cases, bool(found["interrupted"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: damaged: {type(error).__name__}: {error}") from None

    # -- in sentences ---------------------------------------------------------------------------------------------

    def advice(self) -> list[str]:
        """For each network one sentence: what to use, and from which batch size on something else."""
        return [sentence for network in self.networks if (sentence := self._sentence(network))]

    def warnings(self) -> list[str]:
        """Remarks that a reader needs before trusting the figures."""
        found = []
        if self.interrupted:
            measured = "this is what had been measured by then" if self.cases else "nothing had been measured yet"
            found.append(f"Interrupted: {measured}.")
        if was_busy(self.machine):
            load, cores = self.machine["load"], self.machine["cores"]
            found.append(f"The machine was busy before this began: load {load} on {cores} cores.")
        cells = [cell for case in self.cases for cell in case.cells.values()]
        if any(len(t.blocks) == 1 for cell in cells for t in cell.timings.values()):
            found.append(
                "Figures of one round have no spread (±): which is faster may be noise; measure several rounds."
            )
        return found

    def failures(self) -> list[tuple[str, str]]:
        """(contender and where, why) of everything that has no figures; one entry for what has the same reason everywhere."""
        found: dict[tuple[str, str], list[str]] = {}
        for case in self.cases:
            for label, cell in case.cells.items():
                if cell.failed:
                    found.setdefault((label, cell.failed), []).append(f"{case.network} at {case.batch_size}")
        lines = [(f"{label} failed ({', '.join(where)})", why) for (label, why), where in found.items()]
        return [(f"{c.label} failed", c.failed) for c in self.contenders if c.failed] + lines

    def _sentence(self, network: str) -> str:
        cases = [c for c in self.of(network) if any(c.timing(label) for label in self.labels)]
        if not cases:
            return ""
        labels = [label for label in self.labels if any(c.timing(label) for c in cases)]
        if len(labels) < 2:
            failed = [label for label in self.labels if label not in labels]
            because = f": {', '.join(failed)} could not be measured" if failed else ""
            return f"{network}: only {labels[0]} was measured{because}, so there is nothing to compare it with."
        resident, copied = (_fastest_where(cases, labels, part) for part in WITH_AND_WITHOUT_COPY)
        said = f"{network}: {resident}"
        if copied != resident:
            said += f"; if each batch has to be copied to the device first, {copied}"
        return said + "."

    # -- in tables ------------------------------------------------------------------------------------------------

    def rows(self, network: str) -> Iterator[Row]:
        """The rows of one network, by batch size and in the order of the contenders."""
        for case in self.of(network):
            first = case.fastest(self.labels)
            for column in self.contenders:
                if column.label in case.cells:
                    yield Row(case, column, case.cells[column.label], column.label in first)

    def tables(self, network: str) -> list[text.FigureTable]:
        """How long the steps of a network take, where that time goes, what of the devices is used, and the crossovers."""
        found = list(self.rows(network))
        timed = [row for row in found if not row.cell.failed]
        step: dict[str, Callable[[Row], str]] = {
            "step": lambda r: "failed" if r.cell.failed else text.seconds(r.seconds()),
            "±": lambda r: text.percent(t.spread if (t := r.cell.timings.get("step")) else None),
            "samples/s": lambda r: text.quantity(r.rate("samples")),
            "with transfer": lambda r: text.seconds(r.seconds("step_with_transfer")),
        }
        split = {name: _part(name) for name in ("transfer", "host", "device")}
        split["peak memory"] = lambda r: text.size(r.cell.memory)
        reached: dict[str, Callable[[Row], str]] = {
            "FLOP/s": lambda r: text.quantity(r.rate("flops")),
            "of best": lambda r: text.percent(r.share("flops")),
            "B/s": lambda r: text.quantity(r.rate("bytes")),
            "of best ": lambda r: text.percent(r.share("bytes")),
        }
        phases = {name: _part(name) for name in PHASES if name in self._parts()}
        tables = [
            _table("a training step", found, step),
            _table("where the time goes", timed, split),
            _table("the phases, each run on its own", timed if phases else [], phases),
            _table("what is reached", timed, reached),
            self._crossing(network),
        ]
        return [table for table in tables if table.groups]

    def crossovers(self, network: str, part: str = "step") -> list[Crossover]:
        """Every crossover between two contenders on a network: see `crossover`."""
        pairs = combinations(self.labels, 2)
        return [found for a, b in pairs for found in crossover(self.of(network), a, b, part)]

    def ceilings(self) -> text.FigureTable:
        """The ceilings of each contender's device."""
        lines = []
        for c in self.contenders:
            rates = [text.quantity(c.ceilings.get(k), unit) for k, unit in (("flops", "FLOP/s"), ("bytes", "B/s"))]
            lines.append(text.Line([c.label, *rates, "-" if c.threads is None else str(c.threads), c.how or "-"]))
        names = ["contender", "fastest product", "largest copy", "threads", "steps are"]
        return text.FigureTable("what the devices can do at best", names, [(None, lines)], prose=True)

    def render(self) -> RenderableType:
        """The tables, what has no figures and why, and the advice last, where a terminal ends up."""
        pieces: list[RenderableType] = []
        for network in self.networks:
            for table in self.tables(network):
                pieces += [table.on_terminal(f"{network}: "), Text()]
        pieces += [self.ceilings().on_terminal(), Text()]
        if self.cases:
            pieces += [Text(f"{name}: {note}", style="dim") for name, note in NOTES.items()] + [Text()]
        pieces += [Text(f"{who}: {why}", style="red") for who, why in self.failures()]
        pieces += [Text(line, style="yellow") for line in self.warnings()]
        pieces += [Text(line, style="bold") for line in self.advice()]
        return Group(*pieces)

    def __str__(self) -> str:
        return text.to_text(self.render())

    def to_csv(self) -> str:
        """One line a contender and batch size: seconds (median, and the step's 10th and 90th percentile), rates, bytes."""
        timed = self._parts()
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        fixed = ["network", "batch_size", "contender", "device", "dtype", "precision", "threads"]
        rates = ["samples_per_second", "flops_per_second", "flops_ceiling", "bytes_per_second", "bytes_ceiling"]
        writer.writerow([*fixed, *timed, "step_low", "step_high", *rates, "memory_bytes", "failed"])
        for network in self.networks:
            for row in self.rows(network):
                c, step = row.column, row.cell.timings.get("step")
                values: list[Any] = [network, row.case.batch_size, c.label, c.device, c.dtype, c.precision, c.threads]
                values += [row.seconds(part) for part in timed]
                values += [step.low, step.high] if step else [None, None]
                values += [row.rate("samples"), row.rate("flops"), c.ceilings.get("flops")]
                values += [row.rate("bytes"), c.ceilings.get("bytes")]
                writer.writerow([*values, row.cell.memory, row.cell.failed])
        return lines.getvalue()

    def _parts(self) -> list[str]:
        """The parts of a step that were timed."""
        timed = {part for case in self.cases for cell in case.cells.values() for part in cell.timings}
        return [part for part in PARTS if part in timed]

    def _crossing(self, network: str) -> text.FigureTable:
        """The batch sizes at which one contender overtakes another."""
        found: dict[str, dict[str, list[str]]] = {}
        for part in WITH_AND_WITHOUT_COPY:
            for x in self.crossovers(network, part):
                sizes = found.setdefault(f"{x.above} overtakes {x.below}", {}).setdefault(part, [])
                sizes.append(f"{text.rounded(x.batch_size)} ({x.between[0]}..{x.between[1]})")
        lines = [
            text.Line([pair, *(", ".join(sizes.get(part, ["-"])) for part in WITH_AND_WITHOUT_COPY)])
            for pair, sizes in found.items()
        ]
        names = ["at a batch of about", *WITH_AND_WITHOUT_COPY.values()]
        return text.FigureTable(
            "crossovers, and the measured sizes around them", names, [(None, lines)] if lines else []
        )


def _part(name: str) -> Callable[[Row], str]:
    return lambda row: text.seconds(row.seconds(name))


def _table(title: str, rows: Sequence[Row], columns: dict[str, Callable[[Row], str]]) -> text.FigureTable:
    groups: dict[int | None, list[text.Line]] = {}
    for row in rows:
        texts = [f"{row.column.label}{' *' if row.fastest else ''}", *(show(row) for show in columns.values())]
        groups.setdefault(row.case.batch_size, []).append(text.Line(texts, row.fastest))
    return text.FigureTable(title, ["contender", *columns], list(groups.items()))


def _fastest_where(cases: Sequence[Case], labels: Sequence[str], part: str) -> str:
    sizes = [c.batch_size for c in cases]
    span = f"at a batch of {sizes[0]}" if len(sizes) == 1 else f"at all batch sizes from {sizes[0]} to {sizes[-1]}"
    first = [c.fastest(labels, part) for c in cases]
    tied = [label for label in labels if all(label in names for names in first)]
    if len(tied) > 1:
        return f"{' and '.join(tied)} cannot be told apart {span}"
    ranges = winners(cases, labels, part)
    if len(ranges) == 1:
        best = ranges[0][1]
        alone = all(names == [best] for names in first)
        return f"{best} is fastest {span}" if alone else f"nothing is faster than {best} {span}"
    words = [f"{ranges[0][1]} is fastest up to a batch of about {text.rounded(ranges[1][0])}"]
    words += [f"{label} from about {text.rounded(start)} on" for start, label in ranges[1:]]
    return ", ".join(words)


def _plain(kind: type[T], values: dict[str, Any]) -> T:
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in values.items() if k in known})


def _case(values: dict[str, Any]) -> Case:
    case = _plain(Case, {k: v for k, v in values.items() if k != "cells"})
    for label, cell in values["cells"].items():
        timings = {part: _plain(Timing, t) for part, t in cell["timings"].items()}
        for t in timings.values():
            if not all(float(v) >= 0 for v in (t.low, t.median, t.high)):
                raise ValueError(f"a time of {t}")
        case.cells[label] = _plain(Cell, {**cell, "timings": timings})
    return case
