"""The static memory of a step: one array for everything that a batch needs between its first and its last line.

A smaller batch uses the leading rows of the same buffers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend, Tensors
from gpubackprop.layers.base import Layer
from gpubackprop.layers.stack import build
from gpubackprop.losses import Buffers, Loss, Shape
from gpubackprop.precision import compute_type

KEPT = 8
"""Batch sizes whose views (and recorded steps) are kept at a time."""


class _Memory:
    """Flat arrays by what they are for, each with room for `capacity` rows, and views of their leading rows."""

    def __init__(self, be: Backend, capacity: int) -> None:
        self.be, self.capacity = be, capacity
        self.flat: dict[Hashable, Array] = {}

    def view(self, key: Hashable, shape: Shape, dtype: DTypeLike, n: int) -> Array:
        """An array of this shape, in which "n" stands for n rows."""

        def sized(rows: int) -> tuple[int, ...]:
            return tuple(rows if k == "n" else int(k) for k in shape)

        full = prod(sized(self.capacity))
        if key not in self.flat or self.flat[key].size < full:
            self.flat[key] = self.be.empty((full,), dtype)
        view = sized(n)
        return self.flat[key][: prod(view)].reshape(view)


class Batch:
    """Views for a batch of n rows: x, each layer's tensors, the loss's buffers, and targets of either kind.

    dtype: of targets that are no labels. trains: whether it has all that a backward pass needs.

    programs: the steps that were recorded on these views.
    """

    def __init__(
        self, memory: _Memory, x: Array, tensors: list[Tensors], loss: Tensors, dtype: np.dtype[Any], trains: bool
    ) -> None:
        self.n = len(x)
        self._memory, self._dtype = memory, dtype
        self.x = x
        self.tensors = tensors
        self.loss = loss
        self.trains = trains
        self.kind = ""
        """Which targets it holds: "labels", "targets", or "" for none."""
        self.form = ""
        """The kind of its targets and whether rows are weighted: programs are kept for each form."""
        self._targets: dict[str, Array] = {}
        self.programs: OrderedDict[Any, Any] = OrderedDict()

    @property
    def outputs(self) -> Array:
        """The outputs of the last layer."""
        return self.tensors[-1].a

    @property
    def targets(self) -> Array:
        """The static buffer of the targets that it holds: (n,) int64 labels or (n, m)."""
        return self.target_buffer(self.kind)

    def hold(self, kind: str, weighted: bool = False) -> None:
        """Say which targets its rows have from now on, and whether they have weights."""
        form = f"weighted {kind}" if weighted else kind
        if form != self.form:
            self.kind, self.form = kind, form
            weights = compute_type(self.x.dtype)
            self.loss.weights = self._memory.view("weights", ("n", 1), weights, self.n) if weighted else None

    @property
    def weights(self) -> Array | None:
        """The static buffer of the weights of the rows, (n, 1); None where they have none."""
        weights: Array | None = self.loss.weights
        return weights

    def begins_at(self, row: int) -> None:
        """Say that these rows are a part of a larger batch, and which of its rows is their first."""
        _begin_at(self.tensors, row)

    def target_buffer(self, kind: str) -> Array:
        """The static buffer for the batch's targets: "labels" (n,) int64 or "targets" (n, m)."""
        if kind not in self._targets:
            shape: Shape = ("n",) if kind == "labels" else ("n", self.outputs.shape[1])
            dtype = np.int64 if kind == "labels" else self._dtype
            self._targets[kind] = self._memory.view(kind, shape, dtype, self.n)
        return self._targets[kind]

    def input_tensors(self) -> Tensors:
        """The network's input as if a layer made it: its `delta` receives dC/dx."""
        delta = self._memory.view("dx", ("n", self.x.shape[1]), self.x.dtype, self.n)
        return Tensors(a=self.x, z=self.x, saved=self.x, delta=delta)


class Workspace:
    """Buffers for batches of up to a number of rows, which grow when a larger one comes.

    training: with all that the backward pass needs; otherwise two buffers that the layers use in turn, and one for z.
    """

    def __init__(
        self, be: Backend, layers: Sequence[Layer], widths: Sequence[int], loss: Loss, dtype: DTypeLike, training: bool
    ) -> None:
        self.be = be
        self.layers = layers
        self.widths = widths
        self.loss = loss
        self.dtype = np.dtype(dtype)
        self.storage = be.storage(self.dtype)
        self.training = training
        self._memory = _Memory(be, 0)
        self._batches: OrderedDict[int, Batch] = OrderedDict()

    @property
    def capacity(self) -> int:
        """Rows that the buffers have room for."""
        return self._memory.capacity

    def release(self, capacity: int = 0) -> None:
        """Let go of all buffers; they are made anew, for `capacity` rows, when a batch needs them."""
        self._memory = _Memory(self.be, capacity)
        self._batches.clear()

    def batch(self, n: int) -> Batch:
        """The views for n rows; the same object each time, as long as it is kept."""
        if n > self.capacity:
            self.release(n)
        if n not in self._batches:
            self._batches[n] = self._make(n)
            if len(self._batches) > KEPT:
                self._batches.popitem(last=False)
        self._batches.move_to_end(n)
        return self._batches[n]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers together."""
        return sum(a.nbytes for a in self._memory.flat.values())

    def _make(self, n: int) -> Batch:
        view, flat = self._memory.view, self._memory.flat
        first = view("x", ("n", self.widths[0]), self.storage, n)
        tensors = self._chain(self.layers, self.widths, first, n, ())
        loss = Tensors(weights=None)
        self._add(loss, "loss", self.loss.buffers(self.widths[-1], self.storage), n)
        for name, host in self.loss.constants(self.widths[-1], self.storage).items():
            key = ("loss", name)
            if key not in flat:
                flat[key] = self.be.asarray(host)
            setattr(loss, name, flat[key])
        return Batch(self._memory, first, tensors, loss, self.dtype, self.training)

    def _chain(
        self, layers: Sequence[Layer], widths: Sequence[int], x: Array, n: int, outside: tuple[int, ...]
    ) -> list[Tensors]:
        """The tensors of layers in a row; outside: the indices of the layers that these are inside of."""
        tensors: list[Tensors] = []
        view = self._memory.view
        for i, (layer, width) in enumerate(zip(layers, widths[1:], strict=True)):
            # In inference two buffers in turn, of which the layers inside another have their own.
            place = (*outside, i) if self.training else (len(outside), i % 2)
            v = Tensors(x=x, first_row=0)
            v.a = view(("a", place), ("n", width), self.storage, n)
            v.z = v.a
            # A slope is made for the backward pass alone.
            if layer.activation.saves == "z" or (self.training and layer.activation.saves == "slope"):
                v.z = view(("z", place if self.training else 0), ("n", width), self.storage, n)
            if self.training and i and layer.passes_delta:
                v.delta = tensors[-1].delta
            elif self.training:
                v.delta = view(("delta", place), ("n", width), self.storage, n)
            v.saved = v.z
            v.inner = self._chain(layer.layers, build(layer.layers, widths[i]), x, n, (*outside, i))
            self._add(v, ("layer", *outside, i), layer.buffers(self.storage), n)
            tensors.append(v)
            x = v.a
        return tensors

    def _add(self, v: Tensors, key: Hashable, buffers: Buffers, n: int) -> None:
        for name, (shape, dtype) in buffers.items():
            setattr(v, name, self._memory.view((key, name), shape, dtype, n))


def _begin_at(tensors: Sequence[Tensors], row: int) -> None:
    for v in tensors:
        v.first_row = row
        _begin_at(v.inner, row)


class Losses:
    """The losses that steps hand out: copies of `value`, a 0-d array on the device, which the next step overwrites.

    A loss that is handed out must not change, and a step must allocate nothing: so room is made once for many steps, and let
    go of, not used again, when it is full.
    """

    ROOM = 1024

    def __init__(self, be: Backend, value: Array) -> None:
        self._be = be
        self._value = value
        self._handed_out = self.ROOM
        self._room: Array = None

    def next(self) -> Array:
        """The loss as it is now, 0-d, without waiting for it."""
        if self._handed_out == self.ROOM:
            self._room, self._handed_out = self._be.zeros((self.ROOM,), self._value.dtype), 0
        i = self._handed_out
        self._handed_out += 1
        slot = self._room[i : i + 1].reshape(())
        self._be.xp.copyto(slot, self._value)
        return slot
