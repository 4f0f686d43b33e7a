"""The GPU at its best: own kernels, cuBLASLt products with epilogues, and each step one CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.activations import Activation
from gpubackprop.backend.base import (
    Array,
    Backend,
    BatchBuffers,
    Loop,
    Program,
    RowSource,
    Tensors,
)
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda import overlap, plans, registry
from gpubackprop.backend.cuda.choices import Way
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.backend.cuda.gather import gather, row_types, target_types
from gpubackprop.backend.cuda.graph import EagerProgram, GraphProgram, Recorder
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.launcher import Kernels
from gpubackprop.backend.cuda.loop import DeviceLoop
from gpubackprop.backend.cuda.masks import Masks
from gpubackprop.backend.cuda.narrow import Narrow, fits, works
from gpubackprop.backend.cuda.overlap import Overlap
from gpubackprop.backend.cuda.precision import HALF, HalfCopies, LossScale, half_type
from gpubackprop.backend.cuda.products import Products
from gpubackprop.backend.cuda.timing import seconds_a_call
from gpubackprop.backend.cuda.update import Scalars, Updates
from gpubackprop.errors import DeviceError
from gpubackprop.losses import Loss
from gpubackprop.optimizers import Optimizer
from gpubackprop.random import MaskStream

log = logging.getLogger("gpubackprop.cuda")
_SCALE = "loss_scale"


class CudaBackend(CupyBackend):
    """GPU number `index`. precision: "native", or how products are carried out: "tf32", "bf16", "fp16".

    With "bf16" and "fp16" activations and deltas are stored in that type, parameters, gradients and optimizer state in
    float32; "fp16" scales the loss, and leaves out updates whose gradients are not finite.
    products, epilogues, graphs, narrow: False goes down the chain, to find out what the level above does: products by CuPy in
    place of cuBLASLt (and no graphs, which those cannot be part of), plain products and kernels, each step launch by launch,
    narrow Dense layers one by one.
    overlap: True lets own kernels in a graph begin while the one before them ends (`overlap.py`), where device and driver can;
    what that saves is not yet measured.

    An activation, loss or optimizer without a kernel (`registry`) runs in its array expressions. Raises DeviceError or
    MissingExtraError where this GPU cannot be used this way.
    """

    def __init__(
        self,
        index: int = 0,
        precision: str = "native",
        *,
        products: bool = True,
        epilogues: bool = True,
        graphs: bool = True,
        narrow: bool = True,
        overlap: bool = False,
    ) -> None:
        super().__init__(index)
        self.precision = precision
        self._half = half_type(precision, self.cupy)
        self.copies: HalfCopies | None = None
        with self:
            self.kernels = Kernels(self.cupy, index)
            self.updates = Updates(self.kernels, self.cupy)
            planner = plans.of_device(self.cupy, index) if products else None
            self.products = Products(planner, precision == "tf32", epilogues) if planner else None
            self.recorder = Recorder(self.cupy, planner.launch if planner else None)
            self.graphs = self.loops = graphs and products
            self.masks = Masks(self.cupy)
            # Tensor cores of this kind came with compute capability 8.0; float32 stays float32.
            self.narrow = narrow and precision != "native" and int(self.kernels.arch.removeprefix("sm_")) >= 80
            self._narrow_tried = False
            self._chained: dict[Any, Array] = {}
            if self._half is not None:
                self.copies = HalfCopies(self.kernels, self._half)
            self.loss_scale = LossScale(self.kernels) if precision == "fp16" else None
            self.scales_deltas = self.loss_scale is not None
            self._try_out()
            self._overlap = self._overlapping() if overlap else ""

    def __enter__(self) -> Backend:
        super().__enter__()
        if self._depth == 1:
            # Another user of the device may have written to the parameters in between.
            self.parameters_changed()
        return self

    def _try_out(self) -> None:
        """A small kernel and a small product, to know now whether compiler, driver, launch and cuBLASLt work together."""
        if self.products is None and self.precision != "native":
            raise DeviceError(f'precision="{self.precision}" is not available through plain CuPy products')
        ones = self.zeros((4,), np.float64)
        self.kernels.launch("set_scalars", ("double",), table.one_block(), ones, None, 4, 1.0, 2.0, 3.0, 4.0)
        if not (self.to_host(ones) == [1, 2, 3, 4]).all():
            raise DeviceError("a kernel compiled for this GPU wrote something else than it should")
        if self.products is None:
            return
        a = self.asarray(np.arange(64, dtype=np.float32).reshape(8, 8))
        out = self.zeros((8, 8), np.float32)
        if not self.products.multiply(a, a.T, out):
            raise DeviceError(f"cuBLASLt has no product of 8 x 8 matrices: {'; '.join(self.products.refused.values())}")
        host = self.to_host(a)
        if not np.allclose(self.to_host(out), host @ host.T, rtol=4e-3):
            raise DeviceError("a product of two 8 x 8 matrices by cuBLASLt came out wrong")

    def _overlapping(self) -> str:
        """Let own kernels in graphs overlap, if that works in a small graph; what came of it, for `describe`."""
        why = overlap.problem(self.kernels.arch) if self.graphs else "there are no graphs"
        if not why:
            try:
                self.kernels.overlap(Overlap(self.cupy))
                if self._overlap_is_right():
                    return ", own kernels overlap"
                why = "a small graph came out wrong"
            except Exception as error:  # the driver's, CuPy's or this library's: it is told, and all goes on without
                why = f"{type(error).__name__}: {error}"
            self.kernels.overlap(None)
        log.warning("own kernels do not overlap: %s", why)
        return f", own kernels do not overlap: {why}"

    def _overlap_is_right(self) -> bool:
        a, b, out = (self.zeros((4,), np.float64) for _ in range(3))

        def write(first: float) -> None:
            self.kernels.launch(
                "set_scalars", ("double",), table.one_block(), a, None, 4, *(first + k for k in range(4))
            )

        def step() -> None:
            write(1.0)
            self.xp.copyto(b, a)  # no kernel, and it must have read before the next one writes
            write(5.0)
            write(9.0)
            self.xp.add(a, b, out=out)

        write(0.0)  # what is not loaded yet cannot be captured
        parts, _ = self.recorder.capture(step)
        for part in parts:
            part()
        return bool((self.to_host(out) == [10, 12, 14, 16]).all())

    def describe(self) -> str:
        if self.products is None:
            return f"own kernels, products by CuPy, eager{self._overlap}{self.fallback}"
        steps = "CUDA graphs" if self.graphs else "eager"
        if self.recorder.failure:
            steps = f"eager (no graph: {self.recorder.failure})"
        products = "cuBLASLt with epilogues" if self.products.epilogues else "cuBLASLt without epilogues"
        refused = "".join(f"; {kind} not used: {why}" for kind, why in self.products.refused.items())
        return f"{steps}, own kernels, {products}{self._overlap}{refused}"

    # -- recording ------------------------------------------------------------------------------------------------

    @property
    def is_recording(self) -> bool:
        return self.recorder.parts is not None

    def record(self, step: Callable[[], None]) -> Program:
        return GraphProgram(self, step) if self.graphs else EagerProgram(self, step)

    _captures_sums = False

    def capture(self, step: Callable[[], None]) -> Program:
        program = GraphProgram(self, step, warm=True)
        self._captures_sums = True
        try:
            program.capture()
        finally:
            self._captures_sums = False
        return program

    def sum_over_processes(self, array: Array) -> None:
        if self._captures_sums:
            self._sum_now(array)
        else:
            super().sum_over_processes(array)

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        if self.is_recording:
            self.recorder.call(function, *arguments)
        else:
            function(*arguments)
        self.parameters_changed()

    def loop(
        self, program: Program, rows: RowSource, batch: BatchBuffers, optimizer: Optimizer, count: int
    ) -> Loop | None:
        if not isinstance(program, GraphProgram) or not program.warm or self.recorder.failure:
            return None
        if program.loop is None or not program.loop.is_over(rows):
            program.loop = None
            if not DeviceLoop.possible(self, rows, batch, optimizer):
                return None
            program.loop = DeviceLoop(self, rows, batch, program.step, optimizer)
        loop = program.loop
        return lambda first: loop.run(first, count)

    def memory_in_use(self) -> tuple[Any, ...]:
        """The scratch of all kinds as it is now: a captured step goes on writing there."""
        copies = () if self.copies is None else self.copies.memory()
        held = (*self._memory.values(), *self.kernels.memory(), *self.masks.memory())
        return (*held, *copies, *self._chained.values())

    def release_memory(self) -> None:
        self.masks.forget_dead()
        super().release_memory()

    # -- half precision ---------------------------------------------------------------------------------------------

    def storage(self, dtype: DTypeLike) -> np.dtype[Any]:
        if self._half is None:
            return np.dtype(dtype)
        if np.dtype(dtype) != np.float32:
            raise DeviceError(
                f'precision="{self.precision}" keeps its parameters in float32; got {np.dtype(dtype).name}'
            )
        return self._half

    def parameter_buffer(self, size: int, dtype: DTypeLike) -> Array:
        P = super().parameter_buffer(size, dtype)
        if self.copies is not None:
            self.copies.add(P)
        return P

    def parameters_changed(self) -> None:
        """Parameters may be another than they were: copies of them in half precision are made anew."""
        if self.copies is not None:
            self.copies.stale()

    def refresh(self, P: Array) -> None:
        """Make the copy of the flat buffer P in half precision now, if there is one and it is not up to date."""
        if self.copies is not None:
            self.copies.refresh(P)

    def _narrow(self, array: Array, slot: int = 0) -> Array:
        """An operand as products take it: float32 arrays in half precision where that is in use. slot: of the memory for it."""
        if self.copies is None or self._half is None or array.dtype != np.float32:
            return array
        copy = self.copies.of(array)
        return self._converted(array, self._half, slot) if copy is None else copy

    def _converted(self, array: Array, dtype: DTypeLike, slot: int) -> Array:
        t = self._leading(array.size, dtype, ("converted", slot), self.empty).reshape(array.shape)
        self.xp.copyto(t, array, casting="unsafe")
        return t

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        super().copy_in(host, out)
        self.parameters_changed()

    def fill(self, array: Array, value: float) -> None:
        super().fill(array, value)
        self.parameters_changed()

    def to_host(self, array: Array) -> np.ndarray:
        host = super().to_host(array)
        return host.astype(np.float32) if host.dtype.name in HALF else host

    def delta_to_host(self, delta: Array) -> np.ndarray:
        host = self.to_host(delta)
        return host if self.loss_scale is None else host / float(self.to_host(self.loss_scale.scale))

    # -- narrow layers ------------------------------------------------------------------------------------------------

    def chain(self, layers: Sequence[Any]) -> Narrow | None:
        if not (self.narrow and fits(layers)):
            return None
        with self:
            if not self._narrow_tried and not works(self.kernels, self.storage(np.float32)):
                self.narrow = False
                log.warning("the kernels for narrow layers came out wrong on this GPU and are not used")
                return None
            self._narrow_tried = True
        return Narrow(layers, self.kernels, self.masks, self._narrow, self._chained)

    # -- products ---------------------------------------------------------------------------------------------------

    def _multiply(self, *arguments: Any, **options: Any) -> bool:
        return self.products is not None and self.products.multiply(*arguments, **options)

    def dot(self, a: Array, b: Array, out: Array) -> None:
        if a.dtype != b.dtype:
            a, b = self._narrow(a, 0), self._narrow(b, 1)
        if a.ndim == b.ndim == 2 and self._multiply(a, b, out):
            return
        if a.dtype != out.dtype:
            a, b = self._converted(a, out.dtype, 0), self._converted(b, out.dtype, 1)
        super().dot(a, b, out)

    def _quickest(
        self,
        what: str,
        shape: tuple[int, ...],
        x: Array,
        f: str | None,
        ways: dict[str, Way],
        saving: Mapping[str, Callable[[], float]] | None = None,
    ) -> str:
        """Do it in the quickest of these ways: an epilogue, or "plain", a product and what comes after it."""
        if self.products is None or not self.products.epilogues:
            ways["plain"]()
            return "plain"
        return self.products.choices.do((what, shape, x.dtype.name, self.precision, f, *ways), ways, saving)

    def affine(self, x: Array, W: Array, b: Array | None, f: Activation, z: Array, out: Array) -> None:
        self.masks.forget(out)
        W = self._narrow(W, 0)
        b = None if b is None else self._narrow(b, 1)
        function, bias = registry.activation(f), "" if b is None else "_BIAS"
        ways: dict[str, Way] = {}
        saving: dict[str, Callable[[], float]] = {}
        if function == "Identity" and z is out and b is not None:
            ways["BIAS"] = lambda: self._multiply(x, W, out, "BIAS", bias=b)
        elif function == "ReLU" and z is out:
            ways[f"RELU{bias}"] = lambda: self._multiply(x, W, out, f"RELU{bias}", bias=b)
            ways[f"RELU_AUX{bias}"] = lambda: self._multiply(
                x, W, out, f"RELU_AUX{bias}", bias=b, aux=self.masks.memory_for(out)
            )
            saving[f"RELU_AUX{bias}"] = lambda: self._seconds_of_derivative(f, out)
        elif function == "GELUTanh":
            # Without a backward pass there is nothing to keep, and z is out.
            epilogue, kept = (f"GELU{bias}", None) if z is out else (f"GELU_AUX{bias}", z)
            ways[epilogue] = lambda: self._multiply(x, W, out, epilogue, bias=b, aux=kept)

        def plain() -> bool:
            self.dot(x, W, z)
            self._bias_activation(f, b, z, out)
            return True

        used = self._quickest("affine", (*x.shape, W.shape[1]), x, function, {**ways, "plain": plain}, saving)
        if "RELU_AUX" in used:
            self.masks.written(out)

    def _seconds_of_derivative(self, f: Activation, out: Array) -> float:
        """What a mask that is written in the forward pass saves in the backward pass, where it goes into a product."""
        try:
            delta = self.zeros(out.shape, out.dtype)
        except self.memory_errors:
            return 0.0
        return seconds_a_call(self.cupy, lambda: self.times_derivative(f, out, delta))

    def propagate(self, delta: Array, W: Array, f: Activation, saved: Array, out: Array) -> None:
        W, function = self._narrow(W), registry.activation(f)
        mask = self.masks.of(saved) if function == "ReLU" else None
        ways: dict[str, Way] = {}
        if mask is not None:
            # DRELU_BGRAD would sum up the columns of out too, but in the type of out: no gradient in half precision. BGRADA does
            # it in float32, in the product that takes out for dW.
            ways["DRELU"] = lambda: self._multiply(delta, W.T, out, "DRELU", aux=mask)
        elif function == "GELUTanh":
            ways["DGELU"] = lambda: self._multiply(delta, W.T, out, "DGELU", aux=saved)

        def plain() -> bool:
            super(CudaBackend, self).propagate(delta, W, f, saved, out)
            return True

        self._quickest("propagate", (*delta.shape, W.shape[0]), delta, function, {**ways, "plain": plain})

    def affine_gradients(self, x: Array, delta: Array, dW: Array, db: Array | None, beta: float) -> None:
        ways: dict[str, Way] = {}
        # With a beta it is no work that could be done again to time it.
        if db is not None and not beta:
            ways["BGRADA"] = lambda: self._multiply(x.T, delta, dW, "BGRADA", bias=db)

        def plain() -> bool:
            if not self._multiply(x.T, delta, dW, beta=beta):
                super(CudaBackend, self).affine_gradients(x, delta, dW, db, beta)
            elif db is not None:
                self._add_column_sums(delta, db, beta)
            return True

        self._quickest("affine_gradients", (*x.shape, delta.shape[1]), x, None, {**ways, "plain": plain})

    # -- activations ----------------------------------------------------------------------------------------------

    def _bias_activation(self, f: Activation, b: Array | None, z: Array, out: Array) -> None:
        """out = f(z + b), and z gets z + b where f' is written from it."""
        function = registry.activation(f)
        if b is None or function is None or not _alike(z, b, out):
            if b is not None:
                self.xp.add(z, b, out=z)
            self.activate(f, z, out)
            return
        (n, m), saved = z.shape, None if z is out else z
        geometry = self.kernels.flat(z.size, 16 // z.itemsize)
        self.kernels.launch("bias_activation", (C_TYPE[z.dtype.name], function), geometry, z, b, out, saved, n, m)

    def activate(self, f: Activation, z: Array, out: Array) -> None:
        self.masks.forget(out)
        function = registry.activation(f)
        if function is None or not _alike(z, out):
            super().activate(f, z, out)
        elif function != "Identity" or z is not out:
            geometry = self.kernels.flat(z.size, 16 // z.itemsize)
            self.kernels.launch("activation", (C_TYPE[z.dtype.name], function), geometry, z, out, z.size)

    def times_derivative(self, f: Activation, saved: Array, delta: Array) -> None:
        function = registry.activation(f)
        if function is None or not _alike(saved, delta):
            super().times_derivative(f, saved, delta)
        elif function != "Identity":
            geometry = self.kernels.flat(delta.size, 16 // delta.itemsize)
            template = (C_TYPE[delta.dtype.name], function)
            self.kernels.launch("activation_derivative", template, geometry, delta, saved, delta.size)

    # -- dropout and normalisation ----------------------------------------------------------------------------------

    def dropout(self, x: Array, stream: MaskStream, first: int, mask: Array, out: Array) -> None:
        if not _alike(x, mask, out):
            super().dropout(x, stream, first, mask, out)
            return
        seed, layer = (int(part) for part in stream.key)
        geometry = self.kernels.flat(-(-x.size // 16) + 1, 1)
        self.kernels.launch(
            "dropout", (C_TYPE[x.dtype.name],), geometry, x, mask, out, x.size, first, 1 / (1 - stream.p), stream.threshold,
            stream.step, layer, seed,
        )  # fmt: skip

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
        kernels, (n, d), t = self.kernels, x.shape, C_TYPE[x.dtype.name]
        if axis == 1:
            group = table.group_of(d)
            geometry = table.rows(n, group, kernels.multiprocessors)
            arguments = (x, xhat, out, gamma, beta, mean, var, rstd, n, d, eps)
            kernels.launch("layer_norm_forward", (t, group), geometry, *arguments)
            return
        width = min(table.vector_width(t, d, x.data.ptr), 4)
        geometry = table.columns(n, d, width, kernels.multiprocessors)
        splits = geometry.grid[1]
        # Statistics are float32 for activations in half precision, else their type.
        partial = kernels.partial((2 * splits + 1) * d, var.dtype)
        kernels.launch("column_spreads", (t, width), geometry, x, partial, n, d)
        finish = (partial, splits, n, d, eps, mean, var, rstd)
        kernels.launch("finish_spreads", (C_TYPE[var.dtype.name],), table.finish_columns(d), *finish)
        kernels.launch("batch_norm_apply", (t,), kernels.flat(x.size), x, mean, rstd, gamma, beta, xhat, out, n, d)

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
        kernels, (n, d), t = self.kernels, delta.shape, C_TYPE[delta.dtype.name]
        if axis == 1:
            group = table.group_of(d)
            geometry = table.rows(n, group, kernels.multiprocessors)
            arguments = (xhat, delta, gamma, rstd, out, n, d, int(centered))
            kernels.launch("layer_norm_backward", (t, group), geometry, *arguments)
        else:
            arguments = (xhat, delta, gamma, rstd, sums, out, n, d)
            kernels.launch("batch_norm_backward", (t,), kernels.flat(delta.size), *arguments)

    def scale_gradients(self, delta: Array, xhat: Array, sums: Array) -> None:
        kernels, (n, d), t, wide = self.kernels, delta.shape, C_TYPE[delta.dtype.name], C_TYPE[sums.dtype.name]
        width = table.vector_width(t, d, xhat.data.ptr, delta.data.ptr)
        geometry = table.columns(n, d, width, kernels.multiprocessors)
        splits = geometry.grid[1]
        partial = kernels.partial(2 * splits * d, sums.dtype)
        kernels.launch("norm_gradient_sums", (t, width), geometry, xhat, delta, partial, n, d)
        finish = (partial, splits, d, sums, 0.0)
        kernels.launch("finish_column_sums", (wide, wide), table.finish_columns(d, 2), *finish)

    # -- sums and norms -----------------------------------------------------------------------------------------------

    def column_sums(self, values: Array, out: Array) -> None:
        if _alike(values):
            self._add_column_sums(values, out, 0.0)
        else:
            self.xp.sum(values, axis=0, out=out)

    def _add_column_sums(self, values: Array, out: Array, beta: float) -> None:
        """out = column sums + beta out; the sums in float32 (float64), whatever the values are stored in."""
        (n, m), t = values.shape, C_TYPE[values.dtype.name]
        wide = "double" if t == "double" else "float"
        width = table.vector_width(t, m, values.data.ptr)
        geometry = table.columns(n, m, width, self.kernels.multiprocessors)
        splits = geometry.grid[1]
        partial = self.kernels.partial(splits * m, np.float64 if wide == "double" else np.float32)
        self.kernels.launch("column_sums", (t, width), geometry, values, partial, n, m)
        arguments = (partial, splits, m, out, float(beta))
        finish = table.finish_columns(m)
        self.kernels.launch("finish_column_sums", (wide, C_TYPE[out.dtype.name]), finish, *arguments)

    def _squared_norm(
        self, G: Array, scale: float, max_norm: float, total: Array | None, norm: Array | None, factor: Array | None
    ) -> None:
        geometry = self.kernels.flat(G.size, 16 // G.itemsize)
        results = (total, norm, factor)
        (out,) = {r.dtype.name for r in results if r is not None}
        arguments = (G, G.size, self.kernels.partial(geometry.blocks), self.kernels.counter, scale, max_norm, *results)
        self.kernels.launch("squared_norm", (C_TYPE[G.dtype.name], C_TYPE[out]), geometry, *arguments)

    def norm(self, G: Array, out: Array) -> None:
        self._squared_norm(G, 1.0, 1.0, None, out, None)

    def clip_by_norm(self, G: Array, max_norm: float, norm: Array, factor: Array) -> None:
        self._squared_norm(G, 1.0, max_norm, None, norm, factor)
        self.xp.multiply(G, factor, out=G)

    def total_of_squares(self, values: Array, scale: float, out: Array) -> None:
        if _alike(values):
            self._squared_norm(values, scale, 1.0, out, None, None)
        else:
            super().total_of_squares(values, scale, out)

    def add_penalty(self, W: Array, l1: float, l2: float, value: Array) -> None:
        kernels, geometry = self.kernels, self.kernels.flat(W.size)
        arguments = (W, W.size, l1, l2, kernels.partial(geometry.blocks), kernels.counter, value)
        kernels.launch("penalty", (C_TYPE[W.dtype.name],), geometry, *arguments)

    def add_penalty_gradient(self, W: Array, l1: float, l2: float, dW: Array) -> None:
        geometry = self.kernels.flat(W.size)
        self.kernels.launch("penalty_gradient", (C_TYPE[W.dtype.name],), geometry, W, dW, W.size, l1, l2)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss_and_delta(
        self,
        loss: Loss,
        a: Array,
        y: Array,
        v: Tensors,
        value: Array,
        delta: Array | None,
        rows: int,
        total: Array | None = None,
    ) -> None:
        scale = None if self.loss_scale is None else self.loss_scale.scale
        # Weighted rows have no kernel.
        known = getattr(v, "weights", None) is None
        elementwise = registry.elementwise_loss(loss) if known else None
        kernels, (n, m) = self.kernels, a.shape
        types = (C_TYPE[a.dtype.name], C_TYPE[y.dtype.name])
        template: tuple[str | int, ...]
        arguments: tuple[Any, ...]
        if known and registry.is_cross_entropy(loss):
            group = table.group_of(m)
            geometry = table.rows(n, group, kernels.multiprocessors)
            name, template, arguments = "cross_entropy", (*types, group), (a, y, delta, n, m, 1 / rows)
        elif elementwise is not None:
            count = rows * m if elementwise.marks["over_outputs"] else rows
            geometry = kernels.flat(a.size)
            name, template = "elementwise_loss", (*types, elementwise.name)
            arguments = (a, y, delta, a.size, 1 / count)
        elif scale is None or delta is None:
            super().loss_and_delta(loss, a, y, v, value, delta, rows, total)
            return
        else:
            # In float32 until it is scaled: what is small would be gone already.
            wide = self._leading(delta.size, np.float32, "wide delta", self.empty).reshape(delta.shape)
            super().loss_and_delta(loss, a, y, v, value, wide, rows, total)
            self.xp.multiply(wide, scale, out=delta)
            return
        partial = kernels.partial(geometry.blocks)
        kernels.launch(name, template, geometry, *arguments, scale, partial, kernels.counter, value, total, float(rows))

    def overflowed(self) -> bool:
        return self.loss_scale is not None and self.loss_scale.overflowed()

    def unscale(self, G: Array) -> None:
        if self.loss_scale is not None:
            self.loss_scale.unscale(G)

    def zero_if_skipped(self, value: Array) -> None:
        if self.loss_scale is not None:
            self._put_back(self._leading(1, value.dtype, "zero", self.zeros), value)

    def scale_state(self) -> dict[str, np.ndarray]:
        return {} if self.loss_scale is None else {_SCALE: self.loss_scale.state()}

    def set_scale_state(self, saved: Mapping[str, np.ndarray]) -> None:
        if self.loss_scale is not None and _SCALE in saved:
            with self:
                self.loss_scale.set_state(saved[_SCALE])

    # -- rows -------------------------------------------------------------------------------------------------------

    def gathers(self, source: Array, dtype: DTypeLike) -> bool:
        return bool(row_types(source, dtype) or target_types(source, dtype)) or super().gathers(source, dtype)

    def gather_rows(self, source: Array, index: Array, out: Array) -> None:
        plain = index.dtype == np.int64 and out.flags.c_contiguous
        if plain and row_types(source, out.dtype):
            gather(self.kernels, (source, out), None, index)
        elif plain and target_types(source, out.dtype):
            gather(self.kernels, None, (source, out), index)
        else:
            super().gather_rows(source, index, out)

    # -- update -----------------------------------------------------------------------------------------------------

    def scalars(self, count: int, dtype: DTypeLike) -> Scalars:
        with self:
            return self.updates.scalars(count, dtype)

    def write_scalars(self, h: tuple[Array, ...], values: tuple[float, ...]) -> None:
        if isinstance(h, Scalars) and len(values) <= 4:
            self.updates.write(h, values)
        else:
            super().write_scalars(h, values)

    def update(self, optimizer: Optimizer, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        skip = None if self.loss_scale is None else self.loss_scale.skip
        copy = None if self.copies is None else self.copies.to_write(P)
        if not (isinstance(h, Scalars) and self.updates.update(optimizer, P, G, state, h, copy, skip)):
            self._update_by_expressions(optimizer, P, G, state, h, skip)
        if self.loss_scale is not None:
            self.loss_scale.adapt()

    def _update_by_expressions(
        self,
        optimizer: Optimizer,
        P: Array,
        G: Array,
        state: tuple[Array, ...],
        h: tuple[Array, ...],
        skip: Array | None,
    ) -> None:
        """An update in array expressions; parameters and state are put back where it must be skipped."""
        kept: list[tuple[Array, Array]] = []
        for i, array in enumerate((P, *state) if skip is not None else ()):
            kept.append((self._leading(array.size, array.dtype, ("kept", i), self.empty), array))
            self.xp.copyto(*kept[-1])
        super().update(optimizer, P, G, state, h)
        for saved, array in kept:
            self._put_back(saved, array)
        self.parameters_changed()

    def _put_back(self, saved: Array, array: Array) -> None:
        """array = saved where this step is left out."""
        assert self.loss_scale is not None
        arguments = (saved, array, array.size, self.loss_scale.skip)
        self.kernels.launch("restore", (C_TYPE[array.dtype.name],), self.kernels.flat(array.size), *arguments)


def _alike(*arrays: Array) -> bool:
    """Whether a kernel can walk over these: C-contiguous, of one type that it knows."""
    first = arrays[0].dtype
    return first.name in C_TYPE and all(a.flags.c_contiguous and a.dtype == first for a in arrays)
