"""What is compared: networks with their data, and the face that every library shows the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

MOMENTUM = 0.9
LEARNING_RATE = 1e-3
DROPOUT = 0.2
BATCHES = 8
"""Batches of data, for the peers that run a whole loop."""


@dataclass(frozen=True)
class Config:
    """One network, its batch and how it is trained, with parameters in float32.

    between: "dropout", "batch_norm" or "layer_norm", in each hidden layer: a normalisation before the activation, dropout
    behind it. precision: of the products: "fp32", or on a GPU "tf32" or "bf16".
    """

    widths: tuple[int, ...]
    batch: int
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "sgd"
    between: str = ""
    precision: str = "fp32"
    all_active: bool = False
    """Start where no unit is dead: in the smallest network some would be, and their velocity decay to denormal numbers."""

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(W, b) of each layer: W (d, m), by default with variance 2/d, b (m,) not zero, so that the check sees it."""
        widths = "-".join(map(str, self.widths))
        flat = _made_once(f"weights-{widths}-{self.all_active}", lambda: [a for pair in self._weights() for a in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(1)
        spread, bias = (0.1, 1.0) if self.all_active else (1.0, 0.0)
        return [
            (
                (rng.standard_normal((d, m)) * spread * np.sqrt(2 / d)).astype(np.float32),
                (rng.standard_normal(m) * 0.1 + bias).astype(np.float32),
            )
            for d, m in pairwise(self.widths)
        ]

    def data(self, batches: int = BATCHES) -> tuple[np.ndarray, np.ndarray]:
        """x (batches * batch, d) and y: int64 labels for cross_entropy, else (rows, m) numbers.

        Every row of x stands in its batch twice, with two targets: the loss cannot be driven to zero, where a step would
        compute with denormal numbers and be timed for that.
        """
        name = f"data-{self.widths[0]}-{self.widths[-1]}-{self.loss}-{batches}x{self.batch}"
        x, y = _made_once(name, lambda: self._data(batches))
        return x, y

    def _data(self, batches: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(2)
        half = rng.standard_normal((batches, self.batch // 2, self.widths[0]), np.float32)
        x = np.concatenate([half, half], axis=1).reshape(batches * self.batch, -1)
        if self.loss == "cross_entropy":
            return x, rng.integers(0, self.widths[-1], len(x))
        return x, rng.random((len(x), self.widths[-1]), np.float32)

    def first_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The batch that single steps are timed on, and gradients compared."""
        return self.data(1)

    def describe(self) -> str:
        """The row's heading: 784-512-256-10, batch 128."""
        plain = ("", "relu", "cross_entropy", "sgd", "fp32")
        settings = (self.activation, self.between, self.loss, self.optimizer, self.precision)
        extra = [word.replace("_", " ") for word in settings if word not in plain]
        return ", ".join(["-".join(map(str, self.widths)), f"batch {self.batch}", *extra])

    @property
    def kinks(self) -> bool:
        """Whether the activation's derivative jumps at 0."""
        return self.activation == "relu"

    @property
    def parameters(self) -> int:
        """How many numbers are trained, but for those of normalisations."""
        return sum(d * m + m for d, m in pairwise(self.widths))

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


def _made_once(name: str, make: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
    """What `make` makes; in the folder $GPUBACKPROP_BENCHMARK_DATA, where that is set, for other processes too."""
    folder = os.environ.get("GPUBACKPROP_BENCHMARK_DATA")
    if not folder:
        return make()
    file = Path(folder, f"{name}.npz")
    if not file.exists():
        partial = file.with_name(f"{os.getpid()}-{file.name}")
        np.savez(partial, *make())
        partial.replace(file)
    with np.load(file) as kept:
        return [kept[f"arr_{i}"] for i in range(len(kept.files))]


CONFIGS = {
    "a": Config((2, 16, 16, 1), 4, loss="half_squared_error", all_active=True),
    "b": Config((64, 128, 10), 32),
    "c": Config((784, 512, 256, 10), 128),
    "d": Config((784, 512, 256, 10), 1024),
    "e": Config((1024, 2048, 2048, 1000), 4096),
    "f": Config((784, 1024, 1024, 1024, 1024, 10), 8192),
    "g": Config((784, 512, 256, 10), 1024, activation="sigmoid", loss="half_squared_error"),
    "h": Config((784, 512, 256, 10), 1024, optimizer="adam"),
}
"""The networks of the comparison on the CPU."""


class Peer:
    """A library's training step on one config, from the config's weights and data.

    device: "cpu" or "cuda".
    """

    measurement = 2e-2
    """Seconds that one measurement lasts at least, so that neither the clock matters nor the start of a compiled loop."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        raise NotImplementedError

    def gradients(self) -> list[np.ndarray]:
        """dC/dW, dC/db of each fully connected layer in turn, (d, m) and (m,), on the first batch and the initial weights."""
        raise NotImplementedError

    def step(self) -> Any:
        """Put one training step on the device, without waiting for it."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait for the device."""

    def loss(self) -> float:
        """The loss of the last step, before its update, read from the device."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Do that many training steps, and be done with them on return."""
        step = self.step
        for _ in range(steps):
            step()
        self.wait()

    def versions(self) -> dict[str, str]:
        """Name -> version of what it ran on."""
        return {}
