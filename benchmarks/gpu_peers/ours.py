"""This library, as a `Peer`."""

from __future__ import annotations

from statistics import median
from typing import Any

import gpubackprop as gb
from benchmarks.gpu_peers.case import LEARNING_RATE, MOMENTUM, Case


class Ours:
    """capture False: the same step without a graph. precision float64: the reference on the CPU."""

    def __init__(self, case: Case, device: Any = "cuda", capture: bool = True, dtype: str = "float32") -> None:
        precision = None if case.precision == "fp32" or device == "cpu" else case.precision
        self.net = gb.mlp(
            case.widths, loss="cross_entropy", device=device, precision=precision, dtype=dtype, capture=capture
        )
        weights = {}
        for i, (W, b) in enumerate(case.weights()):
            weights |= {f"{i}.weight": W, f"{i}.bias": b}
        self.net.set_weights(weights)
        make = {"adam": lambda: gb.Adam(LEARNING_RATE), "sgd": lambda: gb.SGD(LEARNING_RATE, momentum=MOMENTUM)}
        self.optimizer = make[case.optimizer]()
        self.batch = self.net.engine.load(*case.data())
        self.program = self.net.engine.training_program(self.batch, self.optimizer, accumulate=False)

    def step(self) -> None:
        self.optimizer.prepare()
        self.program()

    def loss(self) -> float:
        return float(self.net.backend.to_host(self.net.engine.value))

    def wait(self) -> None:
        self.net.backend.synchronize()

    def describe(self) -> str:
        return self.net.backend.describe()


def kernel_times(case: Case, repeats: int = 10) -> list[tuple[str, float]]:
    """(what, milliseconds) of everything that one step launches, in order: the median over steps run without a graph, by
    CUDA events around each launch. Launches through CuPy's own functions are not seen."""
    import cupy

    from gpubackprop.backend.cuda import cublaslt
    from gpubackprop.backend.cuda.cuda_backend import CudaBackend

    precision = "native" if case.precision == "fp32" else case.precision
    peer = Ours(case, CudaBackend(0, precision), capture=False)
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
    kernels, plan_call = peer.net.backend.kernels, cublaslt.Plan.__call__
    kernels.launch = timed(lambda name, template, *_: f"{name}<{', '.join(map(str, template))}>", kernels.launch)
    cublaslt.Plan.__call__ = timed(lambda plan, *_: _product_name(plan.problem), plan_call)  # type: ignore[method-assign]
    try:
        runs = []
        for _ in range(repeats):
            events.clear()
            peer.step()
            peer.wait()
            runs.append([(name, cupy.cuda.get_elapsed_time(start, end)) for name, start, end in events])
    finally:
        cublaslt.Plan.__call__ = plan_call  # type: ignore[method-assign]
    return [(calls[0][0], median(ms for _, ms in calls)) for calls in zip(*runs, strict=True)]


def _product_name(p: Any) -> str:
    return f"product {p.M}x{p.N}x{p.K} {p.epilogue}"
