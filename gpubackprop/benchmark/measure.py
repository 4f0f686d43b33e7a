"""One network at one batch size on one device, in this process: what it computes, how long its parts take, what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop.backend import Backend
from gpubackprop.benchmark.memory import MemoryGauge
from gpubackprop.benchmark.subject import Description, build, flops, initial_weights, least_bytes, random_batch
from gpubackprop.benchmark.timing import seconds_a_call, seconds_to_launch, undisturbed
from gpubackprop.optimizers import get_optimizer

PHASES = ("forward", "loss", "backward", "update")
SAMPLE_ROWS = 256
"""Rows of the outputs that are compared; the gradients are of all rows."""


class Measurement:
    """A network with a random batch on the device, ready to be timed.

    described: see `subject.describe`. n: rows of the batch. optimizer: a name. seed: of the batch.
    """

    def __init__(
        self, described: Description, backend: Backend, dtype: str, precision: str, n: int, optimizer: str, seed: int
    ) -> None:
        self.be = backend
        self.n = n
        self._x, self._y = random_batch(described, n, seed, dtype)
        self._kind = "labels" if self._y.ndim == 1 else "targets"
        gauge = MemoryGauge(backend)
        self.net = build(described, backend, dtype, precision)
        self.optimizer = get_optimizer(optimizer, learning_rate=1e-4)
        self.optimizer.bind(self.net._parameters)
        self.batch = self.net._workspace.batch(n)
        self._program = self.net._steps.training_program(self.batch, self._kind, self.optimizer, accumulate=True)
        self._step_with_transfer()
        self.memory = gauge.peak(self._step_with_transfer)
        """Bytes that the network, its batch and its steps take on the device at most."""
        self._weights = initial_weights(self.net)
        self.net.set_weights(self._weights)

    # -- what it computes -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        """What has to be the same everywhere: outputs (of some rows), loss, and all gradients, as host arrays."""
        rows = np.linspace(0, self.n - 1, min(self.n, SAMPLE_ROWS)).astype(int)
        found = {"outputs": self.be.to_host(self.net.forward(self._x))[rows]}
        loss, gradients = self.net.loss_and_gradients(self._x, self._y, training=True)
        return found | {"loss": np.asarray(loss)} | {f"gradient {name}": g for name, g in gradients.items()}

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

        "step": of a training step on data that is on the device. "step_with_transfer": the batch is copied there first.
        "transfer": that copy alone. "host": on the CPU the Python around the step, on a GPU until the step is launched.
        "device": on the CPU the rest of the step, on a GPU between CUDA events. With `phases` also each phase run on its
        own; a step that merges phases can be faster than their sum.
        """
        self._restart()
        found: dict[str, float] = {}
        with undisturbed():
            found["step"] = self._seconds(self._step, seconds)
            found["step_with_transfer"] = self._seconds(self._step_with_transfer, seconds)
            found["transfer"] = self._seconds(self._transfer, seconds / 4)
            found |= self._split(found["step"], seconds / 4)
            if phases:
                self._restart()
                for name, run in self._phases().items():
                    found[name] = self._seconds(run, seconds / 2)
        return found

    def _split(self, step: float, seconds: float) -> dict[str, float]:
        if self.be.name.startswith("cuda"):
            from gpubackprop.backend.cuda.timing import device_seconds

            host = seconds_to_launch(self._step, self.be.synchronize, seconds)
            return {"host": host, "device": device_seconds(self.be, self._step, seconds)}
        host = min(self._seconds(self.optimizer.prepare, seconds / 4), step)
        return {"host": host, "device": step - host}

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
        self.be.copy_in(self._x, self.batch.x)
        self.be.copy_in(self._y, self.batch.target_buffer(self._kind))

    def _phases(self) -> dict[str, Callable[[], None]]:
        if "phases" not in self.batch.programs:
            steps, program = self.net._steps, self.net.program
            self.batch.programs["phases"] = {
                "forward": program(lambda: steps.forward(self.batch, True)),
                "loss": program(lambda: steps.loss(self.batch, self._kind, self.n, with_delta=True)),
                "backward": program(lambda: steps.backward(self.batch, True)),
                "update": program(lambda: steps.finish(self.optimizer)),
            }
        programs: dict[str, Callable[[], None]] = self.batch.programs["phases"]
        return programs

    def _restart(self) -> None:
        # From the first weights: a network that has learnt its one batch by heart computes with ever smaller numbers.
        self.net.set_weights(self._weights)
        self._step_with_transfer()
        self.be.synchronize()
