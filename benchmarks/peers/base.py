"""What is compared: eight networks with their data, and the face that every library shows the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MOMENTUM = 0.9
LEARNING_RATE = 1e-3
BATCHES = 8
"""Batches of data, for the peers that run a whole loop."""


@dataclass(frozen=True)
class Config:
    """One network, its batch and how it is trained; all in float32."""

    name: str
    widths: tuple[int, ...]
    batch: int
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    all_active: bool = False
    """Start where no unit is dead: in the smallest network some would be, and their velocity decay to denormal numbers."""

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(W, b) of each layer: W (d, m), by default with variance 2/d, b (m,) not zero, so that the check sees it."""
        rng = np.random.default_rng(1)
        spread, bias = (0.1, 1.0) if self.all_active else (1.0, 0.0)
        return [
            (
                (rng.standard_normal((d, m)) * spread * np.sqrt(2 / d)).astype(np.float32),
                (rng.standard_normal(m) * 0.1 + bias).astype(np.float32),
            )
            for d, m in pairwise(self.widths)
        ]

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """x (BATCHES * batch, d) and y: int64 labels for cross_entropy, else (rows, m) numbers.

        Every row of x stands in its batch twice, with two targets: the loss cannot be driven to zero, where a step would
        compute with denormal numbers and be timed for that.
        """
        rng = np.random.default_rng(2)
        half = rng.standard_normal((BATCHES, self.batch // 2, self.widths[0])).astype(np.float32)
        x = np.concatenate([half, half], axis=1).reshape(BATCHES * self.batch, -1)
        if self.loss == "cross_entropy":
            return x, rng.integers(0, self.widths[-1], len(x))
        return x, rng.random((len(x), self.widths[-1])).astype(np.float32)

    def first_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The batch that single steps are timed on, and gradients compared."""
        x, y = self.data()
        return x[: self.batch].copy(), y[: self.batch].copy()

    def describe(self) -> str:
        """The row's heading: 784-512-256-10, batch 128."""
        extra = [w for w in (self.activation, self.loss, self.optimizer) if w not in ("relu", "cross_entropy", "sgd")]
        return ", ".join(
            ["-".join(map(str, self.widths)), f"batch {self.batch}", *(w.replace("_", " ") for w in extra)]
        )


CONFIGS = {
    c.name: c
    for c in (
        Config("a", (2, 16, 16, 1), 4, loss="half_squared_error", all_active=True),
        Config("b", (64, 128, 10), 32),
        Config("c", (784, 512, 256, 10), 128),
        Config("d", (784, 512, 256, 10), 1024),
        Config("e", (1024, 2048, 2048, 1000), 4096),
        Config("f", (784, 1024, 1024, 1024, 1024, 10), 8192),
        Config("g", (784, 512, 256, 10), 1024, activation="sigmoid", loss="half_squared_error"),
        Config("h", (784, 512, 256, 10), 1024, optimizer="adam"),
    )
}


class Peer:
    """A library's training step on one config, from the config's weights and data."""

    measurement = 2e-2
    """Seconds that one measurement lasts at least, so that neither the clock matters nor the start of a compiled loop."""

    def __init__(self, config: Config) -> None:
        raise NotImplementedError

    def gradients(self) -> list[np.ndarray]:
        """dC/dW, dC/db of each layer in turn, (d, m) and (m,), on the first batch and the initial weights."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Do that many training steps, and be done with them on return."""
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        """Name -> version of what it ran on."""
        return {}
