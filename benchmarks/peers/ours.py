"""gpubackprop itself: the bare recorded step, `train_step`, and whole epochs."""

from __future__ import annotations

import numpy as np

import gpubackprop as gb
from benchmarks.peers.base import BATCHES, LEARNING_RATE, MOMENTUM, Config, Peer
from gpubackprop.backend.base import Program
from gpubackprop.backend.cpu.compiled import MachineCode
from gpubackprop.network.rows import Rows


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
        self.program: Program | None = None

    def gradients(self) -> list[np.ndarray]:
        return list(self.net.loss_and_gradients(self.x, self.y)[1].values())

    def run(self, steps: int) -> None:
        if self.program is None:
            self.net.train_step(self.x, self.y, self.optimizer)
            batch = self.net.engine.load(self.x, self.y)
            self.program = self.net.engine.training_program(batch, self.optimizer, accumulate=False)
        program, prepare = self.program, self.optimizer.prepare
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


class Fit(Step):
    """`Trainer.fit` with its progress display's callbacks, over all batches: what a user waits for, without the `numba` extra."""

    measurement = 0.5
    """A fit begins with a look at all of its data, which is no part of its steps. One measurement is a block, so that no
    median keeps out what disturbs it, as it does for bare steps."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net.backend.loops = False
        self.data = config.data()
        self.trainer = gb.Trainer(self.net, self.optimizer, callbacks=[Listener()])

    def run(self, steps: int) -> None:
        """Whole epochs: the data is as many batches as make `steps`, up to BATCHES, again and again."""
        x, y = self.data
        rows = min(steps, BATCHES) * self.config.batch
        self.trainer.fit(x[:rows], y[:rows], epochs=-(-steps // BATCHES), batch_size=self.config.batch)


class Numba(Step):
    """The step in machine code, with the gathering of its rows, as the `numba` extra runs an epoch."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        x, y = config.data()
        self.rows = Rows(self.net.backend, x, y)

    def run(self, steps: int) -> None:
        if not self.optimizer.t:
            self.net.train_step(self.x, self.y, self.optimizer)
            batch = self.net.engine.load(self.x, self.y)
            program = self.net.engine.training_program(batch, self.optimizer)
            code = MachineCode(program.calls, batch.x, batch.targets, self.optimizer.h)
            self.code = code.program()
            if self.code is None:
                raise SystemExit(f"there is no machine code for config {self.config.name}")
        order = np.arange(steps * self.config.batch) % self.rows.n
        self.code(self.rows.x, self.rows.y, order, 0, self.optimizer.prepare_many(steps))


class Listener(gb.Callback):
    """Listens as a progress display does, which makes the loop stop for reports."""

    def on_progress(self, trainer: gb.Trainer, progress: object) -> None:
        self.last = progress
