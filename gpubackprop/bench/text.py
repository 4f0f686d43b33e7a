"""Figures as people read them, with three significant digits, and tables of them on a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from rich import table as rich
from rich.console import RenderableType

from gpubackprop.terminal import Terminal

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))


def seconds(value: float | None, digits: int = 3) -> str:
    """0.00123 -> "1.23 ms"; with fewer digits, trailing zeros are left out."""
    return _scaled(value, _TIMES, digits)


def quantity(value: float | None, unit: str = "", digits: int = 3) -> str:
    """1234567 -> "1.23 M", and with a unit "1.23 MFLOP/s"."""
    return _scaled(value, [(scale, prefix + unit) for scale, prefix in _PREFIXES], digits)


def _scaled(value: float | None, units: Sequence[tuple[float, str]], digits: int) -> str:
    """The value in the largest unit of which it is one or more."""
    if value is None or not isfinite(value):
        return "-"
    scale, unit = next(((s, u) for s, u in units if value >= 0.9995 * s), units[-1])
    shown = _three_digits(value / scale) if digits == 3 else f"{float(f'{value / scale:.{digits}g}'):g}"
    return f"{shown} {unit}".rstrip()


def size(value: int | None) -> str:
    """1300000 -> "1.24 MiB"."""
    if value is None:
        return "-"
    scale, unit = next(((s, u) for s, u in _BYTES if value >= s), _BYTES[-1])
    return f"{_three_digits(value / scale) if scale > 1 else value} {unit}"


def percent(value: float | None) -> str:
    """0.123 -> "12 %"."""
    if value is None or not isfinite(value):
        return "-"
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def rounded(batch_size: float) -> str:
    """A batch size that was interpolated, with two significant digits."""
    return f"{float(f'{batch_size:.2g}'):,.0f}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


# -- tables ---------------------------------------------------------------------------------------------------------------

PLAIN_WIDTH = 100
"""Columns of text where the output is no terminal."""


@dataclass(frozen=True)
class Line:
    """A line of a table: the text of each column. marked: whether it stands out."""

    texts: Sequence[str]
    marked: bool = False


@dataclass(frozen=True)
class FigureTable:
    """A title, names of columns, and for each batch size its lines; the batch size is None where there are no such groups.

    prose: whether the last column holds words instead of figures.
    """

    title: str
    columns: Sequence[str]
    groups: Sequence[tuple[int | None, Sequence[Line]]]
    prose: bool = False

    def on_terminal(self, heading: str = "") -> rich.Table:
        """The table without rules. heading: goes before the title."""
        shown = rich.Table(title=f"{heading}{self.title}", title_justify="left", title_style="bold", box=None)
        shown.pad_edge, shown.padding = False, (0, 2, 0, 0)
        grouped = any(batch is not None for batch, _ in self.groups)
        names = ["batch", *self.columns] if grouped else self.columns
        for i, name in enumerate(names):
            last = i == len(names) - 1
            left = i < 1 + grouped or (last and self.prose)
            shown.add_column(name, justify="left" if left else "right", no_wrap=grouped or not last)
        for batch, lines in self.groups:
            for i, line in enumerate(lines):
                before = ["" if i else f"{batch}"] if grouped else []
                shown.add_row(*before, *line.texts, style="bold" if line.marked else "")
        return shown


def to_text(renderable: RenderableType, width: int = PLAIN_WIDTH) -> str:
    """The output of `show`, as plain text."""
    console = Terminal(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, markup=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def show(renderable: RenderableType) -> None:
    """Print it: in the width of a terminal, or that of the tables where there is none."""
    console = Terminal(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False)
    console.print(renderable, highlight=False)
