"""One network at one batch size on one device, in this process: what it computes, how long its parts take, what it needs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.select import get_backend
from gpubackprop.bench.machine import available_cores, ceilings, undisturbed
from gpubackprop.bench.subject import Contender, Description, build, flops, least_bytes, random_batch
from gpubackprop.files.manifest import build_layer
from gpubackprop.layers import kinks_of
from gpubackprop.layers.stack import walk
from gpubackprop.network.rows import Rows
from gpubackprop.optimizers import get_optimizer
from gpubackprop.proofs.parity import TOLERANCES

GROUP = 2e-3
"""Seconds that a group of calls lasts at least: 10^4 times the cost of reading the clock."""
SAMPLE_ROWS = 256
"""Rows of the outputs that are compared; the gradients are of all rows."""
STRETCH, STRETCH_ROWS = 64, 8192
"""Steps that are trained at a time, at most, and for about how many rows, which lie on the device."""
RATE = 1e-3
"""The learning rate: large enough for a wrong update to show in the losses of a stretch."""
FLOOR = 0.1
"""Gradients smaller than this share of the whole gradient's norm are held to that: such as of a bias in front of a
`BatchNorm`, which is nothing but rounding."""
DRIFT = 10
"""Times the tolerance that the losses may have drifted apart over a stretch of training."""


class Bench:
    """A contender's device, with the network that is measured on it. Each method is a request to a `Worker`."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.measurement: Measurement | None = None

    def describe(self) -> dict[str, Any]:
        """The device of the contender. Raises DeviceError where its device does not work."""
        backend = self._new_backend()
        threads = None if backend.is_gpu else blas_threads() or self.contender.threads or available_cores()
        return {"device": backend.name, "threads": threads}

    def ceilings(self) -> dict[str, float]:
        """See `machine.ceilings`."""
        return ceilings(self._new_backend(), self.contender.dtype)

    def prepare(
        self, described: Description, n: int, optimizer: str, seed: int, compile: bool = False, plain: bool = False
    ) -> dict[str, Any]:
        """Build a network and batches of n rows; what they compute, and what work a step is."""
        self.measurement = None
        c = self.contender
        # A backend of its own for each, so that scratch memory of the network before is not there already.
        m = self.measurement = Measurement(
            described, self._new_backend(), c.dtype, c.precision, n, optimizer, seed, compile, plain
        )
        return {"tensors": m.tensors(), "work": m.work(), "how": m.engine.describe()}

    def block(self, seconds: float, phases: bool) -> dict[str, float]:
        """See `Measurement.block`."""
        assert self.measurement is not None, "prepare comes first"
        return self.measurement.block(seconds, phases)

    def release(self) -> None:
        """Let go of the network."""
        self.measurement = None

    def _new_backend(self) -> Backend:
        return get_backend(self.contender.device, precision=self.contender.precision)


class Measurement:
    """A network with random batches on the device, ready to be timed.

    described: see `subject.describe`. n: rows of a batch. optimizer: a name. seed: of the batches. compile: see
    `Network`. plain: run everything eagerly, as the reference for the others.
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
        compile: bool = False,
        plain: bool = False,
    ) -> None:
        self.be = backend
        self.n = n
        self.stretch = min(max(STRETCH_ROWS // n, 2), STRETCH)
        x, y = random_batch(described, n * self.stretch, seed, dtype)
        self._x, self._y = x[:n].copy(), y[:n].copy()
        self.rows = Rows(backend, x, y)
        self.rows.order(np.random.default_rng(seed).permutation(len(x)))
        if not backend.is_gpu:
            # What a process makes once, such as machine code, is no memory of the network: another one goes before.
            other = build(
                described, get_backend(backend.name, precision=precision), dtype, precision, capture=not plain
            )
            other.train_step(self._x, self._y, get_optimizer(optimizer, learning_rate=RATE))
            del other
        gauge = MemoryGauge(backend)
        self.net = build(described, backend, dtype, precision, capture=not plain, compile=compile)
        self.optimizer = get_optimizer(optimizer, learning_rate=RATE)
        self.engine = self.net.engine
        self.batch = self.engine.load(self._x, self._y)
        self._program = self.engine.training_program(self.batch, self.optimizer)
        self._step_with_transfer()
        self.memory = gauge.peak(self._step_with_transfer)
        """Bytes that the network, a batch and its steps take on the device at most."""
        # Those it was built with, rounded to float32: what every type can start from, to be compared.
        self._weights = {name: np.asarray(array, np.float32) for name, array in self.net.initial_arrays().items()}
        self._restart()

    # -- what it computes -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        """The results that must be the same everywhere: outputs (of some rows), loss, all gradients, and the losses of the
        steps of one stretch of training added up, as host arrays."""
        rows = np.linspace(0, self.n - 1, min(self.n, SAMPLE_ROWS)).astype(int)
        found = {"outputs": self.be.to_host(self.net.forward(self._x))[rows]}
        loss, gradients = self.net.loss_and_gradients(self._x, self._y, training=True)
        found |= {"loss": np.asarray(loss)} | {f"gradient {name}": g for name, g in gradients.items()}
        self._restart()
        self._train()
        return found | {"losses of training": np.asarray(self.engine.read()[0])}

    def work(self) -> dict[str, int]:
        """Sizes of a step: "parameters", "flops" of its products, least "bytes" moved, "transfer_bytes", most "memory"."""
        return {
            "parameters": self.net.parameter_count,
            "flops": flops(self.net, self.n),
            "bytes": least_bytes(self.net, self.n, self.optimizer),
            "transfer_bytes": self._x.nbytes + self._y.nbytes,
            "memory": self.memory,
        }

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
                phase = self.engine.phases(self.batch, self.optimizer)
                found |= {name: self._seconds(run, seconds / 2) for name, run in phase.items()}
        return found

    def _split(self, seconds: float) -> dict[str, float]:
        if self.be.is_gpu:
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
        self._step()

    def _transfer(self) -> None:
        self.engine.load(self._x, self._y)

    def _train(self) -> None:
        self.engine.train(self.rows, 0, self.stretch, self.optimizer, self.n)

    def _restart(self) -> None:
        # From the first weights: a network that has learnt its batches by heart computes with ever smaller numbers.
        self.net.set_weights(self._weights)
        self.optimizer.set_state({k: np.zeros_like(v) for k, v in self.optimizer.get_state().items()})
        self.engine.set_count(0)
        self.engine.reset()
        self._transfer()
        self.be.synchronize()


class MemoryGauge:
    """The memory allocated since this object was made: NumPy's arrays on the CPU (without those of BLAS), all on a GPU."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._before = self._gpu() if backend.is_gpu else 0
        if not backend.is_gpu:
            tracemalloc.start()

    def peak(self, step: Callable[[], None]) -> int:
        """Bytes in use at most while `step`, which was run before, is run once more. Ends the gauge."""
        if self._backend.is_gpu:
            step()
            return max(self._gpu() - self._before, 0)
        try:
            tracemalloc.reset_peak()
            step()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def _gpu(self) -> int:
        from gpubackprop.backend.cuda.timing import memory_in_use

        self._backend.synchronize()
        return memory_in_use(self._backend)


# -- seconds a call, from groups of calls that are long enough for the clock ----------------------------------------------


def seconds_a_call(run: Callable[[], object], wait: Callable[[], None], budget: float) -> float:
    """The median over groups of calls of the seconds that one call takes, measured for about `budget` seconds.

    wait: for the device, once a group. What the first calls take is left out, unless one alone lasts for the budget.
    """

    def group(count: int) -> None:
        for _ in range(count):
            run()
        wait()

    count, first = 1, _seconds(group, 1)
    warm = first
    while warm < budget / 4:
        again = _seconds(group, count)
        warm += again
        first = again / count
        count = max(1, min(2 * count, int(GROUP / first) + 1))
    return seconds_each(group, count, budget)


def seconds_each(group: Callable[[int], object], count: int, budget: float) -> float:
    """The median of the seconds that each of `count` things takes, over groups that are done for `budget` seconds at least.

    group: does that many things, and is done with them on return.
    """
    found: list[float] = []
    spent = 0.0
    while spent < budget or not found:
        seconds = _seconds(group, count)
        spent += seconds
        found.append(seconds / count)
    return median(found)


def seconds_to_launch(run: Callable[[], object], wait: Callable[[], None], budget: float) -> float:
    """The median of the seconds until a call returns when the device is idle before it and nobody waits for it."""
    taken: list[float] = []
    started = perf_counter()
    while perf_counter() - started < budget or len(taken) < 3:
        wait()
        before = perf_counter()
        run()
        taken.append(perf_counter() - before)
    wait()
    return median(taken)


def _seconds(group: Callable[[int], object], count: int) -> float:
    before = perf_counter()
    group(count)
    return perf_counter() - before


# -- whether contenders compute the same, before anybody looks at how fast they do ----------------------------------------


def disagreement(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], dtype: str, precision: str, kinks: bool
) -> str | None:
    """The first tensor that is not the reference's, in words, or None.

    found, reference: outputs, loss and gradients by name, of the same network, weights and batch; the reference in float64.
    kinks: whether a derivative jumps at z = 0. Rounding then turns the derivative of the share of units that lie that near
    to 0, about the tolerance itself, and a norm sees the root of a share: gradients are held to the root of the tolerance.
    """
    tolerance = TOLERANCES[dtype if precision == "native" else precision]
    whole = float(np.sqrt(sum(np.vdot(g, g) for name, g in reference.items() if name.startswith("gradient"))))
    for name, expected in reference.items():
        got = found[name]
        if got.shape != expected.shape:
            return f"{name} has shape {got.shape} instead of {expected.shape}"
        if not np.isfinite(got).all():
            return f"{name} is not finite"
        gradient = name.startswith("gradient")
        allowed = tolerance**0.5 if kinks and gradient else tolerance
        if name == "losses of training":
            allowed = DRIFT * tolerance
        difference = float(np.linalg.norm(got.astype(np.float64) - expected))
        scale = max(float(np.linalg.norm(expected)), FLOOR * whole if gradient else 0.0)
        if difference > allowed * scale:
            share = f"{difference / scale:.1e} of its norm" if scale else f"{difference:.1e}, where 0 is right"
            return f"{name} is off by {share}; {allowed:.0e} is allowed"
    return None


def has_kinks(described: Description) -> bool:
    """Whether the derivative of a layer of the network, or of its f, jumps somewhere."""
    layers = [build_layer(entry, {}) for entry in described["layers"]]
    return any(kinks_of(layer) for _, layer in walk(layers))
