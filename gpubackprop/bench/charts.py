"""A result as charts over the batch size: as SVG text for a page that fetches nothing, and as a PNG."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from gpubackprop.bench import text
from gpubackprop.bench.cases import Timing, winners
from gpubackprop.bench.result import Result
from gpubackprop.errors import ArgumentError, MissingExtraError
from gpubackprop.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 10, 12, 42
MARKS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
"""The shapes of points, and what matplotlib calls them."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
X_LABEL = "rows in a batch"
LEAST_GAP = 0.106
"""Share of the axis between two batch sizes that are both written on it, at least."""


@dataclass(frozen=True)
class Point:
    """A measured value and its spread."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """The line of one contender. index: which colour, mark and dash are its own on every chart."""

    label: str
    points: Sequence[Point]
    index: int


@dataclass(frozen=True)
class Chart:
    """A quantity drawn over the batch size; both axes are logarithmic.

    y_text: of the labels on the y axis. marks: (batch size, label) of vertical lines.
    """

    title: str
    y_label: str
    y_text: Callable[[float], str]
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()

    @cached_property
    def points(self) -> list[Point]:
        """The points of all series."""
        return [p for s in self.series for p in s.points]

    @cached_property
    def x_axis(self) -> Axis:
        """Of the batch sizes."""
        return Axis([p.x for p in self.points])

    @cached_property
    def y_axis(self) -> Axis:
        """Of the values with their spreads."""
        return Axis([v for p in self.points for v in (p.low, p.high, p.y)])


class Axis:
    """Where values are on a logarithmic axis, from 0 at its beginning to 1 at its end."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = log10(min(values)), log10(max(values))
        margin = max(0.04 * (high - low), 0.03)
        self._low, self._high = low - margin, high + margin

    def share(self, value: float) -> float:
        """The place of a value."""
        return (log10(value) - self._low) / (self._high - self._low)

    @property
    def ends(self) -> tuple[float, float]:
        """The values at 0 and at 1."""
        return 10**self._low, 10**self._high

    @property
    def ticks(self) -> list[float]:
        """Round values inside: powers of ten, with 2 and 5 where there are few of them, or the ends of a narrow range."""
        powers = range(floor(self._low) - 1, ceil(self._high) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
            inside = [d * 10.0**k for k in powers for d in digits if self._low <= log10(d * 10.0**k) <= self._high]
            if len(inside) >= 3:
                step = ceil(len(inside) / 8)
                return inside[::step]
        return [10**self._low, 10 ** ((self._low + self._high) / 2), 10**self._high]

    def with_room(self, values: Sequence[float]) -> list[float]:
        """The values whose labels have room, from the largest down, in ascending order."""
        kept: list[float] = []
        for value in sorted(set(values), reverse=True):
            if not kept or self.share(kept[-1]) - self.share(value) >= LEAST_GAP:
                kept.append(value)
        return kept[::-1]


def charts(result: Result, network: str) -> list[Chart]:
    """The time of a step, samples a second and, where there is something to compare, the speed as a multiple of the first
    contender's. Empty where nothing was measured."""
    cases = result.of(network)
    first = result.labels[0] if result.labels else ""

    def series(value: Callable[[int, Timing, Timing | None], Point]) -> list[Series]:
        lines = []
        for i, label in enumerate(result.labels):
            timed = [(c.batch_size, c.timing(label), c.timing(first)) for c in cases]
            lines.append(Series(label, [value(n, t, base) for n, t, base in timed if t and t.low > 0], i))
        return lines

    def ratio(n: int, t: Timing, base: Timing | None) -> Point:
        assert base is not None
        return Point(n, base.median / t.median, base.median / t.high, base.median / t.low)

    found = [
        Chart(
            f"{network}: seconds a step",
            "time a step",
            lambda v: text.seconds(v, 1),
            series(lambda n, t, _: Point(n, t.median, t.low, t.high)),
            [(n, f"{label} from {text.rounded(n)}") for n, label in winners(cases, result.labels)[1:]],
        ),
        Chart(
            f"{network}: samples a second",
            "samples a second",
            lambda v: text.quantity(v, digits=1),
            series(lambda n, t, _: Point(n, n / t.median, n / t.high, n / t.low)),
        ),
    ]
    if len(result.labels) > 1 and all(c.timing(first) for c in cases):
        label = f"times as fast as {first}"
        found.append(Chart(f"{network}: {label}", label, lambda v: f"{v:.3g}", series(ratio)))
    return [chart for chart in found if chart.points]


def rows_text(batch_size: float) -> str:
    """A batch size as it is written on an axis."""
    return text.quantity(batch_size, digits=2) if batch_size >= 10000 else f"{batch_size:.0f}"


# -- SVG ------------------------------------------------------------------------------------------------------------------


def svg(chart: Chart) -> str:
    """An <svg> element with spreads as bars. All text is escaped."""

    def across(value: float) -> float:
        return LEFT + chart.x_axis.share(value) * (WIDTH - RIGHT - LEFT)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - chart.y_axis.share(value) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}" class="chart">',
        f"<title>{escape(chart.title)}</title>",
    ]
    for value in chart.y_axis.ticks:
        y = down(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(chart.y_text(value))}</text>')
    for value in chart.x_axis.with_room([p.x for p in chart.points]):
        x = across(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{rows_text(value)}</text>')
    middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{X_LABEL}</text>')
    turned = f'transform="translate(12 {height}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(chart.y_label)}</text>')
    for i, (n, label) in enumerate(chart.marks):
        x, y = across(n), TOP + 10 + 14 * i
        anchor, gap = ("end", -4) if x > middle else ("start", 4)
        parts.append(f'<line class="crossing" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="note" x="{x + gap:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>')
    for s in chart.series:
        path = "L".join(f"{across(p.x):.1f} {down(p.y):.1f}" for p in s.points)
        parts.append(f'<g class="s{s.index % 8}"><title>{escape(s.label)}</title>')
        dash = DASHES[s.index % len(DASHES)]
        parts.append(f'<path class="line" d="{"M" if path else ""}{path}" stroke-dasharray="{dash}"/>')
        for p in s.points:
            parts.append(f'<path class="spread" d="M{across(p.x):.1f} {down(p.low):.1f}V{down(p.high):.1f}"/>')
            parts.append(_mark(across(p.x), down(p.y), s.index))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"])


def sample(index: int) -> str:
    """A small <svg> of a series' line and mark, for a legend."""
    dash = DASHES[index % len(DASHES)]
    return (
        f'<svg viewBox="0 0 34 12" class="sample s{index % 8}" aria-hidden="true">'
        f'<path class="line" d="M0 6H34" stroke-dasharray="{dash}"/>{_mark(17, 6, index)}</svg>'
    )


def _mark(x: float, y: float, index: int) -> str:
    kind = list(MARKS)[index % len(MARKS)]
    if kind == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    shape = {
        "square": f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        "triangle": f"M{x:.1f} {y - 3.8:.1f}l3.8 6.6h-7.6z",
        "diamond": f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z",
    }[kind]
    return f'<path class="mark" d="{shape}"/>'


# -- PNG ------------------------------------------------------------------------------------------------------------------


def check_available() -> None:
    """Raises MissingExtraError where there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("A plot", "plot") from None


def save_plot(result: Result, path: str | os.PathLike[str]) -> None:
    """A PNG with time a step and samples a second over the batch size, a row for each network, with spreads as bars.

    Raises ArgumentError where there is nothing to draw, MissingExtraError without matplotlib, DataError where the file cannot
    be written.
    """
    picture = io.BytesIO()
    figure(result).savefig(picture, format="png", dpi=150)
    with replacing(path) as file:
        file.write(picture.getvalue())


def figure(result: Result) -> Figure:
    """The picture of `save_plot`, as a matplotlib Figure. Raises ArgumentError and MissingExtraError as it does."""
    check_available()
    from matplotlib.figure import Figure

    drawn = [found for network in result.networks if (found := charts(result, network)[:2])]
    if not drawn:
        raise ArgumentError("there is nothing to plot: no contender was measured")
    made = Figure(figsize=(10, 4.2 * len(drawn)), layout="constrained")
    grid: Any = made.subplots(len(drawn), 2, squeeze=False)
    for row, pair in zip(grid, drawn, strict=True):
        for axes, chart in zip(row, pair, strict=True):
            _draw(axes, chart)
    lines, labels = grid[0][0].get_legend_handles_labels()
    made.legend(lines, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return made


def _draw(axes: Axes, chart: Chart) -> None:
    for s in chart.series:
        below, above = [p.y - p.low for p in s.points], [p.high - p.y for p in s.points]
        marker = list(MARKS.values())[s.index % len(MARKS)]
        x, y = [p.x for p in s.points], [p.y for p in s.points]
        axes.errorbar(x, y, [below, above], label=s.label, marker=marker, capsize=2, markersize=5)
    for n, _ in chart.marks:
        axes.axvline(n, color="gray", linestyle=":")
    # Words beside the lines would lie on top of each other or of the curves.
    crossings = textwrap.fill("; ".join(label for _, label in chart.marks), 60)
    axes.set_title("\n".join(part for part in (chart.title, crossings) if part), fontsize="medium")
    axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=chart.y_label)
    sizes = chart.x_axis.with_room([p.x for p in chart.points])
    axes.set_xticks(sizes, [rows_text(n) for n in sizes])
    axes.set_yticks(chart.y_axis.ticks, [chart.y_text(v) for v in chart.y_axis.ticks])
    axes.minorticks_off()
    axes.set(xlim=chart.x_axis.ends, ylim=chart.y_axis.ends)
    axes.grid(alpha=0.3)
