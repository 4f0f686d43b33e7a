"""The limit: the step's matrix products alone, into preallocated outputs."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.base import Config, Peer


class Limit(Peer):
    """Forward, delta-propagation and gradient products of every layer; nothing is computed with them."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        x, _ = config.first_batch()
        a = [x, *(np.zeros((config.batch, m), np.float32) for m in config.widths[1:])]
        W = [w for w, _ in config.weights()]
        delta = [np.zeros_like(z) for z in a]
        self.products = [(a[i], W[i], a[i + 1]) for i in range(len(W))]
        for i in reversed(range(len(W))):
            self.products.append((a[i].T, delta[i + 1], np.empty_like(W[i])))
            if i:
                self.products.append((delta[i + 1], W[i].T, delta[i]))

    def run(self, steps: int) -> None:
        products = self.products
        for _ in range(steps):
            for x, y, out in products:
                np.matmul(x, y, out=out)
