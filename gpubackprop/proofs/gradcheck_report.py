"""The result of a gradient check, as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from gpubackprop.layout import aligned, html

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
        return "\n".join([*self._lines(), *_indented((self.failures or self.worst)[:SHOWN])])

    def _repr_html_(self) -> str:
        return html(self._lines(), _table((self.failures or self.worst)[:SHOWN]))

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        counts = {"compared": len(self.compared), "unchecked": len(self.unchecked), "resampled": self.resampled}
        failures = [asdict(d) | {"error": d.error} for d in self.failures]
        return {
            "passed": self.passed,
            "max_error": self.max_error,
            **counts,
            "failures": failures,
            "problems": self.problems,
        }

    def _lines(self) -> list[str]:
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
            lines.extend(_indented(self.unchecked[:SHOWN]))
        return lines


def _indented(entries: list[Derivative]) -> list[str]:
    return [f"  {line}" for line in aligned(_table(entries), "<<>")]


def _table(entries: list[Derivative]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("array", "index", "analytic", "numeric", "error", "allowed")]
    for d in entries:
        place = "direction" if d.index is None else str(list(d.index))
        numbers = (f"{d.analytic:.7e}", f"{d.numeric:.7e}", f"{d.error:.2e}", f"{d.tolerance:.2e}")
        rows.append((d.name, place, *numbers))
    return rows
