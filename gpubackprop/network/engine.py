"""The engine: the one owner of everything of a network that lives on a device.

It holds the backend, the flat parameters and gradients, the layers' state, the static buffers, the recorded programs, the
step counter and the sums of an epoch. A training step is started here and nowhere else, and here alone it is decided what
happens when the device has no memory, when a batch goes through in parts, and when a device runs many steps by itself.

    with engine:                                      # other threads wait
        batch = engine.load(x, y)                     # rows into the static buffers
        engine.run(batch, "gradients")                # forward, loss, backward: now in the buffers
    engine.train(source, 0, 100, optimizer, size=32)  # 100 steps of 32 rows
    loss, norm = engine.read()                        # sums since the last read; waits for the device
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.backend.base import Array, Backend, Program, RowSource
from gpubackprop.distributed.communicator import Communicator
from gpubackprop.errors import ArgumentError, DeviceError
from gpubackprop.layers import LAYERS, Layer
from gpubackprop.layers.stack import named, of_layer, walk
from gpubackprop.losses import LOSSES, Loss
from gpubackprop.network.last_step import LastStep
from gpubackprop.network.parameters import Parameters
from gpubackprop.network.rows import Rows
from gpubackprop.network.steps import Steps
from gpubackprop.network.workspace import Batch, Losses, Workspace
from gpubackprop.optimizers import Optimizer
from gpubackprop.random import host_generator

BUCKETS, IN_BUCKETS_FROM = 4, 16 << 20
"""GPUs add up gradients of so many bytes or more in about so many buckets, each beside the backward pass of the layers below: not
yet measured."""
PROGRAMS = 256
"""Recorded steps that a batch size keeps: more than the parts of one batch, which are recorded one by one under dropout."""
PROGRAM_BYTES, CALL_BYTES = 32 << 20, 1200
"""Bytes that these programs may take together, and bytes of one recorded call, as measured on programs of dropout networks."""


@dataclass(frozen=True)
class _Asked:
    """What `Engine.train` was asked for."""

    source: RowSource
    optimizer: Optimizer
    size: int
    accumulate: bool
    skip: bool


class Engine:
    """Everything that `layers` and `loss` need on one device, with `arrays` (by full name) as parameters and state.

    widths: before, between and behind the layers. seed: of the layers' random numbers. l1, l2: penalties. capture: record
    steps. compiled: let the CPU run them as machine code. step: training steps done. identity: whose parameters these are;
    the engine of the same network on another device has the same. The layers see the arrays after `attach()`.
    """

    def __init__(
        self,
        be: Backend,
        layers: Sequence[Layer],
        widths: Sequence[int],
        loss: Loss,
        dtype: np.dtype[Any],
        arrays: dict[str, np.ndarray],
        *,
        seed: int,
        l1: float,
        l2: float,
        capture: bool,
        compiled: bool,
        step: int,
        identity: object,
    ) -> None:
        self.backend = be
        self.layers = layers
        self.seed = seed
        self.capture = capture
        self.loops = be.loops and (compiled or be.is_gpu)
        """Whether the device is asked to run stretches of steps by itself."""
        self.mixes_rows = next((layer for layer in layers if layer.mixes_rows), None)
        """A layer whose output for a row depends on the other rows of a training batch."""
        shapes = named(layer.parameter_shapes() for layer in layers)
        with self:
            self.parameters = Parameters(be, shapes, dtype, owner=identity)
            self.state: dict[str, Array] = {
                name: be.zeros(shape, dtype) for name, shape in named(layer.state_shapes() for layer in layers).items()
            }
            self.step = be.zeros((), np.uint64)
            """Training steps done, on the device: what dropout's random numbers are counted by."""
            be.fill(self.step, step)
            self.steps = Steps(be, layers, loss, self.parameters, self.step, l1, l2)
            self._total_and_mass = be.zeros((2,), self.value.dtype)
            self._total, self._mass = (self._total_and_mass[i : i + 1].reshape(()) for i in range(2))
            self._losses = Losses(be, self.value)
            self.training = Workspace(be, layers, widths, loss, dtype, training=True)
            self.inference = Workspace(be, layers, widths, loss, dtype, training=False)
            self.write(arrays)
        self.ranks: Communicator | None = None
        """While a fit runs in several processes: the others. Each trains its own part of every batch."""
        self._together: dict[tuple[Any, ...], tuple[Batch, Program] | None] = {}
        """While a fit runs in several processes: how all of them do a kind of step as one program each; None: they cannot."""
        self._apart = ""
        """Why they could not, the last time."""
        self.rows_at_once: int | None = None
        """Rows for which the device had memory, once it did not have it for more."""
        self._every = list(walk(layers))
        self._trainable = [True] * len(self._every)
        self._last: LastStep | None = None
        self._skipped = 0
        self._to_check = capture and _foreign(layers, loss)

    def attach(self) -> None:
        """Hand each layer its views of the flat buffers, its state and its random stream. From then on no setting can change."""
        for _, layer in self._every:
            layer._in_use = False
        for i, layer in enumerate(self.layers):
            own = [of_layer(d, i) for d in (self.parameters.views, self.parameters.gradients, self.state)]
            layer.bind(own[0], own[1], own[2], layer.random_stream(self.seed, i, self.step))
        for part in _parts(self.layers, self.steps.loss_function):
            part._in_use = True

    _moved = False
    _busy = False

    def __enter__(self) -> Engine:
        """Have the network to oneself: other threads wait. Raises DeviceError where it was moved while this one waited."""
        self.backend.__enter__()
        if self._moved:
            self.backend.__exit__()
            raise DeviceError("another thread moved the network to another device while this call waited: call again")
        return self

    def __exit__(self, *error: object) -> None:
        self.backend.__exit__(*error)

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """While another engine takes over; nothing may be done here afterwards. Raises DeviceError while a fit is running."""
        with self:
            if self._busy:
                raise DeviceError(
                    "a fit is running on this network, with its data on the device: move it before or after"
                )
            yield
            self._moved = True

    @contextmanager
    def fit(self) -> Iterator[None]:
        """While this fit is running there is no other one, whose losses would be added to the same sums, and nobody moves the
        network. Raises ArgumentError where another one is running."""
        with self:
            if self._busy:
                raise ArgumentError(
                    "another fit of this network is running, in another thread or around this callback: begin this one after it"
                )
            self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._together.clear()

    def describe(self) -> str:
        """How the device runs the steps of this network, in words."""
        compiled = "; small ones are compiled by Numba" if self.loops and not self.backend.is_gpu else ""
        apart = f"; sums over the processes outside of the graphs ({self._apart})" if self._apart else ""
        return f"{self.backend.describe()}{compiled}{apart}"

    # -- arrays ---------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Array:
        """The loss of the last step, 0-d, on the device."""
        return self.steps.value

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Put host arrays, by full name, in the place of all parameters and state. They must not be views of these."""
        with self:
            for name, array in self.state.items():
                self.backend.copy_in(np.asarray(arrays[name], self.parameters.dtype), array)
            self.parameters.write({s.name: arrays[s.name] for s in self.parameters.segments})

    def weights(self) -> dict[str, np.ndarray]:
        """Host copies of all parameters and state, by full name."""
        with self:
            host = self.parameters.to_host(self.parameters.P)
            return {**host, **self._state_copies()}

    def gradients(self) -> dict[str, np.ndarray]:
        """Host copies of the gradients of the last "gradients" step, by full name."""
        with self:
            return self.parameters.to_host(self.parameters.G)

    def count(self) -> int:
        """Training steps done, so far as they are counted (where random numbers need it). Waits for the device."""
        with self:
            return int(self.backend.to_host(self.step))

    def set_count(self, step: int) -> None:
        """Go on as after `step` training steps."""
        with self:
            self.backend.fill(self.step, step)

    def shares_memory(self, array: Array) -> bool:
        """Whether an array overlaps the parameters, the gradients or the state, so that training would change it."""
        own = (self.parameters.P, self.parameters.G, *self.state.values())
        return any(self.backend.may_share_memory(array, a) for a in own)

    def read(self) -> tuple[float, float]:
        """(losses times rows, gradient norms) of the training steps since the last `reset`, added up. Waits for the device."""
        with self:
            losses, norms = self.backend.to_host(self.steps.sums)
        # A complex step carries its derivative in the imaginary part.
        return float(losses.real), float(norms.real)

    def look_at_weights(self, optimizer: Optimizer) -> None:
        """Make what `read` gives NaN where a parameter, or state, the optimizer's included, is not finite. Nothing waits."""
        be, losses = self.backend, self.steps.losses
        with self, np.errstate(invalid="ignore", over="ignore"):
            for array in (self.parameters.P, *self.state.values(), *optimizer.state.values()):
                be.total(array, 1.0, self._total)
                be.xp.multiply(self._total, 0.0, out=self._total)
                be.xp.add(losses, self._total, out=losses)

    def reset(self, losses: float = 0.0, norms: float = 0.0) -> None:
        """Begin the sums of `read` anew, or, in an epoch that goes on, from what `read` gave."""
        with self:
            self.backend.fill(self.steps.sums, 0.0)
            if losses or norms:
                self.backend.copy_in(np.array([losses, norms], self.steps.sums.dtype), self.steps.sums)

    def release(self) -> None:
        """Let go of everything that a step works on; the parameters stay. The next step makes it anew."""
        self._last = None
        self.training.release()
        self.inference.release()

    @property
    def nbytes(self) -> int:
        """Bytes of the static buffers."""
        return self.training.nbytes + self.inference.nbytes

    # -- single passes --------------------------------------------------------------------------------------------

    def load(self, x: Array, y: Array | None = None, weights: Array | None = None, *, training: bool = True) -> Batch:
        """Copy rows x (n, d), targets y, (n,) or (n, m), and weights of the rows, (n, 1), into the static buffers for n rows.

        training: the buffers with all that a backward pass needs; otherwise those of inference.
        """
        batch = (self.training if training else self.inference).batch(len(x))
        self.backend.copy_in(x, batch.x)
        if y is not None:
            batch.hold("labels" if y.ndim == 1 else "targets", weights is not None)
            self.backend.copy_in(y, batch.targets)
            if weights is not None:
                self.backend.copy_in(weights, batch.weights)
        return batch

    def run(self, batch: Batch, what: str, *, training: bool = False) -> None:
        """One pass without an update: "forward", "rest of forward" (from the second layer on), "loss", "gradients" or "input
        gradient". training: with dropout and batch statistics."""
        program = batch.programs.get((what, batch.form, training))
        if program is None:
            if training:
                self.check_rows(batch.n)
            self.check_recording(batch, training)
            program = self._program(batch, (what, batch.form, training), _on(batch, _pass, self.steps, what, training))
        kept = self._state_copies() if self.backend.scales_deltas and training and "gradient" in what else {}
        program()
        while self.backend.scales_deltas and "gradient" in what and self.backend.overflowed():
            for name, array in kept.items():
                self.backend.copy_in(array, self.state[name])
            program()

    def _state_copies(self) -> dict[str, np.ndarray]:
        return {name: self.backend.to_host(array) for name, array in self.state.items()}

    def largest_activations(self, n: int) -> list[float]:
        """max |a| of each layer, for the n rows of training that were loaded last. Waits for the device."""
        with self, np.errstate(over="ignore", invalid="ignore"):
            batch = self.training.batch(n)
            self.run(batch, "forward")
            return [float(np.abs(self.backend.to_host(v.a).astype(np.float64)).max()) for v in batch.tensors]

    def phases(self, batch: Batch, optimizer: Optimizer) -> dict[str, Program]:
        """The phases of a training step as programs of their own, to be timed: forward, loss, backward, update."""
        steps = self.steps
        lines: dict[str, Callable[[], None]] = {
            "forward": _on(batch, steps.forward, True),
            "loss": _on(batch, steps.loss, with_delta=True),
            "backward": _on(batch, steps.backward, True),
            "update": lambda: steps.update(optimizer),
        }
        return {name: self._program(batch, ("phase", name, batch.form), line) for name, line in lines.items()}

    def check_rows(self, n: int) -> None:
        """ArgumentError where a training batch of n rows has no statistics."""
        if n == 1 and self.mixes_rows is not None:
            raise ArgumentError(
                f"{self.mixes_rows!r} takes statistics over a batch, and this batch has one row: their variance is not "
                "defined. Take a batch_size that leaves no single row at the end, drop a row, or use LayerNorm"
            )

    # -- training -------------------------------------------------------------------------------------------------

    def train(
        self,
        source: RowSource,
        start: int,
        stop: int,
        optimizer: Optimizer,
        size: int,
        part: int | None = None,
        *,
        accumulate: bool = True,
        skip: bool = False,
    ) -> int:
        """Training steps number `start` to `stop` over the rows of a source, in batches of `size` rows (the last may be smaller).

        part: work through each batch in parts of so many rows, whose gradients add up to the batch's in less memory.
        accumulate: add each step's loss and gradient norm to what `read` gives. Where the device has no memory for the rows at
        hand, parts are halved, with a warning, until they fit, and stay so for the steps to come; random numbers and optimizer
        are as if the failed attempt had not been made. skip: look at each step's loss and gradient, which waits for the device,
        and leave out the update of one that is not finite. Returns the rows of the steps that were left out.

        Raises DeviceError where not even one row fits, or where a layer mixes rows, which parts would change.
        """
        with self:
            optimizer.bind(self.parameters)
            self._freeze()
            self._skipped, asked = 0, _Asked(source, optimizer, size, accumulate, skip)
            step, turns = start, 1 if self.loops else stop
            whole = part is None and not skip and self.steps.loss_function.counts_rows
            while step < stop:
                n = min(size, source.n - step * size)
                own = n if self.ranks is None else len(self.ranks.rows(n))
                rows = min(part or own, self.rows_at_once or own)
                if self.mixes_rows is not None:
                    self.check_rows(own if rows >= own else 1 if own % rows == 1 else rows)
                if (ranks := self.ranks) is not None and ranks.capturable and whole and n >= ranks.size:
                    done, reason = self._as_one(asked, ranks, step * size, n, rows)
                    step += done
                elif rows < n or skip or self.ranks is not None:
                    done, reason = self._in_parts(asked, step * size, n, rows)
                    step += done
                else:
                    until = min(stop, source.n // size) if n == size else step + 1
                    step, reason = self._stretch(asked, step, until, n, turns)
                    turns *= 2
                if reason:
                    # Out here the failed attempt's frames, and the arrays that they hold, are gone.
                    self._make_room(min(rows, own), reason)
            return self._skipped

    def step_on(
        self, x: Array, y: Array, optimizer: Optimizer, weights: Array | None = None, part: int | None = None
    ) -> Array:
        """One training step on rows x (n, d), targets y and weights, all checked; its loss in memory of its own, 0-d, on the
        device. The arguments are those of `train`; nothing waits.
        """
        with self:
            if self._busy:
                optimizer.put_off()
            source = Rows(self.backend, x, y, resident=False, weights=weights)
            self.train(source, 0, 1, optimizer, source.n, part, accumulate=False)
            if weights is None and part is None and self.rows_at_once is None:
                batch = self.training.batch(source.n)
                program = self.training_program(batch, optimizer, accumulate=False)
                one = self._one_step(program, batch, optimizer, by_hand=True)
                self._last = LastStep(batch, one, optimizer, x, y, self._trainable, self.steps.loss_function)
            return self._losses.next()

    def step_again(self, x: Any, y: Any, optimizer: Optimizer) -> Array | None:
        """`step_on` for rows of the form that the last ones had, which needs no more than a look at their values; None, and
        nothing done, where anything is not as it was then. x and y need not be checked."""
        last = self._last
        if last is None or not last.takes(x, y):
            return None
        with self:
            if not last.can_use(x, y, self.backend):
                return None
            batch = last.batch
            trainable = [layer.trainable for _, layer in self._every]
            if self.training.batch(batch.n) is not batch or not last.holds(optimizer, self.parameters, trainable):
                return None
            if self._busy:
                return None
            done = optimizer.t
            try:
                batch.hold(last.kind)
                self.backend.copy_in(x, batch.x)
                self.backend.copy_in(y, batch.targets)
                last.program()
            except self.backend.memory_errors:
                optimizer.go_back_to(done)
                return None
            return self._losses.next()

    def _one_step(self, program: Program, batch: Batch, optimizer: Optimizer, by_hand: bool) -> Program:
        """`optimizer.prepare()` and the program of a step on what the batch's buffers hold; of a step by hand, as machine code
        where the processor does that for stretches of steps."""
        run = None
        if by_hand and self.loops and not self.backend.is_gpu and batch.weights is None and not optimizer.is_split:
            rows = Rows(self.backend, batch.x, batch.targets, resident=False)
            rows.order(np.arange(batch.n))
            run = self.backend.loop(program, rows, batch, optimizer, 1)

        def step() -> None:
            if run is not None:
                run(0)
            else:
                optimizer.prepare()
                program()

        return step

    def _freeze(self) -> None:
        """Take note of which layers are trained. Raises ArgumentError where none is."""
        trainable = [layer.trainable for _, layer in self._every]
        if trainable != self._trainable:
            frozen = [f"{name}." for name, layer in self._every if not layer.trainable]
            names = [s.name for s in self.parameters.segments if s.name.startswith(tuple(frozen))]
            if len(names) == len(self.parameters.segments):
                raise ArgumentError("no layer is trainable: set layer.trainable = True on one that has parameters")
            self._trainable, self.parameters.frozen = trainable, frozenset(names)
            for name in names:
                # What is no longer computed must not look like an overflow for ever.
                self.backend.fill(self.parameters.gradients[name], 0.0)

    def training_program(self, batch: Batch, optimizer: Optimizer, accumulate: bool = True) -> Program:
        """The program of a whole training step on what the batch's buffers hold. `optimizer.prepare()` comes before each run."""
        optimizer.bind(self.parameters)
        key = ("train", batch.form, optimizer.track_norm, accumulate, self.parameters.frozen)
        held = batch.programs.get(key)
        if held is None or held[0] is not optimizer:
            self.check_recording(batch, training=True)
            step = _on(batch, _training_step, self.steps, optimizer, accumulate)
            held = batch.programs[key] = optimizer, self._recorded(step)
        program: Program = held[1]
        return program

    def _stretch(self, asked: _Asked, step: int, until: int, n: int, turns: int) -> tuple[int, str]:
        """Steps of n rows each from `step` on, at most until `until`: the first that was not done, and what the device had no
        memory for. turns: the most steps before a device that can go on by itself is asked about that again."""
        source, optimizer, size = asked.source, asked.optimizer, asked.size
        done, alone = optimizer.t, None
        try:
            batch = self.training.batch(n)
            batch.hold(source.kind, source.weights is not None)
            program = self.training_program(batch, optimizer, asked.accumulate)
            if self.loops and asked.accumulate and n == size and batch.weights is None and not optimizer.is_split:
                alone = self.backend.loop(program, source, batch, optimizer, until - step)
            if alone is None:
                load, x, y, weights = source.load, batch.x, batch.targets, batch.weights
                until = min(until, step + turns)
                one = self._one_step(program, batch, optimizer, by_hand=not asked.accumulate)
                while step < until:
                    done = optimizer.t
                    load(step * size, x, y, weights)
                    one()
                    step += 1
                return step, ""
        except self.backend.memory_errors as error:
            optimizer.go_back_to(done)
            return step, str(error) or type(error).__name__
        return step + alone(step), ""

    def _as_one(self, asked: _Asked, ranks: Communicator, first: int, n: int, rows: int) -> tuple[int, str]:
        """`_in_parts`, which after the first step of a kind becomes one program, with the sums over the processes in it, where
        all of them can record that. Then they must go on so together: none can halve its part where memory runs out."""
        optimizer = asked.optimizer
        key = (n, optimizer, optimizer.track_norm, asked.accumulate, self.parameters.frozen)
        held = self._together.get(key)
        if held is None:
            done, reason = self._in_parts(asked, first, n, rows)
            if done and key not in self._together:
                self._together[key] = self._recorded_by_all(asked, ranks, n, rows)
            return done, reason
        batch, program = held
        try:
            self.backend.processes = partial(ranks.sum, self.backend)
            self._fill(batch, asked.source, first + ranks.rows(n).start)
            optimizer.prepare()
            program()
        except self.backend.memory_errors as error:
            raise DeviceError(
                f"{self.backend.name} had no memory for a step that the other processes do at the same time: {error}"
            ) from error
        finally:
            self.backend.processes = None
        return 1, ""

    def _recorded_by_all(self, asked: _Asked, ranks: Communicator, n: int, rows: int) -> tuple[Batch, Program] | None:
        """The buffers for this process's part of n rows, and the program of a whole step on them; None, in every process, where
        one of them has no such program."""
        own, held, problem = ranks.rows(n), None, ""
        try:
            if rows < len(own):
                raise DeviceError("its rows go through in parts")
            if not self.capture:
                raise DeviceError("its steps are not recorded")
            batch = self.training.batch(len(own))
            batch.hold(asked.source.kind, asked.source.weights is not None)
            held = batch, self._with_sums(asked, ranks, batch, own.start, n)
        # The step was done without such a program, and so it goes on after any error, of which the others must hear.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        problems = [f"rank {rank}: {why}" for rank, why in enumerate(ranks.gather(problem)) if why]
        self._apart = "; ".join(problems)
        return None if problems else held

    def _with_sums(self, asked: _Asked, ranks: Communicator, batch: Batch, first: int, n: int) -> Program:
        """The program of a whole step on n rows, of which this process has those of the batch, from `first` on."""
        steps, xp, share = self.steps, self.backend.xp, batch.n / n
        optimizer, accumulate = asked.optimizer, asked.accumulate
        buckets, begun = self._buckets(ranks), set[int]()

        def begin(layer: int) -> None:
            if layer in buckets:
                ranks.begin(self.parameters.G[buckets[layer]])
                begun.add(layer)

        part = _on(batch, _part, steps, add=False, after=begin if len(buckets) > 1 else None)

        def step() -> None:
            steps.set_share(share)
            part()
            xp.copyto(self._total, self.value)
            if begun:
                ranks.join()
            self._sum_over(ranks, share, share, begun)
            xp.copyto(self.value, self._total)
            steps.penalty(with_delta=False)
            steps.update(optimizer)
            if accumulate:
                steps.accumulate(n, optimizer)

        self.backend.processes = partial(ranks.sum, self.backend)
        batch.begins_at(first)
        try:
            return self.backend.capture(step)
        finally:
            self.backend.processes = None
            batch.begins_at(0)

    def _in_parts(self, asked: _Asked, first: int, n: int, rows: int) -> tuple[int, str]:
        """One training step on the n rows from `first` on, in parts of `rows`: (1, ""), or (0, what there was no memory for).

        Of several processes each goes through its own rows; their losses and gradients are added up before the update.
        """
        optimizer, skip = asked.optimizer, asked.skip
        steps, xp, done, ranks = self.steps, self.backend.xp, optimizer.t, self.ranks
        kept = [(array, array.copy()) for array in self.state.values()] if skip else []
        own = range(n) if ranks is None else ranks.rows(n)
        summed = False

        def part(start: int) -> Batch:
            return self._fill(self.training.batch(min(rows, own.stop - start)), asked.source, first + start)

        try:
            optimizer.prepare()
            self.backend.processes = None if ranks is None else partial(ranks.sum, self.backend)
            loss, starts = steps.loss_function, own[::rows] if own else own
            masses = [float(min(rows, own.stop - start)) for start in starts]
            if not loss.counts_rows:
                masses = [loss.mass(self.backend.to_host(part(start).targets)) for start in starts]
            # The rows that count for other processes are not known yet: `_sum_over` divides by their number.
            whole = (sum(masses) or 1.0) if ranks is None else float(n)
            for start, mass in zip(starts, masses, strict=True):
                batch = part(start)
                # Layers that are recorded look at it once, the others at each run.
                batch.begins_at(start)
                add = start > own.start
                if not add:
                    self.check_recording(batch, training=True)
                steps.set_share(mass / whole)
                key = ("part", batch.form, add, start if steps.random else 0, self.parameters.frozen)
                program = batch.programs.get(key) or self._program(batch, key, _on(batch, _part, steps, add))
                program()
                batch.begins_at(0)
                if add:
                    xp.add(self._total, self.value, out=self._total)
                else:
                    xp.copyto(self._total, self.value)
            if ranks is not None:
                summed = True
                self._sum_over(ranks, len(own) / n, sum(masses) / n)
            xp.copyto(self.value, self._total)
            steps.penalty(with_delta=False)
            if skip and not self._is_finite():
                optimizer.go_back_to(done)
                for array, before in kept:
                    xp.copyto(array, before)
                steps.count()
                self._skipped += n
                return 1, ""
            steps.update(optimizer)
            if asked.accumulate:
                steps.accumulate(n, optimizer)
        except self.backend.memory_errors as error:
            if summed:
                raise DeviceError(
                    f"{self.backend.name} had no memory for the update of a step that the other processes have done: {error}"
                ) from error
            optimizer.go_back_to(done)
            return 0, str(error) or type(error).__name__
        finally:
            self.backend.processes = None
        return 1, ""

    def _buckets(self, ranks: Communicator) -> dict[int, slice]:
        """The parts of the flat gradient that are added up one by one, from the last to the first, by the index of the layer with
        whose gradients each is finished. They are the same in every step, since what a sum is rounded to may depend on them."""
        G, firsts, found = self.parameters.G, dict[int, int](), dict[int, slice]()
        # Layers that add up over the processes themselves do so on the other stream, and the order of all sums must be one.
        own = any(getattr(layer, "synchronized", False) for _, layer in self._every)
        if not ranks.capturable or G.nbytes < IN_BUCKETS_FROM or own:
            return {0: slice(G.size)}
        for s in self.parameters.segments:
            firsts.setdefault(int(s.name.split(".")[0]), s.start)
        stop = G.size
        for layer, first in reversed(firsts.items()):
            if first == 0 or stop - first >= G.size // BUCKETS:
                found[layer], stop = slice(first, stop), first
        return found

    def _sum_over(self, ranks: Communicator, rows: float, mass: float, begun: Collection[int] = ()) -> None:
        """Make gradients and loss of this process's rows those of the whole batch; the layers' state becomes the mean.

        rows, mass: the share of the batch's rows, and of what the loss counts in units of its rows, that are here. begun: the
        buckets that are added up already.
        """
        be, xp, G = self.backend, self.backend.xp, self.parameters.G
        if not rows:
            for array in (G, self._total):
                be.fill(array, 0.0)
        for layer, bucket in self._buckets(ranks).items():
            if layer not in begun:
                ranks.sum(be, G[bucket])
        if self.steps.loss_function.counts_rows:
            ranks.sum(be, self._total)
        else:
            be.fill(self._mass, mass)
            ranks.sum(be, self._total_and_mass)
            # A batch in which no row counts has gradients 0.
            xp.maximum(self._mass, 1e-300, out=self._mass)
            for array in (G, self._total):
                xp.divide(array, self._mass, out=array)
        for array in self.state.values():
            xp.multiply(array, rows, out=array)
            ranks.sum(be, array)

    def _is_finite(self) -> bool:
        """Whether the loss and its gradients are finite; of scaled gradients the device sees to that itself."""
        be, numbers = self.backend, [self.value]
        if not be.scales_deltas:
            be.total(self.parameters.G, 1.0, self._total)
            numbers.append(self._total)
        return all(np.isfinite(be.to_host(number)) for number in numbers)

    @staticmethod
    def _fill(batch: Batch, source: RowSource, first: int) -> Batch:
        """The same batch, with rows of the source from `first` on."""
        batch.hold(source.kind, source.weights is not None)
        source.load(first, batch.x, batch.targets, batch.weights)
        return batch

    def _make_room(self, rows: int, reason: str) -> None:
        """After a step of `rows` rows that the device had no memory for: give everything back, take half as many from now on."""
        self.release()
        self.backend.release_memory()
        name = self.backend.name
        if self.mixes_rows is not None:
            raise DeviceError(
                f"{name} has no memory for a step of {rows} rows ({reason}), and {type(self.mixes_rows).__name__} would "
                "normalise smaller parts differently: take a smaller batch_size, or set micro_batch_size to accept that"
            )
        if rows == 1:
            raise DeviceError(f"{name} has no memory for a step of one row: {reason}")
        self.rows_at_once = -(-rows // 2)
        warnings.warn(
            f"{name} has no memory for {rows} rows at once ({reason}); going on with parts of {self.rows_at_once} rows, whose "
            "gradients add up to the same",
            RuntimeWarning,
            stacklevel=4,
        )

    # -- programs -------------------------------------------------------------------------------------------------

    def _recorded(self, step: Callable[[], None]) -> Program:
        return self.backend.record(step) if self.capture else step

    def _program(self, batch: Batch, key: tuple[Any, ...], step: Callable[[], None]) -> Program:
        programs = batch.programs
        if key not in programs:
            programs[key] = self._recorded(step)
            calls = sum(len(getattr(program, "calls", ())) for program in programs.values())
            while len(programs) > PROGRAMS or (len(programs) > 1 and calls * CALL_BYTES > PROGRAM_BYTES):
                _, gone = programs.popitem(last=False)
                calls -= len(getattr(gone, "calls", ()))
        program: Program = programs[key]
        return program

    def check_recording(self, batch: Batch, training: bool) -> None:
        """Where classes from outside this library say that they can be recorded: whether the recorded pass, on other rows than
        it was recorded with, does what the pass does when it is run as it is. ArgumentError where it does not.

        An array expression in such a class (`d = a - y`) is done once, at the recording, and its result would be used for ever.
        The trial overwrites every buffer: a caller that fills a layer's buffers before `run` must call this first.
        """
        key = ("checked", batch.form, training)
        if not self._to_check or key in batch.programs or self.backend.is_gpu:
            return
        what = "gradients" if batch.kind and batch.trains else "forward"
        be, step = self.backend, _on(batch, _pass, self.steps, what, training)
        # Rows of its own: what the buffers hold now may be anything. Label 0, target 0 serve every loss.
        held = [batch.x, *([batch.targets] if batch.kind else []), *self.state.values()]
        kept = [be.to_host(a) for a in held]
        rng = host_generator(self.seed, 2)
        for array in held[1 : len(held) - len(self.state)]:
            be.fill(array, 0)
        be.copy_in(rng.standard_normal(batch.x.shape), batch.x)
        program = be.record(step)
        be.copy_in(rng.standard_normal(batch.x.shape), batch.x)
        found = []
        for run in (program, be.as_recorded(program, step)):
            run()
            found.append(self._results(batch, what))
            for array, values in list(zip(held, kept, strict=True))[len(held) - len(self.state) :]:
                be.copy_in(values, array)
        for array, values in zip(held, kept, strict=True):
            be.copy_in(values, array)
        for name, array in found[0].items():
            if not np.array_equal(array, found[1][name], equal_nan=True):
                raise ArgumentError(
                    f"{', '.join(self._to_check)}: recorded once and done again, {name} is not what the same lines give when "
                    "they are run. A value was computed at the recording and kept, as by an array expression without out= "
                    "(d = a - y), float() or a branch: write into be.scratch() or buffers() with out=, or set recordable = False"
                )
        batch.programs[key] = None

    def _results(self, batch: Batch, what: str) -> dict[str, np.ndarray]:
        be, last = self.backend, len(batch.tensors) - 1
        # The outputs of hidden layers lie in the same memory where there is no backward pass.
        found = {
            f"the output of layer {i}": be.to_host(v.a)
            for i, v in enumerate(batch.tensors)
            if batch.trains or i == last
        }
        if what == "forward":
            return found
        found["the loss"] = be.to_host(self.value)
        for i in range(len(batch.tensors) - 1, -1, -1):
            found[f"delta of layer {i}"] = be.to_host(batch.tensors[i].delta)
        return {**found, **{f"the gradient of {k}": a for k, a in self.gradients().items()}}


def _on(batch: Batch, line: Callable[..., None], *arguments: Any, **options: Any) -> Callable[[], None]:
    """line(batch, ...), to be recorded. It holds its batch weakly: the batch holds its programs."""
    ref = weakref.ref(batch)

    def step() -> None:
        held = ref()
        assert held is not None
        line(held, *arguments, **options)

    return step


def _pass(batch: Batch, steps: Steps, what: str, training: bool) -> None:
    """One pass without an update."""
    steps.forward(batch, training, first=1 if what == "rest of forward" else 0)
    if "forward" in what:
        return
    steps.loss(batch, with_delta=what != "loss")
    if what != "loss":
        steps.backward(batch, training, dx=what == "input gradient")
        steps.penalty(with_delta=True)


def _training_step(batch: Batch, steps: Steps, optimizer: Optimizer, accumulate: bool) -> None:
    """A whole training step of one optimizer."""
    be = steps.be
    # With the loss itself where the whole step is sure to be done, and where it needs no penalty.
    at_once = accumulate and be.is_recording and not (steps.l1 or steps.l2)
    steps.forward(batch, True)
    steps.loss(batch, with_delta=True, total=steps.losses if at_once else None)
    direct = steps.accumulates and be.adds_in_products(steps.parameters.P)
    accumulator = optimizer.accumulator() if direct else None
    if accumulator is None:
        steps.backward(batch, True, update=True)
        steps.update(optimizer)
    else:
        # v <- mu v + x^T delta in the product itself.
        v, mu = accumulator
        into = {s.name: s.of(v) for s in steps.parameters.segments}
        steps.backward(batch, True, beta=mu, into=into, update=True)
        optimizer.descend(be)
        steps.count()
    if accumulate:
        steps.accumulate(batch.n, optimizer, loss=not at_once)


def _part(batch: Batch, steps: Steps, add: bool, after: Callable[[int], None] | None = None) -> None:
    """Loss and gradients of rows that are a part of a batch, added to those of the parts before."""
    steps.forward(batch, True)
    steps.loss(batch, with_delta=True, penalty=False)
    steps.weigh(batch)
    steps.backward(batch, True, beta=1.0 if add else 0.0, update=True, after=after)


def _foreign(layers: Sequence[Layer], loss: Loss) -> list[str]:
    """The names of the classes that are not this library's own and say that they can be recorded."""
    known = {*LAYERS.values(), *ACTIVATIONS.values(), *LOSSES.values()}
    parts = _parts(layers, loss)
    return sorted({type(part).__name__ for part in parts if part.recordable and type(part) not in known})


def _parts(layers: Sequence[Layer], loss: Loss) -> list[Layer | Activation | Loss]:
    """All that the mathematics of a network is made of."""
    every = [layer for _, layer in walk(layers)]
    return [*every, *(layer.activation for layer in every), loss]
