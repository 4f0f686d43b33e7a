"""Which tables a result is shown in, and with which columns, on a terminal as on a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpubackprop.bench import units
from gpubackprop.bench.crossover import PARTS, crossovers, rounded
from gpubackprop.bench.measure import PHASES
from gpubackprop.bench.results import Result
from gpubackprop.bench.rows import Row, parts, rows

NOTES = {
    "step, ±": "a training step as Trainer.fit does it, on data that is on the device: the median over the rounds, and half "
    "the range of their middle 80 %. * is the fastest, or cannot be told from it",
    "with transfer": "one step at a time, with its batch copied to the device first",
    "host, device": "of one step at a time: on the CPU what prepares it, and its operations; on a GPU the time to launch it, "
    "and between CUDA events around it, which overlap",
    "FLOP/s, B/s, of best": "the operations of the step's matrix products, and the bytes of its operands, each counted once; "
    "as a share of the fastest product and of the largest copy of this run. Above 100 % it came out of a cache",
}
"""What the columns mean."""


@dataclass(frozen=True)
class Table:
    """A title, names of columns, and for each batch size its lines of texts; the first column is the contender."""

    title: str
    columns: Sequence[str]
    groups: Sequence[tuple[int, Sequence[Sequence[str]]]]


def tables(result: Result, network: str) -> list[Table]:
    """How long the steps of a network take, where that time goes, and what of the devices is used."""
    found = list(rows(result, network))
    timed = [row for row in found if not row.cell.failed]
    step: dict[str, Callable[[Row], str]] = {
        "step": lambda r: "failed" if r.cell.failed else units.seconds(r.seconds()),
        "±": lambda r: units.percent(r.spread),
        "samples/s": lambda r: units.quantity(r.samples),
        "with transfer": lambda r: units.seconds(r.seconds("step_with_transfer")),
    }
    split = {name: _part(name) for name in ("transfer", "host", "device")}
    split["peak memory"] = lambda r: units.size(r.cell.memory)
    reached: dict[str, Callable[[Row], str]] = {
        "FLOP/s": lambda r: units.quantity(r.flops),
        "of best": lambda r: units.percent(r.share("flops")),
        "B/s": lambda r: units.quantity(r.bytes),
        "of best ": lambda r: units.percent(r.share("bytes")),
    }
    phases = {name: _part(name) for name in PHASES if name in parts(result)}
    all_tables = [
        _table("a training step", found, step),
        _table("where the time goes", timed, split),
        _table("the phases, each run on its own", timed if phases else [], phases),
        _table("what is reached", timed, reached),
    ]
    return [table for table in all_tables if table.groups]


def ceilings(result: Result) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and lines: what each contender's device can do at best."""
    lines = [
        [
            c.label,
            units.quantity(c.ceilings.get("flops"), "FLOP/s"),
            units.quantity(c.ceilings.get("bytes"), "B/s"),
            "-" if c.threads is None else str(c.threads),
            c.how or "-",
        ]
        for c in result.contenders
    ]
    return ["contender", "fastest product", "largest copy", "threads", "steps are"], lines


def crossing(result: Result, network: str) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and lines: the batch sizes at which one contender overtakes another."""
    found: dict[str, dict[str, list[str]]] = {}
    for part in PARTS:
        for x in crossovers(result, part):
            if x.network == network:
                sizes = found.setdefault(f"{x.above} overtakes {x.below}", {}).setdefault(part, [])
                sizes.append(f"{rounded(x.batch_size)} ({x.between[0]}..{x.between[1]})")
    lines = [[pair, *(", ".join(sizes.get(part, ["-"])) for part in PARTS)] for pair, sizes in found.items()]
    return ["at a batch of about", *PARTS.values()], lines


def failures(result: Result) -> list[tuple[str, str]]:
    """(contender and where, why) of everything that has no figures; one entry for what has the same reason everywhere."""
    found: dict[tuple[str, str], list[str]] = {}
    for case in result.cases:
        for label, cell in case.cells.items():
            if cell.failed:
                found.setdefault((label, cell.failed), []).append(f"{case.network} at {case.batch_size}")
    lines = [(f"{label} failed ({', '.join(where)})", why) for (label, why), where in found.items()]
    return [(f"{c.label} failed", c.failed) for c in result.contenders if c.failed] + lines


def _part(name: str) -> Callable[[Row], str]:
    return lambda row: units.seconds(row.seconds(name))


def _table(title: str, found: Sequence[Row], columns: dict[str, Callable[[Row], str]]) -> Table:
    groups: dict[int, list[list[str]]] = {}
    for row in found:
        line = [f"{row.column.label}{' *' if row.fastest else ''}", *(show(row) for show in columns.values())]
        groups.setdefault(row.case.batch_size, []).append(line)
    return Table(title, ["contender", *columns], list(groups.items()))
