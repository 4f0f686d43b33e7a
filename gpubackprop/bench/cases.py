"""The measurements of one network at one batch size, and from which batch size on which contender is the faster one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log, nan

import numpy as np

PHASES = ("forward", "loss", "backward", "update")
PARTS = ("step", "step_with_transfer", "transfer", "host", "device", *PHASES)
"""The parts of a step that are timed: see `Measurement.block`."""


@dataclass
class Timing:
    """Seconds a call: the median over the blocks of their medians, and the 10th and 90th percentile as its spread."""

    median: float
    low: float
    high: float
    blocks: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, blocks: Sequence[float]) -> Timing:
        """The timing of at least one block."""
        low, middle, high = (float(q) for q in np.percentile(blocks, (10, 50, 90)))
        return cls(middle, low, high, list(blocks))

    @property
    def spread(self) -> float:
        """Half of what lies between low and high, as a share of the median; NaN of one block, which has none."""
        if len(self.blocks) == 1:
            return nan
        return (self.high - self.low) / (2 * self.median) if self.median else 0.0

    def differs(self, other: Timing) -> bool:
        """Whether the two ranges from low to high have nothing in common: a difference larger than the noise."""
        return self.low > other.high or other.low > self.high


@dataclass
class Cell:
    """One contender at one batch size.

    timings: by part (PARTS), the phases perhaps; empty where `failed` says why there are none. memory: peak bytes.
    work: `Measurement.work`.
    """

    timings: dict[str, Timing] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    memory: int | None = None
    failed: str | None = None

    def add(self, block: dict[str, float]) -> None:
        """Count one more block: seconds of each part."""
        for part, seconds in block.items():
            before = self.timings[part].blocks if part in self.timings else []
            self.timings[part] = Timing.of([*before, seconds])

    def fail(self, why: str) -> None:
        """Let go of the figures."""
        self.failed = why
        self.timings = {}


@dataclass
class Case:
    """One network at one batch size, and what each contender did with it, by label."""

    network: str
    widths: list[int]
    batch_size: int
    cells: dict[str, Cell] = field(default_factory=dict)

    def timing(self, label: str, part: str = "step") -> Timing | None:
        """The timing of a part of a contender's step, None where there is none."""
        cell = self.cells.get(label)
        return None if cell is None else cell.timings.get(part)

    def fastest(self, labels: Sequence[str], part: str = "step") -> list[str]:
        """The contender with the shortest time, and before or after it in `labels` those that its spread cannot be told from."""
        timings = {label: t for label in labels if (t := self.timing(label, part))}
        if not timings:
            return []
        best = min(timings.values(), key=lambda t: t.median)
        return [label for label, t in timings.items() if t is best or not t.differs(best)]


@dataclass(frozen=True)
class Crossover:
    """Below `batch_size` rows `below` is faster, above it `above`. between: the measured sizes around it, with clear winners.

    part: "step" or "step_with_transfer".
    """

    network: str
    part: str
    below: str
    above: str
    batch_size: float
    between: tuple[int, int]


def crossover(cases: Sequence[Case], a: str, b: str, part: str = "step") -> list[Crossover]:
    """Where a and b change places over the batch sizes of one network (in ascending order).

    Batch sizes at which their spreads overlap have no winner. Between two neighbouring ones with different winners the
    logarithm of the ratio of their times is taken to be linear in the logarithm of the batch size.
    """
    points: list[tuple[int, float, bool]] = []
    for case in cases:
        s, t = case.timing(a, part), case.timing(b, part)
        if s and t and s.median and t.median:
            points.append((case.batch_size, log(s.median / t.median), s.differs(t)))
    clear = [i for i, (_, _, differs) in enumerate(points) if differs]
    found = []
    for i, j in pairwise(clear):
        if points[i][1] * points[j][1] < 0:
            below, above = (a, b) if points[i][1] < 0 else (b, a)
            size = _zero([(n, ratio) for n, ratio, _ in points[i : j + 1]])
            found.append(Crossover(cases[0].network, part, below, above, size, (points[i][0], points[j][0])))
    return found


def _zero(points: list[tuple[int, float]]) -> float:
    """The batch size at which the ratio's logarithm passes 0 first."""
    (n0, r0), (n1, r1) = next((p, q) for p, q in pairwise(points) if p[1] * q[1] <= 0)
    if r0 == r1:
        return float(n0)
    share = r0 / (r0 - r1)
    return exp(log(n0) + share * (log(n1) - log(n0)))


def winners(cases: Sequence[Case], labels: Sequence[str], part: str = "step") -> list[tuple[float, str]]:
    """[(from this batch size on, this contender)], from the smallest measured; the earlier winner keeps what is a tie."""
    fastest = [case.fastest(labels, part) for case in cases]
    ranges: list[tuple[float, str]] = []
    for case, first in zip(cases, fastest, strict=True):
        if not first or (ranges and ranges[-1][1] in first):
            continue
        best = min(first, key=lambda label: case.cells[label].timings[part].median)
        if not ranges:
            # What ties here with the winner of the next sizes is no change of winner.
            best = max(first, key=lambda label: (_run(fastest, label), label == best))
            ranges.append((cases[0].batch_size, best))
            continue
        places = [x.batch_size for x in crossover(cases, ranges[-1][1], best, part) if x.above == best]
        places = [x for x in places if x <= case.batch_size]
        ranges.append((max(places, default=float(case.batch_size)), best))
    return ranges


def _run(first: Sequence[Sequence[str]], label: str) -> int:
    """At how many of the first batch sizes in a row `label` is among the fastest."""
    return next((i for i, names in enumerate(first) if label not in names), len(first))
