"""Batch and layer normalisation through kernels. Statistics are float32 for activations in half precision, else their type."""

from __future__ import annotations

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels


def normalize_rows(
    kernels: Kernels, x: Array, eps: float, mean: Array | None, var: Array, rstd: Array, xhat: Array
) -> None:
    """`Backend.normalize` along axis 1."""
    (n, d), group = x.shape, table.group_of(x.shape[1])
    geometry = table.rows(n, group, kernels.multiprocessors)
    arguments = (x, xhat, mean, var, rstd, n, d, eps)
    kernels.launch("layer_norm_forward", (C_TYPE[x.dtype.name], group), geometry, *arguments)


def normalize_rows_backward(
    kernels: Kernels, g: Array, rstd: Array, xhat: Array, out: Array, centered: bool = True
) -> None:
    """`Backend.normalize_backward` along axis 1."""
    (n, d), group = g.shape, table.group_of(g.shape[1])
    geometry = table.rows(n, group, kernels.multiprocessors)
    arguments = (xhat, g, rstd, out, n, d, int(centered))
    kernels.launch("layer_norm_backward", (C_TYPE[g.dtype.name], group), geometry, *arguments)


def normalize_columns(
    kernels: Kernels, x: Array, eps: float, mean: Array, var: Array, rstd: Array, xhat: Array
) -> None:
    """`Backend.normalize` along axis 0."""
    (n, d), t = x.shape, C_TYPE[x.dtype.name]
    width = min(table.vector_width(t, d, x.data.ptr), 4)
    geometry = table.columns(n, d, width, kernels.multiprocessors)
    splits = geometry.grid[1]
    partial = kernels.partial((2 * splits + 1) * d, mean.dtype)
    kernels.launch("column_spreads", (t, width), geometry, x, partial, n, d)
    arguments = (partial, splits, n, d, eps, mean, var, rstd)
    kernels.launch("finish_spreads", (C_TYPE[mean.dtype.name],), table.finish_columns(d), *arguments)
    kernels.launch("batch_norm_apply", (t,), kernels.flat(x.size), x, mean, rstd, xhat, n, d)


def normalize_columns_backward(kernels: Kernels, g: Array, rstd: Array, xhat: Array, sums: Array, out: Array) -> None:
    """`Backend.normalize_backward` along axis 0. sums (2 d,): room for the sums of g and of g * xhat, of the type of rstd."""
    (n, d), t, wide = g.shape, C_TYPE[g.dtype.name], C_TYPE[rstd.dtype.name]
    width = table.vector_width(t, d, xhat.data.ptr, g.data.ptr)
    geometry = table.columns(n, d, width, kernels.multiprocessors)
    splits = geometry.grid[1]
    partial = kernels.partial(2 * splits * d, rstd.dtype)
    kernels.launch("norm_gradient_sums", (t, width), geometry, xhat, g, partial, n, d)
    finish = table.finish_columns(d, 2)
    kernels.launch("finish_column_sums", (wide, wide), finish, partial, splits, d, sums, 0.0)
    kernels.launch("batch_norm_backward", (t,), kernels.flat(g.size), xhat, g, rstd, sums, out, n, d)
