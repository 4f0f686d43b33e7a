"""The mathematics of a step: forward, loss, delta-propagation, gradients, penalties, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpubackprop.activations import get_activation
from gpubackprop.backend.base import Array, Backend
from gpubackprop.errors import ArgumentError
from gpubackprop.layers import Layer
from gpubackprop.layers.base import AccumulatingLayer
from gpubackprop.layers.stack import of_layer
from gpubackprop.losses import Loss
from gpubackprop.network.parameters import Parameters
from gpubackprop.network.workspace import Batch
from gpubackprop.optimizers import Optimizer
from gpubackprop.precision import compute_type

_IDENTITY = get_activation("identity")


class Steps:
    """The lines of mathematics of one network, on the static buffers of a `Batch`. It decides nothing: `Engine` says which
    of them make a step.

    value: 0-d float64, receives C. counter: 0-d uint64, training steps done, which dropout's random numbers are counted by.
    l1, l2: factors of the penalties.
    """

    def __init__(
        self,
        be: Backend,
        layers: Sequence[Layer],
        loss: Loss,
        parameters: Parameters,
        counter: Array,
        l1: float,
        l2: float,
    ) -> None:
        self.be = be
        self.layers = layers
        self.loss_function = loss
        self.parameters = parameters
        self.counter = counter
        self.l1, self.l2 = l1, l2
        self.value = be.zeros((), np.result_type(parameters.dtype, np.float64))
        self.sums = be.zeros((2,), self.value.dtype)
        """Of the steps since it was last set to 0: losses times rows, and norms of gradients."""
        self.losses = self.sums[:1].reshape(())
        self._part = be.zeros((), self.value.dtype)
        self.share = be.zeros((), self.value.dtype)
        self.delta_share = be.zeros((), compute_type(be.storage(parameters.dtype)))
        self.chain = be.chain(layers)
        self.random = any(layer.random for layer in layers)
        """Whether a training step draws random numbers."""

    def forward(self, batch: Batch, training: bool, first: int = 0) -> None:
        """a(0) = x; a(l) = f(a(l-1) W(l) + b(l)), from the layer with index `first` on."""
        if self.chain is not None and not first:
            self.chain.forward(batch.tensors, batch.trains)
            return
        for layer, v in zip(self.layers[first:], batch.tensors[first:], strict=True):
            self._do(layer, layer.forward, v, training)

    def loss(self, batch: Batch, with_delta: bool, penalty: bool = True, total: Array | None = None) -> None:
        """C, and delta(L) = dC/da(L) * f'(z(L)). total: what the rows times C are added to, without the penalty."""
        be, last, y = self.be, batch.tensors[-1], batch.targets
        delta = last.delta if with_delta else None
        be.loss_and_delta(self.loss_function, batch.outputs, y, batch.loss, self.value, delta, batch.n, total)
        if with_delta:
            be.times_derivative(self.layers[-1].activation, last.saved, last.delta)
        if penalty:
            self.penalty(with_delta=False)

    def weigh(self, batch: Batch) -> None:
        """C and delta(L) times `share`, the share of a larger batch that these rows are: the parts of a mean add up to it."""
        xp, delta = self.be.xp, batch.tensors[-1].delta
        xp.multiply(self.value, self.share, out=self.value)
        xp.multiply(delta, self.delta_share, out=delta)

    def set_share(self, share: float) -> None:
        """Set the factor of `weigh`, without waiting."""
        self.be.fill(self.share, share)
        self.be.fill(self.delta_share, share)

    def backward(
        self,
        batch: Batch,
        training: bool,
        beta: float = 0.0,
        dx: bool = False,
        into: dict[str, Array] | None = None,
        update: bool = False,
        after: Callable[[int], None] | None = None,
    ) -> None:
        """dC/dW(l), dC/db(l), and delta(l) = (delta(l+1) W(l+1)^T) * f'(z(l)), from the last layer to the first.

        beta: what the gradients that are there are multiplied by before these are added. dx: go on to dC/dx. into: where the
        gradients go, by full name, for layers that can write elsewhere (`accumulates`); None for their usual place.
        update: for an update alone, which needs nothing of layers that are not trained, nor below the first that is. after: is
        called for a layer, by its index, as soon as the gradients from there to the last layer are finished; not where layers go
        through at once.
        """
        trained = [layer.trainable or not update for layer in self.layers]
        if self.chain is not None and all(trained) and not dx:
            arrays = [
                layer.gradient_arrays if into is None else of_layer(into, i) for i, layer in enumerate(self.layers)
            ]
            self.chain.backward(batch.tensors, arrays, beta, keep=not update)
            return
        first = next((i for i, layer in enumerate(self.layers) if trained[i] and layer.parameter_shapes()), 0)
        for i in range(len(self.layers) - 1, (first if update else 0) - 1, -1):
            layer, v = self.layers[i], batch.tensors[i]
            if type(layer).begin_backward is not Layer.begin_backward:
                self._do(layer, layer.begin_backward, v, training)
            if not trained[i]:
                pass
            elif into is None:
                self._do(layer, layer.gradients, v, beta)
            elif isinstance(layer, AccumulatingLayer):
                layer.gradients_into(self.be, v, of_layer(into, i), beta)
            if after is not None:
                after(i)
            if i > (first if update else 0):
                self._do(layer, layer.propagate, v, batch.tensors[i - 1], self.layers[i - 1].activation, training)
            elif dx:
                self._do(layer, layer.propagate, v, batch.input_tensors(), _IDENTITY, training)

    @property
    def accumulates(self) -> bool:
        """Whether all gradients can be written into another flat buffer than G, and nothing is added to them there."""
        trained = [layer for layer in self.layers if layer.gradient_arrays]
        known = all(isinstance(layer, AccumulatingLayer) and layer.accumulates for layer in trained)
        return known and not self.l1 and not self.l2

    def penalty(self, with_delta: bool, update: bool = False) -> None:
        """C += l1 sum|W| + l2/2 sum W^2 (or, with_delta, dC/dW += l1 sign(W) + l2 W), over all weights; with_delta once a step,
        when the gradients of the loss are finished. update: for an update alone, without the gradients of layers that are not
        trained, which nothing makes anew."""
        be, l1, l2 = self.be, self.l1, self.l2
        if with_delta:
            be.unscale(self.parameters.G)
        for name, W in self.parameters.views.items() if l1 or l2 else ():
            if with_delta:
                if W.ndim > 1 and not (update and name in self.parameters.frozen):
                    be.add_penalty_gradient(W, l1, l2, self.parameters.gradients[name])
            elif W.ndim > 1:
                be.add_penalty(W, l1, l2, self.value)

    def update(self, optimizer: Optimizer) -> None:
        """The end of a training step: penalties, clipping, the optimizer's line, and one more step counted."""
        self.penalty(with_delta=True, update=True)
        optimizer.apply(self.be)
        self.count()

    def count(self) -> None:
        """One more training step, where random numbers are counted by it."""
        if self.random:
            self.be.xp.add(self.counter, np.uint64(1), out=self.counter)

    def accumulate(self, rows: int, optimizer: Optimizer, loss: bool = True) -> None:
        """Add this step's loss (unless that was done) and gradient norm to `sums`."""
        xp = self.be.xp
        if loss:
            xp.multiply(self.value, float(rows), out=self._part)
            xp.add(self.losses, self._part, out=self.losses)
        if optimizer.track_norm:
            norms = self.sums[1:].reshape(())
            self.be.zero_if_skipped(optimizer.norm)
            xp.add(norms, optimizer.norm, out=norms)

    def _do(self, layer: Layer, function: Callable[..., Any], *arguments: object) -> None:
        if layer.recordable:
            _without_result(layer, function, self.be, *arguments)
        else:
            self.be.call(_without_result, layer, function, self.be, *arguments)


def _without_result(layer: Layer, function: Callable[..., Any], *arguments: object) -> None:
    if function(*arguments) is not None:
        raise ArgumentError(
            f"{type(layer).__name__}.{function.__name__} returned an array; a layer writes its results into the arrays that it "
            "is handed (forward: v.a, backward: dx, gradients: self.gradient_arrays) and returns nothing"
        )
