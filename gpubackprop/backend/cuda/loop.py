"""Several training steps in one graph, with the rows gathered on the device: the host launches it and is gone again.

What changes from step to step is in device memory: the position in the order of the rows, and the row of the table that holds
the optimizer's numbers. A graph of many steps takes the launch, which is what small batches wait for, once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.backend.base import Array, BatchBuffers, RowSource
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.gather import gather, row_types, target_types
from gpubackprop.backend.cuda.graph import GraphProgram
from gpubackprop.backend.cuda.update import Updates
from gpubackprop.optimizers import Optimizer

AHEAD = 4096
"""Steps whose scalars are handed to the device at a time."""
STEPS = 16
"""Steps in a graph, for batches of up to `SMALL` elements of input; larger ones hide a launch by themselves."""
SMALL = 2**21


class _Body:
    """The parts of a graph of steps. It holds the rows weakly: a graph is not launched once they are gone."""

    def __init__(
        self,
        backend: Any,
        rows: RowSource,
        batch: BatchBuffers,
        step: Callable[[], None],
        optimizer: Optimizer,
    ) -> None:
        self.be, self.step, self.optimizer = backend, step, optimizer
        self.rows: weakref.ref[RowSource] = weakref.ref(rows)
        self.order = None if rows.permutation is None else weakref.ref(rows.permutation)
        self.n, self.x, self.y = batch.n, batch.x, batch.target_buffer(rows.kind)
        self.width = len(optimizer.scalars(optimizer.learning_rate, 1)) + 1
        self.table: Array = backend.zeros((AHEAD, self.width), np.float64)
        self.row: Array = backend.zeros((), np.uint32)
        self.offset: Array = backend.zeros((), np.int64)

    def steps(self, count: int) -> None:
        """Launch `count` steps, and move on by as many."""
        h: Any = self.optimizer.h
        for k in range(count):
            self.gather(k * self.n)
            with h.reading(self.table, self.row, k):
                self.step()
        self.advance(count)

    def gather(self, ahead: int) -> None:
        """Load the rows of a step."""
        rows = self.rows()
        assert rows is not None
        gather(self.be.kernels, (rows.x, self.x), (rows.y, self.y), rows.permutation, self.offset, ahead)

    def advance(self, count: int) -> None:
        """Begin after `count` more steps from now on."""
        self.be.kernels.launch("advance", (), table.one_block(), self.row, self.offset, count, count * self.n)


class DeviceLoop:
    """Training steps of one batch size over the rows of one data set.

    rows: a `Rows` on this device; step: what one training step does on the batch's buffers.
    """

    def __init__(
        self,
        backend: Any,
        rows: RowSource,
        batch: BatchBuffers,
        step: Callable[[], None],
        optimizer: Optimizer,
    ) -> None:
        self._body = body = _Body(backend, rows, batch, step, optimizer)
        # What the step's own program does not launch is launched once here: a kernel should not be loaded during a capture.
        body.gather(0)
        body.advance(0)
        self._graphs: dict[int, GraphProgram] = {}

    @staticmethod
    def possible(backend: Any, rows: RowSource, batch: BatchBuffers, optimizer: Optimizer) -> bool:
        """Whether kernels can gather these rows, and the optimizer's kernel reads its numbers from a table."""
        if not (Updates.has(optimizer) and backend.owns(rows.x) and backend.owns(rows.y)):
            return False
        types = row_types(rows.x, batch.x.dtype), target_types(rows.y, batch.target_buffer(rows.kind).dtype)
        return None not in types

    def is_over(self, rows: RowSource) -> bool:
        """Whether these are its rows, in the memory that its graphs read their order from."""
        order = None if self._body.order is None else self._body.order()
        return order is rows.permutation and self._body.rows() is rows

    def run(self, first: int, count: int) -> int:
        """Steps `first` to `first + count` of an epoch, all of the full batch size; returns how many that were."""
        left = count
        while left:
            now = min(left, AHEAD)
            self._prepare(first, now)
            first, left = first + now, left - now
            for size in (STEPS if self._body.x.size <= SMALL else 1, 1):
                for _ in range(now // size):
                    self._graph(size)()
                now %= size
        return count

    def _prepare(self, first: int, count: int) -> None:
        """Hand the scalars of the next `count` steps to the device, and where they begin."""
        body = self._body
        numbers = np.ones((count, body.width))
        for k in range(count):
            values = body.optimizer.next_scalars()
            numbers[k, : len(values)] = values
        body.be.copy_in(numbers, body.table[:count])
        body.be.fill(body.row, 0)
        body.be.fill(body.offset, first * body.n)
        assert body.optimizer.parameters is not None
        body.be.parameters_changed()
        body.be.refresh(body.optimizer.parameters.P)

    def _graph(self, steps: int) -> GraphProgram:
        if steps not in self._graphs:
            step = partial(self._body.steps, steps)
            self._graphs[steps] = GraphProgram(self._body.be, step, warm=True, current=True)
        return self._graphs[steps]
