"""Rows of a data set on the device, gathered into the buffers of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE, GATHERED, GATHERED_TARGETS
from gpubackprop.backend.cuda.launcher import Kernels


def row_types(source: Array, dtype: DTypeLike) -> tuple[str, str] | None:
    """The kernel's types for rows (any, d) and a buffer (n, d) of `dtype`; None where it has none for them."""
    types = C_TYPE.get(source.dtype.name, ""), C_TYPE.get(np.dtype(dtype).name, "")
    return types if source.ndim == 2 and source.flags.c_contiguous and types in GATHERED else None


def target_types(source: Array, dtype: DTypeLike) -> tuple[str, str] | None:
    """The kernel's types for labels (any,) or targets (any, m) and a buffer of `dtype`; None where it has none for them."""
    types = C_TYPE.get(source.dtype.name, ""), C_TYPE.get(np.dtype(dtype).name, "")
    return types if source.flags.c_contiguous and types in GATHERED_TARGETS else None


def gather(
    kernels: Kernels,
    x: tuple[Array, Array] | None,
    y: tuple[Array, Array] | None,
    order: Array | None,
    offset: Array | None = None,
    ahead: int = 0,
) -> None:
    """out[r] = source[order[offset + ahead + r]] for the pairs x and y of (source, out), with types that there are kernels for.

    order: int64, None for the rows as they lie; offset: one int64 on the device, None for 0.
    """
    all_x, to_x, width, x_types = _side(x, row_types)
    all_y, to_y, targets, y_types = _side(y, target_types)
    n = len(to_y if x is None else to_x)
    kernels.launch(
        "gather_rows", (*x_types, *y_types), table.gather(n, kernels.multiprocessors), all_x, to_x, width, all_y, to_y, targets,
        order, offset, ahead, n,
    )  # fmt: skip


def _side(
    pair: tuple[Array, Array] | None, types_of: Callable[[Array, Any], tuple[str, str] | None]
) -> tuple[Array, Array, int, tuple[str, str]]:
    """(source, out, columns, types); nothing, of any type, for None."""
    if pair is None:
        return None, None, 0, ("float", "float")
    source, out = pair
    types = types_of(source, out.dtype)
    assert types is not None
    return source, out, out.shape[1] if out.ndim == 2 else 1, types
