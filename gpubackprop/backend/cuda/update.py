"""Every optimizer as one kernel over the flat buffers (three for LARS and LAMB), and its numbers on the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda import registry
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels
from gpubackprop.network.parameters import Segment
from gpubackprop.optimizers import LAMB, LARS, Optimizer


class Scalars(tuple[Array, ...]):
    """An optimizer's 0-d scalars, and the same numbers as one row of a float64 table, which its kernel reads.

    The kernel reads the table's row `*row + ahead`; row None stands for 0.
    """

    flat: Array
    table: Array
    row: Array | None = None
    ahead: int = 0

    @contextmanager
    def reading(self, table: Array, row: Array, ahead: int) -> Iterator[None]:
        """Meanwhile the kernel is launched to read another table."""
        before = self.table, self.row, self.ahead
        self.table, self.row, self.ahead = table, row, ahead
        try:
            yield
        finally:
            self.table, self.row, self.ahead = before


class _Segments:
    """Where the arrays lie in the flat buffers, on the device, and whether their step is scaled to their norm."""

    def __init__(self, xp: ModuleType, segments: tuple[Segment, ...], dtype: DTypeLike) -> None:
        self.count = len(segments)
        self.longest = max(s.size for s in segments)
        self.offsets: Array = xp.asarray(np.array([s.start for s in segments], np.int64))
        self.lengths: Array = xp.asarray(np.array([s.size for s in segments], np.int64))
        self.adapt: Array = xp.asarray(np.array([len(s.shape) > 1 for s in segments], np.int32))
        self.ratios: Array = xp.zeros((self.count,), dtype)


class Updates:
    """The optimizers' kernels. xp: CuPy."""

    def __init__(self, kernels: Kernels, xp: ModuleType) -> None:
        self._kernels, self._xp = kernels, xp
        self._segments: WeakKeyDictionary[Optimizer, tuple[Any, _Segments]] = WeakKeyDictionary()

    def scalars(self, count: int, dtype: DTypeLike) -> Scalars:
        """Room for `count` numbers and, in the table, one more: the factor of decoupled decay, 1 where nobody writes it."""
        flat = self._xp.zeros((count,), dtype)
        own = Scalars(flat[i : i + 1].reshape(()) for i in range(count))
        own.flat = flat
        own.table = self._xp.zeros((count + 1,), np.float64)
        own.table.fill(1.0)
        return own

    def write(self, h: Scalars, values: tuple[float, ...]) -> None:
        """Write up to four numbers, as arguments of a launch: no host memory has to outlive it."""
        h0, h1, h2, h3 = (*map(float, values), 0.0, 0.0, 0.0, 0.0)[:4]
        t = C_TYPE[h.flat.dtype.name]
        self._kernels.launch("set_scalars", (t,), table.one_block(), h.table, h.flat, len(values), h0, h1, h2, h3)

    @staticmethod
    def has(optimizer: Optimizer) -> bool:
        """Whether there is a kernel for this optimizer."""
        return type(optimizer) in (LARS, LAMB) or registry.update_rule(optimizer) is not None

    def update(
        self,
        o: Optimizer,
        P: Array,
        G: Array,
        state: tuple[Array, ...],
        h: Scalars,
        copy: Array | None,
        skip: Array | None,
    ) -> bool:
        """One step of an optimizer; False where it has no kernel.

        copy: gets the new parameters in half precision. skip: an int on the device; nothing is written where it is not 0.
        """
        types = (C_TYPE[P.dtype.name], C_TYPE[(P if copy is None else copy).dtype.name])
        if not o.elementwise and (o.is_split or (o.weight_decay and o.decay != "all")):
            return False
        if type(o) in (LARS, LAMB):
            assert isinstance(o, (LARS, LAMB))
            self._layerwise(o, types, P, G, state, h, copy, skip)
        else:
            for member, span, decays in o.spans():
                rule, numbers = registry.update_rule(member), h if member is o else member.h
                if rule is None or not isinstance(numbers, Scalars):
                    return False
                rest = [None if a is None else a[span] for a in (*(*state, None, None, None)[:3], copy)]
                p, g = P[span], G[span]
                self._kernels.launch(
                    "optimizer_step", (rule[0], *types), self._kernels.flat(p.size, 16 // p.itemsize), p, g, *rest, p.size,
                    numbers.table, numbers.row, numbers.ahead, skip, *rule[1], _coupled_decay(member) * decays,
                    int(decays),
                )  # fmt: skip
        return True

    def _layerwise(
        self,
        o: LARS | LAMB,
        types: tuple[str, str],
        P: Array,
        G: Array,
        state: tuple[Array, ...],
        h: Scalars,
        copy: Array | None,
        skip: Array | None,
    ) -> None:
        """Norms of each array and of its step, what the step is multiplied by, and the step."""
        launch, where, decay = self._kernels.launch, self._where(o), _coupled_decay(o)
        geometry = table.segments(where.longest, where.count, self._kernels.multiprocessors)
        partial = self._kernels.partial(2 * geometry.blocks)
        arrays, numbers = (where.offsets, where.lengths), (h.table, h.row, h.ahead, skip)
        if isinstance(o, LARS):
            launch("segment_norms", types[:1], geometry, P, G, *arrays, partial)
            ratio, step, last = (o.trust, decay), ("lars_step", P, G, *state), (o.momentum, decay)
        else:
            constants = (o.eps, o.weight_decay)
            launch("lamb_moments", types[:1], geometry, P, G, *state, *arrays, partial, *numbers, *o.betas, *constants)
            ratio, step, last = (1.0, 0.0), ("lamb_step", P, *state), constants
        ratios = (partial, geometry.grid[0], where.adapt, *ratio, where.ratios)
        launch("segment_ratios", types[:1], table.segment_ratios(where.count), *ratios)
        launch(step[0], types, geometry, *step[1:], copy, *arrays, where.ratios, *numbers, *last)

    def _where(self, o: Optimizer) -> _Segments:
        assert o.parameters is not None
        held = self._segments.get(o)
        if held is None or held[0] is not o.parameters.segments:
            segments = o.parameters.segments
            held = self._segments[o] = segments, _Segments(self._xp, segments, o.parameters.dtype)
        return held[1]


def _coupled_decay(o: Optimizer) -> float:
    return 0.0 if o.decoupled_weight_decay else o.weight_decay
