"""One network at one batch size on one device, in this process: what it computes, how long its parts take, what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop.backend.base import Backend
from gpubackprop.bench.memory import MemoryGauge
from gpubackprop.bench.subject import Description, build, flops, initial_weights, least_bytes, random_batch
from gpubackprop.bench.timing import seconds_a_call, seconds_to_launch, undisturbed
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers import get_optimizer

PHASES = ("forward", "loss", "backward", "update")
SAMPLE_ROWS = 256
"""Rows of the outputs that are compared; the gradients are of all rows."""
STRETCH, STRETCH_ROWS = 64, 8192
"""Steps that are trained at a time, at most, and for about how many rows, which lie on the device."""
RATE = 1e-3
"""The learning rate: large enough for a wrong update to show in the losses of a stretch."""


class Measurement:
    """A network with random batches on the device, ready to be timed.

    described: see `subject.describe`. n: rows of a batch. optimizer: a name. seed: of the batches. plain: run everything
    eagerly, as what others are held to.
    """

    def __init__(
        self,
        described: Description,
        backend: Backend,
        dtype: str,
        precision: str,
        n: int,
        optimizer: str,
        seed: int,
        plain: bool = False,
    ) -> None:
        self.be = backend
        self.n = n
        self.stretch = min(max(STRETCH_ROWS // n, 2), STRETCH)
        x, y = random_batch(described, n * self.stretch, seed, dtype)
        self._x, self._y = x[:n].copy(), y[:n].copy()
        self.rows = Rows(backend, x, y)
        self.rows.order(np.random.default_rng(seed).permutation(len(x)))
        gauge = MemoryGauge(backend)
        self.net = build(described, backend, dtype, precision, capture=not plain, compile=not plain and backend.loops)
        self.optimizer = get_optimizer(optimizer, learning_rate=RATE)
        self.engine = self.net.engine
        self.batch = self.engine.load(self._x, self._y)
        self._program = self.engine.training_program(self.batch, self.optimizer)
        self._step_with_transfer()
        self.memory = gauge.peak(self._step_with_transfer)
        """Bytes that the network, a batch and its steps take on the device at most."""
        self._weights = initial_weights(self.net)
        self._restart()

    # -- what it computes -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        """What has to be the same everywhere: outputs (of some rows), loss, all gradients, and the losses of the steps of one
        stretch of training added up, as host arrays."""
        rows = np.linspace(0, self.n - 1, min(self.n, SAMPLE_ROWS)).astype(int)
        found = {"outputs": self.be.to_host(self.net.forward(self._x))[rows]}
        loss, gradients = self.net.loss_and_gradients(self._x, self._y, training=True)
        found |= {"loss": np.asarray(loss)} | {f"gradient {name}": g for name, g in gradients.items()}
        self._restart()
        self._train()
        return found | {"losses of training": np.asarray(self.engine.read()[0])}

    def work(self) -> dict[str, int]:
        """What a step is: "parameters", "flops" of its products, "bytes" moved at least, "transfer_bytes", "memory" at most."""
        return {
            "parameters": self.net.parameter_count,
            "flops": flops(self.net, self.n),
            "bytes": least_bytes(self.net, self.n, self.optimizer),
            "transfer_bytes": self._x.nbytes + self._y.nbytes,
            "memory": self.memory,
        }

    def describe(self) -> str:
        """How steps run here."""
        return self.be.describe()

    # -- how long it takes ----------------------------------------------------------------------------------------

    def block(self, seconds: float, phases: bool) -> dict[str, float]:
        """Seconds for each part of a step, as the median of this block, which takes a few times `seconds`.

        "step": of training on data that is on the device, as `Trainer.fit` does it, in the order of an epoch and several
        steps at once where the device can. "step_with_transfer": one at a time, with its batch copied to the device.
        "transfer": that copy alone. "host", "device": of one step at a time, on the CPU what prepares it, and its
        operations; on a GPU the time to launch it, and between CUDA events. With `phases` also each phase run on its own;
        a step that merges phases can be faster than their sum.
        """
        found: dict[str, float] = {}
        with undisturbed():
            self._restart()
            found["step"] = self._seconds(self._train, seconds) / self.stretch
            self._restart()
            found["step_with_transfer"] = self._seconds(self._step_with_transfer, seconds)
            found["transfer"] = self._seconds(self._transfer, seconds / 4)
            found |= self._split(seconds / 4)
            if phases:
                self._restart()
                for name, run in self._phases().items():
                    found[name] = self._seconds(run, seconds / 2)
        return found

    def _split(self, seconds: float) -> dict[str, float]:
        if self.be.name.startswith("cuda"):
            from gpubackprop.backend.cuda.timing import device_seconds

            host = seconds_to_launch(self._step, self.be.synchronize, seconds)
            return {"host": host, "device": device_seconds(self.be, self._step, seconds)}
        host = self._seconds(self.optimizer.prepare, seconds / 4)
        return {"host": host, "device": self._seconds(self._program, seconds)}

    def _seconds(self, run: Callable[[], Any], budget: float) -> float:
        return seconds_a_call(run, self.be.synchronize, budget)

    def _step(self) -> None:
        self.optimizer.prepare()
        self._program()

    def _step_with_transfer(self) -> None:
        self._transfer()
        self.optimizer.prepare()
        self._program()

    def _transfer(self) -> None:
        self.engine.load(self._x, self._y)

    def _train(self) -> None:
        self.engine.train(self.rows, 0, self.stretch, self.optimizer, self.n)

    def _phases(self) -> dict[str, Callable[[], None]]:
        return self.engine.phases(self.batch, self.optimizer)

    def _restart(self) -> None:
        # From the first weights: a network that has learnt its batches by heart computes with ever smaller numbers.
        self.net.set_weights(self._weights)
        self.optimizer.set_state({k: np.zeros_like(v) for k, v in self.optimizer.get_state().items()})
        self.engine.set_count(0)
        self.engine.reset()
        self._transfer()
        self.be.synchronize()
