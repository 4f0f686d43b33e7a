"""Rows of a data set on the device, gathered into the buffers of a batch."""

from __future__ import annotations

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE, GATHERED, GATHERED_TARGETS
from gpubackprop.backend.cuda.launcher import Kernels

_NOTHING = ("float", "float")


def row_types(source: Array, out: Array) -> tuple[str, str] | None:
    """The kernel's types for rows (any, d) and their buffer (n, d); None where it has none for them."""
    types = C_TYPE.get(source.dtype.name, ""), C_TYPE.get(out.dtype.name, "")
    fits = source.ndim == 2 and source.flags.c_contiguous and out.flags.c_contiguous and types in GATHERED
    return types if fits else None


def target_types(source: Array, out: Array) -> tuple[str, str] | None:
    """The kernel's types for labels (any,) or targets (any, m) and their buffer; None where it has none for them."""
    types = C_TYPE.get(source.dtype.name, ""), C_TYPE.get(out.dtype.name, "")
    return types if source.flags.c_contiguous and out.flags.c_contiguous and types in GATHERED_TARGETS else None


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
    rows = (x or y or ((), ()))[1]
    types = (row_types(*x) if x else _NOTHING), (target_types(*y) if y else _NOTHING)
    assert types[0] and types[1]
    (all_x, to_x), (all_y, to_y) = x or (None, None), y or (None, None)
    width = to_x.shape[1] if x else 0
    targets = 0 if not y else to_y.shape[1] if to_y.ndim == 2 else 1
    kernels.launch(
        "gather_rows", (*types[0], *types[1]), table.gather(len(rows), kernels.multiprocessors), all_x, to_x, width, all_y, to_y,
        targets, order, offset, ahead, len(rows),
    )  # fmt: skip
