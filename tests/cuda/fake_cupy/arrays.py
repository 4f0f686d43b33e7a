"""Arrays and array functions: NumPy does the work, on the memory of a device, under CuPy's rules and in its words."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tests.cuda.fake_cupy import device, memory
from tests.cuda.fake_cupy.device import current, run, state


def _new(shape: Any, dtype: Any, order: str = "C") -> ndarray:
    shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    data = memory.allocate(size)
    if not size:
        return ndarray(np.empty(shape, dtype, order=order), data)  # type: ignore[call-overload]
    block = memory.block_at(data.ptr)
    assert block is not None
    raw = block.memory[data.ptr - block.start :][:size]
    return ndarray(raw.view(dtype).reshape(shape, order=order), data)  # type: ignore[call-overload]


def _order(a: np.ndarray, order: str) -> str:
    """CuPy's "K": of what is contiguous in Fortran's sense only, that; of anything else, C's."""
    if order in ("C", "F"):
        return order
    return "F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C"


def _plain(value: Any) -> Any:
    """What NumPy computes with; a host array is refused, an array of another device too."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if not isinstance(value, ndarray):
        return value
    if value.data.device_id != state.device:
        raise ValueError(
            f"The device where the array resides ({value.data.device_id}) is different from the current device "
            f"({state.device}). Peer access is unavailable between these devices."
        )
    return value.host


def _do(work: Callable[[], Any], *arrays: Any) -> None:
    def quietly() -> None:
        with np.errstate(all="ignore"):
            work()

    run(quietly, touches=[a.host.ctypes.data for a in arrays if isinstance(a, ndarray) and a.size])


class Flags(types.SimpleNamespace):
    """cupy.ndarray.flags."""

    c_contiguous: bool
    f_contiguous: bool
    owndata: bool

    @property
    def forc(self) -> bool:
        """Whether it is contiguous in either sense."""
        return self.c_contiguous or self.f_contiguous


class ndarray(NDArrayOperatorsMixin):  # noqa: N801
    """cupy.ndarray."""

    __array_function__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray, data: memory.MemoryPointer, base: ndarray | None = None) -> None:
        self.host = host
        """The memory of the device, for the stand-in's own use."""
        self.data = data
        self.base = base

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    device = property(lambda self: self.data.device)
    T = property(lambda self: self._view(self.host.T))

    @property
    def flags(self) -> Flags:
        """How it lies in memory."""
        f = self.host.flags
        return Flags(c_contiguous=f.c_contiguous, f_contiguous=f.f_contiguous, owndata=self.base is None)

    def _view(self, host: np.ndarray) -> ndarray:
        at = host.ctypes.data if host.size else self.data.ptr
        return ndarray(host, memory.MemoryPointer(self.data.mem, at), self if self.base is None else self.base)

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        host = self.host.reshape(*shape, order=order)
        if not host.size or np.shares_memory(host, self.host):
            return self._view(host)
        out = _new(host.shape, self.dtype)
        source, target = self.host, out.host
        _do(lambda: np.copyto(target, source.reshape(target.shape)), self, out)
        return out

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self.host.transpose(*axes))

    def view(self, dtype: Any) -> ndarray:
        return self._view(self.host.view(dtype))

    def copy(self, order: str = "C") -> ndarray:
        return self.astype(self.dtype, order=order)

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> ndarray:
        dtype, order = np.dtype(dtype), _order(self.host, order)
        fits = self.host.flags.f_contiguous if order == "F" else self.host.flags.c_contiguous
        if not copy and self.dtype == dtype and fits:
            return self
        source = _plain(self)
        out = _new(self.shape, dtype, order)
        target = out.host
        _do(lambda: np.copyto(target, source, casting="unsafe"), self, out)
        return out

    def fill(self, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        number, target = np.asarray(value.host if isinstance(value, ndarray) else value), _plain(self)
        # A number is handed over when the call is made, an array is read when the work is done.
        number = number if isinstance(value, ndarray) else number.astype(self.dtype)
        _do(lambda: np.copyto(target, number, casting="unsafe"), self)

    def _queue(self, stream: Any) -> device.Queue:
        """The stream of a copy; the null stream is that of the array's device."""
        stream = state.streams(state.device)[-1] if stream is None else stream
        queue: device.Queue = state.nulls[self.data.device_id] if stream.ptr == 0 else stream.queue
        return queue

    # -- to and from the host ---------------------------------------------------------------------------------------

    def set(self, array: Any, stream: Any = None) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if array.dtype != self.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if array.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        if not self.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        source = np.ascontiguousarray(array) if self.flags.c_contiguous else np.asfortranarray(array)
        queue = self._queue(stream)
        device.refuse_under_capture(queue, "H2D")
        _upload(source.reshape(array.shape), self, queue)

    def get(
        self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True
    ) -> np.ndarray:
        queue = self._queue(stream)
        device.refuse_under_capture(queue, "D2H")
        if out is None:
            out = np.empty(self.shape, self.dtype, order=_order(self.host, order))  # type: ignore[call-overload]
        source = self.host
        queue.put(lambda: np.copyto(out, source), 0.002, anywhere=True)
        if blocking:
            state.waits += 1
            queue.finish()
            state.host = max(state.host, queue.clock)
        return out

    def _number(self) -> Any:
        """One number, for which the device is waited for."""
        if state.strict:
            raise AssertionError("a number was read from the device by the way, which waits for it")
        return self.get()

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __bool__(self) -> bool:
        return bool(self._number())

    def __index__(self) -> int:
        return int(self._number().__index__())

    def item(self) -> Any:
        return self._number().item()

    def tolist(self) -> Any:
        return self._number().tolist()

    def __iter__(self) -> Iterator[ndarray]:
        if state.strict:
            self._number()
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<array {self.shape} {self.dtype}>" if state.strict else repr(self.get())

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        out = options.pop("out", None)
        options |= {"out": out[0]} if isinstance(out, tuple) else {}
        if ufunc is np.matmul:
            return dot(*inputs, **options)
        return _ufunc(ufunc)(*inputs, **options)

    # -- parts ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.host)

    def __getitem__(self, key: Any) -> ndarray:
        if isinstance(key, (list, np.ndarray)):
            key = array(np.asarray(key))
        if isinstance(key, ndarray) and key.dtype == np.bool_:
            # How many there are decides the shape: the device is waited for.
            return take(self, array(np.flatnonzero(key.get())), axis=0)
        if isinstance(key, ndarray):
            return take(self, key, axis=0)
        part = self.host[key]
        if not isinstance(part, np.ndarray):  # NumPy gives a copy of a single element, CuPy a view
            keys = key if isinstance(key, tuple) else (key,)
            part = self.host[tuple(slice(k, k + 1 or None) for k in keys)].reshape(())
        return self._view(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self[key]
        if isinstance(value, (np.ndarray, list)) and np.ndim(value):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, ndarray):
            _check_broadcast(value.shape, part.shape, "operands could not be broadcast together with shapes {0} {1}")
            source, target = _plain(value), _plain(part)
            _do(lambda: np.copyto(target, source, casting="unsafe"), part, value)
        else:
            part.fill(value)

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> Any:
        return take(self, indices, axis, out)

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _reduce(np.sum, "cupy_sum", self, axis, dtype, out, keepdims)

    def max(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _reduce(np.max, "cupy_max", self, axis, None, out, keepdims)

    def min(self, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _reduce(np.min, "cupy_min", self, axis, None, out, keepdims)


def _upload(source: np.ndarray, out: ndarray, queue: device.Queue) -> None:
    """A copy from the host. From page-locked memory it is made when its turn comes, of what is there by then; from other
    memory the stream is waited for first, and the copy is made at once."""
    state.transfers += 1
    target = out.host
    if not memory.pinned_pool.contains(source):
        state.waits += 1
        queue.finish()
        source = source.copy()
    queue.put(lambda: np.copyto(target, source), 0.002, [target.ctypes.data], anywhere=True)


def _check_broadcast(source: tuple[int, ...], target: tuple[int, ...], message: str) -> None:
    try:
        fits = np.broadcast_shapes(source, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(message.format(source, target))


# ---- functions ----------------------------------------------------------------------------------------------------


def _ufunc(function: np.ufunc) -> Callable[..., Any]:
    def call(*arguments: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind", **others: Any) -> Any:
        if others:
            raise TypeError(f"Wrong arguments {others}")
        inputs, more = arguments[: function.nin], arguments[function.nin :]
        out = more[0] if more else out
        plain = [_plain(a) for a in inputs]
        options: dict[str, Any] = {"casting": casting} | ({"dtype": dtype} if dtype is not None else {})
        kinds = [np.empty((0,), p.dtype) if isinstance(p, np.ndarray) else p for p in plain]
        with np.errstate(all="ignore"):
            result = function(*kinds, **options).dtype
        shape = np.broadcast_shapes(*(np.shape(p) for p in plain))
        if out is None:
            out = _new(shape, result)
        else:
            _check_broadcast(shape, out.shape, "Out shape is mismatched")
            if not np.can_cast(result, out.dtype, casting):  # type: ignore[arg-type]
                raise TypeError(
                    f"Cannot cast output operand from {result!r} to {out.dtype!r} according to the rule {casting!r}"
                )
        target = _plain(out)
        _do(lambda: function(*plain, out=target, **options), out, *inputs)
        return out

    return call


def _reduce(
    function: Callable[..., Any], name: str, a: ndarray, axis: Any, dtype: Any, out: Any, keepdims: bool
) -> ndarray:
    source = _plain(a)
    options = {"axis": axis, "keepdims": keepdims} | ({"dtype": dtype} if dtype is not None else {})
    if not source.size and function is not np.sum:
        raise ValueError(f"zero-size array to reduction operation {name} which has no identity")
    like = function(np.broadcast_to(np.zeros((), source.dtype), source.shape), **options)
    if out is None:
        out = _new(np.shape(like), like.dtype)
    elif out.shape != np.shape(like):
        raise ValueError("Out shape is mismatched")
    target = _plain(out)
    _do(lambda: np.copyto(target, function(source, **options), casting="unsafe"), out, a)
    return out


def _reduction(name: str) -> Callable[..., Any]:
    def call(a: Any, *arguments: Any, **options: Any) -> Any:
        return getattr(a, name)(*arguments, **options)

    return call


def copyto(dst: ndarray, src: Any, casting: str = "same_kind") -> None:
    if isinstance(src, np.ndarray) and src.size != 1:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    if isinstance(src, ndarray):
        _check_broadcast(src.shape, dst.shape, "could not broadcast input array from shape {0} into shape {1}")
    kind = src.dtype if hasattr(src, "dtype") else np.result_type(src)
    if not np.can_cast(kind, dst.dtype, casting):  # type: ignore[arg-type]
        what = "array" if isinstance(src, ndarray) else "scalar"
        raise TypeError(f"Cannot cast {what} from {kind!r} to {dst.dtype!r} according to the rule {casting!r}")
    source = _plain(src) if isinstance(src, ndarray) else np.array(src)
    target = _plain(dst)
    _do(lambda: np.copyto(target, source, casting="unsafe"), dst, src)


def take(a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> Any:
    if not isinstance(indices, ndarray):
        indices = array(np.asarray(indices)) if np.ndim(indices) else int(indices)
    source, index = _plain(a), _plain(indices)
    where = -1 if axis is None else axis % source.ndim
    shape = np.shape(index) if axis is None else (*source.shape[:where], *np.shape(index), *source.shape[where + 1 :])
    if out is None:
        out = _new(shape, source.dtype)
    elif out.dtype != a.dtype:
        raise TypeError("Output dtype mismatch")
    elif out.shape != shape:
        raise ValueError("Output shape mismatch")
    target = _plain(out)
    _do(lambda: np.copyto(target, np.take(source, index, axis=axis, mode="wrap")), out, a, indices)
    return out


def put(a: ndarray, ind: ndarray, v: Any, mode: str = "wrap") -> None:
    target, index, values = _plain(a), _plain(ind), _plain(v)
    _do(lambda: np.put(target, index, values, mode="wrap"), a, ind, v)


def clip(a: ndarray, a_min: Any = None, a_max: Any = None, out: Any = None) -> Any:
    source, low, high = _plain(a), _plain(a_min), _plain(a_max)
    out = _new(source.shape, source.dtype) if out is None else out
    target = _plain(out)
    _do(lambda: np.clip(source, low, high, out=target), out, a, a_min, a_max)
    return out


def dot(a: Any, b: Any, out: Any = None) -> Any:
    for name, value in (("a", a), ("b", b)):
        if not isinstance(value, ndarray):
            kind = f"{type(value).__module__}.{type(value).__name__}"
            raise TypeError(
                f"Argument '{name}' has incorrect type (expected cupy._core.core._ndarray_base, got {kind})"
            )
    if current().capture is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    first, second = _plain(a), _plain(b)
    like = np.dot(*(np.broadcast_to(np.zeros((), v.dtype), v.shape) for v in (first, second)))
    if out is None:
        out = _new(np.shape(like), like.dtype)
    if like.dtype != out.dtype:
        raise ValueError("Not supported dtype combination.")
    if np.size(like) != out.size:
        raise ValueError("Output array has an invalid size")
    if not out.host.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    target = _plain(out)
    _do(lambda: np.copyto(target, np.dot(first, second).reshape(target.shape)), out, a, b)
    return out


# ---- making arrays ------------------------------------------------------------------------------------------------


def array(obj: Any, dtype: Any = None, copy: Any = True, order: str = "K") -> ndarray:
    if hasattr(obj, "__cuda_array_interface__"):
        owner = obj.__cuda_array_interface__["owner"]
        obj = owner._view(owner.host)
    if isinstance(obj, ndarray):
        dtype = obj.dtype if dtype is None else np.dtype(dtype)
        wanted = _order(obj.host, order)
        fits = obj.host.flags.f_contiguous if wanted == "F" else obj.host.flags.c_contiguous
        if copy is False and (obj.dtype != dtype or (order in ("C", "F") and not fits)):
            raise ValueError("Unable to avoid copy while creating an array as requested.")
        return obj.astype(dtype, order=order, copy=bool(copy))
    host = np.asarray(obj, dtype)
    if host.dtype.kind not in "biufcV":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    out = _new(host.shape, host.dtype, _order(host, order))
    if not host.ndim:
        out.fill(host)
        return out
    device.refuse_under_capture(current(), "H2D")
    if host.size:
        # CuPy copies by way of page-locked memory as large as the array.
        staged = memory.empty_pinned(host.shape, host.dtype, _order(host, order))
        np.copyto(staged, host)
        _upload(staged, out, current())
    return out


def from_dlpack(array: Any) -> ndarray:
    """CuPy asks the array's library to order its work before the current stream of the array's device, and takes its memory."""
    kind, index = array.__dlpack_device__()
    if kind != 2:
        raise BufferError(f"the stand-in takes arrays of CUDA devices as they are; got device type {kind}")
    with device.Device(index):
        handed = array.__dlpack__(stream=state.streams(index)[-1].ptr)
    return handed._view(handed.host)


def asarray(a: Any, dtype: Any = None, order: str = "K") -> ndarray:
    return array(a, dtype, copy=None, order=order)


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _new(shape, dtype, order)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    out = _new(shape, dtype, order)
    out.fill(0)
    return out


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    out = _new(shape, dtype, order)
    out.fill(1)
    return out


def empty_like(a: ndarray, dtype: Any = None) -> ndarray:
    return _new(a.shape, a.dtype if dtype is None else dtype, _order(a.host, "K"))


def may_share_memory(a: ndarray, b: ndarray) -> bool:
    return bool(np.may_share_memory(a.host, b.host))


UFUNCS = (
    *("add", "subtract", "multiply", "divide", "power", "negative", "maximum", "minimum", "sign", "abs", "absolute"),
    *("square", "exp", "expm1", "log", "log1p", "sqrt", "tanh", "greater", "less", "equal", "not_equal", "isfinite"),
    *("bitwise_and", "bitwise_xor", "right_shift", "rint"),
)
FUNCTIONS: dict[str, Any] = {
    **{name: _ufunc(getattr(np, name)) for name in UFUNCS},
    **{name: _reduction(name) for name in ("sum", "max", "min")},
    "array": array, "asarray": asarray, "asnumpy": asnumpy, "clip": clip, "copyto": copyto, "dot": dot, "empty": empty,
    "empty_like": empty_like, "from_dlpack": from_dlpack,
    "may_share_memory": may_share_memory, "ndarray": ndarray, "ones": ones, "put": put, "take": take,
    "zeros": zeros,
}  # fmt: skip
