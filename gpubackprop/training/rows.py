"""A data set on the device, handed out batch by batch in the order of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpubackprop.backend.base import Array, Backend

if TYPE_CHECKING:
    from gpubackprop.network.network import Network
    from gpubackprop.network.workspace import Batch


class Rows:
    """The rows of x (n, d) and of their targets y, (n,) or (n, m), moved to the device once.

    kind: "labels" or "targets", which of a batch's buffers the targets go to.
    """

    def __init__(self, be: Backend, x: Array, y: Array) -> None:
        self.be = be
        self.x = be.asarray(x)
        self.y = be.asarray(y)
        self.n = len(x)
        self.kind = "labels" if y.ndim == 1 else "targets"
        self._order: Array = None

    @property
    def permutation(self) -> Array:
        """The order on the device, (n,) int64; None where the rows come as they stand."""
        return self._order

    def order(self, permutation: np.ndarray) -> None:
        """Hand out the rows in this order, (n,) integers, from now on: one transfer an epoch."""
        if self._order is None:
            self._order = self.be.asarray(permutation.astype(np.int64))
        else:
            self.be.copy_in(permutation, self._order)

    def load(self, start: int, x: Array, y: Array) -> None:
        """Write the len(x) rows from place `start` of the order into the buffers x and y."""
        stop = start + len(x)
        if self._order is None:
            self.be.copy_in(self.x[start:stop], x)
            self.be.copy_in(self.y[start:stop], y)
            return
        index = self._order[start:stop]
        self.be.gather_rows(self.x, index, x)
        self.be.gather_rows(self.y, index, y)

    def loader(self, net: Network, first: int) -> Callable[[int, int], Batch]:
        """A function (start, n) -> the batch that holds rows first + start to first + start + n of the order."""

        def load(start: int, n: int) -> Batch:
            batch = net._workspace.batch(n)
            self.load(first + start, batch.x, batch.target_buffer(self.kind))
            return batch

        return load
