"""Elementwise functions of many operations as one pass of machine code, and the elementary functions in it.

LLVM computes many numbers at a time where nothing is called; the C library's exp it calls once for each. So exp, expm1, tanh and
log1p are written out: the argument is taken to a short interval by exponents of 2, where the function is a power series
(Muller, Elementary Functions, 3rd edition, 2016, chapters 3 and 11), without a branch. NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, floor, inf, log, sqrt

import numpy as np

from gpubackprop.backend.cpu.compiled.module import function
from gpubackprop.backend.cpu.compiled.operations import FORMULAS, Elementwise, UntranslatableError, operations
from gpubackprop.backend.cpu.compiled.source import address, pointer_to, type_of
from gpubackprop.backend.cpu.recorder import Call

_FUNCTIONS = {"exp": 0.4e-9, "expm1": 0.5e-9, "tanh": 0.6e-9, "log1p": 0.5e-9}
"""What is written out here, and about how many seconds it takes for a number."""
_OTHER = 0.03e-9

_SOURCE = '''\
"""An elementwise function, generated for Numba by gpubackprop (format 1)."""

from math import sqrt

from numba import float32, float64, int64, njit, uint8
from numpy import rint

from gpubackprop.backend.cpu.compiled.runtime import bits_of_{real}, f4, f8, {real}_of_bits


@njit(inline="always")
def power_of_two(n):
    # Added to a whole number, 1.5 2^{shift} leaves it in the lowest bits.
    return {real}_of_bits((bits_of_{real}(n + {whole}) + {bias}) << {shift})


@njit(inline="always")
def exp(x):
    x = {least} if x < {least} else x
    x = {most} if x > {most} else x
    n = rint(x * {per_log2})
    r = (x - n * {upper}) - n * {lower}
    # 2^n may be beyond the type where the result is not.
    first = rint(n * {half})
    return ({one} + {series}) * power_of_two(first) * power_of_two(n - first)


@njit(inline="always")
def expm1(x):
    x = {least} * {half} if x < {least} * {half} else x
    x = {most} if x > {most} else x
    n = rint(x * {per_log2})
    r = (x - n * {upper}) - n * {lower}
    scale = power_of_two(n - {one})
    return (scale * {series} + (scale - {half})) * {two}


@njit(inline="always")
def tanh(x):
    m = expm1(-{two} * abs(x))
    t = ({zero} - m) / ({two} + m)
    return -t if x < 0 else t


@njit(inline="always")
def log1p(x):
    # For x >= 0. u = 1 + x = 2^k m with m from sqrt(1/2) to sqrt(2): k log 2 + 2 artanh((m - 1) / (m + 1)), and what u lost of x.
    u = x + {one}
    k = (bits_of_{real}(u) - {root_bits}) >> {shift}
    m = {real}_of_bits(bits_of_{real}(u) - (k << {shift}))
    n = {real}_of_bits({whole_bits} + k) - {whole}
    f = x if k == 0 else m - {one}
    lost = ({one} - (u - x) if x > {one} else x - (u - {one})) / u
    s = f / ({two} + f)
    w = s * s
    value = n * {upper} + ({odd} * s + (n * {lower} + ({zero} if k == 0 else lost)))
    return value if u - u == {zero} else u


# Multiply-adds alone: sums in another order would lose what the remainders are exact for.
@njit(fastmath={{"contract"}}, error_model="numpy", nogil=True)
def run({addresses}, n):
{pointers}
    for i in range(n):
{lines}
'''

_TYPES: dict[str, tuple[int, int, float, float, int, int]] = {
    "float32": (24, 127, -104.0, 89.0, 7, 6),
    "float64": (53, 1023, -746.0, 710.0, 13, 12),
}
"""Bits of the significand, bias of the exponent, the arguments between which exp is neither 0 nor infinite, and the terms of both
series."""


@dataclass
class Fused:
    """`fused(*arrays)` computes a function of arrays without gaps in machine code, and writes into them."""

    run: Callable[..., None]
    seconds: float
    """For each number of the first array, roughly."""
    numbers: tuple[float, ...] = ()
    read: int = 0
    """How many of the arrays, the first ones, it reads alone."""
    of_all: bool = False
    """Whether it is of a whole batch what all its parts wait for."""

    def __call__(self, *arrays: np.ndarray) -> None:
        self.run(*map(address, arrays), arrays[0].size, *self.numbers)


def fused(calls: list[Call], arrays: list[np.ndarray]) -> Fused | None:
    """The recorded calls of a function of these arrays (n,) as machine code; None where it is not known what they compute.

    What else the calls write into is their own, and nothing that remains.
    """
    try:
        source, seconds = _written(calls, arrays)
    except UntranslatableError:
        return None
    made = Fused(function(source), seconds)
    made(*(a[:0] for a in arrays))
    return made


def _written(calls: list[Call], arrays: list[np.ndarray]) -> tuple[str, float]:
    """The source, and the seconds for a number."""
    real, names = type_of(arrays[0].dtype), {address(a): f"a{i}" for i, a in enumerate(arrays)}
    held: dict[int, str] = {}
    lines, written, seconds = [], set(), 0.0
    for i, operation in enumerate(operations(calls)):
        if not isinstance(operation, Elementwise) or operation.out.shape != arrays[0].shape:
            raise UntranslatableError("no elementwise function")
        operands = []
        for a, wanted in zip(operation.inputs, operation.types, strict=True):
            if a.size == 1:
                operands.append(_number(type_of(wanted), float(a)))
                continue
            if address(a) not in held:
                if address(a) not in names:
                    raise UntranslatableError("memory that nothing was written into")
                held[address(a)] = f"v{i}_{len(operands)}"
                lines.append(f"{held[address(a)]} = {names[address(a)]}[i]")
            operands.append(f"{type_of(wanted)}({held[address(a)]})")
        if operation.name in _FUNCTIONS and type_of(operation.types[0]) != real:
            raise UntranslatableError(f"{operation.name} of another type")
        if operation.name == "log":
            raise UntranslatableError("a logarithm")
        seconds += _FUNCTIONS.get(operation.name, _OTHER)
        formula = FORMULAS[operation.name].format(*operands, type=type_of(operation.types[0]))
        held[address(operation.out)] = f"t{i}"
        written.add(address(operation.out))
        lines.append(f"t{i} = {type_of(operation.out.dtype)}({formula})")
    lines += [f"{name}[i] = {held[key]}" for key, name in names.items() if key in written]
    addresses = [f"{name}_address" for name in names.values()]
    pointers = [f"    {name} = {pointer_to(arrays[0])}({name}_address)" for name in names.values()]
    source = _SOURCE.format(
        **_constants(real),
        addresses=", ".join(addresses),
        pointers="\n".join(pointers),
        lines="\n".join("        " + line for line in lines),
    )
    return source, seconds


def _constants(real: str) -> dict[str, object]:
    digits, bias, least, most, terms, odd_terms = _TYPES[real]
    # n times the upper part is exact. All digits of the number: log 2 = 0.69314718055994530941723212145818.
    cut = 2.0 ** (digits - 14)
    upper = floor(log(2) * cut) / cut
    lower = (0.6931471803691238 - upper) + 1.9082149292705877e-10
    number = {"upper": upper, "lower": lower, "per_log2": 1 / log(2), "whole": 1.5 * 2.0 ** (digits - 1)}
    number |= {"least": least, "most": most, "zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0}
    bits = np.array([sqrt(0.5), number["whole"]], real).view("i4" if real == "float32" else "i8")
    return {
        **{name: _number(real, value) for name, value in number.items()},
        "real": real,
        "shift": digits - 1,
        "bias": bias,
        "root_bits": int(bits[0]),
        "whole_bits": int(bits[1]),
        "series": _polynomial(real, "r", [0.0, *(1 / factorial(k) for k in range(1, terms + 1))]),
        "odd": _polynomial(real, "w", [2 / (2 * k + 1) for k in range(odd_terms)]),
    }


def _polynomial(real: str, x: str, coefficients: list[float]) -> str:
    """c0 + x (c1 + x (...))."""
    *others, text = (_number(real, c) for c in coefficients)
    for c in reversed(others):
        text = f"({text} * {x} + {c})"
    return text


def _number(kind: str, value: float) -> str:
    if not -inf < value < inf:
        raise UntranslatableError(f"the number {value}")
    return f"{kind}({float(value)!r})"
