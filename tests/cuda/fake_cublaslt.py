"""A stand-in for nvmath.bindings.cublasLt: it does the products with their epilogues in NumPy, from the addresses,
descriptors and leading dimensions that it is handed, as the library would; column-major throughout.

Numbers of the enumerations, widths of the attributes and the sizes of the structs are the library's own (nvmath-python 1.0,
cublasLt.h of CUDA 12). What the library refuses is refused; `refused` and `broken` make it refuse or botch more.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from tests.cuda import fake_cupy

NOT_SUPPORTED, INVALID_VALUE = 15, 7
TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77


class Epilogue(enum.IntEnum):
    """cublasLtEpilogue_t."""

    DEFAULT = 1
    RELU = 2
    RELU_AUX = 130
    BIAS = 4
    RELU_BIAS = 6
    RELU_AUX_BIAS = 134
    DRELU = 136
    DRELU_BGRAD = 152
    GELU = 32
    GELU_AUX = 160
    GELU_BIAS = 36
    GELU_AUX_BIAS = 164
    DGELU = 192
    DGELU_BGRAD = 208
    BGRADA = 256
    BGRADB = 512


class MatmulDescAttribute(enum.IntEnum):
    """cublasLtMatmulDescAttributes_t, as far as it is used."""

    COMPUTE_TYPE = 0
    SCALE_TYPE = 1
    POINTER_MODE = 2
    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    EPILOGUE_AUX_POINTER = 11
    EPILOGUE_AUX_LD = 12


class MatmulPreferenceAttribute(enum.IntEnum):
    """cublasLtMatmulPreferenceAttributes_t, as far as it is used."""

    SEARCH_MODE = 0
    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


class PointerMode(enum.IntEnum):
    """cublasLtPointerMode_t, as far as it is used."""

    HOST = 0
    DEVICE = 1


class cuBLASLtError(Exception):  # noqa: N801
    """What the bindings raise for a status that is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__({NOT_SUPPORTED: "NOT_SUPPORTED (15)", INVALID_VALUE: "INVALID_VALUE (7)"}[status])
        self.status = status


@dataclass
class Library:
    """What the stand-in refuses, botches and was asked for."""

    refused: set[tuple[str, str]] = field(default_factory=set)
    """(epilogue, type of A) without an algorithm."""
    broken: set[str] = field(default_factory=set)
    """Epilogues whose results are wrong."""
    matmuls: list[str] = field(default_factory=list)
    """The epilogue of each product done, in order."""
    objects: dict[int, Any] = field(default_factory=dict)


library = Library()
_numbers = itertools.count(0x1000)

_DESC_WIDTH: dict[int, Any] = {
    MatmulDescAttribute.EPILOGUE: np.uint32,
    MatmulDescAttribute.BIAS_POINTER: np.int64,
    MatmulDescAttribute.EPILOGUE_AUX_POINTER: np.int64,
    MatmulDescAttribute.EPILOGUE_AUX_LD: np.int64,
}


def get_matmul_desc_attribute_dtype(attr: int) -> Any:
    return _DESC_WIDTH.get(attr, np.int32)


def get_matmul_preference_attribute_dtype(attr: int) -> Any:
    return np.uint64 if attr == MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES else np.uint32


def _create(value: Any) -> int:
    number = next(_numbers)
    library.objects[number] = value
    return number


def _destroy(number: int) -> None:
    # Plans of an earlier test may go after its library has.
    library.objects.pop(number, None)


def _read(address: int, width: Any, size: int) -> int:
    dtype = np.dtype(width)
    assert size == dtype.itemsize, f"an attribute of {dtype.itemsize} bytes was set with {size}"
    return int(np.frombuffer(ctypes.string_at(address, size), dtype)[0])


def create() -> int:
    return _create("handle")


def get_version() -> int:
    return 120900


def matmul_desc_create(compute_type: int, scale_type: int) -> int:
    a = MatmulDescAttribute
    return _create({a.COMPUTE_TYPE: compute_type, a.SCALE_TYPE: scale_type, a.EPILOGUE: 1, a.TRANSA: 0, a.TRANSB: 0,
                    a.POINTER_MODE: 0, a.BIAS_POINTER: 0, a.EPILOGUE_AUX_POINTER: 0, a.EPILOGUE_AUX_LD: 0})  # fmt: skip


def matmul_desc_set_attribute(desc: int, attr: int, buf: int, size_in_bytes: int) -> None:
    library.objects[desc][attr] = _read(buf, get_matmul_desc_attribute_dtype(attr), size_in_bytes)


def matrix_layout_create(type: int, rows: int, cols: int, ld: int) -> int:
    assert ld >= rows > 0, f"{rows} x {cols} with a leading dimension of {ld}"
    assert cols > 0
    return _create((TYPES[type], rows, cols, ld))


def matmul_preference_create() -> int:
    return _create({})


def matmul_preference_set_attribute(pref: int, attr: int, buf: int, size_in_bytes: int) -> None:
    library.objects[pref][attr] = _read(buf, get_matmul_preference_attribute_dtype(attr), size_in_bytes)


matmul_desc_destroy = matrix_layout_destroy = matmul_preference_destroy = _destroy


def _check(desc: dict[int, int], a: Any, b: Any, d: Any) -> tuple[Epilogue, int, int, int]:
    """The epilogue and M, N, K; raises for what the library would not take."""
    epilogue = Epilogue(desc[MatmulDescAttribute.EPILOGUE])
    k, m = (a[1], a[2]) if desc[MatmulDescAttribute.TRANSA] else (a[2], a[1])
    n, k_b = (b[1], b[2]) if desc[MatmulDescAttribute.TRANSB] else (b[2], b[1])
    if (m, n) != (d[1], d[2]) or k != k_b or a[0] != b[0]:
        raise cuBLASLtError(INVALID_VALUE)
    compute = COMPUTE_64F if a[0] == np.float64 else desc[MatmulDescAttribute.COMPUTE_TYPE]
    if compute != desc[MatmulDescAttribute.COMPUTE_TYPE] or d[0] not in (a[0], np.dtype(np.float32)):
        raise cuBLASLtError(NOT_SUPPORTED)
    name, ld = epilogue.name, desc[MatmulDescAttribute.EPILOGUE_AUX_LD]
    if ("BIAS" in name or "BGRAD" in name) and not desc[MatmulDescAttribute.BIAS_POINTER]:
        raise cuBLASLtError(INVALID_VALUE)
    if "AUX" in name or name in ("DRELU", "DGELU"):
        multiple = 128 if "RELU" in name else 8
        if not desc[MatmulDescAttribute.EPILOGUE_AUX_POINTER] or ld < m or ld % multiple:
            raise cuBLASLtError(INVALID_VALUE)
    if (k == 1 and name in ("DRELU", "DGELU", "BGRADA")) or (name, a[0].name) in library.refused:
        raise cuBLASLtError(NOT_SUPPORTED)
    return epilogue, m, n, k


def matmul_algo_get_heuristic(
    light_handle: int, operation_desc: int, adesc: int, bdesc: int, cdesc: int, ddesc: int, preference: int,
    requested_algo_count: int, heuristic_results_array: int, return_algo_count: int,
) -> None:  # fmt: skip
    o = library.objects
    assert o[light_handle] == "handle"
    assert MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES in o[preference]
    _check(o[operation_desc], o[adesc], o[bdesc], o[ddesc])
    found = min(2, requested_algo_count)
    for i in range(found):
        result = np.zeros(1, np.dtype([("algo", "u8", 8), ("workspace", "u8"), ("state", "i4"), ("waves", "f4"),
                                       ("reserved", "i4", 4)]))  # fmt: skip
        result["algo"] = 0xA160 + i
        ctypes.memmove(heuristic_results_array + 96 * i, result.tobytes(), 96)
    ctypes.memmove(return_algo_count, np.int32(found).tobytes(), 4)


def _algorithm(address: int) -> bool:
    return int(np.frombuffer(ctypes.string_at(address, 8), np.uint64)[0]) in (0xA160, 0xA161)


def matmul_algo_check(
    light_handle: int, operation_desc: int, adesc: int, bdesc: int, cdesc: int, ddesc: int, algo: int, result: int
) -> None:
    o = library.objects
    _check(o[operation_desc], o[adesc], o[bdesc], o[ddesc])
    if not _algorithm(algo):
        raise cuBLASLtError(INVALID_VALUE)
    ctypes.memset(result, 0, 96)


def _column_major(address: int, layout: Any) -> np.ndarray:
    dtype, rows, cols, ld = layout
    assert address, "a null operand"
    assert address % dtype.itemsize == 0, "a misaligned operand"
    raw = (ctypes.c_uint8 * (ld * cols * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype).reshape(cols, ld)[:, :rows].T


def _vector(address: int, dtype: Any, size: int) -> np.ndarray:
    raw = (ctypes.c_uint8 * (size * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(raw, dtype)


def _to_tf32(values: np.ndarray) -> np.ndarray:
    """The ten bits of fraction that TF32 has, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def matmul(
    light_handle: int, compute_desc: int, alpha: int, a: int, adesc: int, b: int, bdesc: int, beta: int, c: int, cdesc: int,
    d: int, ddesc: int, algo: int, workspace: int, workspace_size_in_bytes: int, stream: int,
) -> None:  # fmt: skip
    o = library.objects
    desc, layouts = dict(o[compute_desc]), (o[adesc], o[bdesc], o[ddesc])
    epilogue, *sizes = _check(desc, *layouts)
    assert o[light_handle] == "handle"
    assert (c, cdesc) == (d, ddesc)
    assert min(workspace, workspace_size_in_bytes) > 0
    assert _algorithm(algo), "not an algorithm of this library"
    scale = TYPES[desc[MatmulDescAttribute.SCALE_TYPE]]

    def number(address: int) -> float:
        return float(np.frombuffer(ctypes.string_at(address, scale.itemsize), scale)[0])

    on_device = desc[MatmulDescAttribute.POINTER_MODE] == PointerMode.DEVICE
    # Host scalars are read when the call is made, and so at capture; device scalars when the work is done.
    factors = None if on_device else (number(alpha), number(beta))

    def work() -> None:
        library.matmuls.append(epilogue.name)
        _product(desc, epilogue, sizes, layouts, (a, b, d), factors or (number(alpha), number(beta)))

    fake_cupy.run(work, fake_cupy.state.streams[stream])


def _product(desc: Any, epilogue: Epilogue, sizes: Any, layouts: Any, addresses: Any, factors: Any) -> None:
    (M, N, _), name, A = sizes, epilogue.name, MatmulDescAttribute
    a, b, d = (_column_major(address, layout) for address, layout in zip(addresses, layouts, strict=True))
    a, b = (a.T if desc[A.TRANSA] else a), (b.T if desc[A.TRANSB] else b)
    wide = np.float64 if a.dtype == np.float64 else np.float32
    a_, b_ = a.astype(wide), b.astype(wide)
    if desc[A.COMPUTE_TYPE] == COMPUTE_32F_FAST_TF32:
        a_, b_ = _to_tf32(a_), _to_tf32(b_)
    with np.errstate(over="ignore", invalid="ignore"):
        z = wide(factors[0]) * (a_ @ b_)
        if factors[1]:
            z += wide(factors[1]) * d.astype(wide)
        if "BIAS" in name:
            z += _vector(desc[A.BIAS_POINTER], d.dtype, M).astype(wide)[:, None]
        if name == "BGRADA":
            np.copyto(_vector(desc[A.BIAS_POINTER], d.dtype, M), a.astype(wide).sum(axis=1), casting="unsafe")
        ld, aux = desc[A.EPILOGUE_AUX_LD], desc[A.EPILOGUE_AUX_POINTER]
        if name in ("RELU_AUX", "RELU_AUX_BIAS"):
            mask = _vector(aux, np.uint8, ld // 8 * N).reshape(N, ld // 8)
            bits = np.zeros((N, ld), np.uint8)
            bits[:, :M] = (z > 0).T
            mask[...] = np.packbits(bits, axis=1, bitorder="little")
        if name == "DRELU":
            mask = np.unpackbits(_vector(aux, np.uint8, ld // 8 * N).reshape(N, ld // 8), axis=1, bitorder="little")
            z = z * mask[:, :M].T
        if "GELU" in name:
            kept = _column_major(aux, (d.dtype, M, N, ld)) if "AUX" in name or name == "DGELU" else np.empty_like(z)
            if name != "DGELU":
                kept[...] = z
            s = z if name != "DGELU" else kept.astype(wide)
            t = np.tanh(np.sqrt(2 / np.pi) * (s + 0.044715 * s**3))
            slope = 0.5 * (1 + t) + 0.5 * s * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * s * s)
            z = z * slope if name == "DGELU" else 0.5 * s * (1 + t)
        if name.startswith("RELU"):
            z = np.where(z > 0, z, 0)  # NaN becomes 0, as in the library
        if name in library.broken:
            z = z + 1
        d[...] = z.astype(d.dtype)


def install(monkeypatch: Any) -> Library:
    """Put the stand-in into sys.modules as nvmath.bindings.cublasLt, for the length of a test."""
    library.__dict__.update(Library().__dict__)
    this = sys.modules[__name__]
    nvmath, bindings = types.ModuleType("nvmath"), types.ModuleType("nvmath.bindings")
    nvmath.bindings, bindings.cublasLt = bindings, this  # type: ignore[attr-defined]
    for name, part in {"nvmath": nvmath, "nvmath.bindings": bindings, "nvmath.bindings.cublasLt": this}.items():
        monkeypatch.setitem(sys.modules, name, part)
    return library
