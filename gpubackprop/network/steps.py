"""What one step consists of: forward, loss, delta-propagation, gradients, update; recorded once for each kind and batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubackprop.backend.base import Array, Program
from gpubackprop.layers import Dense
from gpubackprop.network.workspace import Batch
from gpubackprop.optimizers import Optimizer

if TYPE_CHECKING:
    from gpubackprop.network.network import Network


class Steps:
    """The steps of one network. The lines of mathematics are `forward`, `loss` and `backward`."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.be = net.backend
        self._random = any(layer.random for layer in net.layers)
        self.sums = self.be.zeros((2,), net.value.dtype)
        """Of the steps of an epoch so far: losses times rows, and norms of gradients. Read once per report."""
        self._total = self.be.zeros((), net.value.dtype)
        self._part = self.be.zeros((), net.value.dtype)

    # -- the mathematics ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, training: bool, first: int = 0) -> None:
        """a(0) = x; a(l) = f(a(l-1) W(l) + b(l)), from the layer with index `first` on."""
        for layer, v in zip(self.net.layers[first:], batch.tensors[first:], strict=True):
            self._do(layer, layer.forward, v, training)

    def loss(self, batch: Batch, kind: str, rows: int, with_delta: bool, penalty: bool = True) -> None:
        """C, and delta(L) = dC/da(L) * f'(z(L))."""
        net, be, last = self.net, self.be, batch.tensors[-1]
        y = batch.target_buffer(kind)
        delta = last.delta if with_delta else None
        be.loss_and_delta(net.loss_function, batch.outputs, y, batch.loss, net.value, delta, rows)
        if with_delta:
            be.times_derivative(net.layers[-1].activation, last.saved, last.delta)
        if penalty:
            self.penalty(with_delta=False)

    def backward(self, batch: Batch, training: bool, beta: float = 0.0, dx: bool = False) -> None:
        """dC/dW(l), dC/db(l), and delta(l) = (delta(l+1) W(l+1)^T) * f'(z(l)), from the last layer to the first."""
        layers = self.net.layers
        for i in range(len(layers) - 1, -1, -1):
            layer, v = layers[i], batch.tensors[i]
            self._do(layer, layer.gradients, v, beta)
            if i > 0:
                below, f = batch.tensors[i - 1], layers[i - 1].activation
                self._do(layer, layer.propagate, v, below, f, training)
            elif dx:
                below, f = batch.input_tensors(), _NO_ACTIVATION
                self._do(layer, layer.propagate, v, below, f, training)

    def penalty(self, with_delta: bool) -> None:
        """C += l1 sum|W| + l2/2 sum W^2 (or, with_delta, dC/dW += l1 sign(W) + l2 W), over all weights."""
        net, xp = self.net, self.be.xp
        for name, W in net._parameters.views.items():
            if W.ndim < 2:
                continue
            t, dW = self.be.scratch(W), net._parameters.gradients[name]
            if net.l2 and with_delta:
                xp.multiply(W, net.l2, out=t)
                xp.add(dW, t, out=dW)
            elif net.l2:
                xp.multiply(W, W, out=t)
                self._add_sum(t, net.l2 / 2)
            if net.l1 and with_delta:
                xp.sign(W, out=t)
                xp.multiply(t, net.l1, out=t)
                xp.add(dW, t, out=dW)
            elif net.l1:
                xp.negative(W, out=t)
                xp.maximum(W, t, out=t)
                self._add_sum(t, net.l1)

    def _add_sum(self, t: Array, factor: float) -> None:
        xp = self.be.xp
        xp.sum(t, dtype=self._part.dtype, out=self._part)
        xp.multiply(self._part, factor, out=self._part)
        xp.add(self.net.value, self._part, out=self.net.value)

    def _do(self, layer: Any, function: Any, *arguments: Any) -> None:
        if layer.recordable:
            function(self.be, *arguments)
        else:
            self.be.call(function, self.be, *arguments)

    # -- kinds of step --------------------------------------------------------------------------------------------

    def run(self, batch: Batch, what: str, kind: str = "", training: bool = False) -> None:
        """Do one step without an update: "forward", "loss", "gradients" or "input gradient"."""
        key = (what, kind, training)
        if key not in batch.programs:

            def step() -> None:
                self.forward(batch, training)
                if what == "forward":
                    return
                self.loss(batch, kind, batch.n, with_delta=what != "loss")
                if what != "loss":
                    self.backward(batch, training, dx=what == "input gradient")
                    self.penalty(with_delta=True)

            batch.programs[key] = self.net.program(step)
        batch.programs[key]()

    def train(self, batch: Batch, kind: str, optimizer: Optimizer) -> None:
        """One training step on what the batch's buffers hold; the loss is left in `net.value`."""
        program = self.training_program(batch, kind, optimizer)
        optimizer.prepare()
        program()

    def training_program(self, batch: Batch, kind: str, optimizer: Optimizer, accumulate: bool = False) -> Program:
        """The program of a whole training step. `optimizer.prepare()` comes before each run of it.

        accumulate: add the step's loss and gradient norm to `sums`.
        """
        key = ("train", kind, optimizer.track_norm, accumulate)
        held = batch.programs.get(key)
        if held is None or held[0] is not optimizer:
            added = self._accumulator(optimizer)

            def step() -> None:
                self.forward(batch, True)
                self.loss(batch, kind, batch.n, with_delta=True)
                if added is None:
                    self.backward(batch, True)
                    self.finish(optimizer)
                else:
                    with self._gradients_in(added[0]):
                        self.backward(batch, True, beta=added[1])
                    optimizer.descend(self.be)
                    self._count()
                if accumulate:
                    self._accumulate(batch.n, optimizer)

            held = (optimizer, self.net.program(step))
            batch.programs[key] = held
        program: Program = held[1]
        return program

    def finish(self, optimizer: Optimizer) -> None:
        """The end of a training step: penalties, clipping, update, and one more step counted."""
        self.penalty(with_delta=True)
        optimizer.apply(self.be)
        self._count()

    def _count(self) -> None:
        if self._random:
            self.be.xp.add(self.net.step, np.uint64(1), out=self.net.step)

    def _accumulator(self, optimizer: Optimizer) -> tuple[Array, float] | None:
        """(v, mu) where the gradient products had better write v <- mu v + x^T delta at once; else None."""
        net = self.net
        # A layer that is run anew at each step looks for its gradients where they usually are.
        known = (x.recordable and type(x).gradients is Dense.gradients for x in net.layers if x.gradient_arrays)
        if not all(known) or net.l1 or net.l2 or not self.be.adds_in_products(net._parameters.P):
            return None
        return optimizer.accumulator()

    @contextmanager
    def _gradients_in(self, flat: Array) -> Iterator[None]:
        """The layers write their gradients into this flat buffer."""
        layers = self.net.layers
        usual = [layer.gradient_arrays for layer in layers]
        for s in self.net._parameters.segments:
            index, _, name = s.name.partition(".")
            layer = layers[int(index)]
            layer.gradient_arrays = {**layer.gradient_arrays, name: s.of(flat)}
        try:
            yield
        finally:
            for layer, arrays in zip(layers, usual, strict=True):
                layer.gradient_arrays = arrays

    def _accumulate(self, rows: int, optimizer: Optimizer) -> None:
        xp, losses, norms = self.be.xp, self.sums[:1].reshape(()), self.sums[1:].reshape(())
        xp.multiply(self.net.value, float(rows), out=self._part)
        xp.add(losses, self._part, out=losses)
        if optimizer.track_norm:
            xp.add(norms, optimizer.norm, out=norms)

    def train_in_parts(
        self,
        load: Callable[[int, int], Batch],
        rows: int,
        kind: str,
        optimizer: Optimizer,
        size: int,
        accumulate: bool = False,
    ) -> None:
        """One training step on a batch of `rows` rows that passes through in parts of `size`; their gradients add up.

        load(start, n): the batch that holds the n rows from `start` on.
        """
        net, xp = self.net, self.be.xp
        optimizer.prepare()
        for start in range(0, rows, size):
            batch = load(start, min(size, rows - start))
            # Layers that are recorded look at it once, the others at each run.
            batch.begins_at(start)
            self.part(batch, kind, rows, start)()
            batch.begins_at(0)
            if start:
                xp.add(self._total, net.value, out=self._total)
            else:
                xp.copyto(self._total, net.value)
        xp.copyto(net.value, self._total)
        self.penalty(with_delta=False)
        self.finish(optimizer)
        if accumulate:
            self._accumulate(rows, optimizer)

    def part(self, batch: Batch, kind: str, rows: int, start: int) -> Program:
        """The program for a part, which begins at row `start`, of a batch of `rows` rows."""
        key = ("part", kind, rows, start > 0, start if self._random else 0)
        if key not in batch.programs:

            def step() -> None:
                self.forward(batch, True)
                self.loss(batch, kind, rows, with_delta=True, penalty=False)
                self.backward(batch, True, beta=1.0 if start else 0.0)

            batch.programs[key] = self.net.program(step)
        program: Program = batch.programs[key]
        return program


class _NoActivation:
    name = "identity"
    saves = "a"

    def times_derivative(self, be: Any, saved: Any, delta: Any) -> None:
        return


_NO_ACTIVATION: Any = _NoActivation()
