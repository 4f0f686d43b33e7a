"""Line charts on logarithmic axes as SVG text, for a page that fetches nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from gpubackprop.bench import units

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 10, 12, 42
MARKS = ("circle", "square", "triangle", "diamond")
X_LABEL = "rows in a batch"
DASHES = ("", "6 3", "2 3", "8 3 2 3")


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


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    y_text: Callable[[float], str],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """An <svg> element over batch sizes: both axes logarithmic, spreads as bars. All text is escaped.

    y_text: of the labels on the y axis. marks: (batch size, label) of vertical lines.

    Without any point the empty string.
    """
    points = [p for s in series for p in s.points]
    if not points:
        return ""
    x_axis = _Axis([p.x for p in points], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([v for p in points for v in (p.low, p.high, p.y)], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" class="chart">',
        f"<title>{escape(title)}</title>",
    ]
    ticks = y_axis.ticks
    for value in ticks:
        y = y_axis.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(y_text(value))}</text>')
    for value in _spread_out(sorted({p.x for p in points}), x_axis):
        x = x_axis.place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_rows(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{X_LABEL}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(12 {height}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    for i, (n, label) in enumerate(marks):
        x, y = x_axis.place(n), TOP + 10 + 14 * i
        anchor, gap = ("end", -4) if x > middle else ("start", 4)
        parts.append(f'<line class="crossing" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="note" x="{x + gap:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>')
    parts += [_line(s, x_axis, y_axis) for s in series]
    return "\n".join([*parts, "</svg>"])


def sample(index: int) -> str:
    """A small <svg> of a series' line and mark, for a legend."""
    dash = DASHES[index % len(DASHES)]
    return (
        f'<svg viewBox="0 0 34 12" class="sample s{index % 8}" aria-hidden="true">'
        f'<path class="line" d="M0 6H34" stroke-dasharray="{dash}"/>{_mark(17, 6, index)}</svg>'
    )


def _rows(value: float) -> str:
    return units.quantity(value, digits=2) if value >= 10000 else f"{value:.0f}"


class _Axis:
    """Where values are on a logarithmic axis from pixel `begin` to pixel `end`."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = log10(min(values)), log10(max(values))
        margin = max(0.04 * (high - low), 0.03)
        self._low, self._high = low - margin, high + margin
        self._begin, self._end = begin, end

    def place(self, value: float) -> float:
        """The pixel of a value."""
        share = (log10(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

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


def _spread_out(values: Sequence[float], axis: _Axis, gap: float = 30) -> list[float]:
    """The values whose labels have room, from the largest down."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or axis.place(kept[-1]) - axis.place(value) >= gap:
            kept.append(value)
    return kept[::-1]


def _line(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    places = [(x_axis.place(p.x), y_axis.place(p.y)) for p in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) if places else ""
    parts = [f'<g class="s{series.index % 8}"><title>{escape(series.label)}</title>']
    parts.append(f'<path class="line" d="{path}" stroke-dasharray="{DASHES[series.index % len(DASHES)]}"/>')
    for p, (x, y) in zip(series.points, places, strict=True):
        low, high = y_axis.place(p.low), y_axis.place(p.high)
        parts.append(f'<path class="spread" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(_mark(x, y, series.index))
    return "".join([*parts, "</g>"])


def _mark(x: float, y: float, index: int) -> str:
    kind = MARKS[index % len(MARKS)]
    if kind == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    shape = {
        "square": f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        "triangle": f"M{x:.1f} {y - 3.8:.1f}l3.8 6.6h-7.6z",
        "diamond": f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z",
    }[kind]
    return f'<path class="mark" d="{shape}"/>'
