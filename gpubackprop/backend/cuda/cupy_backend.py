"""The GPU through plain CuPy calls: the vocabulary's array expressions, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.backend.base import Array, Backend, DeviceInfo, RowSource
from gpubackprop.backend.cuda.diagnosis import explain
from gpubackprop.backend.cuda.staging import Staging
from gpubackprop.checks import memory_of
from gpubackprop.errors import ArgumentTypeError, DeviceError


def problem(index: int) -> str | None:
    """Why GPU number `index` cannot be used, or None: an allocation and a small product must give the right answer."""
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            return f"this machine has {count} GPU{'s' if count > 1 else ''}, numbered from 0"
        with cupy.cuda.Device(index):
            ones = cupy.ones((8, 8), np.float32)
            if not (cupy.asnumpy(cupy.dot(ones, ones)) == 8.0).all():
                return "a product of two 8 x 8 matrices came out wrong there"
    except Exception as error:
        # CuPy, the driver and its libraries fail in many types; each is a reason, none is hidden.
        return explain(error)
    return None


def describe_cuda() -> list[DeviceInfo]:
    """Every GPU that CuPy sees."""
    import cupy

    found = []
    for index in range(cupy.cuda.runtime.getDeviceCount()):
        p = cupy.cuda.runtime.getDeviceProperties(index)
        text = f"{p['name'].decode()}, compute capability {p['major']}.{p['minor']}, CuPy {cupy.__version__}"
        why = problem(index)
        found.append(DeviceInfo(f"cuda:{index}", text, int(p["totalGlobalMem"]), why is None, why or ""))
    return found


class CupyBackend(Backend):
    """GPU number `index`. Arrays are `cupy.ndarray`s on that device; work is queued on CuPy's current stream.

    Operations of the vocabulary are for `with backend:`, which makes this the current device of the thread and afterwards puts
    back the one that was; what moves data, makes arrays or waits does so by itself.
    """

    is_gpu = True
    graphs = False
    """Whether a recorded step becomes a CUDA graph."""

    def __init__(self, index: int = 0, precision: str = "native") -> None:
        super().__init__()
        import cupy

        if precision != "native":
            raise DeviceError(f'precision="{precision}" is not available through plain CuPy products')
        self.name = f"cuda:{index}"
        self.index = index
        self.cupy = cupy
        self.xp: Any = cupy
        self._staging = Staging(cupy)
        self.memory_errors = (cupy.cuda.memory.OutOfMemoryError,)
        self.fallback = ""
        """Why this is not the level of the backend above it; "" where it was asked for."""

    def __enter__(self) -> Backend:
        super().__enter__()
        if self._depth == 1:
            # A new object each time: CuPy keeps in it which device to go back to.
            self._device = self.cupy.cuda.Device(self.index)
            try:
                self._device.__enter__()
            except BaseException:
                super().__exit__()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._depth == 1:
            self._device.__exit__(*error)
        super().__exit__(*error)

    def describe(self) -> str:
        return f"plain CuPy, eager{self.fallback}"

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        with self:
            return self.cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        with self:
            return self.cupy.zeros(shape, dtype)

    def asarray(self, host: np.ndarray, dtype: DTypeLike | None = None) -> Array:
        with self:
            if isinstance(host, self.cupy.ndarray):
                # copy=None takes a device array as it is; CuPy 14 reads copy=False as "never copy".
                return self.cupy.array(host, dtype=dtype, copy=None if self.owns(host) else True, order="C")
            host = np.asarray(host)
            out = self.cupy.empty(host.shape, host.dtype if dtype is None else dtype)
            self._staging.copy(host, out)
            return out

    def to_host(self, array: Array) -> np.ndarray:
        with self:
            return np.asarray(self.cupy.asnumpy(array))

    def copy_in(self, host: np.ndarray, out: Array) -> None:
        with self:
            if self.owns(host):
                self.cupy.copyto(out, host, casting="unsafe")
            else:
                self._staging.copy(np.asarray(host), out)

    def fill(self, array: Array, value: float) -> None:
        with self:
            array.fill(value)

    def owns(self, array: object) -> bool:
        return isinstance(array, self.cupy.ndarray) and array.device.id == self.index

    def adopt(self, array: object) -> Array | None:
        where = memory_of(array)
        if isinstance(array, self.cupy.ndarray) or where not in (("cuda", self.index), ("cuda", None)):
            return super().adopt(array)
        with self:
            try:
                # By DLPack where it is there: its library then orders the work that fills the array before ours.
                if where == ("cuda", self.index):
                    return self.cupy.from_dlpack(array)
                return super().adopt(self.cupy.asarray(array))
            except (BufferError, RuntimeError, TypeError, ValueError) as error:
                raise ArgumentTypeError(
                    f"the {type(array).__name__} on {self.name} is not handed over: {error}"
                ) from error

    def may_share_memory(self, a: Array, b: Array) -> bool:
        return self.owns(a) and bool(self.cupy.may_share_memory(a, b))

    def synchronize(self) -> None:
        self.cupy.cuda.Device(self.index).synchronize()

    data_share = 0.5
    """The share of the memory that is free now which a data set may take; a larger one is streamed."""

    def stream(self, x: np.ndarray, y: np.ndarray, weights: Array | None = None) -> RowSource | None:
        if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
            return None
        with self:
            free, _ = self.cupy.cuda.runtime.memGetInfo()
            if x.nbytes + y.nbytes <= self.data_share * free:
                return None
            from gpubackprop.backend.cuda.streams import StreamedRows

            return StreamedRows(self, x, y, None if weights is None else self.to_host(weights))

    def release_memory(self) -> None:
        """Give memory that no array holds back to the device."""
        import gc

        gc.collect()
        with self:
            self.cupy.get_default_memory_pool().free_all_blocks()
