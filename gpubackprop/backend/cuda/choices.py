"""Which of several ways of doing one thing is the quickest here: a product with what comes after it inside, or the product and a
kernel behind it. Each is timed once; what was found is kept with the algorithms of the products."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping

from gpubackprop.backend.cuda.plans import Planner
from gpubackprop.backend.cuda.timing import seconds_a_call

log = logging.getLogger("gpubackprop.cuda")

Way = Callable[[], bool]
"""Does it, again if need be, and returns whether it could."""


class Choices:
    """The ways that are taken on one device. `taken`: by what they are for."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.taken: dict[Hashable, str] = {}

    def do(
        self, key: Hashable, ways: Mapping[str, Way], saving: Mapping[str, Callable[[], float]] | None = None
    ) -> str:
        """Do it in the quickest way, and return which that was; the last one must work.

        key: what tells it apart from others (operation, shapes, types). saving: the seconds that a way saves later on, which
        are weighed when it is timed. During a capture nothing can be timed: then the first way that works is taken.
        """
        if len(ways) > 1 and key not in self.taken and not self._planner.capturing():
            kept = self._kept(key, ways)
            self.taken[key] = self._quickest(key, ways, saving or {}) if kept is None else kept
        first = self.taken.get(key)
        for name in sorted(ways, key=lambda name: name != first):
            if ways[name]():
                if first is not None:
                    self.taken[key] = name
                return name
        raise AssertionError(f"no way to do {key}")

    def _kept(self, key: Hashable, ways: Mapping[str, Way]) -> str | None:
        kept = self._planner.measurements.of("ways").get(repr(key))
        way = kept.get("way") if isinstance(kept, dict) else None
        return way if way in ways else None

    def _quickest(self, key: Hashable, ways: Mapping[str, Way], saving: Mapping[str, Callable[[], float]]) -> str:
        seconds = {}
        for name, way in ways.items():
            if way():
                seconds[name] = seconds_a_call(self._planner.cupy, way)
        weighed = {
            name: s - (saving[name]() if name in saving and len(seconds) > 1 else 0.0) for name, s in seconds.items()
        }
        best = min(weighed, key=lambda name: weighed[name])
        microseconds = {name: round(1e6 * s, 3) for name, s in seconds.items()}
        self._planner.measurements.add("ways", repr(key), {"way": best, "microseconds": microseconds})
        return best
