"""The result of a gradient check, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

SHOWN = 8


@dataclass(frozen=True)
class Derivative:
    """One derivative both ways. name: "0.weight" or "x"; index: of the entry, or None for a random direction."""

    name: str
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    tolerance: float

    @property
    def error(self) -> float:
        """|analytic - numeric|."""
        return abs(self.analytic - self.numeric)

    @property
    def right(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class GradcheckReport:
    """The result of `gradcheck`: true in a condition where everything is right; print it to see what was checked.

    compared: every derivative that was held to the gradient. unchecked: those that stayed at a kink at every point
    that was tried. resampled: how many were at a kink at the given point, and were checked at another one close by.
    problems: what else is wrong, a sentence each.
    """

    method: str
    eps: float
    training: bool
    compared: list[Derivative] = field(repr=False)
    unchecked: list[Derivative]
    resampled: int
    problems: list[str]

    @cached_property
    def worst(self) -> list[Derivative]:
        """All derivatives, the one that is furthest beyond its tolerance first."""
        return sorted(self.compared, key=lambda d: d.error / d.tolerance if d.error == d.error else -1.0, reverse=True)

    @property
    def failures(self) -> list[Derivative]:
        """The derivatives that are wrong, worst first."""
        return [d for d in self.worst if not d.right]

    @property
    def max_error(self) -> float:
        """The largest |analytic - numeric|."""
        return max((d.error for d in self.compared), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether all is right, and all of it was checked."""
        return not self.problems and not self.unchecked and bool(self.compared) and all(d.right for d in self.compared)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        how = "central differences" if self.method == "central" else "complex step"
        kind = "entries" if all(d.index is not None for d in self.compared) else "entries and random directions"
        mode = "training" if self.training else "inference"
        lines = [
            f"gradcheck {'passed' if self.passed else 'FAILED'}: {len(self.compared):,} {kind}, {how} (eps {self.eps:g}), "
            f"{mode} mode; {len(self.failures):,} wrong, largest error {self.max_error:.2e}"
        ]
        lines.extend(f"  {problem}" for problem in self.problems)
        if self.resampled:
            lines.append(f"  {self.resampled:,} at a kink: checked at another point close by")
        if self.unchecked:
            lines.append(f"  {len(self.unchecked):,} not checked: at a kink at every point that was tried, first")
            lines.extend(_table(self.unchecked[:SHOWN]))
        lines.extend(_table((self.failures or self.worst)[:SHOWN]))
        return "\n".join(lines)


def _table(entries: list[Derivative]) -> list[str]:
    rows = [("array", "index", "analytic", "numeric", "error", "allowed")]
    for d in entries:
        place = "direction" if d.index is None else str(list(d.index))
        numbers = (f"{d.analytic:.7e}", f"{d.numeric:.7e}", f"{d.error:.2e}", f"{d.tolerance:.2e}")
        rows.append((d.name, place, *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:{'<' if i < 2 else '>'}{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
