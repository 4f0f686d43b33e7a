"""The result of a comparison of two devices, as data and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.layout import aligned, html

KINDS = ("forward", "delta", "gradient", "update")


class Key(NamedTuple):
    """One tensor of a step. layer: its index, or None for the loss; kind: "forward", "loss", "delta", "gradient" or
    "update"; name: "output", "delta", or the parameter's."""

    layer: int | None
    kind: str
    name: str


@dataclass(frozen=True)
class Difference:
    """How far one tensor is off at one step: ||a - b||, with what is allowed, and the entry that is off most."""

    step: int
    layer: int | None
    kind: str
    name: str
    relative_error: float
    allowed: float
    index: tuple[int, ...]
    values: tuple[float, float]

    @property
    def beyond(self) -> bool:
        """Whether the relative error is more than is allowed; NaN is."""
        return not self.relative_error <= self.allowed


@dataclass
class ParityReport:
    """The result of `check_parity`: true in a condition where nothing is beyond the tolerance; print it for the table.

    first: the first tensor beyond it, in order of computation, or None. worst: the largest relative error of each
    (layer, kind). losses: both losses of each step. kinks: elements that the two devices rounded to different sides of a kink.
    """

    devices: tuple[str, str]
    tolerance: float
    layers: list[str]
    tf32: list[str]
    steps: int = 0
    kinks: int = 0
    first: Difference | None = None
    worst: dict[tuple[int | None, str], Difference] = field(default_factory=dict)
    losses: list[tuple[float, float]] = field(default_factory=list)

    def add(self, step: int, key: Key, a: np.ndarray, b: np.ndarray, allowed: float) -> None:
        """Take note of one comparison; `allowed` is an absolute norm."""
        size, off = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
        unit = size if size > 0 else 1.0
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(a - b))), a.shape)) if a.ndim else ()
        values = (float(a[index]), float(b[index]))
        found = Difference(step, *key, off / unit, allowed / unit, index, values)
        held = self.worst.get((key.layer, key.kind))
        if held is None or not found.relative_error <= held.relative_error:
            self.worst[key.layer, key.kind] = found
        if self.first is None and found.beyond:
            self.first = found

    @property
    def passed(self) -> bool:
        """Whether no tensor was beyond its tolerance."""
        return self.first is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *(f"  {line}" for line in aligned(self._table(), "<>"))])

    def _repr_html_(self) -> str:
        return html(self._lines(), self._table())

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        found = {k: getattr(self, k) for k in ("passed", "devices", "tolerance", "steps", "losses", "kinks")}
        first = self.first and asdict(self.first)
        return {**found, "first": first, "worst": [asdict(d) for d in self.worst.values()]}

    def _lines(self) -> list[str]:
        one, two = self.devices
        many = "1 step" if self.steps == 1 else f"{self.steps} steps"
        lines = [
            f"parity {'passed' if self.passed else 'FAILED'}: {one} and {two}, {many}, tolerance {self.tolerance:g}; "
            f"last losses {self.losses[-1][0]:.9g} and {self.losses[-1][1]:.9g}"
        ]
        if self.first is not None:
            lines.append(f"  first: {self.describe(self.first)}")
        if self.kinks:
            lines.append(
                f"  {self.kinks:,} pre-activations were rounded to different sides of 0; what follows from them is left out"
            )
        lines.append(f"  TF32: {'; '.join(self.tf32)}")
        return lines

    def describe(self, d: Difference) -> str:
        """One difference in words."""
        where = "the loss" if d.layer is None else f"layer {d.layer} ({self.layers[d.layer]}), {d.kind}"
        what = "" if d.name in ("loss", d.kind) else f" {d.name}"
        place = str(list(d.index)) if d.index else ""
        return (
            f"{where}{what}, step {d.step}: relative error {d.relative_error:.2e}, allowed {d.allowed:.2e}; "
            f"most at {place}: {d.values[0]:.9g} and {d.values[1]:.9g}".replace("most at :", "values")
        )

    def _table(self) -> list[tuple[str, ...]]:
        def cell(layer: int | None, kind: str) -> str:
            d = self.worst.get((layer, kind))
            return "" if d is None else f"{d.relative_error:.1e}{'!' if d.beyond else ' '}"

        rows: list[tuple[str, ...]] = [("worst", *KINDS)]
        rows.extend((f"{i} {name}", *(cell(i, kind) for kind in KINDS)) for i, name in enumerate(self.layers))
        rows.append(("loss", cell(None, "loss"), *("" for _ in KINDS[1:])))
        return rows
