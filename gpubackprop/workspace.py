"""The static memory of a step: one array for everything that a batch needs between its first and its last line.

A smaller batch uses the leading rows of the same buffers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, Backend
from gpubackprop.layers.base import Layer, Tensors
from gpubackprop.losses import Buffers, Loss

KEPT = 8
"""Batch sizes whose views (and recorded steps) are kept at a time."""


class Batch:
    """Views for a batch of n rows: x, each layer's tensors, the loss's buffers, and targets of either kind."""

    def __init__(self, n: int, x: Array, tensors: list[Tensors], loss: Tensors, dx: Tensors | None) -> None:
        self.n = n
        self.x = x
        self.tensors = tensors
        self.loss = loss
        self.input = dx
        self.labels: Array = None
        self.targets: Array = None
        self.programs: dict[Any, Any] = {}

    @property
    def outputs(self) -> Array:
        """The outputs of the last layer."""
        return self.tensors[-1].a


class Workspace:
    """Buffers for batches of up to a number of rows, which grow when a larger one comes.

    training: with all that the backward pass needs; otherwise two buffers that the layers use in turn.
    """

    def __init__(
        self, be: Backend, layers: Sequence[Layer], widths: Sequence[int], loss: Loss, dtype: Any, training: bool
    ) -> None:
        self.be = be
        self.layers = layers
        self.widths = widths
        self.loss = loss
        self.dtype = np.dtype(dtype)
        self.training = training
        self.capacity = 0
        self._flat: dict[Any, Array] = {}
        self._batches: OrderedDict[int, Batch] = OrderedDict()

    def batch(self, n: int) -> Batch:
        """The views for n rows; the same object each time, as long as it is kept."""
        if n > self.capacity:
            self._flat.clear()
            self._batches.clear()
            self.capacity = n
        if n not in self._batches:
            self._batches[n] = self._make(n)
            if len(self._batches) > KEPT:
                self._batches.popitem(last=False)
        self._batches.move_to_end(n)
        return self._batches[n]

    def labels(self, batch: Batch) -> Array:
        """The batch's static buffer of class labels, (n,) int64."""
        if batch.labels is None:
            batch.labels = self._view("labels", ("n",), np.int64, batch.n)
        return batch.labels

    def targets(self, batch: Batch) -> Array:
        """The batch's static buffer of dense targets, (n, m)."""
        if batch.targets is None:
            batch.targets = self._view("targets", ("n", self.widths[-1]), self.dtype, batch.n)
        return batch.targets

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers together."""
        return sum(a.nbytes for a in self._flat.values())

    def _make(self, n: int) -> Batch:
        first = self._view("x", ("n", self.widths[0]), self.dtype, n)
        x, tensors = first, []
        for i, (layer, width) in enumerate(zip(self.layers, self.widths[1:], strict=True)):
            v = Tensors(x=x, first_row=0)
            v.a = self._view(("a", i if self.training else i % 2), ("n", width), self.dtype, n)
            v.z = v.a
            if self.training:
                if layer.activation.saves == "z":
                    v.z = self._view(("z", i), ("n", width), self.dtype, n)
                v.delta = self._view(("delta", i), ("n", width), self.dtype, n)
            v.saved = v.z
            self._add(v, ("layer", i), layer.buffers(self.dtype), n)
            tensors.append(v)
            x = v.a
        loss = Tensors()
        self._add(loss, "loss", self.loss.buffers(self.widths[-1], self.dtype), n)
        return Batch(n, first, tensors, loss, None)

    def input_tensors(self, batch: Batch) -> Tensors:
        """The network's input as if a layer made it: its `delta` receives dC/dx."""
        if batch.input is None:
            delta = self._view("dx", ("n", self.widths[0]), self.dtype, batch.n)
            batch.input = Tensors(a=batch.x, z=batch.x, saved=batch.x, delta=delta)
        return batch.input

    def _add(self, v: Tensors, key: Any, buffers: Buffers, n: int) -> None:
        for name, (shape, dtype) in buffers.items():
            setattr(v, name, self._view((key, name), shape, dtype, n))

    def _view(self, key: Any, shape: tuple[int | str, ...], dtype: Any, n: int) -> Array:
        def sized(rows: int) -> tuple[int, ...]:
            return tuple(rows if k == "n" else int(k) for k in shape)

        full = prod(sized(self.capacity))
        if key not in self._flat or self._flat[key].size < full:
            self._flat[key] = self.be.empty((full,), dtype)
        view = sized(n)
        return self._flat[key][: prod(view)].reshape(view)
