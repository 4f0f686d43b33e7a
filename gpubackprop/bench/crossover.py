"""From which batch size on which contender is the faster one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import exp, log

from gpubackprop.bench.results import Case, Result

PARTS = {"step": "with the data on the device", "step_with_transfer": "with each batch copied there"}


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


def crossovers(result: Result, part: str = "step") -> list[Crossover]:
    """Every crossover between two contenders, on each network: see `crossover`."""
    return [
        found
        for network in result.networks
        for a, b in combinations(result.labels, 2)
        for found in crossover(result.of(network), a, b, part)
    ]


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


def fastest(case: Case, labels: Sequence[str], part: str = "step") -> list[str]:
    """The contender with the shortest time, and before or after it in `labels` those that its spread cannot be told from."""
    timings = {label: t for label in labels if (t := case.timing(label, part))}
    if not timings:
        return []
    best = min(timings.values(), key=lambda t: t.median)
    return [label for label, t in timings.items() if t is best or not t.differs(best)]


def advice(result: Result) -> list[str]:
    """For each network one sentence: what to use, and from which batch size on something else."""
    return [sentence for network in result.networks if (sentence := _sentence(result, network))]


def _sentence(result: Result, network: str) -> str:
    cases = [c for c in result.of(network) if any(c.seconds(label) for label in result.labels)]
    if not cases:
        return ""
    labels = [label for label in result.labels if any(c.seconds(label) for c in cases)]
    if len(labels) < 2:
        failed = [label for label in result.labels if label not in labels]
        because = f": {', '.join(failed)} could not be measured" if failed else ""
        return f"{network}: only {labels[0]} was measured{because}, so there is nothing to compare it with."
    resident, copied = (_words(cases, labels, part) for part in PARTS)
    text = f"{network}: {resident}"
    if copied != resident:
        text += f"; if each batch has to be copied to the device first, {copied}"
    return text + "."


def winners(cases: Sequence[Case], labels: Sequence[str], part: str = "step") -> list[tuple[float, str]]:
    """[(from this batch size on, this contender)], from the smallest measured; the earlier winner keeps what is a tie."""
    ranges: list[tuple[float, str]] = []
    for case in cases:
        first = fastest(case, labels, part)
        if not first or (ranges and ranges[-1][1] in first):
            continue
        best = min(first, key=lambda label: case.seconds(label, part) or float("inf"))
        if not ranges:
            # What ties here with the winner of the next sizes is no change of winner.
            later = [fastest(c, labels, part) for c in cases]
            best = max(first, key=lambda label: (_run(later, label), label == best))
            ranges.append((cases[0].batch_size, best))
            continue
        places = [x.batch_size for x in crossover(cases, ranges[-1][1], best, part) if x.above == best]
        places = [x for x in places if x <= case.batch_size]
        ranges.append((max(places, default=float(case.batch_size)), best))
    return ranges


def _run(first: Sequence[Sequence[str]], label: str) -> int:
    """At how many of the first batch sizes in a row `label` is among the fastest."""
    return next((i for i, names in enumerate(first) if label not in names), len(first))


def _words(cases: Sequence[Case], labels: Sequence[str], part: str) -> str:
    sizes = [c.batch_size for c in cases]
    span = f"at a batch of {sizes[0]}" if len(sizes) == 1 else f"at all batch sizes from {sizes[0]} to {sizes[-1]}"
    first = [fastest(c, labels, part) for c in cases]
    tied = [label for label in labels if all(label in names for names in first)]
    if len(tied) > 1:
        return f"{' and '.join(tied)} cannot be told apart {span}"
    ranges = winners(cases, labels, part)
    if len(ranges) == 1:
        best = ranges[0][1]
        alone = all(names == [best] for names in first)
        return f"{best} is fastest {span}" if alone else f"nothing is faster than {best} {span}"
    words = [f"{ranges[0][1]} is fastest up to a batch of about {rounded(ranges[1][0])}"]
    words += [f"{label} from about {rounded(start)} on" for start, label in ranges[1:]]
    return ", ".join(words)


def rounded(size: float) -> str:
    """A batch size that was interpolated, with two significant digits."""
    return f"{float(f'{size:.2g}'):,.0f}"
