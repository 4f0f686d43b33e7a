"""Several training steps in one graph, with the rows gathered on the device: the host launches it and is gone again.

What changes from step to step is in device memory: the position in the order of the rows, and the row of the table that holds
the optimizer's numbers. A graph of many steps takes the launch, which is what small batches wait for, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.graph import GraphProgram
from gpubackprop.backend.cuda.kernel_backend import LABELS, ROWS
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.update import Scalars, rule_of
from gpubackprop.optimizers import LAMB, LARS, Optimizer

AHEAD = 4096
"""Steps whose scalars are handed to the device at a time."""
STEPS = 16
"""Steps in a graph, for batches of up to `SMALL` elements of input; larger ones hide a launch by themselves."""
SMALL = 2**21


class DeviceLoop:
    """Steps of one batch size over the rows of one data set.

    rows: a `data.batches.Rows` on this device; step: what one training step does on the batch's buffers.
    """

    def __init__(self, backend: Any, rows: Any, batch: Any, step: Any, optimizer: Optimizer) -> None:
        self.be, self.rows, self.batch, self.step, self.optimizer = backend, rows, batch, step, optimizer
        self._width = len(optimizer.scalars(optimizer.learning_rate, 1)) + 1
        self._table: Array = backend.zeros((AHEAD, self._width), np.float64)
        self._row: Array = backend.zeros((), np.uint32)
        self._offset: Array = backend.zeros((), np.int64)
        # What the step's own program does not launch is launched once here: a kernel should not be loaded during a capture.
        self._gather()
        self._advance()
        self._graphs: dict[int, Any] = {}

    @staticmethod
    def possible(backend: Any, rows: Any, batch: Any, optimizer: Optimizer) -> bool:
        """Whether kernels can gather these rows, and the optimizer's kernel reads its numbers from a table."""
        if not isinstance(optimizer.h, Scalars) or not (rule_of(optimizer) or type(optimizer) in (LARS, LAMB)):
            return False
        if not (backend.owns(rows.x) and backend.owns(rows.y)):
            return False
        types = [
            (C_TYPE.get(source.dtype.name), "long long", C_TYPE.get(out.dtype.name), source.ndim)
            for source, out in ((rows.x, batch.x), (rows.y, batch.target_buffer(rows.kind)))
        ]
        return all(t[:3] in (LABELS if t[3] == 1 else ROWS) for t in types)

    def run(self, first: int, count: int) -> int:
        """Steps `first` to `first + count` of an epoch, all of the full batch size; returns how many that were."""
        left = count
        while left:
            now = min(left, AHEAD)
            self._prepare(first, now)
            first, left = first + now, left - now
            for size in (STEPS if self.batch.x.size <= SMALL else 1, 1):
                for _ in range(now // size):
                    self._graph(size)()
                now %= size
        return count

    def _prepare(self, first: int, count: int) -> None:
        """Hand the scalars of the next `count` steps to the device, and where they begin."""
        numbers = np.ones((count, self._width))
        for k in range(count):
            values = self.optimizer.next_scalars()
            numbers[k, : len(values)] = values
        self.be.copy_in(numbers, self._table[:count])
        self.be.fill(self._row, 0)
        self.be.fill(self._offset, first * self.batch.n)

    def _graph(self, steps: int) -> Any:
        if steps not in self._graphs:
            self._graphs[steps] = GraphProgram(self.be, lambda: self._many(steps), warm=True)
        return self._graphs[steps]

    def _many(self, steps: int) -> None:
        for _ in range(steps):
            self._one()

    def _one(self) -> None:
        h: Any = self.optimizer.h
        single = h.table, h.row
        h.table, h.row = self._table, self._row
        try:
            self._gather()
            with self.be.inside_program():
                self.step()
        finally:
            h.table, h.row = single
        self._advance()

    def _advance(self) -> None:
        self.be.launch("advance", (), table.one_block(), None, self._row, self._offset, self.batch.n, None)

    def _gather(self) -> None:
        be, rows, batch = self.be, self.rows, self.batch
        n, order = batch.n, rows.permutation
        kind = "long long"
        for source, out in ((rows.x, batch.x), (rows.y, batch.target_buffer(rows.kind))):
            types = (C_TYPE[source.dtype.name], kind, C_TYPE[out.dtype.name])
            if source.ndim == 1:
                be.launch("gather_labels", types, be._flat(n, 1), source, order, self._offset, out, n)
            else:
                geometry = table.gather(n, be.kernels.multiprocessors)
                be.launch(
                    "gather_rows", types, geometry, source, order, self._offset, out, n, source.shape[1], None, None, 0
                )
