"""Random networks and batches that the oracles share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.losses import LOSSES

LOGIT_LOSSES = ("binary_cross_entropy", "cross_entropy")


@dataclass
class Case:
    """A float64 network with a batch: widths, the activation of each layer, the loss."""

    widths: list[int]
    activations: list[str]
    loss: str
    x: np.ndarray
    y: np.ndarray
    seed: int

    def network(self, **options: object) -> gb.Network:
        layers = [
            gb.Dense(d, m, f) for d, m, f in zip(self.widths[:-1], self.widths[1:], self.activations, strict=True)
        ]
        net = gb.Network(layers, loss=self.loss, seed=self.seed, **{"dtype": "float64", "device": "cpu", **options})
        rng = np.random.default_rng(self.seed)
        net.set_weights({k: w + 0.1 * rng.standard_normal(w.shape) for k, w in net.get_weights().items()})
        return net


def targets(loss: str, n: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """Targets that the loss takes: for cross_entropy labels or, as often, distributions."""
    if loss == "cross_entropy":
        return rng.integers(0, m, n) if rng.random() < 0.5 else rng.dirichlet(np.ones(m), n)
    if loss == "poisson":
        return rng.poisson(1.5, (n, m)).astype(float)
    return rng.random((n, m)) if loss == "binary_cross_entropy" else rng.standard_normal((n, m))


def random_case(seed: int) -> Case:
    """Depth 1-5, widths 1-64, batch 1-33; all activations and losses come in turn."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 6))
    widths = [int(rng.integers(1, 65)) for _ in range(depth + 1)]
    names, losses = list(ACTIVATIONS), list(LOSSES)
    activations = [names[(seed + i) % len(names)] for i in range(depth)]
    loss = losses[seed % len(losses)]
    if loss in LOGIT_LOSSES:
        activations[-1] = "identity"
    if loss == "cross_entropy":
        widths[-1] = max(widths[-1], 2)
    n = int(rng.integers(1, 34))
    return Case(widths, activations, loss, rng.standard_normal((n, widths[0])), targets(loss, n, widths[-1], rng), seed)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||, or the norm of what was found where 0 is expected."""
    size = float(np.linalg.norm(expected))
    off = float(np.linalg.norm(np.asarray(found) - expected))
    return off / size if size else off
