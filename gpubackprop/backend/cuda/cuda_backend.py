"""The GPU at its best: own kernels, cuBLASLt products with epilogues, and each step one CUDA graph."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpubackprop.activations import ACTIVATIONS
from gpubackprop.backend.base import Array, ElementwiseFunction, Program
from gpubackprop.backend.cuda.cublaslt import CublasLt
from gpubackprop.backend.cuda.graph import GraphProgram, Recorder
from gpubackprop.backend.cuda.kernel_backend import KernelBackend
from gpubackprop.backend.cuda.kernel_table import C_TYPE
from gpubackprop.backend.cuda.loop import DeviceLoop
from gpubackprop.backend.cuda.precision import HALF, LossScale, half_type
from gpubackprop.backend.cuda.products import Products
from gpubackprop.errors import DeviceError, MissingExtraError

log = logging.getLogger("gpubackprop.cuda")


class CudaBackend(KernelBackend):
    """GPU number `index`. precision: "native", or how products are carried out: "tf32", "bf16", "fp16".

    With "bf16" and "fp16" activations and deltas are stored in that type, parameters, gradients and optimizer state in
    float32; "fp16" scales the loss, and leaves out updates whose gradients are not finite.
    epilogues, graphs: False goes one level down the chain, to find out what the level above does.

    Raises DeviceError or MissingExtraError where this GPU cannot be used this way.
    """

    def __init__(
        self, index: int = 0, precision: str = "native", *, epilogues: bool = True, graphs: bool = True
    ) -> None:
        super().__init__(index)
        self.precision = precision
        self._half = half_type(precision, self.cupy)
        try:
            self.lt = CublasLt(self.cupy, index)
        except ImportError as error:
            raise MissingExtraError("cuBLASLt (nvmath-python)", "cuda12") from error
        self.products = Products(self.lt, precision == "tf32", epilogues)
        self.recorder = Recorder(self.cupy)
        self.graphs = graphs
        self.loss_scale = LossScale(self) if precision == "fp16" else None
        self._in_program = False
        self._copied: set[int] = set()
        self._copies: dict[tuple[int, int], Array] = {}
        self._masks: dict[int, tuple[weakref.ref[Any], Array]] = {}
        self._valid: set[int] = set()
        self._try_a_product()

    def _try_a_product(self) -> None:
        """A product through cuBLASLt, to know now whether it works."""
        a = self.asarray(np.arange(64, dtype=np.float32).reshape(8, 8))
        out = self.zeros((8, 8), np.float32)
        if not self.products.multiply(a, a.T, out):
            raise DeviceError(f"cuBLASLt has no product of 8 x 8 matrices: {'; '.join(self.lt.refused.values())}")
        host = self.to_host(a)
        if not np.allclose(self.to_host(out), host @ host.T, rtol=4e-3):
            raise DeviceError("a product of two 8 x 8 matrices by cuBLASLt came out wrong")

    def describe(self) -> str:
        steps = "CUDA graphs" if self.graphs else "eager"
        if self.recorder.failure:
            steps = f"eager (no graph: {self.recorder.failure})"
        products = "cuBLASLt with epilogues" if self.products.epilogues else "cuBLASLt without epilogues"
        refused = "".join(f"; {kind} not used: {why}" for kind, why in self.lt.refused.items())
        return f"{steps}, own kernels, {products}{refused}"

    # -- recording ------------------------------------------------------------------------------------------------

    def record(self, step: Callable[[], None]) -> Program:
        return GraphProgram(self, step) if self.graphs else step

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        if self.recorder.parts is None:
            function(*arguments)
        else:
            self.recorder.call(function, *arguments)

    loops = True

    def loop(self, program: Program, rows: Any, batch: Any, optimizer: Any, count: int) -> Callable[[int], int] | None:
        if not isinstance(program, GraphProgram) or not program.warm or self.recorder.failure:
            return None
        if program.loop is None or program.loop.rows is not rows:
            if not DeviceLoop.possible(self, rows, batch, optimizer):
                return None
            program.loop = DeviceLoop(self, rows, batch, program.step, optimizer)
        loop = program.loop
        return lambda first: loop.run(first, count)

    @contextmanager
    def inside_program(self) -> Iterator[None]:
        """While a whole step is done or captured: what holds from its beginning to its end is done once."""
        self._in_program = True
        self._copied.clear()
        try:
            yield
        finally:
            self._in_program = False
            self._copied.clear()

    def memory_in_use(self) -> tuple[Any, ...]:
        """The scratch of all kinds as it is now: a captured step goes on writing there."""
        masks = [mask for _, mask in self._masks.values()]
        return (*self._memory.values(), *self._copies.values(), *masks)

    # -- half precision ---------------------------------------------------------------------------------------------

    def storage(self, dtype: Any) -> Any:
        if self._half is None:
            return dtype
        if np.dtype(dtype) != np.float32:
            raise DeviceError(
                f'precision="{self.precision}" keeps its parameters in float32; got {np.dtype(dtype).name}'
            )
        return self._half

    def _narrow(self, parameter: Array | None) -> Array | None:
        """A parameter as products take it: itself, or its copy in half precision, made anew once a step."""
        if parameter is None or self._half is None or parameter.dtype == self._half:
            return parameter
        whole = parameter if parameter.base is None else parameter.base
        key = (whole.data.ptr, whole.size)
        if key not in self._copies:
            self._copies[key] = self.empty((whole.size,), self._half)
        copy = self._copies[key]
        if not self._in_program or whole.data.ptr not in self._copied:
            types = (C_TYPE[whole.dtype.name], C_TYPE[copy.dtype.name])
            self.launch("convert", types, self._flat(whole.size), whole, copy, whole.size)
            self._copied.add(whole.data.ptr)
        start = (parameter.data.ptr - whole.data.ptr) // whole.itemsize
        return copy[start : start + parameter.size].reshape(parameter.shape)

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        if out.dtype.name in HALF and not self.owns(host):
            out.set(np.asarray(host).astype(out.dtype, order="C"))
        else:
            super().copy_in(host, out)

    def to_host(self, array: Array) -> np.ndarray:
        host = super().to_host(array)
        return host.astype(np.float32) if host.dtype.name in HALF else host

    def delta_to_host(self, delta: Array) -> np.ndarray:
        host = self.to_host(delta)
        return host if self.loss_scale is None else host / float(self.to_host(self.loss_scale.scale))

    # -- products ---------------------------------------------------------------------------------------------------

    def dot(self, a: Array, b: Array, out: Array) -> None:
        if not (a.ndim == b.ndim == 2 and self.products.multiply(a, b, out)):
            super().dot(a, b, out)

    def affine(self, x: Array, W: Array, b: Array | None, f: ElementwiseFunction, z: Array, out: Array) -> None:
        W, b = self._narrow(W), self._narrow(b)
        self._forget(out)
        with_bias = "" if b is None else "_BIAS"
        if _is(f, "identity") and z is out and b is not None and self.products.multiply(x, W, out, "BIAS", bias=b):
            return
        if _is(f, "relu") and z is out:
            mask = self._mask_for(out)
            options = {"bias": b, "aux": mask}
            used = self.products.first_of((f"RELU_AUX{with_bias}", f"RELU{with_bias}"), x, W, out, **options)
            if used is not None:
                if "AUX" in used:
                    self._remember(out, mask)
                return
        if _is(f, "gelu_tanh") and self.products.multiply(x, W, out, f"GELU_AUX{with_bias}", bias=b, aux=z):
            return
        super().affine(x, W, b, f, z, out)

    def propagate(self, delta: Array, W: Array, f: ElementwiseFunction, saved: Array, out: Array) -> None:
        W = self._narrow(W)
        mask = self._mask_of(saved) if _is(f, "relu") else None
        if mask is not None and self.products.multiply(delta, W.T, out, "DRELU", aux=mask):
            return
        if _is(f, "gelu_tanh") and self.products.multiply(delta, W.T, out, "DGELU", aux=saved):
            return
        super().propagate(delta, W, f, saved, out)

    def affine_gradients(self, x: Array, delta: Array, dW: Array, db: Array | None, beta: float) -> None:
        if self.loss_scale is not None:
            self._unscaled_gradients(self.loss_scale, x, delta, dW, db, beta)
            return
        if db is not None and not beta and self.products.multiply(x.T, delta, dW, "BGRADA", bias=db):
            return
        if not self.products.multiply(x.T, delta, dW, beta=beta):
            super().affine_gradients(x, delta, dW, db, beta)
        elif db is not None:
            self._add_column_sums(delta, db, beta)

    def _unscaled_gradients(
        self, scale: LossScale, x: Array, delta: Array, dW: Array, db: Array | None, beta: float
    ) -> None:
        """The gradients in float32, with the loss's scale taken out again where they are made."""
        options = {"alpha": scale.inverse.data.ptr, "beta": scale.number(beta).data.ptr, "device_alpha": True}
        if not self.products.multiply(x.T, delta, dW, **options):
            raise DeviceError(f'precision="fp16": cuBLASLt has no product for {dW.shape[0]} x {dW.shape[1]} gradients')
        if db is not None:
            part = self.scratch(db)
            self.column_sums(delta, part)
            self.xp.multiply(part, scale.inverse, out=part)
            if beta:
                self._add_to(db, beta, part)
            else:
                self.xp.copyto(db, part)

    # -- masks of ReLU ----------------------------------------------------------------------------------------------

    def _mask_for(self, out: Array) -> Array:
        """Memory for the bits that say where an output is above 0: rows of a multiple of 128."""
        held = self._masks.get(id(out))
        if held is not None and held[0]() is out:
            return held[1]
        n, m = out.shape
        return self.empty((n * (-(-m // 128) * 16),), np.uint8)

    def _remember(self, out: Array, mask: Array) -> None:
        key = id(out)
        self._masks[key] = (weakref.ref(out, lambda _: self._masks.pop(key, None)), mask)
        self._valid.add(key)

    def _forget(self, out: Array) -> None:
        self._valid.discard(id(out))

    def _mask_of(self, saved: Array) -> Array | None:
        """The mask, if what the array holds was written with it."""
        held = self._masks.get(id(saved))
        return held[1] if held is not None and held[0]() is saved and id(saved) in self._valid else None

    def activate(self, f: ElementwiseFunction, z: Array, out: Array) -> None:
        self._forget(out)
        super().activate(f, z, out)

    # -- loss scaling -----------------------------------------------------------------------------------------------

    def _loss_scale(self) -> Array | None:
        return None if self.loss_scale is None else self.loss_scale.scale

    def update(self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]) -> None:
        super().update(optimizer, P, G, state, h)
        if self.loss_scale is not None:
            self.loss_scale.adapt()

    def update_by_segment(
        self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...], segments: Any
    ) -> bool:
        done = super().update_by_segment(optimizer, P, G, state, h, segments)
        if done and self.loss_scale is not None:
            self.loss_scale.adapt()
        return done

    def _skip(self, G: Array) -> Array | None:
        return None if self.loss_scale is None else self.loss_scale.look_at(G)

    def _generic_update(
        self, optimizer: Any, P: Array, G: Array, state: tuple[Array, ...], h: tuple[Array, ...]
    ) -> None:
        if self.loss_scale is not None:
            raise DeviceError(
                f'precision="fp16" leaves out updates on the device, which {type(optimizer).__name__} has no kernel for; '
                'use precision="bf16"'
            )
        super()._generic_update(optimizer, P, G, state, h)


def _is(f: ElementwiseFunction, name: str) -> bool:
    return f.name == name and ACTIVATIONS[name] is type(f)
