"""A data set on the device, handed out batch by batch in the order of an epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend
from gpubackprop.sparse import SparseRows


class Rows:
    """The rows of x (n, d) and of their targets y, (n,) or (n, m): the `RowSource` of data that fits on the device.

    resident: move both to the device once; otherwise each part is copied when it is loaded, which is what a single step
    needs. dtype: of x and of targets in a batch; resident arrays of another type are converted once, but for an x that the
    device converts as it gathers. Sparse rows stay on the host, and become dense batch by batch. weights: (n, 1), what each
    row's loss is multiplied by, or None. kind: "labels" or "targets", which of a batch's buffers the targets go to.
    """

    def __init__(
        self,
        be: Backend,
        x: Array,
        y: Array,
        dtype: DTypeLike | None = None,
        resident: bool = True,
        weights: Array | None = None,
    ) -> None:
        self.be = be
        self.n = len(x)
        self.kind = "labels" if y.ndim == 1 else "targets"
        self.x, self.y = x, y
        self.weights = weights if weights is None or not resident else be.asarray(weights)
        if resident:
            if not isinstance(x, SparseRows):
                self.x = be.asarray(x)
                if dtype is not None and not be.gathers(self.x, dtype):
                    self.x = be.asarray(self.x, dtype)
            self.y = be.asarray(y, np.int64 if self.kind == "labels" else dtype)
        self._order: Array = None
        self._host_order: np.ndarray | None = None

    @property
    def permutation(self) -> Array:
        """The order on the device, (n,) int64; None where the rows come as they stand."""
        return self._order

    def order(self, permutation: np.ndarray) -> None:
        """Hand out the rows in this order, (n,) integers, from now on: one transfer an epoch."""
        self._host_order = np.array(permutation) if isinstance(self.x, SparseRows) else None
        if self._order is None:
            self._order = self.be.asarray(permutation.astype(np.int64))
        else:
            self.be.copy_in(permutation, self._order)

    def load(self, start: int, x: Array, y: Array, weights: Array | None = None) -> None:
        """Write the len(x) rows from place `start` of the order into the buffers x and y, and their weights."""
        stop = start + len(x)
        index = None if self._order is None else self._order[start:stop]
        for source, out in ((self.x, x), (self.y, y), (self.weights, weights)):
            if source is None or out is None:
                continue
            if isinstance(source, SparseRows):
                host = self._host_order
                self.be.copy_in(source[start:stop] if host is None else source[host[start:stop]], out)
            elif index is None:
                self.be.copy_in(source[start:stop], out)
            else:
                self.be.gather_rows(source, index, out)
