"""Does a user-defined layer keep to what every layer promises? The whole contract, on every device that is here.

from gpubackprop.testing import check_layer

print(check_layer(MyLayer(8)))
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.backend.base import Backend, Tensors
from gpubackprop.backend.select import fallback_reason, get_backend
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import ArgumentTypeError, CheckFailedError
from gpubackprop.layers import Dense, Layer
from gpubackprop.layers.stack import own_width
from gpubackprop.network.network import Network
from gpubackprop.optimizers import SGD
from gpubackprop.proofs.gradcheck import gradcheck
from gpubackprop.proofs.parity import check_parity
from gpubackprop.random import host_generator

ROWS, OUTPUTS = 9, 3


@dataclass(frozen=True)
class Check:
    """One promise on one device: kept where `problem` is empty, and not looked at where `skipped` says why."""

    name: str
    device: str
    problem: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class LayerReport:
    """The checks of `check_layer` and their results; print it for the list."""

    layer: str
    checks: list[Check]

    @property
    def failures(self) -> list[Check]:
        """The promises that are not kept."""
        return [c for c in self.checks if c.problem]

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{self.layer}: {len(self.failures)} of {len(self.checks)} checks failed"]
        for c in self.checks:
            state = "FAILED " if c.problem else "skipped" if c.skipped else "ok     "
            lines.append(
                f"  {state} {c.device:<6} {c.name}{': ' if c.problem or c.skipped else ''}{c.problem or c.skipped}"
            )
        return "\n".join(lines)


def check_layer(
    layer: Layer | Callable[[], Layer],
    *,
    width: int | None = None,
    allow_allocations: bool = False,
) -> LayerReport:
    """Check a layer between two `Dense` layers, and alone where it names its width; return the report if all is right.

    layer: a layer that belongs to no network yet (copies of it are used), or a function without arguments that makes one.
    width: of its input, where it names none itself as `inputs` or `width` (8 by default).
    allow_allocations: whether a step may make new arrays, as array expressions without `out=` do.

    Checked are: shapes and initial values; gradients of parameters and input in float64, in training and in inference,
    for batches of 9 rows and of 1, or 2 where the layer mixes rows (`gradcheck`); that a row does not depend on the others, but
    in training where the layer says so (`mixes_rows`); on "cpu", "strict" and, where there is one, "cuda": that gradients add
    up when beta is 1, that x, delta and the parameters are left alone, that a smaller batch in the buffers of a larger one and
    arrays that are not contiguous give the same bits as a batch of their own, that a recorded step does what the layer's Python
    does; that a steady step on "strict" neither waits nor allocates; and parity of all devices in float32 and float64.

    Raises CheckFailedError with the full list if anything is wrong, whatever the layer raised included.
    """
    make = _factory(layer)
    first = make()
    own = own_width(first)
    bench = _Bench(make, width or own or 8)
    bench.alone = own is not None
    devices = ["cpu", "strict", *(() if fallback_reason() else ("cuda",))]
    checks = [_run("shapes and initial values", "cpu", bench.shapes)]
    if not checks[0].problem:
        for training in (True, False):
            for n in (ROWS, bench.fewest if training else 1):
                name = f"gradients, {'training' if training else 'inference'}, {n} row{'s' if n > 1 else ''}"
                checks.append(_run(name, "cpu", bench.gradients, n, training))
        checks.append(_run("a row without the others", "cpu", bench.rows_apart))
        for device in devices:
            checks.append(_run("gradients add up when beta is 1", device, bench.accumulation, device))
            checks.append(_run("x, delta and parameters left alone", device, bench.left_alone, device))
            checks.append(_run("smaller batch in the same buffers", device, bench.ragged, device))
            checks.append(_run("input that is not contiguous", device, bench.not_contiguous, device))
            checks.append(_run("recorded step", device, bench.recorded, device))
        checks.append(_run("steady step", "strict", bench.steady, allow_allocations))
        for device in devices[1:]:
            for dtype in ("float64", "float32"):
                checks.append(_run(f"parity with the cpu in {dtype}", device, bench.parity, device, dtype))
    if reason := fallback_reason():
        checks.append(Check("everything", "cuda", skipped=reason))
    report = LayerReport(repr(first), checks)
    if not report:
        raise CheckFailedError(str(report))
    return report


def _factory(layer: Layer | Callable[[], Layer]) -> Callable[[], Layer]:
    if not isinstance(layer, Layer):
        made = layer() if callable(layer) else layer
        if not isinstance(made, Layer):
            raise ArgumentTypeError(f"layer must be a Layer, or a function that makes one; got {made!r}")
        assert callable(layer)
        return layer
    if hasattr(layer, "parameters"):
        raise ArgumentTypeError(
            f"{layer!r} already belongs to a network; hand over a new one, or a function that makes one"
        )
    return lambda: copy.deepcopy(layer)


def _run(name: str, device: str, check: Callable[..., Iterator[str]], *arguments: object) -> Check:
    try:
        return Check(name, device, problem="; ".join(check(*arguments)))
    except Exception as error:  # whatever a stranger's layer raises is a result of the check
        return Check(name, device, problem=f"{type(error).__name__}: {error}")


class _Bench:
    """The networks that a layer is tried in. Each check yields a sentence for everything that is wrong."""

    alone = False

    def __init__(self, make: Callable[[], Layer], width: int) -> None:
        self.make, self.width = make, width
        self.out = make().build(width)
        self.fewest = 2 if make().mixes_rows else 1
        rng = host_generator(0, 11)
        self.x = rng.standard_normal((ROWS, 5))
        self.y = rng.standard_normal((ROWS, OUTPUTS))

    def net(self, device: str | Backend = "cpu", dtype: str = "float64", capture: bool = True) -> Network:
        layers = [Dense(5, self.width, "tanh"), self.make(), Dense(self.out, OUTPUTS)]
        return Network(layers, device=device, dtype=dtype, capture=capture)

    def shapes(self) -> Iterator[str]:
        layer = self.make()
        layer.build(self.width)
        wanted = {**layer.parameter_shapes(), **layer.state_shapes()}
        initial = {k: np.asarray(v) for k, v in layer.initial(host_generator(0, 0)).items()}
        if set(initial) != set(wanted):
            yield f"initial() gives {sorted(initial)}, but parameter_shapes() and state_shapes() name {sorted(wanted)}"
            return
        for name, array in initial.items():
            if array.shape != tuple(wanted[name]):
                yield f"initial {name} has shape {array.shape}, expected {tuple(wanted[name])}"
            elif not np.isfinite(array).all():
                yield f"initial {name} has values that are not finite"

    def gradients(self, n: int, training: bool) -> Iterator[str]:
        nets = [(self.net(), self.x, self.y)]
        if self.alone:
            rng = host_generator(0, 12)
            x, y = rng.standard_normal((ROWS, self.width)), rng.standard_normal((ROWS, self.out))
            nets.append((Network([self.make()], device="cpu", dtype="float64"), x, y))
        for net, x, y in nets:
            report = gradcheck(net, x[:n], y[:n], training=training)
            if not report:
                yield str(report)

    def rows_apart(self) -> Iterator[str]:
        layer = self.make()
        for training in (True, False):
            if training and (layer.mixes_rows or layer.random):
                continue
            # A new network each time: a pass in training may change its state.
            whole, *halves = (
                self.net().forward(x, training=training) for x in (self.x, self.x[: ROWS // 2], self.x[ROWS // 2 :])
            )
            if not np.allclose(np.concatenate(halves), whole, rtol=1e-12, atol=1e-12):
                yield (
                    "a row's output in training depends on the other rows: set mixes_rows = True"
                    if training
                    else "a row's output in inference depends on the other rows"
                )

    def accumulation(self, device: str) -> Iterator[str]:
        net = self.net(device, capture=False)
        _, once = net.loss_and_gradients(self.x, self.y, training=True)
        net.layers[1].gradients(net.backend, net.engine.training.batch(ROWS).tensors[1], 1.0)
        twice = net.engine.parameters.to_host(net.engine.parameters.G)
        for name, gradient in once.items():
            if name.startswith("1.") and not np.allclose(twice[name], 2 * gradient, rtol=1e-12, atol=1e-14):
                yield f"gradients(beta=1) did not add to what was there: {name}"

    def left_alone(self, device: str) -> Iterator[str]:
        net = self.net(device, capture=False)
        be, layer = net.backend, net.layers[1]
        found: list[str] = []

        def watched(method: str, kept: Callable[..., dict[str, Any]]) -> None:
            original = getattr(layer, method)

            def wrapper(backend: Backend, v: Tensors, *rest: object) -> None:
                held = {k: be.to_host(a) for k, a in kept(v).items()}
                original(backend, v, *rest)
                found.extend(
                    f"{method}() changed {k}" for k, a in kept(v).items() if not np.array_equal(held[k], be.to_host(a))
                )

            setattr(layer, method, wrapper)

        watched("forward", lambda v: {"x": v.x, **layer.parameters})
        watched("gradients", lambda v: {"x": v.x, "delta": v.delta, **layer.parameters})
        # Where delta is handed on, the layer below makes it its own.
        watched(
            "propagate", lambda v: {"x": v.x, **({} if layer.passes_delta else {"delta": v.delta}), **layer.parameters}
        )
        x, y = self.x.copy(), self.y.copy()
        net.input_gradient(x, y, training=True)
        yield from found
        if not (np.array_equal(x, self.x) and np.array_equal(y, self.y)):
            yield "the caller's x or y was changed"

    def ragged(self, device: str) -> Iterator[str]:
        used = self.net(device)
        used.loss_and_gradients(self.x, self.y, training=True)
        for n in (4, self.fewest, ROWS):
            yield from self._same(
                used, self.net(device), self.x[:n], self.x[:n], self.y[:n], f"{n} rows in used buffers"
            )

    def not_contiguous(self, device: str) -> Iterator[str]:
        wide = np.zeros((2 * ROWS, 10))
        wide[::2, ::2] = self.x
        net = self.net(device)
        for x, what in ((wide[::2, ::2], "a strided x"), (np.asfortranarray(self.x), "an x in Fortran order")):
            yield from self._same(net, self.net(device), x, self.x, self.y, what)

    def _same(self, a: Network, b: Network, xa: np.ndarray, xb: np.ndarray, y: np.ndarray, what: str) -> Iterator[str]:
        (one, gradients_a), (two, gradients_b) = (
            net.loss_and_gradients(x, y, training=True) for net, x in ((a, xa), (b, xb))
        )
        different = [k for k, g in gradients_a.items() if not np.array_equal(g, gradients_b[k])]
        if one != two or different:
            yield f"{what}: the loss is {one!r} instead of {two!r}; gradients that differ: {', '.join(different) or 'none'}"

    def recorded(self, device: str) -> Iterator[str]:
        a, b = self.net(device), self.net(device, capture=False)
        for net in (a, b):
            optimizer = SGD(0.01, momentum=0.9)
            for rows in (ROWS, ROWS, 4, ROWS):
                net.train_step(self.x[:rows], self.y[:rows], optimizer)
        others = b.get_weights()
        for name, weight in a.get_weights().items():
            # A captured graph on a GPU may fuse what single calls do not.
            tolerance = 1e-12 if device == "cuda" else 0.0
            if not np.allclose(weight, others[name], rtol=tolerance, atol=tolerance):
                yield f"after 4 steps, recorded and not, {name} differs; is a value looked at while recording?"

    def steady(self, allow_allocations: bool) -> Iterator[str]:
        be = get_backend("strict")
        assert isinstance(be, StrictBackend)
        net, optimizer = self.net(be, "float32"), SGD(0.01)
        for _ in range(2):
            net.train_step(self.x, self.y, optimizer)
        before = be.counts()
        net.train_step(self.x, self.y, optimizer)
        used = be.counts() - before
        if used.waits:
            yield f"a steady step waits {used.waits} times for the device"
        if used.transfers > 2:
            yield f"a steady step makes {used.transfers - 2} transfers besides its batch"
        if used.allocations and not allow_allocations:
            yield (
                f"a steady step allocates {used.allocations} arrays: write with out= into arrays from buffers() or "
                "be.scratch(), or accept it with allow_allocations=True"
            )

    def parity(self, device: str, dtype: str) -> Iterator[str]:
        report = check_parity(self.net(dtype=dtype), self.x, self.y, ("cpu", device), 5)
        if not report:
            yield str(report)
