"""What stands at the end of a step: norms, and every optimizer as one kernel over the flat buffers."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from gpubackprop import optimizers
from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels
from gpubackprop.errors import DeviceError


class Scalars(tuple):  # type: ignore[type-arg]
    """An optimizer's 0-d scalars, and the same numbers as one row of the table that its kernel reads."""

    table: Array
    flat: Array
    row: Array | None = None
    """Which row of the table is read, a uint32 on the device; None for the first."""
    where: Any = None
    """For the optimizers that treat each array by itself: the `Segments`."""


class Segments:
    """Where the arrays lie in the flat buffers, on the device, and whether their step is scaled to their norm."""

    def __init__(self, backend: Any, segments: Any, dtype: Any) -> None:
        self.longest = max(s.size for s in segments)
        self.offsets: Array = backend.asarray(np.array([s.start for s in segments], np.int64))
        self.lengths: Array = backend.asarray(np.array([s.size for s in segments], np.int64))
        self.adapt: Array = backend.asarray(np.array([len(s.shape) > 1 for s in segments], np.int32))
        self.ratios: Array = backend.zeros((len(segments),), dtype)


class UpdateKernels(CupyBackend):
    """A GPU with the kernels of kernels.cu at hand, and the part of the vocabulary that works on the flat buffers."""

    def __init__(self, index: int = 0, precision: str = "native") -> None:
        super().__init__(index, precision)
        self.kernels = Kernels(self.cupy, index)
        # The smallest kernel, to know now whether the compiler, the driver and the launch work together.
        ones = self.zeros((4,), np.float64)
        self.launch("set_scalars", ("double",), table.one_block(), ones, None, 4, 1.0, 2.0, 3.0, 4.0)
        if not (self.to_host(ones) == [1, 2, 3, 4]).all():
            raise DeviceError("a kernel compiled for this GPU wrote something else than it should")

    def launch(self, name: str, template: tuple[str | int, ...], geometry: table.Launch, *arguments: Any) -> None:
        """Queue one kernel of kernels.cu."""
        self.kernels.launch(name, template, geometry, *arguments)

    def _flat(self, n: int, width: int = 4) -> table.Launch:
        return table.flat(n, width, self.kernels.multiprocessors)

    def _partial(self, n: int, dtype: Any = np.float64) -> Array:
        return self._leading(n, dtype, "partial", self.empty)

    # -- norms and update ---------------------------------------------------------------------------------------------

    def norm(self, G: Array, out: Array) -> None:
        geometry = self._flat(G.size, 16 // G.itemsize)
        partial = self._partial(geometry.blocks)
        self.launch("squared_norm", (C_TYPE[G.dtype.name],), geometry, G, G.size, None, inf, partial)
        self.launch("finish_sum", (C_TYPE[out.dtype.name],), table.one_block(), partial, geometry.blocks, 1.0, 0, out)
        self.xp.sqrt(out, out=out)

    def total_of_squares(self, values: Array, scale: float, out: Array) -> None:
        geometry = self._flat(values.size, 16 // values.itemsize)
        partial = self._partial(geometry.blocks)
        self.launch("squared_norm", (C_TYPE[values.dtype.name],), geometry, values, values.size, None, inf, partial)
        types = (C_TYPE[out.dtype.name],)
        self.launch("finish_sum", types, table.one_block(), partial, geometry.blocks, float(scale), 0, out)

    def scalars(self, count: int, dtype: Any) -> Scalars:
        flat = self.zeros((count,), dtype)
        own = Scalars(flat[i : i + 1].reshape(()) for i in range(count))
        own.flat = flat
        # One more number than the rule's own: the factor of decoupled decay, 1 where nobody writes it.
        own.table = self.zeros((count + 1,), np.float64)
        own.table.fill(1.0)
        return own

    def write_scalars(self, h: tuple[Array, ...], values: tuple[float, ...]) -> None:
        if not isinstance(h, Scalars) or len(values) > 4:
            super().write_scalars(h, values)
            return
        four = (*map(float, values), 0.0, 0.0, 0.0, 0.0)[:4]
        t = C_TYPE[h.flat.dtype.name]
        self.launch("set_scalars", (t,), table.one_block(), h.table, h.flat, len(values), *four)

    def update(self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        rule = rule_of(optimizer)
        if rule is None or not isinstance(h, Scalars):
            self._generic_update(optimizer, P, G, state, h)
            return
        name, constants = rule
        t = C_TYPE[P.dtype.name]
        decay = 0.0 if optimizer.decoupled_weight_decay else optimizer.weight_decay
        slots = (*state, None, None, None)[:3]
        self.launch(
            "optimizer_step", (name, t, t, t), self._flat(P.size, 16 // P.itemsize), P, G, *slots, None, P.size, h.table, h.row,
            None, inf, None, self._skip(G), *constants, float(decay),
        )  # fmt: skip

    def update_by_segment(
        self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...], segments: Any
    ) -> bool:
        if type(optimizer) not in (optimizers.LARS, optimizers.LAMB) or not isinstance(h, Scalars):
            return False
        o, t = optimizer, C_TYPE[P.dtype.name]
        if not isinstance(h.where, Segments):
            h.where = Segments(self, segments, P.dtype)
        w = h.where
        geometry = table.segments(w.longest, len(segments), self.kernels.multiprocessors)
        partial = self._partial(2 * geometry.blocks)
        skip, ratios = self._skip(G), table.segment_ratios(len(segments))
        arguments: tuple[Any, ...]
        if type(o) is optimizers.LARS:
            decay = 0.0 if o.decoupled_weight_decay else float(o.weight_decay)
            arguments = (P, G, w.offsets, w.lengths, partial, None, inf, None)
            self.launch("segment_norms", (t, t), geometry, *arguments)
            arguments = (partial, geometry.grid[0], w.adapt, o.trust, decay, w.ratios)
            self.launch("segment_ratios", (t,), ratios, *arguments)
            arguments = (P, G, *state, None, w.offsets, w.lengths, w.ratios, h.table, h.row, None, inf, None, skip)
            self.launch("lars_step", (t, t, t), geometry, *arguments, o.momentum, decay)
        else:
            decay = float(o.weight_decay)
            arguments = (P, G, *state, w.offsets, w.lengths, partial, h.table, h.row, None, inf, None, skip)
            self.launch("lamb_moments", (t, t), geometry, *arguments, *o.betas, o.eps, decay)
            arguments = (partial, geometry.grid[0], w.adapt, 1.0, 0.0, w.ratios)
            self.launch("segment_ratios", (t,), ratios, *arguments)
            arguments = (P, *state, None, w.offsets, w.lengths, w.ratios, h.table, h.row, skip, o.eps, decay)
            self.launch("lamb_step", (t, t), geometry, *arguments)
        return True

    def _generic_update(
        self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]
    ) -> None:
        super().update(optimizer, P, G, state, h)

    def _skip(self, G: Array) -> Array | None:
        """An int on the device that is not 0 where this update must be left out; None for never."""
        return None


def rule_of(optimizer: Any) -> tuple[str, tuple[float, float, float]] | None:
    """The kernel's rule for an optimizer and its three constants; None for one of the user's own."""
    o, kind = optimizer, type(optimizer)
    if kind is optimizers.SGD:
        return ("Momentum", (o.momentum, float(o.nesterov), 0.0)) if o.momentum else ("Sgd", (0.0, 0.0, 0.0))
    if kind is optimizers.RMSprop:
        name = f"Rmsprop{'Centered' * o.centered}{'Momentum' * bool(o.momentum)}"
        return name, (o.alpha, o.eps, o.momentum)
    if kind is optimizers.Adagrad:
        return "Adagrad", (o.eps, 0.0, 0.0)
    if kind is optimizers.Adadelta:
        return "Adadelta", (o.rho, o.eps, 0.0)
    moments = {
        optimizers.Adam: "Adam",
        optimizers.AdamW: "Adam",
        optimizers.Adamax: "Adamax",
        optimizers.NAdam: "Nadam",
        optimizers.RAdam: "Radam",
    }
    if kind in moments:
        return moments[kind], (*o.betas, o.eps)
    return None
