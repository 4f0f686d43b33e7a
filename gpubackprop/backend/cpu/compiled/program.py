"""Whole stretches of an epoch as one call of machine code: for each step its rows, its settings, and the step itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np

from gpubackprop.backend.cpu.compiled.module import ONE_AT_A_TIME, function
from gpubackprop.backend.cpu.compiled.operations import (
    TRANSCENDENTAL,
    Elementwise,
    Operation,
    Product,
    UntranslatableError,
    operations,
)
from gpubackprop.backend.cpu.compiled.source import StepSource, address, pointer_to, write_step
from gpubackprop.backend.cpu.recorder import Call
from gpubackprop.errors import ArgumentError

CALL = 0.45e-6
"""Seconds that Python and NumPy spend around a recorded call, which machine code saves."""
STEP = 10e-6
"""Seconds that the training loop spends around a step: loading its rows, handing over its scalars."""
FUNCTION = 8e-9
"""Seconds more for each exp, tanh, ...: NumPy computes many at a time, and the generated code one."""
RATE = 30e9
"""Multiply-adds a second of a product, roughly: what it takes is the same either way, and no gain."""
LEAST_GAIN = 0.05
"""The share of a step's time that must be saved."""
LONGEST = 400
"""Calls of the longest step that is compiled: the compiler takes more than twice as long for twice as many (seconds for 100,
minutes for 1,000), and replaying a step of so many calls costs little beside its products."""

_HEADER = '''\
"""A training step, generated for Numba by gpubackprop (format 2)."""

from math import exp, expm1, log, log1p, sqrt, tanh

from numba import float32, float64, int64, njit, uint8, uint64
from numpy import rint

from gpubackprop.backend.cpu.compiled.runtime import FASTMATH, dgemm, draw, f4, f8, i8, sgemm, u1, u8


@njit(fastmath=FASTMATH, error_model="numpy", nogil=True)
def run(T, x_address, y_address, order, first, numbers):
'''


@cache
def installed() -> bool:
    """Whether there is a Numba to compile with."""
    try:
        return find_spec("numba") is not None
    except ImportError:  # somebody's import hook says no this way
        return False


@cache
def usable() -> bool:
    """Whether that Numba can be imported, for what is faster with it but does not need it; a warning where it cannot."""
    if not installed():
        return False
    try:
        with ONE_AT_A_TIME:
            import numba  # noqa: F401
    except ImportError as error:  # it is for another NumPy
        warnings.warn(f"Numba is installed, but does not work ({error}): NumPy does its part", stacklevel=2)
        return False
    return True


class EpochProgram:
    """Training steps over a data set, in machine code.

    `program(x, y, order, first, numbers)` does len(numbers) steps; step s takes the rows order[first + s n : first + (s + 1) n]
    of x (rows, d) and y, (rows,) or (rows, m), with n the batch's size, and the optimizer's scalars numbers[s]. It
    leaves the static buffers of the step as the last step did.

    x, y and numbers have the types of the step's buffers, without gaps. order: int64, all of them rows of x, which nothing
    checks; None for the rows as they lie.
    """

    def __init__(
        self, source: StepSource, run: Callable[..., None], x: np.ndarray, y: np.ndarray, h: tuple[np.ndarray, ...]
    ) -> None:
        self.rows = len(x)
        self._like = x, y, np.empty((1, len(h)), x.dtype)
        self._arrays = source.arrays
        self._table = np.array([address(a) for a in source.arrays], np.int64)
        self._run = run

    def __call__(self, x: np.ndarray, y: np.ndarray, order: np.ndarray | None, first: int, numbers: np.ndarray) -> None:
        last = first + len(numbers) * self.rows
        order = np.arange(last) if order is None else order
        for name, a, like in zip(("x", "y", "numbers"), (x, y, numbers), self._like, strict=True):
            if a.dtype != like.dtype or a.shape[1:] != like.shape[1:] or not a.flags.c_contiguous:
                raise ArgumentError(f"{name} must be like {like.shape} {like.dtype}; got {a.shape} {a.dtype}")
        if not 0 <= first <= last <= len(order) or len(x) != len(y):
            raise ArgumentError(
                f"steps of rows {first} to {last} were asked for, of {len(order)} and {len(x)}, {len(y)}"
            )
        self._run(self._table, address(x), address(y), order, first, numbers)


class MachineCode:
    """The machine code of one recorded step: found out about when first asked for, made when it is faster than the replay.

    calls: the recorded step; x (n, d) and y, (n,) or (n, m): the static buffers that it takes its batch from; h: the 0-d
    arrays that it takes the optimizer's scalars from.
    """

    def __init__(self, calls: list[Call], x: np.ndarray, y: np.ndarray, h: tuple[np.ndarray, ...]) -> None:
        self._made: EpochProgram | None = None
        self.saved = 0.0
        """Seconds that it saves a step; 0 where there is none."""
        try:
            if len(calls) > LONGEST:
                raise UntranslatableError(f"{len(calls)} calls, and compiling more than {LONGEST} takes minutes")
            known = operations(calls)
            self._source = write_step(known)
            self._text = module_source(self._source, x, y, h)
        except UntranslatableError as error:
            self.reason = str(error)
            return
        self._buffers = x, y, h
        self.saved = gain(known, len(calls))

    def program(self) -> EpochProgram | None:
        """The program, or None where it would not be faster."""
        if self._made is None and self.saved > 0:
            self._made = EpochProgram(self._source, function(self._text), *self._buffers)
        return self._made


def gain(known: list[Operation], calls: int) -> float:
    """Seconds that machine code saves a step, estimated from counts; 0 where that is too small a share of it."""
    products = sum(p.a.size * p.b.shape[1] for p in known if isinstance(p, Product)) / RATE
    elementwise = [o for o in known if isinstance(o, Elementwise)]
    functions = sum(o.out.size for o in elementwise if o.name in TRANSCENDENTAL) * FUNCTION
    around = STEP + calls * CALL
    replayed = around + products + sum(o.out.size for o in elementwise) * 0.2e-9
    saved = around - functions
    return saved if saved > LEAST_GAIN * replayed else 0.0


def module_source(source: StepSource, x: np.ndarray, y: np.ndarray, h: tuple[np.ndarray, ...]) -> str:
    """The text of the module whose `run` an `EpochProgram` calls."""
    batch = StepSource(arrays=source.arrays, slots=source.slots)
    (n, d), m = x.shape, y.shape[1] if y.ndim == 2 else 1
    batch.write(0, f"for i in range({n}):")
    batch.write(1, f"row = order[first + s * {n} + i]")
    for name, buffer, width in (("x", x, d), ("y", y.reshape(n, m), m)):
        batch.write(1, f"for j in range({width}):")
        batch.write(2, f"{batch.element(buffer, 'i', 'j')} = {name}[row * {width} + j]")
    for i, number in enumerate(h):
        batch.write(0, f"{batch.element(number)} = numbers[s, {i}]")
    data = [f"{name} = {pointer_to(a)}({name}_address)" for name, a in (("x", x), ("y", y))]
    steps = ["for s in range(len(numbers)):", *("    " + w for w in (*batch.lines, *source.lines))]
    return _HEADER + "\n".join("    " + line for line in (*source.pointers(), *data, *steps)) + "\n"
