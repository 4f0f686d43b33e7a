"""The vocabulary: what a device must be able to do so that the layers' mathematics runs on it.

Rows are samples. Every operation writes into arrays that the caller hands it (`out`, `delta`, `dW`, ...), returns
nothing and never looks at a value, so that a whole step can be recorded once and replayed (see `record`).
Each line of mathematics in this library is one of these operations, written here in array expressions: the definition that
every device is held to.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.arithmetic import Arithmetic
from gpubackprop.errors import DeviceError
from gpubackprop.precision import accumulator
from gpubackprop.random import MaskStream

MANY = 64 * 1024
"""Rows past which they are added up in float64: a float32 product with ones loses more digits the more there are."""

Array: TypeAlias = Any
"""An array of whatever device the backend stands for: numpy.ndarray, cupy.ndarray or StrictArray."""

Program: TypeAlias = Callable[[], None]
"""A recorded step. Calling it does the step again, on what the static buffers hold by then."""

ElementwiseFunction: TypeAlias = Any
"""A `gpubackprop.activations.Activation`. It and the next ones are written in the words of this file, which cannot name them."""

LossFunction: TypeAlias = Any
"""A `gpubackprop.losses.Loss`."""

UpdateRule: TypeAlias = Any
"""A `gpubackprop.optimizers.Optimizer`."""

BatchBuffers: TypeAlias = Any
"""A `gpubackprop.network.workspace.Batch`."""

Chain: TypeAlias = Any
"""Layers whose passes a device does at once, on the same arrays as one by one: a `gpubackprop.backend.cuda.narrow.Narrow`."""

Loop: TypeAlias = Callable[[int], int]
"""Steps that a device does by itself: called with the number of the first step, it returns how many it did."""


class Tensors:
    """The arrays that one layer, or the loss, works on for one batch size: x, z, a, delta, and its own buffers."""

    x: Array
    z: Array
    a: Array
    delta: Array
    saved: Array
    """The array from which f' is computed: a, z, or f'(z) itself."""
    weights: Array
    """For a loss: what each row's is multiplied by, (n, 1), or None."""
    first_row: int
    """Where these rows begin in their batch, if they are a part of one."""
    inner: list[Tensors]
    """Those of the layers inside this one."""

    def __init__(self, **arrays: Array) -> None:
        self.__dict__.update(arrays)

    def __getattr__(self, name: str) -> Array:
        raise AttributeError(f"this layer has no array {name!r}; its arrays are {', '.join(self.__dict__)}")


class RowSource(Protocol):
    """Hands out the rows of a data set batch by batch, in the order of an epoch."""

    n: int
    """Rows of the data set."""
    kind: str
    """The kind of the targets: "labels" (n,) or "targets" (n, m)."""
    x: Array
    y: Array
    weights: Array | None
    """Sample weights, (n, 1): factors of the rows' losses; or None."""

    @property
    def permutation(self) -> Array:
        """The order on the device, (n,) int64; None where the rows come as they lie, or are not on the device."""

    def order(self, permutation: np.ndarray) -> None:
        """Hand out the rows in this order, (n,) integers, from now on."""

    def load(self, start: int, x: Array, y: Array, weights: Array | None = None) -> None:
        """Write the len(x) rows from place `start` of the order into the device buffers x and y, and their weights."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device as `gpubackprop.devices()` reports it.

    `memory` is the total in bytes (0 where it is not known); `working` says whether a product ran there, and
    `reason` why not.
    """

    name: str
    description: str
    memory: int = 0
    working: bool = True
    reason: str = ""


class Backend(ABC):
    """One device, its memory and its operations. A network is bound to one backend when it is built.

    A device that has NumPy's functions for its arrays, `xp`, is complete with the few memory operations that are abstract here;
    it overrides what it can do faster.
    """

    name: str
    """The name that `get_backend` takes: "cpu", "cuda:0", "strict"."""

    blas: str = ""
    """The library of its products on the host, and its version, where that is not NumPy's."""

    xp: Any
    """The array functions of the device, under NumPy's names: `xp.multiply(a, b, out=c)`."""

    precision: str = "native"
    """How products are carried out: "native" in the arrays' own type, or "tf32", "bf16", "fp16"."""

    is_gpu: bool = False
    """Whether it is a GPU: work is queued, and the host goes on."""

    memory_errors: tuple[type[BaseException], ...] = (MemoryError,)
    """The exceptions that the device raises when it has no memory left."""

    def __init__(self) -> None:
        self.lock = RLock()
        """Held by the thread that uses the device's scratch memory and its recording."""
        self._depth = 0
        self._arithmetic = Arithmetic()
        self._memory: dict[Any, Array] = {}

    def __enter__(self) -> Backend:
        """Have the device to oneself: other threads wait until `__exit__`. May be nested."""
        self.lock.acquire()
        self._depth += 1
        if self._depth == 1:
            # Overflow and NaN show in a step's loss, as they do on a GPU, and not as warnings of NumPy's.
            self._arithmetic.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._arithmetic.__exit__()
        self.lock.release()

    # -- memory and the boundary to the host ---------------------------------------------------------------------

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised C-contiguous array on the device."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A C-contiguous array of zeros on the device."""

    def parameter_buffer(self, size: int, dtype: DTypeLike) -> Array:
        """A flat buffer of zeros for the parameters of a network."""
        return self.zeros((size,), dtype)

    @abstractmethod
    def asarray(self, host: np.ndarray, dtype: DTypeLike | None = None) -> Array:
        """A copy of a host array on the device (on the CPU, the array itself where it can serve as it is)."""

    @abstractmethod
    def to_host(self, array: Array) -> np.ndarray:
        """A copy of a device array on the host. Waits for the device."""

    def delta_to_host(self, delta: Array) -> np.ndarray:
        """A delta as a copy on the host, without a factor that the device may keep in its deltas. Waits for the device."""
        return self.to_host(delta)

    @abstractmethod
    def copy_in(self, host: np.ndarray, out: Array) -> None:
        """Write a host array into a device array of the same shape, converting the type."""

    def copy_out(self, array: Array, out: np.ndarray) -> None:
        """Write a device array into a host array of the same shape. Waits for the device."""
        np.copyto(out, self.to_host(array))

    @abstractmethod
    def fill(self, array: Array, value: float) -> None:
        """Write one host number into every element of a device array, without waiting."""

    @abstractmethod
    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this device."""

    def adopt(self, array: object) -> Array | None:
        """An array of this device in the memory of another library's array that lies there; None for everything else.

        Raises ArgumentTypeError for one that its library does not hand over.
        """
        return array if self.owns(array) else None

    @abstractmethod
    def may_share_memory(self, a: Array, b: Array) -> bool:
        """Whether two arrays overlap; an array of another device never does."""

    def scratch(self, like: Array, slot: int = 0, dtype: DTypeLike | None = None) -> Array:
        """An array like `like`, or of another type, with no content worth keeping; arrays of different slots do not overlap."""
        flat = self._leading(like.size, like.dtype if dtype is None else dtype, slot, self.empty)
        return flat.reshape(like.shape)

    def arange(self, n: int) -> Array:
        """The integers 0 .. n-1, int64, on the device; not to be written to."""
        return self._leading(n, np.int64, "arange", lambda shape, dtype: self.asarray(np.arange(shape[0], dtype=dtype)))

    def ones(self, n: int, dtype: DTypeLike) -> Array:
        """A vector of n ones, not to be written to: a product with it is a column sum."""
        return self._leading(n, dtype, "ones", lambda shape, dtype: self.asarray(np.ones(shape, dtype)))

    def _leading(self, size: int, dtype: DTypeLike, slot: Hashable, make: Callable[..., Array]) -> Array:
        key = (slot, np.dtype(dtype))
        if key not in self._memory or self._memory[key].size < size:
            self._memory[key] = make((size,), dtype)
        return self._memory[key][:size]

    def row_parts(self, *arrays: Array | None) -> Iterator[tuple[Any, ...]]:
        """The same rows of all arrays, (n, ...), part by part: parts that stay in a cache between one operation and the next,
        where that is faster than all rows at once. What is None stays None, and what came as one array goes on as one."""
        yield arrays

    def storage(self, dtype: DTypeLike) -> np.dtype[Any]:
        """The type in which activations and deltas of a network with parameters of `dtype` are stored."""
        return np.dtype(dtype)

    def scalars(self, count: int, dtype: DTypeLike) -> tuple[Array, ...]:
        """0-d arrays for the numbers that an optimizer's rule needs anew at each step."""
        return tuple(self.zeros((), dtype) for _ in range(count))

    def write_scalars(self, h: tuple[Array, ...], values: tuple[float, ...]) -> None:
        """Write host numbers into what `scalars` made, without waiting."""
        for slot, value in zip(h, values, strict=True):
            self.fill(slot, value)

    def release_memory(self) -> None:
        """Give memory that no array holds back to the device."""
        return

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""

    def describe(self) -> str:
        """How steps run here, in a few words."""
        return "eager"

    @property
    def is_recording(self) -> bool:
        """Whether what is called now is kept, to be done later and then without a failure."""
        return False

    def record(self, step: Callable[[], None]) -> Program:
        """The program that does what `step` does. `step` must depend on shapes only, never on values."""
        return step

    def as_recorded(self, program: Program, step: Callable[[], None]) -> Callable[[], None]:
        """`step`, of which `record` made the program, to be run with all that its bits depend on as they are in the program."""
        return step

    def capture(self, step: Callable[[], None]) -> Program:
        """The program of a step that was done before, recorded now without being done, with its sums over several processes in
        it. Raises DeviceError, and what the device raises, for what it cannot record."""
        raise DeviceError(f"{self.name} does not record sums over processes")

    def stream(self, x: np.ndarray, y: np.ndarray, weights: Array | None = None) -> RowSource | None:
        """A source that hands out the rows of host arrays batch by batch where the device has no room for all of
        them; None where it has."""
        return None

    def check_compiler(self) -> None:
        """Raise MissingExtraError where `loop` needs a compiler that is not installed."""
        return

    loops: bool = False
    """Whether `loop` is worth asking."""

    def loop(
        self, program: Program, rows: RowSource, batch: BatchBuffers, optimizer: UpdateRule, count: int
    ) -> Loop | None:
        """A loop that runs `count` training steps over the rows of a source without the host; None where the host has to run each
        one."""
        return None

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function that is no part of the vocabulary, now or, in a recorded step, at each replay."""
        function(*arguments)

    def _run(self, function: Callable[..., Any], *arguments: object, **options: object) -> None:
        """Call a function of the device's library, now or, in a recorded step, at each replay."""
        function(*arguments, **options)

    processes: Callable[[Array], None] | None = None
    """While a step is done in several processes that train together: adds up an array of this device over all of them."""

    def sum_over_processes(self, array: Array) -> None:
        """array <- its sum over the processes that train together; what it is where there are no others. All of them must come
        to it. It may be recorded, and looks at each replay whether there are others."""
        self.call(self._sum_now, array)

    def _sum_now(self, array: Array) -> None:
        if self.processes is not None:
            self.processes(array)

    # -- layers ---------------------------------------------------------------------------------------------------

    def chain(self, layers: Sequence[Any]) -> Chain | None:
        """An object that does the passes of all these layers at once; None where this device takes them one by one."""
        return None

    def affine(self, x: Array, W: Array, b: Array | None, f: ElementwiseFunction, z: Array, out: Array) -> None:
        """z = x W + b; out = f(z).  x (n, d), W (d, m), b (m,) or None, z and out (n, m).

        `z` is left as what `propagate` and `times_derivative` of this device take as `saved`; it may be `out` itself for an
        activation that saves its output, and for one that saves its slope where there is no backward pass.
        """
        self.dot(x, W, z)
        if b is not None:
            self.xp.add(z, b, out=z)
        self.activate(f, z, out)

    def propagate(self, delta: Array, W: Array, f: ElementwiseFunction, saved: Array, out: Array) -> None:
        """out = (delta W^T) * f'(z).  delta (n, m), W (d, m), saved and out (n, d).

        `saved` is what `affine` or `activate` left in z at the layer below.
        """
        self.dot(delta, W.T, out)
        self.times_derivative(f, saved, out)

    def affine_gradients(self, x: Array, delta: Array, dW: Array, db: Array | None, beta: float) -> None:
        """dW = x^T delta + beta dW; db = column sums of delta + beta db, with a fixed number beta."""
        if not beta:
            self.dot(x.T, delta, dW)
            if db is not None:
                self.column_sums(delta, db)
            return
        part = self.scratch(dW)
        self.dot(x.T, delta, part)
        self._add_to(dW, beta, part)
        if db is not None:
            part = self.scratch(db)
            self.column_sums(delta, part)
            self._add_to(db, beta, part)

    def _add_to(self, total: Array, beta: float, part: Array) -> None:
        """total = beta total + part."""
        if beta != 1:
            self.xp.multiply(total, beta, out=total)
        self.xp.add(total, part, out=total)

    def activate(self, f: ElementwiseFunction, z: Array, out: Array) -> None:
        """out = f(z), elementwise. What it leaves in z is what `times_derivative` takes as `saved`."""
        if f.recordable:
            f.forward(self, z, out)
        else:
            self.call(f.forward, self, z, out)

    def times_derivative(self, f: ElementwiseFunction, saved: Array, delta: Array) -> None:
        """delta = delta * f'(z), elementwise, from what `affine` or `activate` left in z (which may be its output)."""
        if f.recordable:
            f.times_derivative(self, saved, delta)
        else:
            self.call(f.times_derivative, self, saved, delta)

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        """mask = 1/(1-p) with probability 1-p, else 0, drawn from `stream` for the elements from `first` on;
        out = x * mask."""
        stream.fill_mask(self, mask, first)
        self.xp.multiply(x, mask, out=out)

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
        """mean and (biased) var of x (n, d) along `axis`; rstd = 1/sqrt(var + eps); xhat = (x - mean) rstd;
        out = gamma xhat + beta.

        axis 0: batch statistics, mean (1, d); axis 1: a row's own, mean (n, 1), or None for 0 in its place: then var is the
        mean of the squares. gamma (d,), beta (d,) or None.
        """
        if axis == 0:
            x = self._statistics(x, 0, eps, mean, var, rstd, xhat)
            for rows, part_xhat, part_out in self.row_parts(x, xhat, out):
                self.xp.multiply(rows, rstd, out=part_xhat)
                self._scale_and_shift(part_xhat, gamma, beta, part_out)
            return
        for rows, part_mean, part_var, part_rstd, part_xhat, part_out in self.row_parts(x, mean, var, rstd, xhat, out):
            rows = self._statistics(rows, 1, eps, part_mean, part_var, part_rstd, part_xhat)
            self.xp.multiply(rows, part_rstd, out=part_xhat)
            self._scale_and_shift(part_xhat, gamma, beta, part_out)

    def _statistics(
        self, x: Array, axis: int, eps: float, mean: Array | None, var: Array, rstd: Array, xhat: Array
    ) -> Array:
        """mean, var and rstd of x along an axis. Returns x - mean, which is xhat then, or x where there is no mean."""
        xp, share = self.xp, 1 / x.shape[axis]
        if mean is not None:
            self._sums(x, axis, mean)
            xp.multiply(mean, share, out=mean)
            xp.subtract(x, mean, out=xhat)
            x = xhat
        self._dots(x, x, axis, var)
        xp.multiply(var, share, out=var)
        xp.add(var, eps, out=rstd)
        xp.sqrt(rstd, out=rstd)
        xp.divide(1.0, rstd, out=rstd)
        return x

    def _scale_and_shift(self, xhat: Array, gamma: Array, beta: Array | None, out: Array) -> None:
        self.xp.multiply(xhat, gamma, out=out)
        if beta is not None:
            self.xp.add(out, beta, out=out)

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
        """out = rstd (g - mean(g) - xhat mean(g * xhat)), g = gamma delta, means along `axis`: through mean and variance too.

        sums: for axis 0, what `scale_gradients` gave for this delta: gamma is a factor of a column, and of its sums. centered:
        False where there was no mean, and takes mean(g) out. Ioffe and Szegedy (2015), section 3; Ba et al. (2016); Zhang and
        Sennrich (2019).
        """
        xp, share = self.xp, 1 / delta.shape[axis]
        if axis == 0:
            # gamma, a factor of each column as rstd is, may come after the sums.
            factor, mean, dot = self.scratch(rstd, 3), self.scratch(rstd, 1), self.scratch(rstd, 2)
            xp.multiply(rstd, gamma, out=factor)
            xp.multiply(sums[:1], share, out=mean)
            xp.multiply(sums[1:], share, out=dot)
            for g, part_xhat, part_out in self.row_parts(delta, xhat, out):
                self._without_means(g, mean, part_xhat, dot, factor, part_out)
            return
        for part_delta, part_rstd, part_xhat, part_out in self.row_parts(delta, rstd, xhat, out):
            g, own, dot = self.scratch(part_delta, 3), self.scratch(part_rstd, 1), self.scratch(part_rstd, 2)
            xp.multiply(part_delta, gamma, out=g)
            if centered:
                self._sums(g, 1, own)
                xp.multiply(own, share, out=own)
            self._dots(g, part_xhat, 1, dot)
            xp.multiply(dot, share, out=dot)
            self._without_means(g, own if centered else None, part_xhat, dot, part_rstd, part_out)

    def _without_means(self, g: Array, mean: Array | None, xhat: Array, dot: Array, rstd: Array, out: Array) -> None:
        """out = rstd (g - mean - xhat dot)."""
        xp, t = self.xp, self.scratch(g)
        xp.multiply(xhat, dot, out=t)
        if mean is not None:
            xp.subtract(g, mean, out=out)
            g = out
        xp.subtract(g, t, out=out)
        xp.multiply(out, rstd, out=out)

    def scale_gradients(self, delta: Array, xhat: Array, sums: Array) -> None:
        """sums (2, d) of columns: sums[0] = sum of delta = dC/dbeta, sums[1] = sum of delta * xhat = dC/dgamma."""
        self._sums(delta, 0, sums[:1])
        self._dots(delta, xhat, 0, sums[1:])

    def _sums(self, values: Array, axis: int, out: Array) -> None:
        if axis == 0:
            self.column_sums(values, out[0])
        else:
            self.xp.sum(values, axis=1, out=out, keepdims=True)

    def _dots(self, a: Array, b: Array, axis: int, out: Array) -> None:
        """Sums of a b along an axis."""
        t = self.scratch(a)
        self.xp.multiply(a, b, out=t)
        self._sums(t, axis, out)

    # -- loss, gradients, parameters ------------------------------------------------------------------------------

    def loss_and_delta(
        self,
        loss: LossFunction,
        a: Array,
        y: Array,
        v: Tensors,
        value: Array,
        delta: Array | None,
        rows: int,
        total: Array | None = None,
    ) -> None:
        """value = C (a 0-d array) and delta = dC/da, of shape (n, m); v: the loss's own buffers.

        `rows` is the number of samples that C is a mean over: n, or more when this is a part of a batch. Unless it is None,
        total = total + rows C, 0-d like value. A device may keep a factor in this delta, and with it in all that follow from
        it: `unscale` and `delta_to_host` take it out.
        """
        if loss.recordable:
            loss.value_and_delta(self, a, y, v, value, delta, rows)
        else:
            self.call(loss.value_and_delta, self, a, y, v, value, delta, rows)
        if total is not None:
            part = self.scratch(value, 1)
            self.xp.multiply(value, float(rows), out=part)
            self.xp.add(total, part, out=total)

    def gathers(self, source: Array, dtype: DTypeLike) -> bool:
        """Whether `gather_rows` takes the rows of this array into one of another type."""
        return bool(source.dtype == dtype)

    def gather_rows(self, source: Array, index: Array, out: Array) -> None:
        """out[i] = source[index[i]]; the indices are known to be in range. The types are the same, or `gathers` says yes."""
        self._run(self.xp.take, source, index, axis=0, out=out)

    def take(self, flat: Array, index: Array, out: Array) -> None:
        """out[i] = flat[index[i]] for one-dimensional arrays and indices known to be in range."""
        self._run(self.xp.take, flat, index, out=out)

    def put(self, flat: Array, index: Array, values: Array) -> None:
        """flat[index[i]] = values[i] for one-dimensional arrays and distinct indices in range."""
        self._run(self.xp.put, flat, index, values)

    def heaviside(self, a: Array, out: Array) -> None:
        """out = 1 where a > 0, else 0, in out's own type."""
        self.xp.greater(a, 0, out=out, casting="unsafe")

    def column_sums(self, values: Array, out: Array) -> None:
        """out_j = sum_i values_ij, added up in the values' own type.  values (n, m) in any layout, out (m,)."""
        if len(values) <= MANY:
            self.dot(self.ones(len(values), values.dtype), values, out)
            return
        sums = self._leading(out.size, accumulator(values.dtype), "sums", self.empty)
        self.xp.sum(values, axis=0, dtype=sums.dtype, out=sums)
        self.xp.copyto(out, sums, casting="unsafe")

    def total(self, values: Array, scale: float, out: Array) -> None:
        """out = scale * sum of all values, as exact as a sum in float64; out is 0-d, float64."""
        self.xp.sum(values, dtype=accumulator(values.dtype), out=out)
        self.xp.multiply(out, scale, out=out)

    def total_of_squares(self, values: Array, scale: float, out: Array) -> None:
        """out = scale * sum of all squares, as exact as a sum in float64; out is 0-d, float64."""
        t = self.scratch(values)
        self.xp.multiply(values, values, out=t)
        self.total(t, scale, out)

    def add_penalty(self, W: Array, l1: float, l2: float, value: Array) -> None:
        """value = value + l1 sum |W| + l2/2 sum W^2, added up as exactly as in float64; value is 0-d, float64."""
        xp, t = self.xp, self.scratch(W)
        if l2:
            xp.multiply(W, W, out=t)
            self._add_sum(t, l2 / 2, value)
        if l1:
            xp.negative(W, out=t)
            xp.maximum(W, t, out=t)
            self._add_sum(t, l1, value)

    def _add_sum(self, t: Array, factor: float, value: Array) -> None:
        part = self.scratch(value, 1)
        self.xp.sum(t, dtype=part.dtype, out=part)
        self.xp.multiply(part, factor, out=part)
        self.xp.add(value, part, out=value)

    def add_penalty_gradient(self, W: Array, l1: float, l2: float, dW: Array) -> None:
        """dW = dW + l1 sign(W) + l2 W."""
        xp, t = self.xp, self.scratch(W)
        if l2:
            xp.multiply(W, l2, out=t)
            xp.add(dW, t, out=dW)
        if l1:
            xp.sign(W, out=t)
            xp.multiply(t, l1, out=t)
            xp.add(dW, t, out=dW)

    def dot(self, a: Array, b: Array, out: Array) -> None:
        """out = a b, in the arrays' own type: matrix products, and inner products into a 0-d array."""
        self.xp.dot(a, b, out=out)

    def clip_by_norm(self, G: Array, max_norm: float, norm: Array, factor: Array) -> None:
        """norm = ||G||; factor = min(1, max_norm / (norm + 1e-6)); G = factor G.  0-d norm and factor.

        The factor stays on the device (Pascanu, Mikolov and Bengio, 2013; the 1e-6 is PyTorch's).
        """
        xp = self.xp
        self.norm(G, norm)
        xp.add(norm, 1e-6, out=factor)
        xp.divide(max_norm, factor, out=factor)
        xp.minimum(factor, 1.0, out=factor)
        xp.multiply(G, factor, out=G)

    def norm(self, G: Array, out: Array) -> None:
        """out = ||G||, the Euclidean norm of all elements of a flat array, into a 0-d array; right wherever that can hold it."""
        xp, t, root = self.xp, self.scratch(G), self.scratch(out, 1)
        # Divided by the largest first: the square of what a type holds may be beyond it.
        xp.abs(G, out=t)
        xp.max(t, out=out)
        xp.add(out, float(np.finfo(G.dtype).tiny), out=out)
        xp.divide(t, out, out=t)
        self.dot(t, t, root)
        xp.sqrt(root, out=root)
        xp.multiply(out, root, out=out)

    def adds_in_products(self, parameters: Array) -> bool:
        """Whether `affine_gradients` with a beta costs no more than without, for this flat buffer of parameters."""
        # On the CPU it saves SGD with momentum 11 % of a step of 784-30-10 with 32 rows, 8 % of 784-512-256-10 with 128.
        return False

    def subtract_scaled(self, p: Array, eta: Array, v: Array) -> None:
        """p = p - eta v, elementwise, with a 0-d eta. v may be `scratch(p)`, and is used up then."""
        # One pass of BLAS on the CPU, in the 0.55 to 0.6 of the time that two of NumPy take.
        t = self.scratch(p)
        self.xp.multiply(v, eta, out=t)
        self.xp.subtract(p, t, out=p)

    def decaying_average(self, average: Array, beta: float, value: Array, t: Array) -> None:
        """average = beta average + (1 - beta) value, elementwise, with a fixed number beta. t: memory to work in, which may
        be `value` itself."""
        # One pass of BLAS on the CPU in place of three: without it Adam's update takes 1.24 to 1.4 times as long.
        self.xp.multiply(average, beta, out=average)
        self.xp.multiply(value, 1 - beta, out=t)
        self.xp.add(average, t, out=average)

    scales_deltas: bool = False
    """Whether the device puts a factor into its deltas (see `loss_and_delta`)."""

    def overflowed(self) -> bool:
        """Whether the gradients that `unscale` saw last are not finite because of that factor, as far as it can tell; then it is
        smaller from now on, and the pass is to be done again. Waits for the device."""
        return False

    def zero_if_skipped(self, value: Array) -> None:
        """Make `value`, 0-d, 0 where this training step is left out, as its gradients are not finite because of that factor."""
        return

    def scale_state(self) -> dict[str, np.ndarray]:
        """Host arrays, by name, that `set_scale_state` makes that factor again from; none where there is none."""
        return {}

    def set_scale_state(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on with the factor of `scale_state`, where it is among these arrays and this device has one."""
        return

    def unscale(self, G: Array) -> None:
        """Take out of the finished gradients G of all parameters the factor that this device puts into its deltas, if it does
        (see `loss_and_delta`). Once a step, before anything is done with G."""
        return

    def _in_lanes(self, starts: range) -> Iterable[int]:
        """Where the parts of an array start, which a device may work on side by side."""
        return starts

    update_block = sys.maxsize
    """Elements of an update at a time."""

    def update(self, optimizer: UpdateRule, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        """One step of `optimizer.rule` over the flat buffers. `h` holds this step's 0-d scalars. G may be used up."""
        if not optimizer.elementwise:
            optimizer.rule(self, P, G, state, h)
            return
        for rule, span, decays in optimizer.spans():
            numbers = h if rule is optimizer else rule.h
            for i in self._in_lanes(range(span.start, span.stop, self.update_block)):
                block = slice(i, min(i + self.update_block, span.stop))
                p, g = P[block], G[block]
                # Where weights alone decay, `rule` cannot tell that p is one.
                if decays and not rule.decays(is_weight=False):
                    rule.add_decay(self, p, g, numbers, is_weight=True)
                rule.rule(self, p, g, tuple(s[block] for s in state), numbers)
