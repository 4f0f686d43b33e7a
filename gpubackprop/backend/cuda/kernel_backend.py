"""The vocabulary through the kernels of kernels.cu: one launch where plain CuPy takes one a line."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS, ELU, LeakyReLU
from gpubackprop.backend.base import Array, ElementwiseFunction, LossFunction
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.kernel_table import ACTIVATION, C_TYPE, LOSS
from gpubackprop.backend.cuda.update import UpdateKernels
from gpubackprop.errors import DeviceError
from gpubackprop.losses import LOSSES
from gpubackprop.random import MaskStream

_HALF = ("float16", "bfloat16")
ROWS, LABELS = (frozenset(table.variants()[name]) for name in ("gather_rows", "gather_labels"))


class KernelBackend(UpdateKernels):
    """GPU number `index`, with kernels of our own for everything but the products.

    What has no kernel (an activation, loss or optimizer of one's own) runs through array expressions. Raises DeviceError
    or MissingExtraError where the kernels cannot be compiled.
    """

    def describe(self) -> str:
        return f"own kernels, products by CuPy, eager{self.fallback}"

    # -- activations ----------------------------------------------------------------------------------------------

    def _bias_activation(self, f: ElementwiseFunction, b: Array | None, z: Array, out: Array) -> None:
        """out = f(z + b), and z gets z + b where f' is written from it."""
        function = _activation(f)
        if function is None or not _plain(z, out):
            if b is not None:
                self.xp.add(z, b, out=z)
            self.activate(f, z, out)
            return
        name, parameter = function
        t = C_TYPE[z.dtype.name]
        geometry = self._flat(z.size, 16 // z.itemsize)
        if b is None:
            if name != "Identity" or z is not out:
                self.launch("activation", (t, name), geometry, z, out, z.size, parameter)
            return
        saved = None if z is out else z
        self.launch("bias_activation", (t, name), geometry, z, b, out, saved, z.shape[0], z.shape[1], parameter)

    def affine(self, x: Array, W: Array, b: Array | None, f: ElementwiseFunction, z: Array, out: Array) -> None:
        self.dot(x, W, z)
        self._bias_activation(f, b, z, out)

    def activate(self, f: ElementwiseFunction, z: Array, out: Array) -> None:
        function = _activation(f)
        if function is None or not _plain(z, out):
            super().activate(f, z, out)
            return
        geometry = self._flat(z.size, 16 // z.itemsize)
        self.launch("activation", (C_TYPE[z.dtype.name], function[0]), geometry, z, out, z.size, function[1])

    def times_derivative(self, f: ElementwiseFunction, saved: Array, delta: Array) -> None:
        function = _activation(f)
        if f.name == "identity" and function is not None:
            return
        if function is None or not _plain(saved, delta):
            super().times_derivative(f, saved, delta)
            return
        template = (C_TYPE[delta.dtype.name], function[0])
        geometry = self._flat(delta.size, 16 // delta.itemsize)
        self.launch("activation_derivative", template, geometry, delta, saved, delta.size, function[1])

    def column_sums(self, values: Array, out: Array) -> None:
        if _plain(values):
            self._add_column_sums(values, out, 0.0)
        else:
            self.xp.sum(values, axis=0, out=out)

    def _add_column_sums(self, values: Array, out: Array, beta: float) -> None:
        """out = column sums + beta out; the sums in float32 (float64), whatever the values are stored in."""
        n, m = values.shape
        t = C_TYPE[values.dtype.name]
        wide = "double" if t == "double" else "float"
        width = table.vector_width(t, m, values.data.ptr)
        geometry = table.columns(n, m, width, self.kernels.multiprocessors)
        splits = geometry.grid[1]
        partial = self._partial(splits * m, np.float64 if wide == "double" else np.float32)
        self.launch("derivative_column_sums", (t, "Identity", width), geometry, values, None, partial, n, m, 0.0)
        self.launch(
            "finish_column_sums", (wide, C_TYPE[out.dtype.name]), table.finish_columns(m), partial, splits, m, None, out, None,
            float(beta),
        )  # fmt: skip

    # -- dropout and normalisation ----------------------------------------------------------------------------------

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        seed, layer = (int(part) for part in stream.key)
        self.launch(
            "dropout", (C_TYPE[x.dtype.name],), self._flat(-(-x.size // 16) + 1, 1), x, mask, out, x.size, first,
            1 / (1 - stream.p), stream.threshold, stream.step, layer, seed,
        )  # fmt: skip

    def normalize(self, x: Array, axis: int, eps: float, mean: Array, var: Array, rstd: Array, xhat: Array) -> None:
        self._only_wide(x)
        n, d = x.shape
        t = C_TYPE[x.dtype.name]
        if axis == 1:
            group = table.group_of(d)
            geometry = table.rows(n, group, self.kernels.multiprocessors)
            self.launch("layer_norm_forward", (t, group), geometry, x, None, None, xhat, mean, var, rstd, n, d, eps)
            return
        width = min(table.vector_width(t, d, x.data.ptr), 4)
        geometry = table.columns(n, d, width, self.kernels.multiprocessors)
        splits = geometry.grid[1]
        partial = self._partial((2 * splits + 1) * d, x.dtype)
        self.launch("column_spreads", (t, width), geometry, x, partial, n, d)
        self.launch(
            "finish_spreads",
            (t,),
            table.finish_columns(d),
            partial,
            splits,
            n,
            d,
            eps,
            0.0,
            mean,
            var,
            rstd,
            None,
            None,
        )
        self.launch("batch_norm_apply", (t,), self._flat(x.size), x, mean, rstd, None, None, xhat, n, d)

    def normalize_backward(self, g: Array, axis: int, rstd: Array, xhat: Array, out: Array) -> None:
        self._only_wide(g)
        n, d = g.shape
        t = C_TYPE[g.dtype.name]
        if axis == 1:
            group = table.group_of(d)
            geometry = table.rows(n, group, self.kernels.multiprocessors)
            self.launch("layer_norm_backward", (t, group), geometry, xhat, g, None, rstd, None, out, n, d)
            return
        width = table.vector_width(t, d, xhat.data.ptr, g.data.ptr)
        geometry = table.columns(n, d, width, self.kernels.multiprocessors)
        splits = geometry.grid[1]
        partial = self._partial(2 * splits * d, g.dtype)
        sums = self._leading(2 * d, g.dtype, "norm sums", self.empty)
        self.launch("norm_gradient_sums", (t, width, 0), geometry, xhat, g, None, rstd, partial, n, d)
        finish = table.finish_columns(d, 2)
        self.launch("finish_column_sums", (t, t), finish, partial, splits, d, sums, None, None, 0.0)
        self.launch("batch_norm_backward", (t,), self._flat(g.size), xhat, g, None, rstd, None, sums, out, n, d)

    def _only_wide(self, x: Array) -> None:
        if x.dtype.name in _HALF:
            raise DeviceError(
                f"BatchNorm and LayerNorm keep their statistics in float32, which does not go with activations in "
                f'{x.dtype.name}: use precision="tf32" for this network'
            )

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss_and_delta(
        self, loss: LossFunction, a: Array, y: Array, v: Any, value: Array, delta: Array | None, rows: int
    ) -> None:
        if LOSSES.get(loss.name) is not type(loss):
            super().loss_and_delta(loss, a, y, v, value, delta, rows)
            return
        n, m = a.shape
        t, d = C_TYPE[a.dtype.name], C_TYPE[(a if delta is None else delta).dtype.name]
        if loss.name == "cross_entropy":
            group = table.group_of(m)
            geometry = table.rows(n, group, self.kernels.multiprocessors)
            partial = self._partial(geometry.blocks)
            template: tuple[str | int, ...] = (t, C_TYPE[y.dtype.name], d, group)
            scale = self._loss_scale()
            self.launch("cross_entropy", template, geometry, a, y, delta, partial, n, m, 1 / rows, scale)
        else:
            count = rows if loss.name == "half_squared_error" else rows * m
            geometry = self._flat(a.size)
            partial = self._partial(geometry.blocks)
            template = (t, C_TYPE[y.dtype.name], d, LOSS[loss.name])
            scale = self._loss_scale()
            self.launch("elementwise_loss", template, geometry, a, y, delta, partial, a.size, 1 / count, scale)
        self.launch("finish_sum", ("double",), table.one_block(), partial, geometry.blocks, 1.0, 0, value)

    def _loss_scale(self) -> Array | None:
        """What delta is multiplied by on the device, so that small ones survive in float16; None for 1."""
        return None

    # -- rows ------------------------------------------------------------------------------------------

    def gather_rows(self, source: Array, index: Array, out: Array) -> None:
        types = tuple(C_TYPE.get(a.dtype.name, "") for a in (source, index, out))
        if source.ndim == 2 and types in ROWS:
            geometry = table.gather(len(index), self.kernels.multiprocessors)
            arguments = (source, index, None, out, len(index), source.shape[1], None, None, 0)
            self.launch("gather_rows", types, geometry, *arguments)
        elif source.ndim == 1 and types in LABELS:
            geometry = self._flat(len(index), 1)
            self.launch("gather_labels", types, geometry, source, index, None, out, len(index))
        else:
            super().gather_rows(source, index, out)


def _plain(*arrays: Array) -> bool:
    """Whether a kernel can walk over these: C-contiguous, of a type that it knows."""
    return all(a.flags.c_contiguous and a.dtype.name in C_TYPE for a in arrays)


def _activation(f: ElementwiseFunction) -> tuple[str, float] | None:
    """The kernel's name for an activation and its parameter; None for one of the user's own, or with other constants."""
    if ACTIVATIONS.get(f.name) is not type(f):
        return None
    if isinstance(f, LeakyReLU):
        return (ACTIVATION[f.name], float(f.slope)) if f.slope >= 0 else None
    if type(f) is ELU:
        return (ACTIVATION[f.name], float(f.alpha)) if f.scale == 1.0 and f.alpha >= 0 else None
    return ACTIVATION[f.name], 0.0
