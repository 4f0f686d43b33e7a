"""A result on a terminal."""

from __future__ import annotations

import io
import sys

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpubackprop.bench import columns
from gpubackprop.bench.crossover import advice
from gpubackprop.bench.machine import was_busy
from gpubackprop.bench.results import Result

PLAIN_WIDTH = 100
"""Columns of text where the output is no terminal."""


def render(result: Result) -> RenderableType:
    """The tables, what has no figures and why, and the advice last, where a terminal ends up."""
    pieces: list[RenderableType] = []
    for network in result.networks:
        for table in columns.tables(result, network):
            pieces += [_by_batch(network, table), Text()]
        names, lines = columns.crossing(result, network)
        if lines:
            pieces += [_lines(f"{network}: crossovers, and the measured sizes around them", names, lines), Text()]
    names, lines = columns.ceilings(result)
    pieces += [_lines("what the devices can do at best", names, lines), Text()]
    if result.cases:
        pieces += [Text(f"{name}: {note}", style="dim") for name, note in columns.NOTES.items()] + [Text()]
    pieces += [Text(f"{who}: {why}", style="red") for who, why in columns.failures(result)]
    pieces += [Text(line, style="yellow") for line in warnings(result)]
    pieces += [Text(line, style="bold") for line in advice(result)]
    return Group(*pieces)


def warnings(result: Result) -> list[str]:
    """What a reader has to know before trusting the figures."""
    found = []
    if result.interrupted:
        measured = "this is what had been measured by then" if result.cases else "nothing had been measured yet"
        found.append(f"Interrupted: {measured}.")
    if was_busy(result.machine):
        load, cores = result.machine["load"], result.machine["cores"]
        found.append(f"The machine was busy before this began: load {load} on {cores} cores.")
    return found


def to_text(result: Result, width: int = PLAIN_WIDTH) -> str:
    """`render` as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, markup=False)
    console.print(render(result))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def show(renderable: RenderableType) -> None:
    """Print it: in the width of a terminal, or that of the tables where there is none."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False)
    console.print(renderable, highlight=False)


def plain_table(title: str, names: list[str], left: int = 1) -> Table:
    """A table without lines, with the first `left` columns flush left."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    return table


def _by_batch(network: str, shown: columns.Table) -> Table:
    table = plain_table(f"{network}: {shown.title}", ["batch", *shown.columns], left=2)
    for batch, lines in shown.groups:
        for i, line in enumerate(lines):
            table.add_row("" if i else f"{batch}", *line, style="bold" if line[0].endswith("*") else "")
    return table


def _lines(title: str, names: list[str], lines: list[list[str]]) -> Table:
    table = plain_table(title, names[:-1])
    table.add_column(names[-1], justify="left" if len(names) > 3 else "right")
    for line in lines:
        table.add_row(*line)
    return table
