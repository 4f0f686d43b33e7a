"""Batch and layer normalisation through kernels. Statistics are float32 for activations in half precision, else their type."""

from __future__ import annotations

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels


def normalize_rows(
    kernels: Kernels,
    x: Array,
    eps: float,
    mean: Array | None,
    var: Array,
    rstd: Array,
    xhat: Array,
    gamma: Array,
    beta: Array | None,
    out: Array,
) -> None:
    """`Backend.normalize` along axis 1."""
    (n, d), group = x.shape, table.group_of(x.shape[1])
    geometry = table.rows(n, group, kernels.multiprocessors)
    arguments = (x, xhat, out, gamma, beta, mean, var, rstd, n, d, eps)
    kernels.launch("layer_norm_forward", (C_TYPE[x.dtype.name], group), geometry, *arguments)


def normalize_rows_backward(
    kernels: Kernels, delta: Array, gamma: Array, rstd: Array, xhat: Array, out: Array, centered: bool
) -> None:
    """`Backend.normalize_backward` along axis 1."""
    (n, d), group = delta.shape, table.group_of(delta.shape[1])
    geometry = table.rows(n, group, kernels.multiprocessors)
    arguments = (xhat, delta, gamma, rstd, out, n, d, int(centered))
    kernels.launch("layer_norm_backward", (C_TYPE[delta.dtype.name], group), geometry, *arguments)


def normalize_columns(
    kernels: Kernels,
    x: Array,
    eps: float,
    mean: Array,
    var: Array,
    rstd: Array,
    xhat: Array,
    gamma: Array,
    beta: Array,
    out: Array,
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
    kernels.launch("batch_norm_apply", (t,), kernels.flat(x.size), x, mean, rstd, gamma, beta, xhat, out, n, d)


def normalize_columns_backward(
    kernels: Kernels, delta: Array, gamma: Array, rstd: Array, xhat: Array, sums: Array, out: Array
) -> None:
    """`Backend.normalize_backward` along axis 0."""
    (n, d), t = delta.shape, C_TYPE[delta.dtype.name]
    arguments = (xhat, delta, gamma, rstd, sums, out, n, d)
    kernels.launch("batch_norm_backward", (t,), kernels.flat(delta.size), *arguments)


def scale_gradients(kernels: Kernels, delta: Array, xhat: Array, sums: Array) -> None:
    """`Backend.scale_gradients`."""
    (n, d), t, wide = delta.shape, C_TYPE[delta.dtype.name], C_TYPE[sums.dtype.name]
    width = table.vector_width(t, d, xhat.data.ptr, delta.data.ptr)
    geometry = table.columns(n, d, width, kernels.multiprocessors)
    splits = geometry.grid[1]
    partial = kernels.partial(2 * splits * d, sums.dtype)
    kernels.launch("norm_gradient_sums", (t, width), geometry, xhat, delta, partial, n, d)
    finish = table.finish_columns(d, 2)
    kernels.launch("finish_column_sums", (wide, wide), finish, partial, splits, d, sums, 0.0)
