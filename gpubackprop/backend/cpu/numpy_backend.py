"""The CPU: NumPy, with a step recorded once and replayed."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.activations import ACTIVATIONS, Activation, Identity, ReLU
from gpubackprop.backend.base import (
    MANY,
    Array,
    Backend,
    BatchBuffers,
    DeviceInfo,
    Loop,
    Program,
    RowSource,
)
from gpubackprop.backend.cpu.blas import direct_blas
from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.cpu.compiled import (
    Fused,
    MachineCode,
    fused,
    installed,
    normalization,
    usable,
)
from gpubackprop.backend.cpu.lanes import GROUP, part_rows, run_side_by_side, side_by_side
from gpubackprop.backend.cpu.recorder import PART, Call, RecordingNamespace, moved, prepare, replay
from gpubackprop.backend.cpu.threads import idle_threads_sleep, takes_one_thread, with_threads
from gpubackprop.errors import DeviceError, MissingExtraError
from gpubackprop.optimizers import Optimizer
from gpubackprop.random import MaskStream

DIRECT = 8 * 1024
"""Elements of an output from which a direct BLAS call pays, which itself takes longer, for passes over the output less."""

SMALL = 1024
"""Elements up to which the fewest calls are fastest. Sums of so few float32 numbers are exact to its rounding."""


FUSED = 32 * 1024
"""Elements from which an activation, or normalising rows, is one pass of machine code. Below that, the whole step may be."""


MANY_TO_COPY = 512 * 1024
"""Numbers from which several threads copy them."""


LANES = 8
"""The most threads for elementwise work, which takes turns at Python's lock between two calls."""


ZEROS = 8 * 1024
"""Elements of the array of zeros that ReLU compares with, so that they stay in the L1 cache."""


_FUSED: dict[tuple[str, str, bool], Fused | None] = {}


class NumpyBackend(Backend):
    """The reference: what it computes is what the vocabulary means, and every other device is held to it.

    direct: take NumPy's BLAS directly for what adds to its output, where its symbols are found (`backend.cpu.blas`).
    """

    name = "cpu"

    def __init__(self, precision: str = "native", direct: bool = True) -> None:
        super().__init__()
        if precision != "native":
            raise DeviceError(f'precision="{precision}" needs an NVIDIA GPU; the CPU computes in float32 or float64')
        self.xp: Any = np
        self._calls: list[Call] | None = None
        self._lanes, self._lane = 1, 0
        self._blas = direct_blas() if direct else None
        self._machines: WeakKeyDictionary[Any, MachineCode] = WeakKeyDictionary()
        self.loops = installed()

    # -- memory and the boundary to the host ---------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return np.zeros(shape, dtype)

    def asarray(self, host: np.ndarray, dtype: DTypeLike | None = None) -> Array:
        return np.ascontiguousarray(host, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return np.array(array)

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        if out.size < MANY_TO_COPY or host.shape != out.shape or np.may_share_memory(host, out):
            np.copyto(out, host, casting="unsafe")
        else:
            self._by_rows(len(out), lambda rows: np.copyto(out[rows], host[rows], casting="unsafe"))

    def _by_rows(self, n: int, work: Callable[[slice], object]) -> None:
        """`work` for all of n rows, by several threads where there are some."""
        lanes = self.lanes() if idle_threads_sleep() else 1
        run_side_by_side([partial(work, slice(n * i // lanes, n * (i + 1) // lanes)) for i in range(lanes)])

    def copy_out(self, array: Array, out: np.ndarray) -> None:
        np.copyto(out, array)

    def fill(self, array: Array, value: float) -> None:
        self._run(array.fill, value)

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def may_share_memory(self, a: Array, b: Array) -> bool:
        return isinstance(a, np.ndarray) and np.may_share_memory(a, b)

    def synchronize(self) -> None:
        """Nothing to wait for: NumPy returns when it is done."""

    def describe(self) -> str:
        products = f"products that add by {self._blas.name}" if self._blas else "products by ndarray.dot alone"
        lanes = (
            f"what lies between them on up to {self.lanes()} threads" if self.lanes() > 1 else "all else on one thread"
        )
        return f"steps recorded and replayed, {products}, {lanes}"

    # -- recording ------------------------------------------------------------------------------------------------

    def record(self, step: Callable[[], None]) -> Program:
        calls = self._recorded(step)
        # Twice at least: what is made during a recording shows by its other place. Scratch grows in the first one only.
        for _ in range(2):
            before, calls = calls, self._recorded(step)
            name = moved(before, calls)
            if name is None:
                one = takes_one_thread(calls)
                program: Any = with_threads(replay(calls if one else side_by_side(calls, self._lanes)), one)
                program.calls, program.one_thread = calls, one
                return program  # type: ignore[no-any-return]
        raise DeviceError(
            f"a recorded step calls {name} on an array that is made anew whenever the step is recorded; done again, it would use "
            "what that array held then. Write into an array from buffers() or be.scratch() with out=, take views that need no "
            "copy, or set recordable = False"
        )

    def as_recorded(self, program: Program, step: Callable[[], None]) -> Callable[[], None]:
        return with_threads(step, getattr(program, "one_thread", None))

    def lanes(self) -> int:
        """How many threads do elementwise work side by side, where there is much."""
        return min(blas_threads() or 1, LANES)

    def _recorded(self, step: Callable[[], None]) -> list[Call]:
        calls: list[Call] = []
        self._calls, self.xp, self._lanes = calls, RecordingNamespace(calls), self.lanes()
        try:
            step()
        finally:
            self._calls, self.xp = None, np
        return calls

    def check_compiler(self) -> None:
        if not installed():
            raise MissingExtraError("compile=True (Numba)", "numba")

    def loop(
        self, program: Program, rows: RowSource, batch: BatchBuffers, optimizer: Optimizer, count: int
    ) -> Loop | None:
        """Steps in machine code where that is faster: the program alone decides, so that no result depends on anything else."""
        if not hasattr(program, "calls") or not isinstance(rows.x, np.ndarray) or not usable():
            return None
        # A memory-mapped array of another type stays as it is (see `gathers`), and is converted batch by batch.
        if rows.x.dtype != batch.x.dtype:
            return None
        if program not in self._machines:
            machine = MachineCode(program.calls, batch.x, batch.target_buffer(rows.kind), optimizer.h)
            if (run := machine.program()) is not None:
                # No steps at all: what compiling raises, or who interrupts it, comes before a step is counted.
                run(rows.x, rows.y, rows.permutation, 0, np.empty((0, len(optimizer.h)), batch.x.dtype))
            self._machines[program] = machine
        run = self._machines[program].program()
        if run is None:
            return None

        alone = with_threads(run, getattr(program, "one_thread", None))

        def steps(first: int) -> int:
            alone(rows.x, rows.y, rows.permutation, first * batch.n, optimizer.prepare_many(count))
            return count

        return steps

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        if self._calls is None:
            function(*arguments)
        else:
            self._calls.append((function, arguments))

    def _run(self, function: Callable[..., Any], *arguments: object, **options: object) -> None:
        if self._calls is None:
            function(*arguments, **options)
        else:
            self._calls.append(prepare(function, arguments, options))

    # -- what is done in its own way on the CPU -------------------------------------------------------------------

    def dot(self, a: Array, b: Array, out: Array) -> None:
        # The method saves most of what np.matmul spends around a small product.
        self._run(a.dot, b, out)

    def _dot_add(self, a: Array, b: Array, beta: float, out: Array) -> bool:
        """out = a b + beta out in one call of BLAS; False, and nothing done, where BLAS cannot take these arrays."""
        product = (self._blas.gemm if b.ndim == 2 else self._blas.gemv)(a, b, beta, out) if self._blas else None
        if product is not None:
            self._run(product)
        return product is not None

    def affine(self, x: Array, W: Array, b: Array | None, f: Activation, z: Array, out: Array) -> None:
        if b is None or z.size < DIRECT:
            super().affine(x, W, b, f, z, out)
            return
        # The product adds to the bias, where a product that overwrites begins with a pass of zeros.
        self.xp.copyto(z, b)
        if not self._dot_add(x, W, 1.0, z):
            self.dot(x, W, z)
            self.xp.add(z, b, out=z)
        self.activate(f, z, out)

    def affine_gradients(self, x: Array, delta: Array, dW: Array, db: Array | None, beta: float) -> None:
        if not beta or not self._dot_add(x.T, delta, beta, dW):
            super().affine_gradients(x, delta, dW, db, beta)
        elif db is not None:
            self._dot_add(delta.T, self.ones(len(delta), delta.dtype), beta, db)

    def adds_in_products(self, parameters: Array) -> bool:
        return self._blas is not None and parameters.size >= DIRECT and parameters.dtype in (np.float32, np.float64)

    def subtract_scaled(self, p: Array, eta: Array, v: Array) -> None:
        minus = self._number(eta.dtype, "minus")
        axpy = self._blas.axpy(minus, v, p) if self._blas and p.size >= DIRECT else None
        if axpy is None:
            super().subtract_scaled(p, eta, v)
            return
        self.xp.negative(eta, out=minus)
        self._run(axpy)

    def decaying_average(self, average: Array, beta: float, value: Array, t: Array) -> None:
        # One pass over memory in place of three.
        axpby = self._blas.axpby(1 - beta, value, beta, average) if self._blas and average.size >= DIRECT else None
        if axpby is None:
            super().decaying_average(average, beta, value, t)
        else:
            self._run(axpby)

    def activate(self, f: Activation, z: Array, out: Array) -> None:
        if not f.recordable:
            super().activate(f, z, out)
            return
        one_pass = None if type(f) is ReLU else self._one_pass(f, "activate", z, out)
        for block in self._blocks_of(z, out):
            if type(f) is ReLU:
                self._positive_part(*block)
            elif one_pass is not None:
                self._run(one_pass, *block[: 1 if z is out else 2])
            else:
                f.forward(self, *block)

    def _one_pass(self, f: Activation, word: str, a: Array, b: Array) -> Fused | None:
        """A word of the vocabulary, of an activation and two arrays, as machine code, made when it is first asked for; None
        where NumPy's operations do it."""
        if type(f) not in ACTIVATIONS.values() or isinstance(f, Identity) or not _in_one_pass(a, b):
            return None
        key = f"{word} {type(f).__name__} {sorted(vars(f).items())}", a.dtype.char, a is b
        if key not in _FUSED:
            few = [np.empty(16, a.dtype) for _ in range(1 if a is b else 2)]
            be = NumpyBackend()
            _FUSED[key] = fused(be._recorded(lambda: getattr(Backend, word)(be, f, few[0], few[-1])), few)
        return _FUSED[key]

    def times_derivative(self, f: Activation, saved: Array, delta: Array) -> None:
        if not f.recordable:
            super().times_derivative(f, saved, delta)
            return
        # A product with a slope is one pass as it is.
        one_pass = None if f.saves == "slope" else self._one_pass(f, "times_derivative", saved, delta)
        for block in self._blocks_of(saved, delta):
            if one_pass is not None:
                self._run(one_pass, *block)
            elif type(f) is ReLU:
                self._keep_where_positive(*block)
            else:
                f.times_derivative(self, *block)

    def row_parts(self, *arrays: Array | None) -> Iterator[tuple[Any, ...]]:
        width = max(a.size // len(a) for a in arrays if a is not None)
        n, rows = next(len(a) for a in arrays if a is not None), part_rows(width)
        if n <= rows:
            yield arrays
            return
        for i in self._in_lanes(range(0, n, rows)):
            parts = {id(a): None if a is None else a[i : i + rows] for a in arrays}
            yield tuple(parts[id(a)] for a in arrays)

    def _blocks_of(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """The arrays themselves, or, where they are large, flat parts of them, whose temporaries stay in the L2 cache."""
        size = arrays[0].size
        if size <= PART or not all(a.flags.c_contiguous for a in arrays):
            yield arrays
            return
        # An activation may ask whether its output is its input itself: what came as one array goes on as one.
        flat = {id(a): a.reshape(-1) for a in arrays}
        width = size // len(arrays[0])
        block = part_rows(width) * width
        for i in self._in_lanes(range(0, size, block)):
            parts = {key: a[i : i + block] for key, a in flat.items()}
            yield tuple(parts[id(a)] for a in arrays)

    def _in_lanes(self, starts: range) -> Iterator[int]:
        """The starts of parts; recorded, each lane's parts have temporaries of their own."""
        try:
            for part, start in enumerate(starts):
                self._lane = part % self._lanes if self._calls is not None else 0
                yield start
        finally:
            self._lane = 0

    def _leading(self, size: int, dtype: DTypeLike, slot: Hashable, make: Callable[..., Array]) -> Array:
        return super()._leading(size, dtype, (slot, self._lane) if self._lane else slot, make)

    def normalize(
        self,
        x: Array,
        axis: int,
        eps: float,
        mean: Array | None,
        var: Array,
        rstd: Array,
        xhat: Array,
        gamma: Array,
        beta: Array | None,
        out: Array,
    ) -> None:
        given = [a for a in (x, mean, var, rstd, xhat, gamma, beta, out) if a is not None]
        if not _in_one_pass(*given) or (axis == 1 and x.shape[1] > MANY):
            super().normalize(x, axis, eps, mean, var, rstd, xhat, gamma, beta, out)
            return
        (n, m), char = x.shape, x.dtype.char
        if axis == 1:
            kernel = normalization.normalized_rows(char, m, eps, mean is not None)
            for rows, part_mean, part_var, *others in self.row_parts(x, mean, var, rstd, xhat, out):
                shift = gamma if beta is None else beta
                self._run(kernel, rows, gamma, shift, part_var if mean is None else part_mean, part_var, *others)
            return
        spreads, kernel = self._of_parts(n, m), normalization.spreads(char, m)
        for spread, (rows,) in zip(spreads, self.row_parts(x), strict=True):
            self._run(kernel, rows, spread)
        self._run(normalization.merged_spreads(char, m, n, part_rows(m), eps), spreads, mean, var, rstd)
        kernel = normalization.normalized_columns(char, m)
        for rows, part_xhat, part_out in self.row_parts(x, xhat, out):
            self._run(kernel, rows, mean, rstd, gamma, beta, part_xhat, part_out)

    def _of_parts(self, n: int, m: int) -> Array:
        """Room for two sums of each column of each part of n rows, (parts, 2, m)."""
        parts = -(-n // part_rows(m))
        return self._leading(parts * 2 * m, np.float64, "parts", self.empty).reshape(parts, 2, m)

    def normalize_backward(
        self,
        delta: Array,
        axis: int,
        gamma: Array,
        rstd: Array,
        xhat: Array,
        sums: Array,
        out: Array,
        centered: bool = True,
    ) -> None:
        if not _in_one_pass(delta, gamma, rstd, xhat, sums, out) or (axis == 1 and delta.shape[1] > MANY):
            super().normalize_backward(delta, axis, gamma, rstd, xhat, sums, out, centered)
            return
        (n, m), char = delta.shape, delta.dtype.char
        if axis == 1:
            kernel = normalization.normalized_rows_backward(char, m, centered)
            for rows, *others in self.row_parts(delta, rstd, xhat, out):
                self._run(kernel, rows, gamma, *others)
        else:
            kernel = normalization.normalized_columns_backward(char, m, n)
            for rows, part_xhat, part_out in self.row_parts(delta, xhat, out):
                self._run(kernel, rows, gamma, rstd, sums, part_xhat, part_out)

    def scale_gradients(self, delta: Array, xhat: Array, sums: Array) -> None:
        if not _in_one_pass(delta, xhat, sums):
            super().scale_gradients(delta, xhat, sums)
            return
        (n, m), char = delta.shape, delta.dtype.char
        parts, kernel = self._of_parts(n, m), normalization.gradient_sums(char, m)
        for part, rows in zip(parts, self.row_parts(delta, xhat), strict=True):
            self._run(kernel, *rows, part)
        self._run(normalization.merged_sums(char, m), parts, sums)

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        self._run(stream.draw, mask.reshape(-1), stream.step, first)
        self.xp.multiply(x, mask, out=out)

    def _positive_part(self, z: Array, out: Array) -> None:
        """out = max(z, 0). Against an array of zeros: for a scalar operand NumPy takes a slower loop (1.4 times the time for
        64 x 128 numbers)."""
        together = z.size if z.size <= ZEROS else ZEROS if z.size % ZEROS == 0 else z.shape[-1]
        if z.size <= SMALL or not (z.flags.c_contiguous and out.flags.c_contiguous):
            self.xp.maximum(z, 0.0, out=out)
        else:
            zeros = self._leading(together, z.dtype, "zeros", self.zeros)
            self.xp.maximum(z.reshape(-1, together), zeros, out=out.reshape(-1, together))

    def _keep_where_positive(self, a: Array, delta: Array) -> None:
        """delta = delta where a > 0, else 0, for an a that is nowhere negative. With few calls (heaviside takes 1.6 times the
        time for 8 x 8 numbers)."""
        if a.size <= SMALL and a.dtype.kind == "f":
            t = self.scratch(delta)
            self.xp.sign(a, out=t)
        else:
            t = self._leading(a.size, np.bool_, 0, self.empty).reshape(a.shape)
            self.xp.greater(a, 0, out=t)
        self.xp.multiply(delta, t, out=delta)

    def _sums(self, values: Array, axis: int, out: Array) -> None:
        if axis == 1 and values.size >= PART // 2 and values.shape[1] <= MANY:
            # A third of the time of NumPy's sum. Of fewer numbers `einsum` is not worth a step that machine code can do, which
            # does not know it.
            self.xp.einsum("ij->i", values, out=out.reshape(-1))
        else:
            super()._sums(values, axis, out)

    def _dots(self, a: Array, b: Array, axis: int, out: Array) -> None:
        # One pass over memory in place of three.
        n, m = a.shape
        if a.size < PART // 2 or not (a.flags.c_contiguous and b.flags.c_contiguous):
            super()._dots(a, b, axis, out)
        elif axis == 1 and m <= MANY:
            self.xp.einsum("ij,ij->i", a, b, out=out.reshape(-1))
        elif axis == 0 and n % GROUP == 0:
            parts = self._leading(n // GROUP * m, a.dtype, "groups", self.empty).reshape(-1, m)
            self.xp.einsum("gij,gij->gj", a.reshape(-1, GROUP, m), b.reshape(-1, GROUP, m), out=parts)
            self._sums(parts, 0, out)
        else:
            super()._dots(a, b, axis, out)

    def total(self, values: Array, scale: float, out: Array) -> None:
        flat = _flat(values)
        if flat is None or flat.size > SMALL:
            super().total(values, scale, out)
        else:
            self._scaled_dot(self.ones(flat.size, flat.dtype), flat, scale, out)

    def total_of_squares(self, values: Array, scale: float, out: Array) -> None:
        flat = _flat(values)
        if flat is None or flat.size > SMALL:
            super().total_of_squares(values, scale, out)
        else:
            self._scaled_dot(flat, flat, scale, out)

    def _scaled_dot(self, a: Array, b: Array, scale: float, out: Array) -> None:
        total = self._number(a.dtype, "total")
        self.dot(a, b, total)
        self.xp.multiply(total, np.asarray(scale, out.dtype), out=out)

    def _number(self, dtype: DTypeLike, slot: str) -> Array:
        return self._leading(1, dtype, slot, self.empty).reshape(())

    def gathers(self, source: Array, dtype: DTypeLike) -> bool:
        """Always: an array of another type is memory-mapped, and is not converted as a whole."""
        return True

    def gather_rows(self, source: Array, index: Array, out: Array) -> None:
        if source.dtype != out.dtype:
            self.copy_in(source[index], out)
            return
        # mode="clip" skips the check of every index, three times the cost of the copy itself.
        if self._calls is not None or out.size < MANY_TO_COPY or np.may_share_memory(source, out):
            self._run(source.take, index, 0, out, "clip")
        else:
            self._by_rows(len(out), lambda rows: source.take(index[rows], 0, out[rows], "clip"))

    def take(self, flat: Array, index: Array, out: Array) -> None:
        self._run(flat.take, index, None, out, "clip")

    update_block = PART

    def put(self, flat: Array, index: Array, values: Array) -> None:
        self._run(flat.put, index, values, "clip")


def _in_one_pass(*arrays: np.ndarray) -> bool:
    """Whether machine code takes what is computed of these arrays alone: many elements, without gaps, of one type."""
    first = arrays[0]
    alike = all(a.flags.c_contiguous and a.dtype == first.dtype for a in arrays)
    return first.size >= FUSED and alike and first.dtype in (np.float32, np.float64) and usable()


def _flat(a: np.ndarray) -> np.ndarray | None:
    """A view of all elements in the order in which they lie in memory, or None where they have gaps."""
    if a.flags.c_contiguous:
        return a.reshape(-1)
    return a.T.reshape(-1) if a.flags.f_contiguous else None


def describe_cpu() -> DeviceInfo:
    """This machine's processor, threads and memory, for `gpubackprop.devices()`."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # not Linux: the platform module's word has to do
        pass
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such call here: memory stays unknown
        memory = 0
    return DeviceInfo("cpu", f"{model}, {os.cpu_count()} cores, NumPy {np.__version__}", memory)
