"""Whether contenders compute the same thing, before anybody looks at how fast they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.proofs.parity import TOLERANCES

FLOOR = 0.1
"""Gradients smaller than this share of the whole gradient's norm are held to that: such as of a bias in front of a
`BatchNorm`, which is nothing but rounding."""

DRIFT = 10
"""Times the tolerance that the losses may have drifted apart over a stretch of training."""


def disagreement(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], dtype: str, precision: str, kinks: bool
) -> str | None:
    """The first tensor that is not the reference's, in words, or None.

    found, reference: outputs, loss and gradients by name, of the same network, weights and batch; the reference in float64.
    kinks: whether a derivative jumps at z = 0. Rounding then turns the derivative of the share of units that lie that near
    to 0, about the tolerance itself, and a norm sees the root of a share: gradients are held to the root of the tolerance.
    """
    tolerance = TOLERANCES[dtype if precision == "native" else precision]
    whole = float(np.sqrt(sum(np.vdot(g, g) for name, g in reference.items() if name.startswith("gradient"))))
    for name, expected in reference.items():
        got = found[name]
        if got.shape != expected.shape:
            return f"{name} has shape {got.shape} instead of {expected.shape}"
        if not np.isfinite(got).all():
            return f"{name} is not finite"
        gradient = name.startswith("gradient")
        allowed = tolerance**0.5 if kinks and gradient else tolerance
        if name == "losses of training":
            allowed = DRIFT * tolerance
        difference = float(np.linalg.norm(got.astype(np.float64) - expected))
        scale = max(float(np.linalg.norm(expected)), FLOOR * whole if gradient else 0.0)
        if difference > allowed * scale:
            share = f"{difference / scale:.1e} of its norm" if scale else f"{difference:.1e}, where 0 is right"
            return f"{name} is off by {share}; {allowed:.0e} is allowed"
    return None


def has_kinks(described: Mapping[str, Any]) -> bool:
    """Whether an activation of the network has no derivative at 0."""
    names = [entry["settings"].get("activation") or "identity" for entry in described["layers"]]
    return any(not ACTIVATIONS[name].smooth for name in names)
