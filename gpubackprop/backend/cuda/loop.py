"""Several training steps in one graph, with the rows gathered on the device: the host launches it and is gone again.

What changes from step to step is in device memory: the position in the order of the rows, and the row of the table that holds
the optimizer's numbers. A graph of many steps takes the launch, which is what small batches wait for, once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
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


class DeviceLoop:
    """Training steps of one batch size over the rows of one data set.

    rows: a `Rows` on this device, held weakly: its graphs are not launched once they are gone. step: what one training step does
    on the batch's buffers.
    """

    def __init__(
        self,
        backend: Any,
        rows: RowSource,
        batch: BatchBuffers,
        step: Callable[[], None],
        optimizer: Optimizer,
    ) -> None:
        self._be, self._step, self._optimizer = backend, step, optimizer
        self._rows: weakref.ref[RowSource] = weakref.ref(rows)
        self._order = None if rows.permutation is None else weakref.ref(rows.permutation)
        self._n, self._x, self._y = batch.n, batch.x, batch.target_buffer(rows.kind)
        self._width = len(optimizer.scalars(optimizer.learning_rate, 1)) + 1
        self._table: Array = backend.zeros((AHEAD, self._width), np.float64)
        self._row: Array = backend.zeros((), np.uint32)
        self._offset: Array = backend.zeros((), np.int64)
        # What the step's own program does not launch is launched once here: a kernel should not be loaded during a capture.
        self._gather(0)
        self._advance(0)
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
        order = None if self._order is None else self._order()
        return order is rows.permutation and self._rows() is rows

    def run(self, first: int, count: int) -> int:
        """Steps `first` to `first + count` of an epoch, all of the full batch size; returns how many that were."""
        left = count
        while left:
            now = min(left, AHEAD)
            self._prepare(first, now)
            first, left = first + now, left - now
            for size in (STEPS if self._x.size <= SMALL else 1, 1):
                for _ in range(now // size):
                    self._graph(size)()
                now %= size
        return count

    def _prepare(self, first: int, count: int) -> None:
        """Hand the scalars of the next `count` steps to the device, and where they begin."""
        be, optimizer = self._be, self._optimizer
        # The last number of a row is the factor of decoupled decay, or 1.
        numbers = np.ones((count, self._width))
        own = optimizer.prepare_many(count, np.float64)
        numbers[:, : own.shape[1]] = own
        be.copy_in(numbers, self._table[:count])
        be.fill(self._row, 0)
        be.fill(self._offset, first * self._n)
        assert optimizer.parameters is not None
        be.parameters_changed()
        be.refresh(optimizer.parameters.P)

    def _graph(self, steps: int) -> GraphProgram:
        if steps not in self._graphs:
            # Its graphs must not keep it alive, and with it the memory of the batch.
            loop = weakref.proxy(self)
            self._graphs[steps] = GraphProgram(self._be, lambda: loop._steps(steps), warm=True, current=True)
        return self._graphs[steps]

    def _steps(self, count: int) -> None:
        """Launch `count` steps, and move on by as many."""
        h: Any = self._optimizer.h
        for k in range(count):
            self._gather(k * self._n)
            with h.reading(self._table, self._row, k):
                self._step()
        self._advance(count)

    def _gather(self, ahead: int) -> None:
        """Load the rows of a step."""
        rows = self._rows()
        assert rows is not None
        gather(self._be.kernels, (rows.x, self._x), (rows.y, self._y), rows.permutation, self._offset, ahead)

    def _advance(self, count: int) -> None:
        """Begin after `count` more steps from now on."""
        self._be.kernels.launch("advance", (), table.one_block(), self._row, self._offset, count, count * self._n)
