"""Launches the kernels of kernels.cu: compiled when first asked for, kept on disk, loaded once a device."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array
from gpubackprop.backend.cuda import compile, kernel_table
from gpubackprop.backend.cuda.kernel_table import SCALAR, Launch
from gpubackprop.backend.cuda.overlap import Overlap, waiting
from gpubackprop.errors import ArgumentError, DeviceError
from gpubackprop.files import cache

_NULL = np.uint64(0)


class Kernels:
    """launch(name, template, geometry, *arguments) on CuPy's current stream, and the memory that the blocks of a launch leave
    their sums in. index: of the device, which must be the current one in all of this.

    Arguments are device arrays (None for a null pointer) and numbers, in the order of the kernel's signature. Raises
    DeviceError where NVRTC refuses, MissingExtraError where it is not installed.
    """

    def __init__(self, cupy: ModuleType, index: int) -> None:
        self.cupy = cupy
        device = cupy.cuda.Device(index)
        self.multiprocessors = int(device.attributes["MultiProcessorCount"])
        self.arch = _best_architecture(str(device.compute_capability))
        self.counter: Array = cupy.zeros((1,), np.uint32)
        """The blocks of a launch that are done; 0 between launches."""
        self._partial: dict[str, Array] = {}
        self._loaded: dict[tuple[Any, ...], tuple[Any, tuple[Callable[[Any], Any], ...]]] = {}
        self._overlap: Overlap | None = None

    def launch(self, name: str, template: tuple[str | int, ...], geometry: Launch, *arguments: object) -> None:
        """Queue one launch. Nothing is checked on the way but the number of arguments: the callers own the types."""
        key = (name, template)
        if key not in self._loaded:
            self._loaded[key] = self._load(name, template)
        function, convert = self._loaded[key]
        if len(arguments) != len(convert):
            raise ArgumentError(f"kernel {name} takes {len(convert)} arguments; got {len(arguments)}")
        values = tuple(c(a) for c, a in zip(convert, arguments, strict=True))
        if self._overlap is None or not self._overlap.capture(function.kernel.ptr, geometry, values):
            function(geometry.grid, geometry.block, values)

    def overlap(self, overlap: Overlap | None) -> None:
        """From now on kernels wait by themselves and are captured this way; None: as CuPy launches them."""
        self._overlap = overlap
        self._loaded.clear()

    def flat(self, n: int, width: int = 4) -> Launch:
        """The geometry of a pass over n elements, `width` of them a thread and turn."""
        return kernel_table.flat(n, width, self.multiprocessors)

    def partial(self, n: int, dtype: DTypeLike = np.float64) -> Array:
        """Room for n partial sums, which the next launch that asks may overwrite."""
        key = np.dtype(dtype).name
        if key not in self._partial or self._partial[key].size < n:
            self._partial[key] = self.cupy.empty((n,), dtype)
        return self._partial[key][:n]

    def memory(self) -> tuple[Array, ...]:
        """The memory that launches so far wrote to besides their arguments."""
        return (self.counter, *self._partial.values())

    def _load(self, name: str, template: tuple[str | int, ...]) -> tuple[Any, tuple[Callable[[Any], Any], ...]]:
        kernel = kernel_table.kernel(name)
        expression = kernel.expression(*template)
        cubin, lowered = self._compiled(expression)
        file = cache.file_with(f"kernel-{cache.digest(expression, cubin.hex())}.cubin", cubin)
        function = self.cupy.RawModule(path=str(file)).get_function(lowered)
        converters = tuple(_pointer if p.pointer else np.dtype(SCALAR[p.type]).type for p in kernel.parameters)
        return function, converters

    def _compiled(self, expression: str) -> tuple[bytes, str]:
        text = compile.source() if self._overlap is None else waiting(compile.source())
        key = f"kernel-{cache.digest(text, compile.OPTIONS, self.arch, expression, compile.version())}"
        kept = cache.load(key)
        if kept is not None:
            name, _, cubin = kept.partition(b"\n")
            return cubin, name.decode()
        cubin, lowered = compile.compile_cubin(text, self.arch, expression)
        cache.store(key, lowered.encode() + b"\n" + cubin)
        return cubin, lowered


def _pointer(array: Array) -> np.uint64:
    return _NULL if array is None else np.uint64(array.data.ptr)


def _best_architecture(capability: str) -> str:
    """The newest real architecture that NVRTC compiles for and a device of this capability ("90") runs."""
    major, minor = divmod(int(capability), 10)
    usable = [
        number
        for number in (int(a.removeprefix("sm_")) for a in compile.supported_architectures())
        if number // 10 == major and number % 10 <= minor
    ]
    if not usable:
        supported = ", ".join(compile.supported_architectures())
        raise DeviceError(f"this NVRTC compiles for {supported}; the device has compute capability {major}.{minor}")
    return f"sm_{max(usable)}"
