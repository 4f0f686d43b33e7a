"""gpubackprop itself: the bare recorded step, `train_step`, and whole epochs."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

import gpubackprop as gb
from benchmarks.peers.base import BATCHES, DROPOUT, LEARNING_RATE, MOMENTUM, Config, Peer
from gpubackprop.backend.base import Program
from gpubackprop.backend.cpu.compiled import MachineCode
from gpubackprop.network.rows import Rows

_NORMS = {"batch_norm": gb.BatchNorm, "layer_norm": gb.LayerNorm}


def network(config: Config, device: Any = "cpu", dtype: str = "float32", capture: bool = True) -> gb.Network:
    """The config's network with its weights."""
    layers: list[gb.Layer] = []
    weights = {}
    for i, (W, b) in enumerate(config.weights()):
        weights |= {f"{len(layers)}.weight": W, f"{len(layers)}.bias": b}
        if i == len(config.widths) - 2:
            layers.append(gb.Dense(*W.shape))
        elif config.between in _NORMS:
            layers += [gb.Dense(*W.shape), _NORMS[config.between](W.shape[1]), gb.Activation(config.activation)]
        else:
            layers.append(gb.Dense(*W.shape, config.activation))
            layers += [gb.Dropout(DROPOUT)] if config.between == "dropout" else []
    precision = None if config.precision == "fp32" or str(device).startswith("cpu") else config.precision
    net = gb.Network(layers, loss=config.loss, device=device, dtype=dtype, precision=precision, capture=capture)
    net.set_weights({**net.get_weights(), **weights})
    return net


class Step(Peer):
    """The recorded step on data that is already in its buffers: what a training loop repeats.

    dtype: float64 is what others are held to. capture: False does without the record, or the CUDA graph.
    """

    def __init__(self, config: Config, device: Any = "cpu", dtype: str = "float32", capture: bool = True) -> None:
        self.config = config
        self.net = network(config, device, dtype, capture)
        self.x, self.y = config.first_batch()
        adam = config.optimizer == "adam"
        self.optimizer = gb.Adam(LEARNING_RATE) if adam else gb.SGD(LEARNING_RATE, momentum=MOMENTUM)
        self._program: Program | None = None

    def gradients(self) -> list[np.ndarray]:
        found = self.net.loss_and_gradients(self.x, self.y, training=True)[1]
        dense = [i for i, layer in enumerate(self.net.layers) if isinstance(layer, gb.Dense)]
        return [found[f"{i}.{name}"] for i in dense for name in ("weight", "bias")]

    @property
    def program(self) -> Program:
        """The recorded step, its batch loaded."""
        if self._program is None:
            batch = self.net.engine.load(self.x, self.y)
            self._program = self.net.engine.training_program(batch, self.optimizer, accumulate=False)
        return self._program

    def step(self) -> None:
        program = self.program
        self.optimizer.prepare()
        program()

    def run(self, steps: int) -> None:
        program, prepare = self.program, self.optimizer.prepare
        for _ in range(steps):
            prepare()
            program()
        self.wait()

    def wait(self) -> None:
        self.net.backend.synchronize()

    def loss(self) -> float:
        return float(self.net.backend.to_host(self.net.engine.value))

    def describe(self) -> str:
        """How steps run here."""
        return self.net.backend.describe()

    def versions(self) -> dict[str, str]:
        return {"gpubackprop": gb.__version__, "numpy": np.__version__, "backend": self.describe()}


class Eager(Step):
    """The same without a record, or a CUDA graph."""

    def __init__(self, config: Config, device: Any = "cpu") -> None:
        super().__init__(config, device, capture=False)


class TrainStep(Step):
    """`net.train_step(x, y, optimizer)`: the step with the checks of its arguments and the copies into its buffers."""

    def run(self, steps: int) -> None:
        net, x, y, optimizer = self.net, self.x, self.y, self.optimizer
        for _ in range(steps):
            net.train_step(x, y, optimizer)


class Mkl(Step):
    """The same with MKL's products."""

    def __init__(self, config: Config, device: Any = "cpu", dtype: str = "float32") -> None:
        super().__init__(config, f"{device}:mkl", dtype)

    def run(self, steps: int) -> None:
        # As a fit does, which keeps the threads of NumPy's BLAS still.
        with self.net.backend:
            super().run(steps)


class Fit(Step):
    """`Trainer.fit` with its progress display's callbacks, over all batches: what a user waits for."""

    measurement = 0.5
    """A fit begins with a look at all of its data, which is no part of its steps. One measurement is a block, so that no
    median keeps out what disturbs it, as it does for bare steps."""

    def __init__(self, config: Config, device: Any = "cpu") -> None:
        super().__init__(config, device)
        self.data = config.data()
        self.trainer = gb.Trainer(self.net, self.optimizer, callbacks=[Listener()])

    def run(self, steps: int) -> None:
        """Whole epochs: the data is as many batches as make `steps`, up to BATCHES, again and again."""
        x, y = self.data
        rows = min(steps, BATCHES) * self.config.batch
        self.trainer.fit(x[:rows], y[:rows], epochs=-(-steps // BATCHES), batch_size=self.config.batch)


class Numba(Step):
    """The step in machine code, with the gathering of its rows, as the `numba` extra runs an epoch."""

    def __init__(self, config: Config, device: Any = "cpu") -> None:
        super().__init__(config, device)
        self.rows = Rows(self.net.backend, *config.data())

    def run(self, steps: int) -> None:
        if not self.optimizer.t:
            self.net.train_step(self.x, self.y, self.optimizer)
            batch = self.net.engine.load(self.x, self.y)
            program = self.net.engine.training_program(batch, self.optimizer)
            code = MachineCode(program.calls, batch.x, batch.targets, self.optimizer.h)
            self.code = code.program()
            if self.code is None:
                raise SystemExit(f"there is no machine code for {self.config.describe()}")
        order = np.arange(steps * self.config.batch) % self.rows.n
        self.code(self.rows.x, self.rows.y, order, 0, self.optimizer.prepare_many(steps))


class Listener(gb.Callback):
    """Listens as a progress display does, which makes the loop stop for reports."""

    def on_progress(self, trainer: gb.Trainer, progress: object) -> None:
        self.last = progress


def held(net: gb.Network) -> tuple[int, int]:
    """Bytes of the parameters' flat buffer, and of what a training step works on."""
    return net.engine.parameters.P.nbytes, net.engine.training.nbytes


def kernel_times(config: Config, repeats: int = 10) -> list[tuple[str, float]]:
    """(what, milliseconds) of everything that one step launches, in order: the median over steps run without a graph, by
    CUDA events around each launch. Launches through CuPy's own functions are not seen."""
    import cupy

    from gpubackprop.backend.cuda import plans
    from gpubackprop.backend.cuda.cuda_backend import CudaBackend

    precision = "native" if config.precision == "fp32" else config.precision
    peer = Step(config, CudaBackend(0, precision), capture=False)
    events: list[tuple[str, Any, Any]] = []

    def timed(name: Any, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            result = function(*arguments, **options)
            end.record()
            events.append((name(*arguments), start, end))
            return result

        return call

    for _ in range(3):
        peer.step()
    kernels, queue = peer.net.backend.kernels, plans.Plan.queue
    kernels.launch = timed(lambda name, template, *_: f"{name}<{', '.join(map(str, template))}>", kernels.launch)
    plans.Plan.queue = timed(lambda plan, *_: _product_name(plan.problem), queue)  # type: ignore[method-assign]
    try:
        runs = []
        for _ in range(repeats):
            events.clear()
            peer.step()
            peer.wait()
            runs.append([(name, cupy.cuda.get_elapsed_time(start, end)) for name, start, end in events])
    finally:
        plans.Plan.queue = queue  # type: ignore[method-assign]
    return [(calls[0][0], median(ms for _, ms in calls)) for calls in zip(*runs, strict=True)]


def _product_name(p: Any) -> str:
    return f"product {p.M}x{p.N}x{p.K} {p.epilogue}"
