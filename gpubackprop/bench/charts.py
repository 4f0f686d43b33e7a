"""A result as charts over the batch size, drawn by matplotlib: as SVG for a page that fetches nothing, and as a PNG."""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.bench import text
from gpubackprop.bench.cases import Timing, winners
from gpubackprop.bench.result import Result
from gpubackprop.errors import ArgumentError
from gpubackprop.files.atomic import replacing
from gpubackprop.training.figures import figure as empty_figure
from gpubackprop.training.figures import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with colour vision deficiencies can tell apart; yellow is left out, for its contrast.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444", "#7f3fbf")
MARKERS, DASHES = "os^D", ("-", "--", ":", "-.")
LEAST_GAP = 0.106
"""Share of the axis between two batch sizes that are both written on it, at least."""

Point = tuple[float, float, float, float]
"""A batch size, the value that was measured there, and the least and the most of its spread."""


@dataclass(frozen=True)
class Chart:
    """A quantity drawn over the batch size; both axes are logarithmic.

    y_text: of the labels on the y axis. lines: the points of each contender. marks: (batch size, label) of vertical lines.
    """

    title: str
    y_label: str
    y_text: Callable[[float], str]
    lines: Mapping[str, Sequence[Point]]
    marks: Sequence[tuple[float, str]] = ()

    @property
    def points(self) -> list[Point]:
        """The points of all contenders."""
        return [point for points in self.lines.values() for point in points]


def charts(result: Result, network: str) -> list[Chart]:
    """The time of a step, samples a second and, where there is something to compare, the speed as a multiple of the first
    contender's. Empty where nothing was measured."""
    cases = result.of(network)
    first = result.labels[0] if result.labels else ""

    def lines(value: Callable[[int, Timing, Timing | None], Point]) -> dict[str, list[Point]]:
        found = {}
        for label in result.labels:
            timed = [(c.batch_size, c.timing(label), c.timing(first)) for c in cases]
            found[label] = [value(n, t, base) for n, t, base in timed if t and t.low > 0]
        return found

    def ratio(n: int, t: Timing, base: Timing | None) -> Point:
        assert base is not None
        return n, base.median / t.median, base.median / t.high, base.median / t.low

    found = [
        Chart(
            f"{network}: seconds a step",
            "time a step",
            lambda v: text.seconds(v, 4),
            lines(lambda n, t, _: (n, t.median, t.low, t.high)),
            [(n, f"{label} from {text.rounded(n)}") for n, label in winners(cases, result.labels)[1:]],
        ),
        Chart(
            f"{network}: samples a second",
            "samples a second",
            lambda v: text.quantity(v, digits=4),
            lines(lambda n, t, _: (n, n / t.median, n / t.high, n / t.low)),
        ),
    ]
    if len(result.labels) > 1 and all(c.timing(first) for c in cases):
        label = f"times as fast as {first}"
        found.append(Chart(f"{network}: {label}", label, lambda v: f"{v:.4g}", lines(ratio)))
    return [chart for chart in found if chart.points]


def save_plot(result: Result, path: str | os.PathLike[str]) -> None:
    """A PNG with time a step and samples a second over the batch size, a row for each network, with spreads as bars.

    Raises ArgumentError where there is nothing to draw, MissingExtraError without matplotlib, DataError where the file cannot
    be written.
    """
    picture = png(figure(result))
    with replacing(path) as file:
        file.write(picture)


def svg(chart: Chart) -> str:
    """An <svg> element of one chart, whose text is escaped, and which fetches nothing. Raises MissingExtraError."""
    made = _figure([[chart]], 4.2, 3.4)
    from matplotlib import rc_context

    picture, nothing_else = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none"}):
        made.savefig(picture, format="svg", transparent=True, metadata=nothing_else)
    drawn = picture.getvalue()
    # Several of them stand on one page, where a name can be given once; none of these is referred to.
    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn[drawn.index("<svg ") :])
    return drawn.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escape(chart.title)}" ', 1)


def figure(result: Result) -> Figure:
    """The picture of `save_plot`, as a matplotlib Figure. Raises ArgumentError and MissingExtraError as it does."""
    drawn = [found for network in result.networks if (found := charts(result, network)[:2])]
    if not drawn:
        raise ArgumentError("there is nothing to plot: no contender was measured")
    return _figure(drawn, 10, 4.2 * len(drawn))


def _figure(rows: Sequence[Sequence[Chart]], width: float, height: float) -> Figure:
    """Rows of charts with one legend below them; all rows have as many."""
    made = empty_figure(width, height, "")
    from matplotlib import rc_context

    # A dollar sign in a name is no formula.
    with rc_context({"text.parse_math": False}):
        grid: Any = made.subplots(len(rows), len(rows[0]), squeeze=False)
        for axes, chart in zip(grid.flat, (chart for row in rows for chart in row), strict=True):
            _draw(axes, chart)
        lines, labels = grid[0][0].get_legend_handles_labels()
        made.legend(lines, labels, loc="outside lower center", ncols=min(len(labels), int(width / 2)))
    return made


def _draw(axes: Axes, chart: Chart) -> None:
    for i, (label, points) in enumerate(chart.lines.items()):
        n, y, low, high = np.reshape(points, (-1, 4)).T
        colour, marker, dash = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
        looks: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dash, "capsize": 2, "markersize": 5}
        axes.errorbar(n, y, [y - low, high - y], label=label, **looks)
    for size, _ in chart.marks:
        axes.axvline(size, color="gray", linestyle=":")
    # Words beside the lines would lie on top of each other or of the curves.
    crossings = textwrap.fill("; ".join(label for _, label in chart.marks), 50)
    axes.set_title("\n".join(part for part in (chart.title, crossings) if part), fontsize="medium")
    axes.set(xscale="log", yscale="log", xlabel="rows in a batch", ylabel=chart.y_label)
    values = _ticks(*np.log10(axes.get_ylim()))
    axes.set_yticks(values, [chart.y_text(v) for v in values])
    sizes = _with_room({point[0] for point in chart.points}, *np.log10(axes.get_xlim()))
    axes.set_xticks(sizes, [text.quantity(n, digits=2) if n >= 10000 else f"{n:.0f}" for n in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


# -- logarithmic axes, whose ends are given as logarithms -----------------------------------------------------------------


def _ticks(low: float, high: float) -> list[float]:
    """Round values inside: powers of ten, with 2 and 5 where there are few of them, or the ends of a narrow range."""
    powers = range(floor(low) - 1, ceil(high) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        inside = [d * 10.0**k for k in powers for d in digits if low <= log10(d * 10.0**k) <= high]
        if len(inside) >= 3:
            return inside[:: ceil(len(inside) / 8)]
    return [10**low, 10 ** ((low + high) / 2), 10**high]


def _with_room(values: set[float], low: float, high: float) -> list[float]:
    """The values whose labels have room, from the largest down, in ascending order."""
    kept: list[float] = []
    for value in sorted(values, reverse=True):
        if not kept or log10(kept[-1]) - log10(value) >= LEAST_GAP * (high - low):
            kept.append(value)
    return kept[::-1]
