"""What a step on the CPU is meant to cost, as a ratio to its peers' time: lower is better."""

from __future__ import annotations

from typing import Any

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


def ratios(timed: dict[str, Any]) -> dict[str, float]:
    """Our step's time over that of its peers, as far as they were timed: {name of the ratio: ratio}."""
    seconds = {peer: r["seconds"] for peer, r in timed.items()}
    best = [seconds[p] for p in ("torch eager", "torch compile", "jax jit") if p in seconds]
    found = {}
    if "torch eager" in seconds:
        found[EAGER] = seconds["ours"] / seconds["torch eager"]
    if best:
        found[BEST] = seconds["ours"] / min(best)
    if LIMIT in seconds:
        found[LIMIT] = seconds["ours"] / seconds[LIMIT]
    if "ours fit" in seconds:
        found[LOOP] = seconds["ours fit"] / seconds["ours"]
    if "ours numba" in seconds and "jax scan" in seconds:
        found[SCAN] = seconds["ours numba"] / seconds["jax scan"]
    return found
