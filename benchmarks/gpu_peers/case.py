"""What is compared: networks, batches, optimizers and precisions, the same work for every library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Protocol

import numpy as np

LEARNING_RATE, MOMENTUM = 1e-3, 0.9
PARITY_STEPS = 3
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}
"""Largest relative difference of the loss to float64 on the CPU, over the first steps."""


@dataclass(frozen=True)
class Case:
    """ReLU layers of these widths, softmax and cross-entropy; one training step is forward, backward and update."""

    widths: tuple[int, ...]
    batch: int
    optimizer: str
    precision: str

    @property
    def name(self) -> str:
        inner = (
            "-".join(map(str, self.widths)) if len(set(self.widths)) > 2 else f"{len(self.widths) - 1}x{self.widths[0]}"
        )
        return f"{inner}, batch {self.batch}, {self.optimizer}, {self.precision}"

    @property
    def parameters(self) -> int:
        return sum(d * m + m for d, m in pairwise(self.widths))

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(W, b) of each layer, float32."""
        rng = np.random.default_rng(1)
        return [
            (
                (rng.standard_normal((d, m)) * np.sqrt(2 / d)).astype(np.float32),
                (rng.standard_normal(m) * 0.1).astype(np.float32),
            )
            for d, m in pairwise(self.widths)
        ]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """One batch: x (batch, d) float32 and labels (batch,) int64."""
        rng = np.random.default_rng(2)
        x = rng.standard_normal((self.batch, self.widths[0]), np.float32)
        return x, rng.integers(0, self.widths[-1], self.batch)

    def flops(self) -> float:
        """Floating-point operations of the products: three for each layer, but two for the first."""
        products = [2.0 * self.batch * d * m for d, m in pairwise(self.widths)]
        return 3 * sum(products) - products[0]

    def floor(self, rate: float, bandwidth: float) -> float:
        """Seconds that a step takes at least: each product at the matrix units' rate or at the memory's, whichever is slower,
        and one pass of the update over what it must read and write."""
        size = 2 if self.precision == "bf16" else 4
        seconds = 0.0
        for i, (d, m) in enumerate(pairwise(self.widths)):
            moved = size * (self.batch * (d + m) + d * m)
            one = max(2.0 * self.batch * d * m / rate, moved / bandwidth)
            seconds += one * (2 if i == 0 else 3)
        arrays = {"adam": 7, "sgd": 5}[self.optimizer]
        return seconds + 4.0 * arrays * self.parameters / bandwidth


class Peer(Protocol):
    """One library, ready to train one case."""

    def step(self) -> Any:
        """Put one training step on the device, without waiting; the loss before it may stay there."""

    def loss(self) -> float:
        """The loss of the step before, read from the device."""

    def wait(self) -> None:
        """Wait for the device."""


def cases(dry: bool = False) -> list[Case]:
    """Every cell of the comparison, the most telling ones first; `dry`: the same networks, small enough for a CPU."""
    shapes = [((784, 512, 256, 10), b) for b in (1024, 65536, 128, 8192)]
    shapes += [((w, w, w, w, w, 10), b) for b in (65536, 1048576) for w in (64, 128)]
    shapes.append(((4096,) * 9, 16384))
    found = [Case(w, b, o, p) for o, p, (w, b) in product(("adam", "sgd"), ("fp32", "tf32", "bf16"), shapes)]
    if dry:
        small = [replace(c, widths=tuple(min(w, 32) for w in c.widths), batch=min(c.batch, 64)) for c in found]
        found = [c for c in dict.fromkeys(small) if c.precision == "fp32"]
    return found
