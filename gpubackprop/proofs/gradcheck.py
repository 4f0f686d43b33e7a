"""Is the gradient that the network computes the derivative of the loss that it reports?

A derivative along a direction u (a single entry, or a random direction through a whole array) is measured from values of
the loss alone and held to the inner product of u with the gradient from backpropagation:

    central        (C(p + eps u) - C(p - eps u)) / (2 eps)      error of order eps^2
    complex step   Im C(p + i h u) / h                          no subtraction, hence no rounding (Squire and Trapp, 1998)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.checks import Data, check_x, check_y, not_negative, positive, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import LAYERS, kinks_of
from gpubackprop.layers.stack import walk, with_tensors
from gpubackprop.layout import aligned, html
from gpubackprop.losses import LOSSES
from gpubackprop.network.network import Network
from gpubackprop.network.twin import twin
from gpubackprop.optimizers import SGD
from gpubackprop.random import host_generator

EPS, H = 1e-5, 1e-30
ATTEMPTS = 6
"""Points that a derivative is tried at before it counts as not checked: the given one, and others close to it."""
SHOWN = 8
"""Derivatives that a report names."""
_ROUNDING = 16 * np.finfo(np.float64).eps
_LOST = 1e-2
"""Share of an array's largest gradient that rounding may amount to, where the array is to count as checked."""


@dataclass(frozen=True)
class Derivative:
    """One derivative both ways. name: "0.weight" or "x"; index: of the entry, or None for a random direction."""

    name: str
    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    tolerance: float

    @property
    def error(self) -> float:
        """|analytic - numeric|."""
        return abs(self.analytic - self.numeric)

    @property
    def right(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class GradcheckReport:
    """The result of `gradcheck`: true in a condition where everything is right; print it to see what was checked.

    compared: every derivative that was held to the gradient. unchecked: those that stayed at a kink at every point
    that was tried. resampled: how many were at a kink at the given point, and were checked at another one close by.
    problems: what else is wrong, a sentence each.
    """

    method: str
    eps: float
    training: bool
    compared: list[Derivative] = field(repr=False)
    unchecked: list[Derivative]
    resampled: int
    problems: list[str]

    @cached_property
    def worst(self) -> list[Derivative]:
        """All derivatives, the one that is furthest beyond its tolerance first."""
        return sorted(self.compared, key=lambda d: d.error / d.tolerance if d.error == d.error else -1.0, reverse=True)

    @property
    def failures(self) -> list[Derivative]:
        """The derivatives that are wrong, worst first."""
        return [d for d in self.worst if not d.right]

    @property
    def max_error(self) -> float:
        """The largest |analytic - numeric|."""
        return max((d.error for d in self.compared), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether all is right, and all of it was checked."""
        return not self.problems and not self.unchecked and bool(self.compared) and all(d.right for d in self.compared)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *_indented((self.failures or self.worst)[:SHOWN])])

    def _repr_html_(self) -> str:
        return html(self._lines(), _table((self.failures or self.worst)[:SHOWN]))

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        counts = {"compared": len(self.compared), "unchecked": len(self.unchecked), "resampled": self.resampled}
        failures = [asdict(d) | {"error": d.error} for d in self.failures]
        return {
            "passed": self.passed,
            "max_error": self.max_error,
            **counts,
            "failures": failures,
            "problems": self.problems,
        }

    def _lines(self) -> list[str]:
        how = "central differences" if self.method == "central" else "complex step"
        kind = "entries" if all(d.index is not None for d in self.compared) else "entries and random directions"
        mode = "training" if self.training else "inference"
        lines = [
            f"gradcheck {'passed' if self.passed else 'FAILED'}: {len(self.compared):,} {kind}, {how} (eps {self.eps:g}), "
            f"{mode} mode; {len(self.failures):,} wrong, largest error {self.max_error:.2e}"
        ]
        lines.extend(f"  {problem}" for problem in self.problems)
        if self.resampled:
            lines.append(f"  {self.resampled:,} at a kink: checked at another point close by")
        if self.unchecked:
            lines.append(f"  {len(self.unchecked):,} not checked: at a kink at every point that was tried, first")
            lines.extend(_indented(self.unchecked[:SHOWN]))
        return lines


def _indented(entries: list[Derivative]) -> list[str]:
    return [f"  {line}" for line in aligned(_table(entries), "<<>")]


def _table(entries: list[Derivative]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("array", "index", "analytic", "numeric", "error", "allowed")]
    for d in entries:
        place = "direction" if d.index is None else str(list(d.index))
        numbers = (f"{d.analytic:.7e}", f"{d.numeric:.7e}", f"{d.error:.2e}", f"{d.tolerance:.2e}")
        rows.append((d.name, place, *numbers))
    return rows


def gradcheck(
    net: Network,
    x: Data,
    y: Data,
    *,
    method: str = "central",
    eps: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    training: bool = True,
    directions: int = 5,
    max_entries: int = 10_000,
    seed: int = 0,
) -> GradcheckReport:
    """Check dC/dW, dC/db and dC/dx of a float64 network on one batch; the report is true where all of it is right.

    x (n, d) and y as for `Network.loss`; `net` is left as it was, to the bit. Checked are:

    * the gradient of every entry of every parameter and of x, or, for arrays that make up more than `max_entries`
      numbers, along at least 5 random `directions` through each array, drawn from `seed`;
    * that `loss`, `loss_and_gradients` and `train_step` report the same loss, and that a step descends along this gradient;
    * that the backward pass gives the same bits when it is done again, and leaves x and y alone.

    method: "central" differences with `eps` (1e-5 by default), right where |analytic - numeric| <= atol + rtol |analytic|,
    plus what rounding of the loss itself amounts to, and not checked where that is 1% of an array's largest entry; or "complex"
    for a complex step (eps 1e-30 by default), right to 1e-12 of an array's largest entry: for layers, activations and losses
    of this library, and for others that set `complex_step = True`.
    training: with dropout (one and the same mask, as the step counter is held still) and batch statistics, or as in
    prediction.

    A finite difference across a kink measures neither slope. Where a pre-activation of ReLU, leaky ReLU, ELU or SELU, a
    residual of mean_absolute_error or a weight under an L1 penalty changes sign inside +-eps, or the two one-sided
    differences disagree, the derivative is checked again at another point close by; one that finds no smooth
    point in 5 tries is reported as not checked, and the report is false.

    Raises ArgumentError for a network that is not float64, for settings out of range, and for an x or y that the network
    does not take.
    """
    if not isinstance(net, Network):
        raise ArgumentTypeError(f"net must be a Network; got {net!r}")
    if net.dtype.name != "float64":
        raise ArgumentError(
            f"gradcheck needs a float64 network; this one is {net.dtype.name}. A loss rounded to 7 digits and divided by "
            f'eps = {EPS:g} leaves no digit of the derivative: build it with dtype="float64" (gradients of the '
            "float32 network can be held to it with check_parity)"
        )
    if method not in ("central", "complex"):
        raise ArgumentError(f'method must be "central" or "complex"; got {method!r}')
    eps = (EPS if method == "central" else H) if eps is None else positive("eps", eps)
    rtol, atol = not_negative("rtol", rtol), not_negative("atol", atol)
    directions = whole_number("directions", directions, least=5)
    max_entries = whole_number("max_entries", max_entries, least=0)
    if method == "complex":
        _refuse_complex(net)
    kind = _ComplexStep if method == "complex" else _Central
    host = [net.backend.to_host(a) if net.backend.owns(a) else np.asarray(a) for a in (x, y)]
    weights, step = net.get_weights(), net.engine.count()
    try:
        check = kind(net, host[0], host[1], eps, rtol, atol, training)
        problems = [*_consistency(check), *(_training_step(check) if training else ()), *_lost(check)]
        probes = list(_probes(check, directions, max_entries, host_generator(seed, 7)))
        compared, unchecked, resampled = _compare(check, probes, host_generator(seed, 8))
    finally:
        net.engine.write(weights)
        net.engine.set_count(step)
    return GradcheckReport(method, eps, training, compared, unchecked, resampled, problems)


@dataclass
class _Point:
    """Where derivatives are taken: all parameters (flat), x, and there the loss and every gradient."""

    P: np.ndarray
    x: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Probe:
    """One derivative to measure: an entry of an array, or (index None) a direction through it."""

    name: str
    index: tuple[int, ...] | None
    u: Any


class _Central:
    """Derivatives from central differences of `net.loss`."""

    def __init__(
        self, net: Network, x: np.ndarray, y: np.ndarray, eps: float, rtol: float, atol: float, training: bool
    ) -> None:
        self.net, self.y, self.training = net, y, training
        self.eps, self.rtol, self.atol = eps, rtol, atol
        self.segments = {s.name: s for s in net.engine.parameters.segments}
        P = net.backend.to_host(net.engine.parameters.P)
        # Converted here as the network would: an integer x could not be moved by eps.
        self.point = self.at(P, np.array(x, np.float64))

    def at(self, P: np.ndarray, x: np.ndarray) -> _Point:
        """The loss and the gradients at a point."""
        net = self.net
        net.backend.copy_in(P, net.engine.parameters.P)
        loss, gradients = net.loss_and_gradients(x, self.y, training=self.training)
        return _Point(P, x, loss, {**gradients, "x": net.input_gradient(x, self.y, training=self.training)})

    def numeric(self, point: _Point, probe: _Probe) -> tuple[float, float, bool]:
        """The derivative of the loss, how far rounding and one-sided differences leave it open, and whether a kink was seen."""
        signs, losses = [], []
        for side in (self.eps, -self.eps):
            P, x = self.moved(point, probe, side)
            self.net.backend.copy_in(P, self.net.engine.parameters.P)
            losses.append(self.net.loss(x, self.y, training=self.training))
            signs.append([np.sign(a) for a in self.kinked(self.net, P, len(x))])
        above, below = losses
        one_sided = abs(above + below - 2 * point.loss) / self.eps
        kink = any(not np.array_equal(a, b) for a, b in zip(*signs, strict=True))
        return float(above - below) / (2 * self.eps), one_sided, kink

    def moved(self, point: _Point, probe: _Probe, step: float | complex) -> tuple[np.ndarray, np.ndarray]:
        """(P, x) a step along the probe away from the point."""
        kind = np.result_type(np.float64, type(step))
        P, x = point.P.astype(kind), point.x.astype(kind)
        array = x if probe.name == "x" else self.segments[probe.name].of(P)
        if probe.index is None:
            array += step * probe.u
        else:
            array[probe.index] += step
        return P, x

    def kinked(self, net: Network, P: np.ndarray, n: int) -> list[np.ndarray]:
        """Everything that f, the loss or the penalty has a kink at 0 of, for the batch whose loss was computed last."""
        batch, be = net.engine.training.batch(n), net.backend
        pairs = with_tensors(net.layers, batch.tensors)
        arrays = [be.to_host(v.a) - kink for layer, v in pairs for kink in kinks_of(layer)]
        if not net.loss_function.smooth and self.y.ndim == 2:
            residual = be.to_host(batch.outputs) - self.y
            arrays.extend(residual - kink for kink in net.loss_function.kinks)
        if net.l1:
            arrays.extend(s.of(P) for s in self.segments.values() if len(s.shape) > 1)
        return arrays

    def tolerance(self, point: _Point, probe: _Probe, analytic: float) -> float:
        """How far the two derivatives may be apart."""
        return self.atol + self.rtol * abs(analytic) + self.rounding(point)

    def rounding(self, point: _Point) -> float:
        """What rounding of the loss may amount to in a derivative."""
        return _ROUNDING * abs(point.loss) / self.eps


class _ComplexStep(_Central):
    """Derivatives from a complex step of the same network in complex128 on the CPU."""

    def __init__(
        self, net: Network, x: np.ndarray, y: np.ndarray, eps: float, rtol: float, atol: float, training: bool
    ) -> None:
        super().__init__(net, x, y, eps, rtol, atol, training)
        self.complex = twin(net, "cpu", dtype=np.complex128)
        other, be = self.complex, self.complex.backend
        kept = check_y(y, len(x), other.widths[-1], other.dtype, other.loss_function, be)
        self.batch = other.engine.load(check_x(x, other.widths[0], other.dtype, be), kept)

    def numeric(self, point: _Point, probe: _Probe) -> tuple[float, float, bool]:
        net = self.complex
        P, x = self.moved(point, probe, 1j * self.eps)
        # Not in one copy: the wider type leaves other gaps between the arrays.
        net.engine.parameters.write({name: segment.of(P) for name, segment in self.segments.items()})
        net.backend.copy_in(x, self.batch.x)
        net.engine.run(self.batch, "loss", training=self.training)
        kink = any(_at_zero(a) for a in self.kinked(net, P, len(x)))
        return float(net.engine.value.imag) / self.eps, 0.0, kink

    def tolerance(self, point: _Point, probe: _Probe, analytic: float) -> float:
        return 1e-12 * max(_sizes(point)[probe.name], np.finfo(np.float64).tiny)

    def rounding(self, point: _Point) -> float:
        return 0.0


def _sizes(point: _Point) -> dict[str, float]:
    """The largest entry of each array's gradient; one that is all but zero, such as of a bias under a batch normalisation, is
    held to the others."""
    largest = {name: float(np.abs(g).max(initial=0.0)) for name, g in point.gradients.items()}
    return {name: max(size, 1e-2 * max(largest.values())) for name, size in largest.items()}


def _at_zero(a: np.ndarray) -> bool:
    """Whether something moves that is 0, up to rounding: there the step itself, or rounding, chooses the side of a kink."""
    return bool(((abs(a.real) <= 1e-12 * abs(a.real).max(initial=0.0)) & (a.imag != 0)).any())


def _refuse_complex(net: Network) -> None:
    known = {*LAYERS.values(), *ACTIVATIONS.values(), *LOSSES.values()}
    layers = [layer for _, layer in walk(net.layers)]
    for part in (*layers, *(layer.activation for layer in layers), net.loss_function):
        if not getattr(part, "complex_step", type(part) in known):
            raise ArgumentError(
                f'method="complex" runs the network on complex numbers, and {part!r} does not say that it can: set '
                'complex_step = True on it if it neither uses abs, real parts nor conjugates; method="central" checks it as it is'
            )


def _consistency(check: _Central) -> Iterator[str]:
    """Violations of what needs no tolerance: one loss from every method, the same bits twice, inputs left alone."""
    net, point = check.net, check.point
    x, y = point.x.copy(), check.y.copy()
    loss = net.loss(point.x, check.y, training=check.training)
    if not np.isclose(loss, point.loss, rtol=1e-12, atol=1e-300):
        yield f"loss() reports {loss!r}, but loss_and_gradients() differentiates {point.loss!r}"
    again = check.at(point.P, point.x)
    for name, gradient in point.gradients.items():
        different = int(np.sum(gradient.view(np.uint64) != again.gradients[name].view(np.uint64)))
        if different:
            yield f"gradient of {name}: {different} of {gradient.size} entries have other bits the second time"
    if not (np.array_equal(x, point.x) and np.array_equal(y, check.y)):
        yield "the batch was modified by the network"


def _training_step(check: _Central) -> Iterator[str]:
    """A step of plain gradient descent must report the same loss and go the way of this gradient."""
    point, net = check.point, twin(check.net)
    loss = float(net.backend.to_host(net.train_step(point.x, check.y, SGD(1.0))))
    if not np.isclose(loss, point.loss, rtol=1e-12, atol=1e-300):
        yield f"train_step() reports the loss {loss!r}, but loss_and_gradients() reports {point.loss!r}"
    after = net.engine.parameters.to_host(net.engine.parameters.P)
    for name, segment in check.segments.items():
        before, gradient = segment.of(point.P), point.gradients[name]
        if name in net.engine.parameters.frozen:
            gradient = np.zeros_like(gradient)
        off = np.abs(before - after[name] - gradient).max(initial=0.0)
        allowed = 1e-12 * np.abs(gradient).max(initial=0.0) + 2 * np.finfo(np.float64).eps * (
            np.abs(before).max(initial=0.0) + np.abs(gradient).max(initial=0.0)
        )
        if not off <= allowed:
            yield f"train_step() moves {name} by something else than its gradient: off by up to {off:.3g}"


def _lost(check: _Central) -> Iterator[str]:
    """Arrays whose gradients would be right within rounding whatever they were."""
    rounding = check.rounding(check.point)
    for name, size in _sizes(check.point).items():
        if rounding > _LOST * size + check.atol:
            yield (
                f"gradient of {name}: not checked, since rounding of the loss {check.point.loss:.3g} divided by eps may be "
                f'{rounding:.1e} and its largest entries are {size:.1e}; take another eps, targets of size 1, or method="complex"'
            )


def _probes(check: _Central, directions: int, max_entries: int, rng: np.random.Generator) -> Iterator[_Probe]:
    total = sum(g.size for name, g in check.point.gradients.items() if name != "x")
    for name, gradient in check.point.gradients.items():
        if (gradient.size if name == "x" else total) <= max_entries:
            yield from (_Probe(name, index, None) for index in np.ndindex(gradient.shape))
        else:
            for _ in range(directions):
                u = rng.standard_normal(gradient.shape)
                yield _Probe(name, None, u / np.linalg.norm(u))


def _compare(
    check: _Central, probes: list[_Probe], rng: np.random.Generator
) -> tuple[list[Derivative], list[Derivative], int]:
    """Hold every probe's derivative to the gradient: (compared, without a smooth point, how many were at a kink at first)."""
    point, compared, unchecked = check.point, [], []
    pending: list[tuple[_Probe, Derivative | None]] = [(probe, None) for probe in probes]
    resampled = 0
    for attempt in range(ATTEMPTS):
        again: list[tuple[_Probe, Derivative | None]] = []
        last = attempt == ATTEMPTS - 1
        for probe, before in pending:
            gradient = point.gradients[probe.name]
            analytic = float(gradient[probe.index] if probe.index is not None else np.vdot(gradient, probe.u))
            numeric, one_sided, kink = check.numeric(point, probe)
            tolerance = check.tolerance(point, probe, analytic)
            found = Derivative(probe.name, probe.index, analytic, numeric, tolerance)
            # Across a kink one-sided differences are further apart than the error, unless several cancel; where the loss is
            # smooth they agree to order eps. What is wrong at other points as well is wrong, and said as it was found first.
            suspect = not found.right and one_sided >= 0.01 * found.error
            if last and kink:
                unchecked.append(found)
            elif last or not (kink or suspect):
                compared.append((before or found) if suspect else found)
            else:
                again.append((probe, before or (None if kink else found)))
        resampled = len(again) if attempt == 0 else resampled
        pending = again
        if not pending:
            break
        point = check.at(_nearby(check.point.P, rng), _nearby(check.point.x, rng))
    return compared, unchecked, resampled


def _nearby(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    spread = 0.01 * (float(np.sqrt(np.mean(array**2))) + 0.1)
    return array + spread * rng.standard_normal(array.shape)
