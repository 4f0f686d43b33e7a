"""Whole stretches of an epoch as one call of machine code: for each step its rows, its settings, and the step itself."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from gpubackprop.backend.compiled.cache import is_cached, load
from gpubackprop.backend.compiled.operations import (
    TRANSCENDENTAL,
    Elementwise,
    Operation,
    Product,
    UntranslatableError,
    operations,
)
from gpubackprop.backend.compiled.source import Source, write_step
from gpubackprop.backend.recorder import Call

CALL = 0.45e-6
"""Seconds that Python and NumPy spend around a recorded call, which machine code saves."""
FUNCTION = 8e-9
"""Seconds more for each exp, tanh, ...: NumPy computes many at a time, and the generated code one."""
RATE = 30e9
"""Multiply-adds a second of a product, roughly: what it takes is the same either way, and no gain."""
LEAST_GAIN = 0.05
"""The share of a step's time that must be saved."""
COMPILING, LOADING = 4.0, 1.0
"""Seconds for a step that was never compiled, and for one whose code is on disk; importing Numba included."""

_HEADER = '''\
"""A training step, generated for Numba by gpubackprop (format 1)."""

from math import erfc, exp, expm1, log, log1p, sqrt, tanh

from numba import float32, float64, int64, njit, uint8, uint64

from gpubackprop.backend.compiled.runtime import FASTMATH, dgemm, f4, f8, i8, sgemm, u1, u8


@njit(cache=True, fastmath=FASTMATH, error_model="numpy", nogil=True)
def run(T, x, y, order, first, numbers):
'''


class EpochProgram:
    """Training steps over a data set, in machine code.

    `program(x, y, order, first, numbers)` does len(numbers) steps; step s takes the rows order[first + s n : first + (s + 1) n]
    of x (rows, d) and y, (rows,) or (rows, m), with n the batch's size, and the optimizer's scalars numbers[s]. It
    leaves the static buffers of the step as the last step did. order: int64, or None for the rows as they lie.
    """

    def __init__(self, source: Source, run: Any, rows: int, scalars: int) -> None:
        self.rows = rows
        self.scalars = scalars
        self._arrays = source.arrays
        self._table = np.array([a.__array_interface__["data"][0] for a in source.arrays], np.int64)
        self._run = run

    def __call__(self, x: np.ndarray, y: np.ndarray, order: np.ndarray | None, first: int, numbers: np.ndarray) -> None:
        last = first + len(numbers) * self.rows
        if order is None:
            order = np.arange(last)
        if not 0 <= first <= last <= len(order) or numbers.shape[1] != self.scalars:
            raise IndexError(f"rows {first} to {last} of {len(order)}, numbers {numbers.shape} of {self.scalars}")
        self._run(self._table, x, y, order, first, numbers)


def epoch_program(
    calls: list[Call], x: np.ndarray, y: np.ndarray, h: tuple[np.ndarray, ...], steps: int
) -> EpochProgram | None:
    """The machine code for a recorded step, or None where Numba is not installed, a call is not known, or `steps` of
    them do not repay the compilation.

    calls: the recorded step; x (n, d) and y, (n,) or (n, m): the static buffers that it takes its batch from; h: the 0-d
    arrays that it takes the optimizer's scalars from.
    """
    if find_spec("numba") is None:
        return None
    try:
        known = operations(calls)
        source = write_step(known)
        text = module_source(source, x, y, h)
    except UntranslatableError:
        return None
    saved = gain(known, len(calls))
    if saved <= 0 or saved * steps < (LOADING if is_cached(text) else COMPILING):
        return None
    return EpochProgram(source, load(text).run, len(x), len(h))


def gain(known: list[Operation], calls: int) -> float:
    """Seconds that machine code saves a step, estimated from counts; 0 where that is too small a share of it."""
    products = sum(p.a.size * p.b.shape[1] for p in known if isinstance(p, Product)) / RATE
    elementwise = [o for o in known if isinstance(o, Elementwise)]
    functions = sum(o.out.size for o in elementwise if o.name in TRANSCENDENTAL) * FUNCTION
    replayed = calls * CALL + products + sum(o.out.size for o in elementwise) * 0.2e-9
    saved = calls * CALL - functions
    return saved if saved > LEAST_GAIN * replayed else 0.0


def module_source(source: Source, x: np.ndarray, y: np.ndarray, h: tuple[np.ndarray, ...]) -> str:
    """The text of the module whose `run` an `EpochProgram` calls."""
    batch = Source(arrays=source.arrays, slots=source.slots)
    n, d = x.shape
    batch.write(0, f"for i in range({n}):")
    batch.write(1, f"row = order[first + s * {n} + i]")
    batch.write(1, f"for j in range({d}):")
    batch.write(2, f"{batch.element(x, 'i', 'j')} = x[row, j]")
    if y.ndim == 1:
        batch.write(1, f"{batch.element(y, 'i')} = y[row]")
    else:
        batch.write(1, f"for j in range({y.shape[1]}):")
        batch.write(2, f"{batch.element(y, 'i', 'j')} = y[row, j]")
    for i, number in enumerate(h):
        batch.write(0, f"{batch.element(number)} = numbers[s, {i}]")
    lines = [*source.pointers(), "for s in range(len(numbers)):", *("    " + w for w in (*batch.lines, *source.lines))]
    return _HEADER + "\n".join("    " + line for line in lines) + "\n"
