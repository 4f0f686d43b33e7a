"""A stand-in for libcublasLt, as ctypes would load it: C functions that do the products with their epilogues in NumPy, from
the addresses, descriptors and leading dimensions that they are handed, as the library would; column-major throughout.

Signatures, numbers of the enumerations, widths of the attributes and sizes of the structs are written down here once more,
from cublasLt.h of CUDA 12. What the documentation rules out is refused, or noted in `violations`, which must be empty at the end
of a test; `refused`, `empty`, `broken` and `failing` make it refuse or botch more.
"""

from __future__ import annotations

import ctypes
import itertools
import traceback
from collections.abc import Callable
from ctypes import c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import ml_dtypes
import numpy as np

from gpubackprop.backend.cuda import cublaslt, libraries
from tests.cuda import fake_cupy

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED, INTERNAL_ERROR, NOT_SUPPORTED = 0, 1, 7, 13, 14, 15
TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: np.dtype(ml_dtypes.bfloat16)}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
SUPPORTED = {
    (COMPUTE_32F, 0, a, d) for a, d in ((14, 14), (2, 2), (14, 0), (2, 0), (0, 0))
} | {(COMPUTE_32F_FAST_TF32, 0, 0, 0), (COMPUTE_64F, 1, 1, 1)}  # fmt: skip
"""(compute type, scale type, type of A and B, type of C and D)"""
EPILOGUES = {
    1: "DEFAULT", 2: "RELU", 130: "RELU_AUX", 4: "BIAS", 6: "RELU_BIAS", 134: "RELU_AUX_BIAS", 136: "DRELU",
    32: "GELU", 160: "GELU_AUX", 36: "GELU_BIAS", 164: "GELU_AUX_BIAS", 192: "DGELU", 256: "BGRADA",
}  # fmt: skip
# Attributes of a product's descriptor: number, width in bytes, value at the beginning.
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER, AUX_POINTER, AUX_LD = 3, 4, 7, 8, 11, 12
DESCRIPTOR = {0: (4, 0), 1: (4, 0), 2: (4, 0), TRANSA: (4, 0), TRANSB: (4, 0), 5: (4, 0), 6: (4, 0), EPILOGUE: (4, 1),
              BIAS_POINTER: (8, 0), AUX_POINTER: (8, 0), AUX_LD: (8, 0)}  # fmt: skip
MAX_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)
PREFERENCE = {0: (4, 0), MAX_WORKSPACE: (8, 0), 3: (4, 7), **dict.fromkeys(ALIGNMENTS, (4, 256))}

ALGORITHMS = {
    # number: (bytes that the operands must be aligned to, bytes of workspace, milliseconds)
    0xA160: (16, 0, 0.004),
    0xA161: (16, 1 << 20, 0.003),  # split-K: adds up in another order
    0xA162: (1, 0, 0.008),
}
"""Best guess first; the guess is wrong."""


class Status(Exception):  # noqa: N818
    """What a function returns instead of 0."""


_out = c_void_p  # a pointer to write to
_matmul = (c_void_p,) * 6
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "Create": (_out,),
    "Destroy": (c_void_p,),
    "MatmulDescCreate": (_out, c_int, c_int),
    "MatmulDescDestroy": (c_void_p,),
    "MatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "MatmulDescGetAttribute": (c_void_p, c_int, _out, c_size_t, _out),
    "MatrixLayoutCreate": (_out, c_int, c_uint64, c_uint64, c_int64),
    "MatrixLayoutDestroy": (c_void_p,),
    "MatmulPreferenceCreate": (_out,),
    "MatmulPreferenceDestroy": (c_void_p,),
    "MatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "MatmulPreferenceGetAttribute": (c_void_p, c_int, _out, c_size_t, _out),
    "MatmulAlgoGetHeuristic": (*_matmul, c_void_p, c_int, _out, _out),
    "MatmulAlgoCheck": (*_matmul, c_void_p, _out),
    "Matmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}


class Library:
    """What ctypes.CDLL gives. Each function is a C function: its arguments go through ctypes as they would on the way to C."""

    def __init__(self, version: int = 120900) -> None:
        self.refused: set[tuple[str, str]] = set()
        """(epilogue, type of A) for which there is no algorithm: NOT_SUPPORTED."""
        self.empty: set[tuple[str, str]] = set()
        """The same, but the answer is success and a list of none."""
        self.broken: set[str] = set()
        """Epilogues whose results are wrong."""
        self.relu_hides_nan = False
        """Whether ReLU of NaN is 0: "max(x, 0)", as the documentation has it, may be read both ways."""
        self.failing: set[tuple[str, int]] = set()
        """(epilogue, algorithm) that is offered and then fails when it is run."""
        self.two_kernels = False
        """Whether split-K is two nodes of a graph, as it is with the library, or one, so that nodes are easily counted."""
        self.slow: dict[str, float] = {}
        """Milliseconds that an epilogue takes beside its product."""
        self.algorithms = dict(ALGORITHMS)
        self.matmuls: list[str] = []
        """The epilogue of each product done, in order."""
        self.ran: list[int] = []
        """The algorithm of each product done, in order."""
        self.objects: dict[int, Any] = {}
        """What was created and is not destroyed, by its address."""
        self.violations: list[str] = []
        """What would be undefined, or a fault of the device, with the real library."""
        self._addresses = itertools.count(0x1000, 16)
        self._functions = [self._c_function(name) for name in _SIGNATURES]
        self.cublasLtGetVersion = ctypes.CFUNCTYPE(c_size_t)(lambda: version)
        texts = {NOT_SUPPORTED: b"the requested functionality is not supported"}
        self.cublasLtGetStatusString = ctypes.CFUNCTYPE(c_void_p, c_int)(
            lambda status: ctypes.cast(ctypes.c_char_p(texts.get(status, b"failed")), c_void_p).value
        )

    def _c_function(self, name: str) -> None:
        body: Callable[..., None] = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            try:
                body(*arguments)
            except Status as status:
                return int(status.args[0])
            except Exception:  # it cannot pass through C
                self.violations.append(traceback.format_exc())
                return INTERNAL_ERROR
            return SUCCESS

        setattr(self, f"cublasLt{name}", ctypes.CFUNCTYPE(c_int, *_SIGNATURES[name])(call))

    # -- objects --------------------------------------------------------------------------------------------------

    def _new(self, place: int, value: Any) -> None:
        address = next(self._addresses)
        self.objects[address] = value
        ctypes.c_uint64.from_address(place).value = address

    def _the(self, kind: str, address: int) -> Any:
        found = self.objects.get(address)
        assert found is not None, f"a {kind} that was never made, or is destroyed"
        assert found["kind"] == kind, f"a {found['kind']} for a {kind}"
        return found

    def _Create(self, place: int) -> None:
        self._new(place, {"kind": "handle", "device": fake_cupy.state.device})

    def _MatmulDescCreate(self, place: int, compute: int, scale: int) -> None:
        values = {number: value for number, (_, value) in DESCRIPTOR.items()}
        self._new(place, {"kind": "descriptor", "values": {**values, 0: compute, 1: scale}, "widths": DESCRIPTOR})

    def _MatmulPreferenceCreate(self, place: int) -> None:
        values = {number: value for number, (_, value) in PREFERENCE.items()}
        self._new(place, {"kind": "preference", "values": values, "widths": PREFERENCE})

    def _MatrixLayoutCreate(self, place: int, type_: int, rows: int, cols: int, ld: int) -> None:
        self._new(place, {"kind": "layout", "layout": (type_, rows, cols, ld)})

    def _destroy(self, kind: str, address: int) -> None:
        self._the(kind, address)
        del self.objects[address]

    def _Destroy(self, address: int) -> None:
        self._destroy("handle", address)

    def _MatmulDescDestroy(self, address: int) -> None:
        self._destroy("descriptor", address)

    def _MatrixLayoutDestroy(self, address: int) -> None:
        self._destroy("layout", address)

    def _MatmulPreferenceDestroy(self, address: int) -> None:
        self._destroy("preference", address)

    def _set(self, kind: str, address: int, attribute: int, buffer: int, size: int) -> None:
        item = self._the(kind, address)
        if attribute not in item["widths"] or not buffer or size != item["widths"][attribute][0]:
            raise Status(INVALID_VALUE)
        item["values"][attribute] = int.from_bytes(ctypes.string_at(buffer, size), "little")

    def _get(self, kind: str, address: int, attribute: int, buffer: int, size: int, written: int) -> None:
        item = self._the(kind, address)
        if attribute not in item["widths"]:
            raise Status(INVALID_VALUE)
        width = item["widths"][attribute][0]
        if size:
            if not buffer or size != width:
                raise Status(INVALID_VALUE)
            ctypes.memmove(buffer, item["values"][attribute].to_bytes(width, "little"), width)
        elif not written:
            raise Status(INVALID_VALUE)
        if written:
            c_size_t.from_address(written).value = width

    def _MatmulDescSetAttribute(self, *arguments: int) -> None:
        self._set("descriptor", *arguments)

    def _MatmulDescGetAttribute(self, *arguments: int) -> None:
        self._get("descriptor", *arguments)

    def _MatmulPreferenceSetAttribute(self, *arguments: int) -> None:
        self._set("preference", *arguments)

    def _MatmulPreferenceGetAttribute(self, *arguments: int) -> None:
        self._get("preference", *arguments)

    # -- algorithms -----------------------------------------------------------------------------------------------

    def _check(self, handle: int, descriptor: int, *addresses: int) -> tuple[str, int, int, int]:
        """The epilogue's name and M, N, K; raises the status of what the library would not take."""
        assert self._the("handle", handle)["device"] == fake_cupy.state.device, "a handle of another device"
        values = self._the("descriptor", descriptor)["values"]
        a, b, c, d = (self._the("layout", address)["layout"] for address in addresses)
        for _, rows, cols, ld in (a, b, c, d):
            if not 0 < rows <= ld or not cols:
                raise Status(INVALID_VALUE)
        name, ld = EPILOGUES.get(values[EPILOGUE], ""), values[AUX_LD]
        k, m = a[1:3] if values[TRANSA] else a[2:0:-1]
        n, k_of_b = b[1:3] if values[TRANSB] else b[2:0:-1]
        if not name or (m, n) != d[1:3] or k != k_of_b or a[0] != b[0] or c != d:
            raise Status(INVALID_VALUE)
        if (values[0], values[1], a[0], d[0]) not in SUPPORTED:
            raise Status(NOT_SUPPORTED)
        if ("BIAS" in name or "BGRAD" in name) and not values[BIAS_POINTER]:
            raise Status(INVALID_VALUE)
        has_aux = "AUX" in name or name.startswith(("DRELU", "DGELU"))
        if has_aux and (not values[AUX_POINTER] or ld < m or ld % (128 if "RELU" in name else 8)):
            raise Status(INVALID_VALUE)
        if k == 1 and name.startswith(("DRELU", "DGELU", "BGRADA")):
            raise Status(NOT_SUPPORTED)
        if (name, TYPES[a[0]].name) in self.refused:
            raise Status(NOT_SUPPORTED)
        return name, m, n, k

    def _MatmulAlgoGetHeuristic(
        self,
        handle: int,
        descriptor: int,
        a: int,
        b: int,
        c: int,
        d: int,
        preference: int,
        wanted: int,
        results: int,
        found: int,
    ) -> None:
        if wanted <= 0:
            raise Status(INVALID_VALUE)
        name, *_ = self._check(handle, descriptor, a, b, c, d)
        limits = self._the("preference", preference)["values"]
        extra = _extra_addresses(name, self._the("descriptor", descriptor)["values"])
        usable = [
            (number, workspace)
            for number, (alignment, workspace, _) in self.algorithms.items()
            if workspace <= limits[MAX_WORKSPACE]
            and all(limits[i] >= alignment for i in ALIGNMENTS)
            and all(address % alignment == 0 for address in extra)
        ]
        if (name, TYPES[self._the("layout", a)["layout"][0]].name) in self.empty:
            usable = []
        # One that is listed and says of itself that it cannot be used.
        listed = [(number, workspace, SUCCESS) for number, workspace in usable] + [(0xBAD, 0, NOT_SUPPORTED)]
        listed = listed[:wanted] if usable else []
        for i, (number, workspace, state) in enumerate(listed):
            result = np.zeros(1, np.dtype([("algo", "u8", 8), ("workspace", "u8"), ("state", "i4"), ("waves", "f4"),
                                           ("reserved", "i4", 4)]))  # fmt: skip
            result["algo"], result["workspace"], result["state"] = number, workspace, state
            ctypes.memmove(results + 96 * i, result.tobytes(), 96)
        c_int.from_address(found).value = len(listed)

    def _algorithm(self, address: int) -> int:
        words = np.frombuffer(ctypes.string_at(address, 64), np.uint64)
        if int(words[0]) not in self.algorithms or len(set(words.tolist())) != 1:
            raise Status(INVALID_VALUE)
        return int(words[0])

    def _MatmulAlgoCheck(
        self, handle: int, descriptor: int, a: int, b: int, c: int, d: int, algorithm: int, result: int
    ) -> None:
        self._check(handle, descriptor, a, b, c, d)
        number = self._algorithm(algorithm)
        ctypes.memset(result, 0, 96)
        c_uint64.from_address(result + 64).value = self.algorithms[number][1]

    # -- the product ----------------------------------------------------------------------------------------------

    def _Matmul(
        self, handle: int, descriptor: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, algorithm: int, workspace: int, size: int, stream: int | None,
    ) -> None:  # fmt: skip
        name, *sizes = self._check(handle, descriptor, a_layout, b_layout, c_layout, d_layout)
        number = self._algorithm(algorithm)
        alignment, needed, milliseconds = self.algorithms[number]
        if needed > size or not workspace or c != d:
            raise Status(INVALID_VALUE)
        if (name, number) in self.failing:
            raise Status(EXECUTION_FAILED)
        assert workspace % 16 == 0, "a misaligned workspace"
        values = dict(self._the("descriptor", descriptor)["values"])
        layouts = [self._the("layout", address)["layout"] for address in (a_layout, b_layout, d_layout)]
        for address, (type_, *_) in zip((a, b, d), layouts, strict=True):
            assert address, "a null operand"
            assert address % max(alignment, TYPES[type_].itemsize) == 0, (
                f"an operand is misaligned for algorithm {number:x}"
            )
        for address in _extra_addresses(name, values):
            assert address % alignment == 0, f"bias or auxiliary buffer are misaligned for algorithm {number:x}"
        scale = TYPES[values[1]]

        def factor(address: int) -> float:
            return float(np.frombuffer(ctypes.string_at(address, scale.itemsize), scale)[0])

        # Scalars are the host's and are read when the call is made, and so at capture.
        factors = factor(alpha), factor(beta)

        # Split-K: a first kernel leaves its part of the sums in the workspace, a second one adds the rest.
        queue, scratch = fake_cupy.queue_of(stream or 0), workspace if sizes[0] * sizes[1] * 8 <= needed else 0
        if scratch and self.two_kernels:
            fake_cupy.run(lambda: _first_half(values, sizes, layouts, (a, b), scratch), queue, 0.0)

        def work() -> None:
            if scratch and not self.two_kernels:
                _first_half(values, sizes, layouts, (a, b), scratch)
            self.matmuls.append(name)
            self.ran.append(number)
            _product(
                values, name, sizes, layouts, (a, b, d), factors, scratch, name in self.broken, self.relu_hides_nan
            )

        fake_cupy.run(work, queue, milliseconds + self.slow.get(name, 0.0))


def _extra_addresses(name: str, values: dict[int, int]) -> list[int]:
    """Of the bias and the auxiliary buffer, where there are such."""
    addresses = [values[BIAS_POINTER]] if "BIAS" in name or "BGRAD" in name else []
    return addresses + ([values[AUX_POINTER]] if "AUX" in name or name.startswith(("DRELU", "DGELU")) else [])


def _column_major(address: int, layout: Any) -> np.ndarray:
    type_, rows, cols, ld = layout
    dtype = TYPES[type_]
    raw = (ctypes.c_uint8 * (ld * cols * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype).reshape(cols, ld)[:, :rows].T


def _vector(address: int, dtype: Any, size: int) -> np.ndarray:
    raw = (ctypes.c_uint8 * (size * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(raw, dtype)


def _to_tf32(values: np.ndarray) -> np.ndarray:
    """The ten bits of fraction that TF32 has, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _operands(values: Any, layouts: Any, addresses: Any) -> tuple[np.ndarray, np.ndarray]:
    """op(A) and op(B) in the type that is computed in."""
    a, b = (_column_major(address, layout) for address, layout in zip(addresses[:2], layouts[:2], strict=True))
    wide = np.float64 if a.dtype == np.float64 else np.float32
    a, b = (m.astype(wide) for m in ((a.T if values[TRANSA] else a), (b.T if values[TRANSB] else b)))
    return (_to_tf32(a), _to_tf32(b)) if values[0] == COMPUTE_32F_FAST_TF32 else (a, b)


def _first_half(values: Any, sizes: Any, layouts: Any, addresses: Any, workspace: int) -> None:
    M, N, K = sizes
    a, b = _operands(values, layouts, addresses)
    with np.errstate(over="ignore", invalid="ignore"):
        _vector(workspace, a.dtype, M * N).reshape(M, N)[...] = a[:, : K // 2] @ b[: K // 2]


def _product(
    values: Any,
    name: str,
    sizes: Any,
    layouts: Any,
    addresses: Any,
    factors: Any,
    workspace: int,
    broken: bool,
    hides_nan: bool,
) -> None:
    M, N, K = sizes
    d = _column_major(addresses[2], layouts[2])
    a, b = _operands(values, layouts, addresses)
    wide = a.dtype.type
    bias = _vector(values[BIAS_POINTER], d.dtype, M) if "BIAS" in name or "BGRAD" in name else d[:0, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        if workspace:
            z = _vector(workspace, wide, M * N).reshape(M, N) + a[:, K // 2 :] @ b[K // 2 :]
        else:
            z = a @ b
        z = wide(factors[0]) * z
        if factors[1]:
            z += wide(factors[1]) * d.astype(wide)
        if "BIAS" in name:
            z += bias.astype(wide)[:, None]
        if name == "BGRADA":
            np.copyto(bias, a.sum(axis=1), casting="unsafe")
        ld, aux = values[AUX_LD], values[AUX_POINTER]
        if name in ("RELU_AUX", "RELU_AUX_BIAS"):
            mask = _vector(aux, np.uint8, ld // 8 * N).reshape(N, ld // 8)
            bits = np.zeros((N, ld), np.uint8)
            bits[:, :M] = (z > 0).T
            mask[...] = np.packbits(bits, axis=1, bitorder="little")
        if name.startswith("DRELU"):
            mask = np.unpackbits(_vector(aux, np.uint8, ld // 8 * N).reshape(N, ld // 8), axis=1, bitorder="little")
            z = z * mask[:, :M].T
        if "GELU" in name:
            back = name.startswith("DGELU")
            with_aux = "AUX" in name or back
            kept = _column_major(aux, (layouts[2][0], M, N, ld)) if with_aux else np.empty_like(z)
            if not back:
                kept[...] = z
            s = kept.astype(wide) if back else z
            t = np.tanh(np.sqrt(2 / np.pi) * (s + 0.044715 * s**3))
            slope = 0.5 * (1 + t) + 0.5 * s * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * s * s)
            z = z * slope if back else 0.5 * s * (1 + t)
        if name.startswith("RELU"):
            z = np.fmax(z, 0) if hides_nan else np.maximum(z, 0)
        if broken:
            z = z + 1
        d[...] = z.astype(d.dtype)


def install(monkeypatch: Any, library: Library | None = None) -> Library:
    """Put the stand-in in the place of libcublasLt, for the length of a test."""
    fake, load = library or Library(), libraries.load

    def found(name: str, majors: Any = libraries.MAJORS) -> Any:
        return fake if name == "cublasLt" else load(name, majors)

    monkeypatch.setattr(libraries, "load", found)
    cublaslt.library.cache_clear()
    return fake
