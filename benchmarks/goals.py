"""What a step on the CPU is meant to cost, as a ratio to its peers' time: lower is better."""

from __future__ import annotations

import numpy as np

EAGER, BEST, LIMIT = "PyTorch eager", "best of PyTorch and JAX", "limit"
SCAN, LOOP = "lax.scan with numba", "bare steps, of fit"

_GOALS = {
    "a": (0.06, 0.55, 2.1),
    "b": (0.13, 0.90, 1.9),
    "c": (0.83, 0.96, 1.12),
    "d": (0.93, 1.00, 1.05),
    "e": (0.90, 0.92, 1.04),
    "f": (0.85, 0.90, 1.03),
    "g": (0.93, 0.93, 1.06),
    "h": (0.96, 1.04, 1.08),
}


def goals(config: str) -> dict[str, float]:
    """Name of a ratio -> the most that it should be."""
    named = dict(zip((EAGER, BEST, LIMIT), _GOALS[config], strict=True))
    if config in "ab":
        named[SCAN] = 1.0
    if config == "d":
        named[LOOP] = 1.03
    return named


def ratios(blocks: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Our step's time over that of its peers, as far as they were timed: {name: {ratio, low, high}}.

    blocks: the seconds a step of each peer, a number for each round. A ratio is the median over the rounds of the ratio
    within a round; low and high are their quartiles.
    """
    found = {}
    pairs = (
        (EAGER, "ours", "torch eager"),
        (LIMIT, "ours", "limit"),
        (LOOP, "ours fit", "ours"),
        (SCAN, "ours numba", "jax scan"),
    )
    for name, ours, theirs in pairs:
        if ours in blocks and theirs in blocks:
            found[name] = _ratio(blocks[ours], blocks[theirs])
    best = [_ratio(blocks["ours"], blocks[p]) for p in ("torch eager", "torch compile", "jax jit") if p in blocks]
    if best:
        found[BEST] = max(best, key=lambda r: r["ratio"])
    return found


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(np.divide(ours, theirs), [25, 50, 75])
    return {"ratio": float(median), "low": float(low), "high": float(high)}
