"""Two results side by side: two machines, two versions, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gpubackprop.bench import text
from gpubackprop.bench.cases import Timing
from gpubackprop.bench.machine import was_busy
from gpubackprop.bench.result import Result
from gpubackprop.errors import ArgumentError

TIE = 0.03
"""Differences up to this share are not told from noise: another process on the same machine lies as far off."""


@dataclass(frozen=True)
class Change:
    """One contender at one batch size in both results."""

    network: str
    batch_size: int
    label: str
    a: Timing
    b: Timing

    @property
    def ratio(self) -> float:
        """The step of b over that of a: below 1, b is faster."""
        return self.b.median / self.a.median

    @property
    def verdict(self) -> str:
        """ "faster", "slower", or "" where the spreads overlap or the difference is a tie."""
        if not self.a.differs(self.b) or abs(self.ratio - 1) <= TIE:
            return ""
        return "faster" if self.ratio < 1 else "slower"


def differences(a: Result, b: Result, part: str = "step") -> list[Change]:
    """The cells that both measured, in the order of a. Raises ArgumentError where there is nothing in common."""
    theirs = {(case.network, case.batch_size): case for case in b.cases}
    found = []
    for case in a.cases:
        other = theirs.get((case.network, case.batch_size))
        for label in a.labels:
            s, t = case.timing(label, part), other.timing(label, part) if other else None
            if s and t and s.median and t.median:
                found.append(Change(case.network, case.batch_size, label, s, t))
    if not found:
        raise ArgumentError(
            f"the two results have no network, batch size and contender in common: {_content(a)}; and {_content(b)}"
        )
    return found


def circumstances(a: Result, b: Result) -> list[tuple[str, str, str]]:
    """(what, in a, in b) of machine and settings, where they are not the same."""
    found = []
    for was, now in ((a.machine, b.machine), (a.settings, b.settings)):
        for key in dict.fromkeys([*was, *now]):
            if key != "load" and was.get(key) != now.get(key):
                found.append((key, str(was.get(key, "-")), str(now.get(key, "-"))))
    return found


def to_dict(a: Result, b: Result) -> dict[str, Any]:
    """The comparison as values that JSON can hold: seconds a step, ratio of b's to a's, verdict, and what else differs.

    Raises what `differences` raises.
    """
    cases = [
        {
            "network": d.network,
            "batch_size": d.batch_size,
            "contender": d.label,
            **{name: {"seconds": t.median, "low": t.low, "high": t.high} for name, t in (("a", d.a), ("b", d.b))},
            "ratio": d.ratio,
            "verdict": d.verdict or "noise",
        }
        for d in differences(a, b)
    ]
    other = [{"what": what, "a": was, "b": now} for what, was, now in circumstances(a, b)]
    return {"cases": cases, "circumstances": other}


def render_comparison(a: Result, b: Result, names: tuple[str, str] = ("A", "B")) -> RenderableType:
    """A table for each network, with what else is different between the two runs. Raises what `differences` raises."""
    found = differences(a, b)
    pieces: list[RenderableType] = []
    for network in dict.fromkeys(d.network for d in found):
        pieces += [_table([d for d in found if d.network == network]).on_terminal(f"{network}: "), Text()]
    pieces.append(Text(f"A: {names[0]}    B: {names[1]}"))
    pieces += [Text(f"{key}: {was} | {now}", style="dim") for key, was, now in circumstances(a, b)]
    pieces += [
        Text(f"{name}: the machine was busy before this began", style="yellow")
        for name, result in zip("AB", (a, b), strict=True)
        if was_busy(result.machine)
    ]
    different = [d for d in found if d.verdict]
    faster = sum(d.verdict == "faster" for d in different)
    summary = f"B is faster in {faster} and slower in {len(different) - faster} of {len(found)} cases"
    rest = f"the other {len(found) - len(different)} differ by no more than the noise"
    pieces.append(Text(f"{summary}; {rest} (spreads overlap, or within {TIE:.0%}).", style="bold"))
    return Group(*pieces)


def _table(found: Sequence[Change]) -> text.FigureTable:
    groups: dict[int | None, list[text.Line]] = {}
    for d in found:
        texts = [d.label]
        for timing in (d.a, d.b):
            texts += [text.seconds(timing.median), text.percent(timing.spread)]
        texts += [f"{d.ratio:.2f}", {"faster": "<< faster", "slower": ">> slower", "": ""}[d.verdict]]
        groups.setdefault(d.batch_size, []).append(text.Line(texts, bool(d.verdict)))
    return text.FigureTable("a training step", ["contender", "A", "±", "B", "± ", "B / A", ""], list(groups.items()))


def _content(result: Result) -> str:
    sizes = sorted({case.batch_size for case in result.cases})
    return f"{', '.join(result.networks) or 'no network'} at {', '.join(map(str, sizes)) or '-'} on {', '.join(result.labels)}"
