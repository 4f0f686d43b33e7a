"""Do two devices, or two precisions, compute the same? Two copies of a network take the same training steps side by side,
and every tensor of the one is held to that of the other in the order in which a step computes them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.checks import Data, positive, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import kinks_of
from gpubackprop.layers.stack import with_tensors
from gpubackprop.layout import aligned, html
from gpubackprop.network.network import Network
from gpubackprop.network.twin import twin
from gpubackprop.optimizers import SGD, Optimizer, get_optimizer
from gpubackprop.precision import DTYPES, PRECISIONS
from gpubackprop.random import host_generator

Device: TypeAlias = "str | Backend | tuple[str | Backend, str]"
"""A device, or a device with a dtype ("float64") or a precision ("tf32")."""

TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "fp16": 2e-2}
"""Largest relative error of a tensor, ||a - b|| / ||a||, by dtype or, where it is coarser, by precision."""

FOLLOWED = 10
"""Steps that are followed tensor by tensor; after them two runs may drift apart, and only their losses are compared."""
LATER = 1e3
"""Times the tolerance that the losses may be apart after those steps."""

_UNIT = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}
_CONDITION = 8
"""How many times what rounding of the weights and of x moves a tensor may it be off by, where that is more."""

KINDS = ("forward", "delta", "gradient", "update")


class Key(NamedTuple):
    """One tensor of a step. layer: its index, or None for the loss; kind: "forward", "loss", "delta", "gradient" or
    "update"; name: "output", "delta", or the parameter's."""

    layer: int | None
    kind: str
    name: str


_LOSS = Key(None, "loss", "loss")


@dataclass(frozen=True)
class Difference:
    """How far one tensor is off at one step: ||a - b||, with what is allowed, and the entry that is off most."""

    step: int
    layer: int | None
    kind: str
    name: str
    relative_error: float
    allowed: float
    index: tuple[int, ...]
    values: tuple[float, float]

    @property
    def beyond(self) -> bool:
        """Whether the relative error is more than is allowed; NaN is."""
        return not self.relative_error <= self.allowed


@dataclass
class ParityReport:
    """The result of `check_parity`: true in a condition where nothing is beyond the tolerance, and everything was compared; print
    it for the table.

    first: the first tensor beyond it, in order of computation, or None. worst: the largest relative error of each
    (layer, kind). unchecked: each (layer, kind) that was compared at no step. losses: both losses of each step. kinks: elements
    that the two devices rounded to different sides of a kink.
    """

    devices: tuple[str, str]
    tolerance: float
    layers: list[str]
    tf32: list[str]
    steps: int = 0
    kinks: int = 0
    first: Difference | None = None
    worst: dict[tuple[int | None, str], Difference] = field(default_factory=dict)
    unchecked: list[tuple[int | None, str]] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)

    def add(self, step: int, key: Key, a: np.ndarray, b: np.ndarray, allowed: float) -> None:
        """Take note of one comparison; `allowed` is an absolute norm."""
        size, off = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
        unit = size if size > 0 else 1.0
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(a - b))), a.shape)) if a.ndim else ()
        values = (float(a[index]), float(b[index]))
        found = Difference(step, *key, off / unit, allowed / unit, index, values)
        held = self.worst.get((key.layer, key.kind))
        if held is None or not found.relative_error <= held.relative_error:
            self.worst[key.layer, key.kind] = found
        if self.first is None and found.beyond:
            self.first = found

    @property
    def passed(self) -> bool:
        """Whether no tensor was beyond its tolerance, and each was compared."""
        return self.first is None and not self.unchecked

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return "\n".join([*self._lines(), *(f"  {line}" for line in aligned(self._table(), "<>"))])

    def _repr_html_(self) -> str:
        return html(self._lines(), self._table())

    def plain(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        found = {
            k: getattr(self, k) for k in ("passed", "devices", "tolerance", "steps", "losses", "kinks", "unchecked")
        }
        first = self.first and asdict(self.first)
        return {**found, "first": first, "worst": [asdict(d) for d in self.worst.values()]}

    def _lines(self) -> list[str]:
        one, two = self.devices
        many = "1 step" if self.steps == 1 else f"{self.steps} steps"
        lines = [
            f"parity {'passed' if self.passed else 'FAILED'}: {one} and {two}, {many}, tolerance {self.tolerance:g}; "
            f"last losses {self.losses[-1][0]:.9g} and {self.losses[-1][1]:.9g}"
        ]
        if self.first is not None:
            lines.append(f"  first: {self.describe(self.first)}")
        if self.kinks:
            lines.append(
                f"  {self.kinks:,} pre-activations were rounded to different sides of 0; backward, their rows are left out"
            )
        if self.first is None and self.unchecked:
            what = ", ".join(f"{kind} of layer {layer}" for layer, kind in self.unchecked)
            lines.append(f"  never compared, since every row has such a pre-activation: {what}")
        lines.append(f"  TF32: {'; '.join(self.tf32)}")
        return lines

    def describe(self, d: Difference) -> str:
        """One difference in words."""
        where = "the loss" if d.layer is None else f"layer {d.layer} ({self.layers[d.layer]}), {d.kind}"
        what = "" if d.name in ("loss", d.kind) else f" {d.name}"
        place = str(list(d.index)) if d.index else ""
        return (
            f"{where}{what}, step {d.step}: relative error {d.relative_error:.2e}, allowed {d.allowed:.2e}; "
            f"most at {place}: {d.values[0]:.9g} and {d.values[1]:.9g}".replace("most at :", "values")
        )

    def _table(self) -> list[tuple[str, ...]]:
        def cell(layer: int | None, kind: str) -> str:
            d = self.worst.get((layer, kind))
            return "" if d is None else f"{d.relative_error:.1e}{'!' if d.beyond else ' '}"

        rows: list[tuple[str, ...]] = [("worst", *KINDS)]
        rows.extend((f"{i} {name}", *(cell(i, kind) for kind in KINDS)) for i, name in enumerate(self.layers))
        rows.append(("loss", cell(None, "loss"), *("" for _ in KINDS[1:])))
        return rows


StepArrays: TypeAlias = dict[Key, np.ndarray]


def check_parity(
    net: Network,
    x: Data,
    y: Data,
    devices: Sequence[Device] = ("cpu", "cuda"),
    steps: int = 10,
    *,
    optimizer: str | Optimizer | None = None,
    tolerance: float | None = None,
) -> ParityReport:
    """Train two copies of `net` on the batch x (n, d), y for some steps and name the first tensor that differs.

    devices: two devices, each a name or a pair with a dtype or a precision: ("cpu", "cuda"), ("cpu", "strict"),
    (("cpu", "float64"), ("cpu", "float32")), ("cuda", ("cuda", "tf32")). The first is what the second is held to. Both start
    with the weights, the seed and the step counter of `net`, which stays as it is.
    optimizer: a name or an optimizer whose settings are taken; SGD(0.01, momentum=0.9) by default.
    tolerance: largest relative error of a tensor; one that is given is held to as it is. By default that of the coarser side
    in `TOLERANCES`, and a tensor that is ill-conditioned, such as a small difference of large numbers, may be further off: by
    8 times what one rounding of the weights and of x for each step so far moves it on either device.

    Held to each other are, in the order of computation: each layer's output (and running statistics), the loss, from the
    last layer to the first its delta and its gradients, and then the updates; from step 11 on the loss alone. Where a
    pre-activation of ReLU and its like (or a residual of mean_absolute_error) is so close to 0 that the two devices round it
    to different sides, it is counted in the report's `kinks`, the backward pass and the update of that step are those of the
    other rows, and the second copy goes on from the first one's state; so it does where a gradient is nothing but rounding. Where
    no other rows are left, what depends on such a pre-activation is left out; the report is false where that is so at every step.

    Raises ArgumentError for settings that cannot be, and DeviceError for a device that is not there.
    """
    if not isinstance(net, Network):
        raise ArgumentTypeError(f"net must be a Network; got {net!r}")
    if isinstance(devices, str) or not isinstance(devices, Sequence) or len(devices) != 2:
        raise ArgumentError(f'devices must be two, as in ("cpu", "cuda"); got {devices!r}')
    steps = whole_number("steps", steps)
    tolerance = None if tolerance is None else positive("tolerance", tolerance)
    rule = SGD(0.01, momentum=0.9) if optimizer is None else get_optimizer(optimizer)
    x, y = (net.backend.to_host(a) if net.backend.owns(a) else np.asarray(a) for a in (x, y))
    a, b = (_Side(net, device, rule) for device in devices)
    if a.label == b.label:
        b.label += " (second copy)"
    usual = max(TOLERANCES[a.grade], TOLERANCES[b.grade])
    report = ParityReport(
        (a.label, b.label), float(tolerance or usual), [repr(layer) for layer in net.layers], [a.tf32, b.tf32]
    )
    # Rounding of the coarser type is taken into account where the tolerance is that type's.
    unit = max(_UNIT[a.grade], _UNIT[b.grade]) if tolerance is None else 0.0
    _follow(report, a, b, x, y, int(steps), unit)
    return report


class _Side:
    """One of the two copies, with its optimizer."""

    def __init__(self, net: Network, device: Device, optimizer: Optimizer) -> None:
        where, grade = device if isinstance(device, tuple) else (device, net.dtype.name)
        if grade not in (*DTYPES, *PRECISIONS):
            raise ArgumentError(f"the second of {device!r} must be one of {', '.join((*DTYPES, *PRECISIONS))}")
        if grade in DTYPES:
            self.net = twin(net, where, dtype=grade)
        else:
            self.net = twin(net, where, dtype="float64" if grade == "fp64" else "float32", precision=grade)
        coarse = self.net.precision if self.net.precision != "native" else self.net.backend.precision
        self.grade = coarse if coarse in TOLERANCES else self.net.dtype.name
        self.label = f"{self.net.backend.name} {self.grade}"
        self.optimizer = _unbound(optimizer)

    @property
    def tf32(self) -> str:
        """Whether products are rounded to TF32 here."""
        if not self.net.backend.name.startswith("cuda"):
            return f"{self.label}: has none"
        forced = [f"{v}={os.environ[v]}" for v in ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE") if os.environ.get(v)]
        state = "on" if self.grade == "tf32" else "off"
        return f"{self.label}: {state}{', but the environment sets ' if forced else ''}{' and '.join(forced)}"

    def snapshot(self, x: np.ndarray, y: np.ndarray) -> tuple[StepArrays, list[np.ndarray]]:
        """All tensors of one forward and backward pass in order of computation, and for each layer with those inside it which
        side of their kinks f' was taken on, (n, any) (the residual's signs come last)."""
        net, be = self.net, self.net.backend
        loss, gradients = net.loss_and_gradients(x, y, training=True)
        batch = net.engine.training.batch(len(x))
        found: StepArrays = {}
        for i, v in enumerate(batch.tensors):
            found[Key(i, "forward", "output")] = be.to_host(v.a)
            for name in net.engine.state:
                if name.startswith(f"{i}."):
                    found[Key(i, "forward", name)] = be.to_host(net.engine.state[name])
        found[_LOSS] = np.asarray(loss)
        for i in range(len(net.layers) - 1, -1, -1):
            found[Key(i, "delta", "delta")] = be.delta_to_host(batch.tensors[i].delta)
            for name, gradient in gradients.items():
                if name.startswith(f"{i}."):
                    found[Key(i, "gradient", name)] = gradient
        kinked: list[list[np.ndarray]] = []
        for outer, tensors in zip(net.layers, batch.tensors, strict=True):
            every = with_tensors([outer], [tensors])
            kinked.append([be.to_host(v.a) - kink for layer, v in every for kink in kinks_of(layer)])
        loss_kinks = () if net.loss_function.smooth or y.ndim == 1 else net.loss_function.kinks
        kinked.append([be.to_host(batch.outputs) - y - kink for kink in loss_kinks])
        return found, [np.sign(np.hstack([np.zeros((len(x), 0)), *arrays])) for arrays in kinked]

    def moved(self, x: np.ndarray, y: np.ndarray, size: float, seed: int) -> StepArrays:
        """The tensors with all weights and x multiplied by 1 + up to `size`; the network is as it was afterwards."""
        rng, weights = host_generator(seed, 9), self.net.get_weights()

        def move(array: np.ndarray) -> np.ndarray:
            return array * (1 + size * rng.uniform(-1, 1, array.shape))

        state = self.net.engine.state
        self.net.engine.write({k: w if k in state else move(w) for k, w in weights.items()})
        found, _ = self.snapshot(move(np.asarray(x, np.float64)), y)
        self.net.engine.write(weights)
        return found

    def train_step(self, x: np.ndarray, y: np.ndarray) -> tuple[float, StepArrays]:
        """A training step: its loss, and what it added to each parameter."""
        net = self.net
        before = net.engine.parameters.to_host(net.engine.parameters.P)
        loss = float(net.backend.to_host(net.train_step(x, y, self.optimizer)))
        after = net.engine.parameters.to_host(net.engine.parameters.P)
        return loss, {Key(int(k.split(".")[0]), "update", k): after[k] - before[k] for k in after}

    def follow(self, other: _Side) -> None:
        """Go on from the other's weights and optimizer state."""
        self.net.engine.write(other.net.get_weights())
        for name, state in self.optimizer.state.items():
            self._copy(other, other.optimizer.state[name], state)

    def _copy(self, other: _Side, source: Array, target: Array) -> None:
        # By name: the flat buffers of two dtypes have other gaps between their arrays.
        values = other.net.engine.parameters.to_host(source)
        flat = np.zeros(target.shape, target.dtype)
        for segment in self.net.engine.parameters.segments:
            segment.of(flat)[...] = values[segment.name]
        self.net.backend.copy_in(flat, target)


def _follow(report: ParityReport, a: _Side, b: _Side, x: np.ndarray, y: np.ndarray, steps: int, unit: float) -> None:
    for step in range(1, steps + 1):
        report.steps = step
        if step > FOLLOWED:
            losses = [side.train_step(x, y)[0] for side in (a, b)]
            allowed = LATER * report.tolerance * abs(losses[0])
            report.add(step, _LOSS, np.asarray(losses[0]), np.asarray(losses[1]), allowed)
        else:
            losses = _tensor_by_tensor(report, a, b, x, y, step, unit)
        report.losses.append((losses[0], losses[1]))
        if report.first is not None:
            return


def _tensor_by_tensor(
    report: ParityReport, a: _Side, b: _Side, x: np.ndarray, y: np.ndarray, step: int, unit: float
) -> list[float]:
    """One step of both, every tensor compared; the two losses."""
    pairs, moved, flips = _both(a, b, x, y, unit * step, step)
    report.kinks += sum(int(np.sum(f)) for f in flips)
    losses = [float(tensors[_LOSS]) for tensors in pairs]
    weights, follow = a.net.get_weights(), any(f.any() for f in flips)

    def compare(key: Key) -> bool:
        size, condition = float(np.linalg.norm(pairs[0][key])), _CONDITION * max(m[key] for m in moved)
        allowed = report.tolerance * size + condition
        if key.kind == "update":
            allowed += 4 * unit * float(np.linalg.norm(weights[key.name]))
        report.add(step, key, pairs[0][key], pairs[1][key], allowed)
        return condition > 0.1 * size

    for key in pairs[0]:
        if key.kind in ("forward", "loss"):
            compare(key)
    # Backward, a row that took different sides of a kink would be held to another slope.
    rows, fewest = np.arange(len(x)), 1 if a.net.engine.mixes_rows is None else 2
    kept = rows[~np.hstack(flips).any(axis=1)]
    while fewest <= len(kept) < len(rows):
        rows = kept
        pairs, moved, flips = _both(a, b, x[rows], y[rows], unit * step, step)
        kept = rows[~np.hstack(flips).any(axis=1)]
    for side, tensors, m in zip((a, b), pairs, moved, strict=True):
        updates = side.train_step(x[rows], y[rows])[1]
        tensors.update(updates)
        m.update({key: _moved_update(tensors, m, key) for key in updates})
    # Where it could not be left out, what depends on the topmost such layer is.
    topmost = max((i for i, f in enumerate(flips) if f.any()), default=-1)
    for key in pairs[0]:
        if key.kind not in ("forward", "loss") and key.layer is not None and key.layer > topmost:
            # A gradient that is nothing but rounding, as of a bias under a batch normalisation, must not lead the two
            # copies apart through an optimizer that divides by its size.
            follow |= compare(key) and key.kind == "update"
    report.unchecked = [k for k in dict.fromkeys((key.layer, key.kind) for key in pairs[0]) if k not in report.worst]
    if follow:
        b.follow(a)
    return losses


def _both(
    a: _Side, b: _Side, x: np.ndarray, y: np.ndarray, size: float, seed: int
) -> tuple[list[StepArrays], list[dict[Key, float]], list[np.ndarray]]:
    """Of both sides: the tensors of a forward and backward pass, and how far rounding moves each; and for each layer and the
    loss, which elements lie on different sides of a kink, (n, any)."""
    (one, taken), (two, others) = (side.snapshot(x, y) for side in (a, b))
    moved = []
    for side, tensors in ((a, one), (b, two)):
        conditions = side.moved(x, y, size, seed)
        moved.append({key: float(np.linalg.norm(tensors[key] - conditions[key])) for key in tensors})
    return [one, two], moved, [s != t for s, t in zip(taken, others, strict=True)]


def _moved_update(tensors: StepArrays, moved: dict[Key, float], key: Key) -> float:
    """How far rounding moves an update: by the same share as its gradient."""
    gradient = Key(key.layer, "gradient", key.name)
    size = float(np.linalg.norm(tensors[gradient]))
    share = moved[gradient] / size if size else 0.0
    return share * float(np.linalg.norm(tensors[key]))


def _unbound(optimizer: Optimizer) -> Optimizer:
    """An optimizer with the same settings that has not trained anything yet."""
    other = copy.copy(optimizer)
    other.go_back_to(0)
    other._saved = None
    if other._span is not None:
        # What a schedule was spread over begins anew.
        other._span = 0, other._span[1]
    return other
