"""Rows of a sparse matrix, dense where they are asked for: never all of them at once, unless all are one batch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike


class SparseMatrix(Protocol):
    """A matrix of scipy.sparse."""

    def tocsr(self) -> Any:
        """The same by rows."""


class SparseRows:
    """A scipy.sparse matrix x (n, d) as rows that are read like an array's: `rows[a:b]`, `rows[index]`, each a dense array of
    `dtype`."""

    ndim = 2

    def __init__(self, matrix: SparseMatrix, dtype: np.dtype[Any]) -> None:
        self._csr = matrix.tocsr()
        self.shape: tuple[int, int] = self._csr.shape
        self.dtype = dtype

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """The arrays that say all of it: values, columns, and where each row begins."""
        return self._csr.data, self._csr.indices, self._csr.indptr

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._csr[rows].toarray(), self.dtype)

    def taken(self, rows: np.ndarray) -> SparseRows:
        """These rows, sparse."""
        return SparseRows(self._csr[rows], self.dtype)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)
