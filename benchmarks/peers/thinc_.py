"""Thinc: layers as functions that return their backward pass, on NumPy or its own BLIS."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import thinc
from thinc.api import Linear, Relu, Sigmoid, chain

from benchmarks.peers.base import LEARNING_RATE, MOMENTUM, Config, Peer

_LAYERS = {"relu": Relu, "sigmoid": Sigmoid}


class Thinc(Peer):
    """A chain of layers; the derivative of the loss in NumPy, as its own losses would have other scales.

    Its optimizers have no momentum of the kind that is measured here, so that this updates the parameters itself, all
    in one block as a Thinc optimizer would.
    """

    def __init__(self, config: Config, device: str = "cpu") -> None:
        self.config = config
        self.x, y = config.first_batch()
        self.y = np.eye(config.widths[-1], dtype=np.float32)[y] if y.ndim == 1 else y
        make = _LAYERS[config.activation]
        pairs = list(pairwise(config.widths))
        self.layers = [make(nO=m, nI=d) for d, m in pairs[:-1]] + [Linear(nO=pairs[-1][1], nI=pairs[-1][0])]
        self.model = chain(*self.layers)
        self.model.initialize(X=self.x, Y=self.y)
        for layer, (W, b) in zip(self.layers, config.weights(), strict=True):
            layer.set_param("W", W.T.copy())
            layer.set_param("b", b)
        self.state = [
            (layer, name, np.zeros_like(layer.get_param(name)), np.zeros_like(layer.get_param(name)))
            for layer in self.layers
            for name in ("W", "b")
        ]
        self.t = 0

    def backward(self) -> None:
        """Forward, the derivative of the loss, backward: gradients are left in the layers."""
        a, backprop = self.model.begin_update(self.x)
        if self.config.loss == "cross_entropy":
            a = np.exp(a - a.max(axis=1, keepdims=True))
            a /= a.sum(axis=1, keepdims=True)
        backprop((a - self.y) / np.float32(len(a)))

    def gradients(self) -> list[np.ndarray]:
        self.backward()
        found = [array for layer in self.layers for array in (layer.get_grad("W").T.copy(), layer.get_grad("b").copy())]
        self.clear()
        return found

    def clear(self) -> None:
        """Thinc adds gradients up until they are cleared."""
        for layer in self.layers:
            for name in ("W", "b"):
                layer.get_grad(name)[...] = 0

    def run(self, steps: int) -> None:
        adam = self.config.optimizer == "adam"
        for _ in range(steps):
            self.backward()
            self.t += 1
            for layer, name, m, v in self.state:
                p, g = layer.get_param(name), layer.get_grad(name)
                if adam:
                    m *= 0.9
                    m += 0.1 * g
                    v *= 0.999
                    v += 0.001 * g * g
                    c1, c2 = 1 - 0.9**self.t, 1 - 0.999**self.t
                    p -= LEARNING_RATE / c1 * m / (np.sqrt(v / c2) + 1e-8)
                else:
                    m *= MOMENTUM
                    m += g
                    p -= LEARNING_RATE * m
                g[...] = 0

    def versions(self) -> dict[str, str]:
        return {"thinc": thinc.__version__}
