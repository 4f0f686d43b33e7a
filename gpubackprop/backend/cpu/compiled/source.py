"""Python source, for Numba, of what a recorded step computes: loops of fixed lengths over pointers to its static buffers.

Elementwise operations on the same elements, one after the other, share a loop, and hand on what they computed in
registers. Products are loops where they are tiny, and calls of NumPy's BLAS where not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.cpu.blas import direct_blas, layout
from gpubackprop.backend.cpu.compiled.operations import (
    FORMULAS,
    Draw,
    Elementwise,
    Indexed,
    Operation,
    Product,
    Reduction,
    UntranslatableError,
)

LOOPS = 4096
"""Multiply-adds up to which a product is written as loops, since the call of BLAS itself takes longer then."""

OVERLAPS = 8
"""Pairs of arrays in a loop that LLVM checks for overlap before it gives up computing many elements at a time."""

_POINTERS = {"f": "f4", "d": "f8", "l": "i8", "q": "i8", "L": "u8", "Q": "u8", "?": "u1"}
_TYPES = {"f": "float32", "d": "float64", "l": "int64", "q": "int64", "L": "uint64", "Q": "uint64", "?": "uint8"}


def type_of(dtype: DTypeLike) -> str:
    """The name of a NumPy type in the generated code."""
    char = np.dtype(dtype).char
    if char not in _TYPES:
        raise UntranslatableError(f"values of {dtype}")
    return _TYPES[char]


def address(a: np.ndarray) -> int:
    """Where the first element of an array lies in memory."""
    first: int = a.__array_interface__["data"][0]
    return first


def pointer_to(a: np.ndarray) -> str:
    """The function of the generated code that makes an address a pointer to elements like the array's."""
    return _POINTERS[a.dtype.char]


@dataclass
class Loop:
    """Elementwise operations over one shape, to be written as one loop."""

    shape: tuple[int, ...]
    operations: list[Elementwise]


@dataclass
class StepSource:
    """The lines of a step, and the arrays whose addresses they take from the table `T`, in order."""

    lines: list[str] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    slots: dict[tuple[int, str], str] = field(default_factory=dict)

    def pointer(self, a: np.ndarray) -> str:
        """The name of a pointer to the array's first element."""
        key = (address(a), a.dtype.char)
        if key not in self.slots:
            self.slots[key] = f"p{len(self.arrays)}"
            self.arrays.append(a)
        return self.slots[key]

    def pointers(self) -> list[str]:
        """The lines that take the pointers from the table."""
        return [
            f"{name} = {pointer_to(a)}(T[{i}])"
            for i, (name, a) in enumerate(zip(self.slots.values(), self.arrays, strict=True))
        ]

    def element(self, a: np.ndarray, *index: str) -> str:
        """The element of `a` at these loop variables."""
        steps = [s // a.itemsize for s in a.strides]
        terms = [f"{i} * {s}" if s != 1 else i for i, s in zip(index, steps, strict=True) if s and i != "0"]
        return f"{self.pointer(a)}[{' + '.join(terms) or '0'}]"

    def fresh(self, prefix: str) -> str:
        """A name of a variable that no line so far uses; types differ from line to line."""
        return f"{prefix}{len(self.lines)}"

    def write(self, depth: int, line: str) -> None:
        """Add a line at a depth of loops."""
        self.lines.append("    " * depth + line)


def write_step(operations: list[Operation]) -> StepSource:
    """The source of these operations, in order."""
    source, loop = StepSource(), None
    for operation in operations:
        if isinstance(operation, Elementwise):
            joined = _join(loop, operation) if loop else None
            if joined is None:
                _write_loop(source, loop)
                joined = Loop(operation.out.shape, [operation])
            loop = joined
            continue
        _write_loop(source, loop)
        loop = None
        if isinstance(operation, Product):
            _write_product(source, operation)
        elif isinstance(operation, Reduction):
            _write_reduction(source, operation)
        elif isinstance(operation, Draw):
            _write_draw(source, operation)
        else:
            _write_indexed(source, operation)
    _write_loop(source, loop)
    return source


# -- elementwise ------------------------------------------------------------------------------------------------------


def _join(loop: Loop, operation: Elementwise) -> Loop | None:
    """The loop with the operation at its end, if that computes the same as one loop after the other."""
    for shape in (loop.shape, operation.out.shape):
        try:
            members = [_reshaped(o, shape) for o in (*loop.operations, operation)]
        except ValueError:
            continue
        *before, last = members
        apart = all(_same(a, b) or not np.may_share_memory(a, b) for m in before for a, b in _conflicts(m, last))
        if apart and _overlaps(members) <= OVERLAPS:
            return Loop(shape, members)
    return None


def _conflicts(first: Elementwise, then: Elementwise) -> list[tuple[np.ndarray, np.ndarray]]:
    shape = first.out.shape
    reads = [(first.out, np.broadcast_to(a, shape)) for a in then.inputs]
    return [*reads, *((np.broadcast_to(a, shape), then.out) for a in first.inputs), (first.out, then.out)]


def _overlaps(members: list[Elementwise]) -> int:
    """How many pairs of arrays, one of them written, are in the loop."""
    written = {id(m.out.base): m.out for m in members}
    arrays = {**{id(a.base): a for m in members for a in m.inputs if a.size > 1}, **written}
    n, w = len(arrays), len(written)
    return w * (n - w) + w * (w - 1) // 2


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return (
        a.__array_interface__["data"] == b.__array_interface__["data"] and a.strides == b.strides and a.dtype == b.dtype
    )


def _reshaped(operation: Elementwise, shape: tuple[int, ...]) -> Elementwise:
    """The same operation over another shape of the same elements. Raises ValueError where there is none."""
    out = operation.out
    if out.shape == shape:
        return operation
    arrays = [out, *(a for a in operation.inputs if a.size > 1)]
    if any(a.shape != out.shape or not a.flags.c_contiguous for a in arrays):
        raise ValueError("operands with gaps, or broadcast")
    inputs = [a.reshape(shape) if a.size > 1 else a.reshape(()) for a in operation.inputs]
    return Elementwise(operation.name, inputs, operation.types, out.reshape(shape))


def _write_loop(source: StepSource, loop: Loop | None) -> None:
    if loop is None or 0 in loop.shape:
        return
    index = [f"i{axis}" for axis in range(len(loop.shape))]
    scalars: dict[int, str] = {}
    written = [o.out for o in loop.operations]
    # Numbers are read once: LLVM cannot know that no element of the loop overwrites them.
    for operation in loop.operations:
        for a in operation.inputs:
            if a.size == 1 and id(a) not in scalars and not any(np.may_share_memory(a, out) for out in written):
                scalars[id(a)] = source.fresh("c")
                source.write(0, f"{scalars[id(a)]} = {source.pointer(a)}[0]")
    for depth, (name, length) in enumerate(zip(index, loop.shape, strict=True)):
        source.write(depth, f"for {name} in range({length}):")
    depth = len(index)
    held: dict[tuple[Any, ...], str] = {}
    for operation in loop.operations:
        out_type, loop_type = type_of(operation.out.dtype), type_of(operation.types[0])
        operands = []
        for a, wanted in zip(operation.inputs, operation.types, strict=True):
            full = np.broadcast_to(a, loop.shape)
            value = scalars.get(id(a)) or held.get(_key(full)) or source.element(full, *index)
            operands.append(value if a.dtype == wanted else f"{type_of(wanted)}({value})")
        formula = FORMULAS[operation.name].format(*operands, type=loop_type)
        held[_key(operation.out)] = t = source.fresh("t")
        source.write(depth, f"{t} = {out_type}({formula})")
        source.write(depth, f"{source.element(operation.out, *index)} = {t}")


def _key(a: np.ndarray) -> tuple[Any, ...]:
    return a.__array_interface__["data"][0], a.strides, a.dtype.char


# -- the rest ---------------------------------------------------------------------------------------------------------


def _write_product(source: StepSource, p: Product) -> None:
    (n, k), m = p.a.shape, p.b.shape[1]
    real, v = type_of(p.c.dtype), source.fresh("v")
    if n * k * m > LOOPS and n > 1 and m > 1:
        _write_gemm(source, p, real)
        return
    a, b, c = source.element(p.a, "i", "l"), source.element(p.b, "l", "j"), source.element(p.c, "i", "j")
    source.write(0, f"for i in range({n}):")
    if m > 1 and p.b.strides[1] <= p.b.strides[0]:
        # c_i. = beta c_i. + sum_l a_il b_l.: along the rows of b.
        source.write(1, f"for j in range({m}):")
        source.write(2, f"{c} = {real}({p.beta}) * {c}" if p.beta else f"{c} = {real}(0)")
        source.write(1, f"for l in range({k}):")
        source.write(2, f"{v} = {a}")
        source.write(2, f"for j in range({m}):")
        source.write(3, f"{c} += {v} * {b}")
        return
    source.write(1, f"for j in range({m}):")
    source.write(2, f"{v} = {real}(0)")
    source.write(2, f"for l in range({k}):")
    source.write(3, f"{v} += {a} * {b}")
    source.write(2, f"{c} = {v} + {real}({p.beta}) * {c}" if p.beta else f"{c} = {v}")


def _write_gemm(source: StepSource, p: Product, real: str) -> None:
    left, right, result = layout(p.a), layout(p.b), layout(p.c)
    if left is None or right is None or result is None or result[0] or direct_blas() is None:
        raise UntranslatableError("a product that BLAS cannot take")
    (n, k), m = p.a.shape, p.b.shape[1]
    a, b = (f"{source.pointer(side)}, {ld}" for side, (_, ld) in ((p.a, left), (p.b, right)))
    orders = ", ".join("112" if transposed else "111" for transposed, _ in (left, right))
    routine = "sgemm" if real == "float32" else "dgemm"
    target = f"{real}({p.beta}), {source.pointer(p.c)}, {result[1]}"
    source.write(0, f"{routine}(101, {orders}, {n}, {m}, {k}, {real}(1), {a}, {b}, {target})")


def _write_reduction(source: StepSource, r: Reduction) -> None:
    n, k = r.a.shape
    kind, v = type_of(r.dtype), source.fresh("v")
    element = f"{kind}({source.element(r.a, 'i', 'j')})"
    combined = (f"{v} + {{1}}" if r.name == "add" else FORMULAS[r.name]).format(v, element)
    if r.axis == 0 and r.out.dtype == r.dtype:
        # Row after row into the output: many columns at a time.
        out = source.element(r.out, "j")
        source.write(0, f"for j in range({k}):")
        source.write(1, f"{out} = {kind}({source.element(r.a, '0', 'j')})")
        source.write(0, f"for i in range(1, {n}):")
        source.write(1, f"for j in range({k}):")
        source.write(2, f"{v} = {out}")
        source.write(2, f"{out} = {combined}")
        return
    outer, length, inner, count = ("i", n, "j", k) if r.axis == 1 else ("j", k, "i", n)
    begin = source.element(r.a, *("0" if name == inner else name for name in ("i", "j")))
    source.write(0, f"for {outer} in range({length}):")
    source.write(1, f"{v} = {kind}({begin})")
    source.write(1, f"for {inner} in range(1, {count}):")
    source.write(2, f"{v} = {combined}")
    source.write(1, f"{source.element(r.out, outer)} = {type_of(r.out.dtype)}({v})")


def _write_draw(source: StepSource, d: Draw) -> None:
    numbers = ", ".join(f"uint64({n})" for n in (d.out.size, d.first, d.threshold))
    counter = f"{source.element(d.key, '0')}, {source.element(d.key, '1')}, {source.element(d.step)}"
    source.write(0, f"draw({source.pointer(d.out)}, {counter}, {numbers}, {type_of(d.out.dtype)}({d.scale!r}))")


def _write_indexed(source: StepSource, x: Indexed) -> None:
    element = f"{source.pointer(x.flat)}[min(max({source.element(x.index, 'i')}, 0), {x.flat.size - 1})]"
    value = source.element(x.values, "i")
    source.write(0, f"for i in range({x.index.size}):")
    source.write(1, f"{value} = {element}" if x.name == "take" else f"{element} = {value}")
