"""gpubackprop itself: the bare recorded step, `train_step`, and whole epochs."""

from __future__ import annotations

import numpy as np

import gpubackprop as gb
from benchmarks.peers.base import LEARNING_RATE, MOMENTUM, Config, Peer


class Step(Peer):
    """The recorded step on data that is already in its buffers: what a training loop repeats."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.net = gb.mlp(list(config.widths), activation=config.activation, loss=config.loss, device="cpu")
        flat = [array for pair in config.weights() for array in pair]
        self.net.set_weights(dict(zip(self.net.parameters, flat, strict=True)))
        self.x, self.y = config.first_batch()
        adam = config.optimizer == "adam"
        self.optimizer = gb.Adam(LEARNING_RATE) if adam else gb.SGD(LEARNING_RATE, momentum=MOMENTUM)

    def gradients(self) -> list[np.ndarray]:
        return list(self.net.loss_and_gradients(self.x, self.y)[1].values())

    def run(self, steps: int) -> None:
        if not self.optimizer.t:
            self.net.train_step(self.x, self.y, self.optimizer)
        batch, kind = self.net._load_pair(self.x, self.y)
        program, prepare = self.net._steps.training_program(batch, kind, self.optimizer), self.optimizer.prepare
        for _ in range(steps):
            prepare()
            program()

    def versions(self) -> dict[str, str]:
        return {"gpubackprop": gb.__version__, "numpy": np.__version__, "backend": self.net.backend.describe()}


class TrainStep(Step):
    """`net.train_step(x, y, optimizer)`: the step with the checks of its arguments and the copies into its buffers."""

    def run(self, steps: int) -> None:
        net, x, y, optimizer = self.net, self.x, self.y, self.optimizer
        for _ in range(steps):
            net.train_step(x, y, optimizer)
