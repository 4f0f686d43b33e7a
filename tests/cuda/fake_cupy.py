"""A stand-in for CuPy: NumPy underneath, CuPy's rules on top. It lets the host half of the CUDA backend run without a GPU.

Arrays refuse to become host arrays or Python numbers unasked and refuse to be mixed with host arrays. Work is done on
the current stream; on a stream that is being captured it is kept and done at each `Graph.launch`. What CUDA or CuPy
forbid under capture raises what they raise: cuBLAS through CuPy, transfers, waits, and (stricter than CUDA) allocations
that do not come from a pool put in place for the capture. Kernels run through g++ and the shim. `install` puts it in
the place of the real modules.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpubackprop.backend.cpu.special import Blocks, normal_cdf

# ---- what is counted and limited ----------------------------------------------------------------------------------


@dataclass
class State:
    """What was asked of the device so far, and how much memory it has."""

    allocations: int = 0
    transfers: int = 0
    waits: int = 0
    launches: int = 0
    graph_launches: int = 0
    live: int = 0
    limit: int = 1 << 40
    device: int = 0
    host: float = 0.0
    """Milliseconds that the host has spent on queueing work and on waiting for it."""
    streams: dict[int, Any] = field(default_factory=dict)
    null: Any = None
    local: threading.local = field(default_factory=threading.local)

    @property
    def stack(self) -> list[Any]:
        """The current streams of this thread, innermost last."""
        return self.local.__dict__.setdefault("stack", [self.null])

    @property
    def allocators(self) -> list[Any]:
        """The allocators that were put in place in this thread."""
        return self.local.__dict__.setdefault("allocators", [])

    def counts(self) -> tuple[int, int, int]:
        """Allocations, transfers and waits."""
        return self.allocations, self.transfers, self.waits


state = State()


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


def _capturing() -> bool:
    return state.stack[-1].nodes is not None


def _refuse_under_capture(what: str) -> None:
    if _capturing():
        raise RuntimeError(f"the current stream is capturing, so {what} are disallowed")


HOST = 0.01
"""Milliseconds that the host needs for one launch or one event."""


def run(work: Callable[[], Any], stream: Any = None, milliseconds: float = 0.002) -> None:
    """Do some device work now, which takes the device so long, or keep it if its stream is being captured."""
    stream = stream or state.stack[-1]
    if stream.nodes is None:
        stream.take(milliseconds)
        work()
    else:
        stream.nodes.append((work, milliseconds))


def _memory(nbytes: int) -> np.ndarray:
    """Device memory, aligned to 512 bytes as CuPy's pool aligns it, and with no content worth keeping."""
    if _capturing() and not state.allocators:
        raise RuntimeError("memory was allocated during a capture outside of the capture's pool")
    if state.live + nbytes > state.limit:
        raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes (allocated so far: {state.live:,} bytes).")
    state.allocations += 1
    state.live += nbytes
    raw = np.full(nbytes + 512, 0xFF, np.uint8)  # as floats: NaN
    weakref.finalize(raw, _free, nbytes)
    start = -raw.ctypes.data % 512
    return raw[start : start + nbytes]


def _free(nbytes: int) -> None:
    state.live -= nbytes


# ---- arrays -------------------------------------------------------------------------------------------------------


def _new(shape: Any, dtype: Any) -> ndarray:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    dtype = np.dtype(dtype)
    memory = _memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return ndarray(memory.view(dtype).reshape(shape))


def _plain(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


class ndarray(NDArrayOperatorsMixin):  # noqa: N801
    """cupy.ndarray: an array of the device."""

    def __init__(self, host: np.ndarray, base: ndarray | None = None) -> None:
        self.host = host
        self.base = base

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: types.SimpleNamespace(c_contiguous=self.host.flags.c_contiguous,
                                                        f_contiguous=self.host.flags.f_contiguous))  # fmt: skip
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data))
    device = property(lambda self: Device(0))
    T = property(lambda self: self._view(self.host.T))

    def _view(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self if self.base is None else self.base)

    def reshape(self, *shape: Any) -> ndarray:
        host = self.host.reshape(*shape)
        if host.size and not np.shares_memory(host, self.host):
            return self.copy().reshape(*shape)
        return self._view(host)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def view(self, dtype: Any) -> ndarray:
        return self._view(self.host.view(dtype))

    def copy(self) -> ndarray:
        return self.astype(self.dtype)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        out = _new(self.shape, dtype)
        run(lambda: np.copyto(out.host, self.host, casting="unsafe"))
        return out

    def fill(self, value: Any) -> None:
        number = np.asarray(_plain(value), self.dtype)
        run(lambda: np.copyto(self.host, number))

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype or array.shape != self.shape:
            raise TypeError(f"{array.dtype} {array.shape} array cannot be set to {self.dtype} {self.shape} array")
        if not (self.host.flags.c_contiguous or self.host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        if (stream or state.stack[-1]).nodes is not None:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        state.transfers += 1
        np.copyto(self.host, array)

    def get(self) -> np.ndarray:
        _refuse_under_capture("D2H transfers")
        state.waits += 1
        return self.host.copy()

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> Any:
        return take(self, indices, axis, out)

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> ndarray:
        if isinstance(key, ndarray):
            return take(self, key, axis=0)
        part = self.host[key]
        if not isinstance(part, np.ndarray):  # NumPy gives a copy of a single element, CuPy a view
            keys = key if isinstance(key, tuple) else (key,)
            part = self.host[tuple(slice(k, k + 1 or None) for k in keys)].reshape(())
        return self._view(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        plain, target = _plain(value), self.host[key]
        run(lambda: np.copyto(target, plain, casting="unsafe"))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return _ufunc(ufunc)(*inputs, **options)

    __array_function__ = None
    __hash__ = None  # type: ignore[assignment]

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def _waits(self, *_: Any) -> Any:
        raise AssertionError("a number was read from the device by the way, which waits for it")

    __float__ = __int__ = __bool__ = __index__ = __iter__ = item = tolist = _waits


# ---- functions ----------------------------------------------------------------------------------------------------


def _ufunc(function: np.ufunc) -> Callable[..., Any]:
    def call(*arguments: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        out = out[0] if isinstance(out, tuple) else out
        plain = [_plain(a) for a in arguments]
        options: dict[str, Any] = {"casting": casting} | ({"dtype": dtype} if dtype is not None else {})
        if out is None:
            with np.errstate(all="ignore"):
                result = np.asarray(function(*plain, **options))
            out = _new(result.shape, result.dtype)
        elif np.broadcast_shapes(*(np.shape(a) for a in plain)) != out.shape:
            raise ValueError("Out shape is mismatched")
        target = out.host

        def work() -> None:
            with np.errstate(all="ignore"):
                function(*plain, out=target, **options)

        run(work)
        return out

    return call


def _reduction(function: Callable[..., Any], takes_dtype: bool) -> Callable[..., Any]:
    def call(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        options = {"dtype": dtype} if takes_dtype and dtype is not None else {}
        source = a.host
        if out is None:
            result = np.asarray(function(source, axis=axis, keepdims=keepdims, **options))
            out = _new(result.shape, result.dtype)
        target = out.host
        run(lambda: function(source, axis=axis, keepdims=keepdims, out=target, **options))
        return out

    return call


def copyto(dst: ndarray, src: Any, casting: str = "same_kind") -> None:
    if isinstance(src, np.ndarray) and src.size != 1:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    plain = src.host if isinstance(src, ndarray) else src
    if not np.can_cast(getattr(plain, "dtype", np.result_type(plain)), dst.dtype, casting):
        raise TypeError(f"Cannot cast to {dst.dtype} in {casting} casting mode")
    target = dst.host
    run(lambda: np.copyto(target, plain, casting="unsafe"))


def take(a: ndarray, indices: ndarray, axis: Any = None, out: Any = None) -> Any:
    source, index = a.host, indices.host
    if out is None:
        shape = index.shape if axis is None else (*index.shape, *source.shape[1:])
        out = _new(shape, source.dtype)
    elif out.dtype != a.dtype:
        raise TypeError("Output dtype mismatch")
    target = out.host
    run(lambda: np.copyto(target, np.take(source, index, axis=axis, mode="wrap")))
    return out


def put(a: ndarray, ind: ndarray, v: Any, mode: str = "wrap") -> None:
    target, index, values = a.host, ind.host, _plain(v)
    run(lambda: np.put(target, index, values, mode="wrap"))


def clip(a: ndarray, a_min: Any, a_max: Any, out: Any = None) -> Any:
    source, target = a.host, (out if out is not None else _new(a.shape, a.dtype)).host
    run(lambda: np.clip(source, a_min, a_max, out=target))
    return out


def dot(a: ndarray, b: ndarray, out: Any = None) -> Any:
    if _capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    result = np.asarray(np.dot(a.host, b.host))
    if out is None:
        out = _new(result.shape, result.dtype)
    if np.result_type(a.dtype, b.dtype) != out.dtype:
        raise ValueError("Not supported dtype combination.")
    if not out.host.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    np.copyto(out.host, result.reshape(out.shape))
    return out


def array(obj: Any, dtype: Any = None, copy: Any = True, order: str = "K") -> ndarray:
    if isinstance(obj, ndarray):
        if not copy and (dtype is None or obj.dtype == dtype):
            return obj
        return obj.astype(dtype or obj.dtype)
    host = np.ascontiguousarray(obj, dtype).reshape(np.shape(obj))
    out = _new(host.shape, host.dtype)
    out.set(host)
    return out


def asnumpy(a: Any) -> np.ndarray:
    return a.get()


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    out = _new(shape, dtype)
    out.fill(0)
    return out


def ones(shape: Any, dtype: Any = float) -> ndarray:
    out = _new(shape, dtype)
    out.fill(1)
    return out


def _erfc(z: ndarray, out: ndarray) -> ndarray:
    """2 Phi(-z sqrt 2): NumPy has no erfc."""
    scaled, source, target = Blocks(), z.host, out.host

    def work() -> None:
        x, u = scaled.take(2, source.dtype)
        flat = (source * -np.sqrt(2)).astype(source.dtype).reshape(-1)
        result = np.empty_like(flat)
        for i in range(0, flat.size, Blocks.SIZE):
            part = flat[i : i + Blocks.SIZE]
            normal_cdf(part, result[i : i + Blocks.SIZE], x[: part.size], u[: part.size])
        np.copyto(target, 2 * result.reshape(target.shape))

    run(work)
    return out


# ---- streams, graphs, memory --------------------------------------------------------------------------------------


class Graph:
    """cupy.cuda.Graph: the work of a capture."""

    def __init__(self, nodes: list[tuple[Callable[[], Any], float]], pools: list[Any]) -> None:
        self.nodes = nodes
        self.pools = pools

    def launch(self, stream: Any = None) -> None:
        stream = stream or state.stack[-1]
        assert stream.nodes is None, "a graph was launched on a stream that is being captured"
        state.graph_launches += 1
        stream.take(sum(milliseconds for _, milliseconds in self.nodes))
        for work, _ in self.nodes:
            work()

    def upload(self, stream: Any = None) -> None:
        """Nothing to upload."""


class Stream:
    """cupy.cuda.Stream."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.nodes: list[tuple[Callable[[], Any], float]] | None = None
        self.ptr = 0 if null else id(self)
        self.clock = 0.0
        """When the device is done with what is queued here, in milliseconds."""
        state.streams[self.ptr] = self

    def take(self, milliseconds: float) -> None:
        """Queue work that takes the device so long; queueing takes the host `HOST`."""
        state.host += HOST
        self.clock = max(self.clock, state.host) + milliseconds

    def __enter__(self) -> Stream:
        state.stack.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        state.stack.pop()

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self.nodes is None
        self.nodes = []

    def end_capture(self) -> Graph:
        assert self.nodes is not None
        nodes, self.nodes = self.nodes, None
        return Graph(nodes, list(state.allocators))

    def is_capturing(self) -> bool:
        return self.nodes is not None

    def synchronize(self) -> None:
        if self.nodes is not None:
            raise RuntimeError("the stream is capturing, so waits are disallowed")
        state.waits += 1
        state.host = max(state.host, self.clock)

    def wait_event(self, event: Any) -> None:
        self.clock = max(self.clock, event.at)

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """cupy.cuda.Event."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        stream = stream or state.stack[-1]
        stream.take(0.0)
        self.at = stream.clock

    def synchronize(self) -> None:
        _refuse_under_capture("waits")
        state.waits += 1
        state.host = max(state.host, self.at)


class MemoryPool:
    """cupy.cuda.MemoryPool."""

    def malloc(self, size: int) -> Any:
        raise AssertionError("the stand-in allocates by itself; a pool is only put in place")

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is kept."""


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    state.allocators.append(allocator)
    try:
        yield
    finally:
        state.allocators.pop()


class Device:
    """cupy.cuda.Device."""

    compute_capability = "90"

    def __init__(self, device: int = 0) -> None:
        self.id = device
        self.attributes = {"MultiProcessorCount": 2}

    def use(self) -> None:
        """The only device is always current."""

    def synchronize(self) -> None:
        _refuse_under_capture("waits")
        state.waits += 1

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        return None


def _properties(index: int) -> dict[str, Any]:
    return {"name": b"stand-in", "major": 9, "minor": 0, "totalGlobalMem": state.limit, "multiProcessorCount": 2}


# ---- kernels through g++ ------------------------------------------------------------------------------------------


class RawModule:
    """cupy.RawModule of a "cubin" whose kernels run in the shim. `runner_of(expression)` finds (library, index, parameters)."""

    runner_of: Callable[[str], tuple[Any, int, Any]]

    def __init__(self, *, path: str) -> None:
        self.path = path

    def get_function(self, name: str) -> Callable[..., None]:
        from gpubackprop.backend.cuda.kernel_table import SCALAR

        library, index, parameters = type(self).runner_of(name)
        function = getattr(library, f"launch_{index}")
        function.restype = ctypes.c_char_p

        def call(grid: Any, block: Any, arguments: Any) -> None:
            state.launches += 1
            assert len(arguments) == len(parameters), f"{name} takes {[p.name for p in parameters]}"
            for parameter, value in zip(parameters, arguments, strict=True):
                wanted = np.uint64 if parameter.pointer else np.dtype(SCALAR[parameter.type]).type
                assert type(value) is wanted, f"{name}: {parameter.name} came as {type(value)}, expected {wanted}"
            values = [np.array(v) for v in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
            geometry = (ctypes.c_uint * 6)(*grid, *block)

            def work(values: Any = values) -> None:
                failure = function(geometry, 0, pointers)
                if failure:
                    raise RuntimeError(f"{name}: {failure.decode()}")

            run(work)

        return call


# ---- the modules --------------------------------------------------------------------------------------------------

_UFUNCS = (
    *("add", "subtract", "multiply", "divide", "negative", "maximum", "minimum", "sign", "abs", "absolute", "square"),
    *("exp", "expm1", "log", "log1p", "sqrt", "tanh", "greater", "less", "isfinite"),
    *("bitwise_and", "bitwise_xor", "right_shift"),
)


def module() -> types.ModuleType:
    """A fresh `cupy` module over a fresh `state`."""
    fresh = State()
    state.__dict__.update(fresh.__dict__)
    state.null = Stream(null=True)
    cupy = types.ModuleType("cupy")
    for name in _UFUNCS:
        setattr(cupy, name, _ufunc(getattr(np, name)))
    cupy.__dict__.update(
        __version__="14.2.0 (stand-in)", ndarray=ndarray, copyto=copyto, take=take, put=put, clip=clip, dot=dot, array=array,
        asnumpy=asnumpy, zeros=zeros, ones=ones, empty=lambda shape, dtype=float: _new(shape, dtype), RawModule=RawModule,
        sum=_reduction(np.sum, True), max=_reduction(np.max, False), min=_reduction(np.min, False),
        asarray=lambda a, dtype=None: array(a, dtype, copy=None),
        get_default_memory_pool=MemoryPool, get_default_pinned_memory_pool=MemoryPool,
    )  # fmt: skip
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=_properties,
        memGetInfo=lambda: (state.limit - state.live, state.limit),
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 12090,
    )
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Device=Device,
        Stream=Stream,
        Event=Event,
        Graph=Graph,
        MemoryPool=MemoryPool,
        using_allocator=using_allocator,
        get_current_stream=lambda: state.stack[-1],
        get_elapsed_time=lambda start, end: end.at - start.at,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=runtime,
    )
    return cupy


def install(monkeypatch: Any, runner_of: Callable[[str], tuple[Any, int, Any]] | None = None) -> types.ModuleType:
    """Put the stand-in into sys.modules as cupy and cupyx, for the length of a test."""
    cupy, cupyx = module(), types.ModuleType("cupyx")
    cupyx.empty_pinned = np.empty  # type: ignore[attr-defined]
    special = types.ModuleType("cupyx.scipy.special")
    special.erfc = _erfc  # type: ignore[attr-defined]
    names = {
        "cupy": cupy,
        "cupyx": cupyx,
        "cupyx.scipy": types.ModuleType("cupyx.scipy"),
        "cupyx.scipy.special": special,
    }
    for name, part in names.items():
        monkeypatch.setitem(sys.modules, name, part)
    if runner_of is not None:
        monkeypatch.setattr(RawModule, "runner_of", staticmethod(runner_of), raising=False)
    return cupy
