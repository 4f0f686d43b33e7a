"""The functions of libcublasLt that this library needs, bound by ctypes.

Numbers and widths are those of NVIDIA's documentation (cublasLt.h, cublas_api.h, library_types.h); `Library` asks the
library itself for the widths, so that another layout is refused and never written past.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from gpubackprop.backend.cuda import libraries
from gpubackprop.errors import DeviceError

DATA_TYPE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
"""cudaDataType_t, by the name of the dtype."""
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70
"""cublasComputeType_t."""
EPILOGUE = {
    "DEFAULT": 1,
    "BIAS": 4,
    "RELU": 2,
    "RELU_BIAS": 2 | 4,
    "RELU_AUX": 2 | 128,
    "RELU_AUX_BIAS": 2 | 4 | 128,
    "DRELU": 8 | 128,
    "GELU": 32,
    "GELU_BIAS": 32 | 4,
    "GELU_AUX": 32 | 128,
    "GELU_AUX_BIAS": 32 | 4 | 128,
    "DGELU": 64 | 128,
    "BGRADA": 256,
}
"""cublasLtEpilogue_t: what is done to a product before it is stored."""
DESCRIPTOR: dict[str, tuple[int, Any]] = {
    "TRANSA": (3, c_int32),
    "TRANSB": (4, c_int32),
    "EPILOGUE": (7, c_uint32),
    "BIAS_POINTER": (8, c_uint64),
    "EPILOGUE_AUX_POINTER": (11, c_uint64),
    "EPILOGUE_AUX_LD": (12, c_int64),
}
"""cublasLtMatmulDescAttributes_t, as far as they are used: number and type."""
PREFERENCE: dict[str, tuple[int, Any]] = {
    "MAX_WORKSPACE_BYTES": (1, c_uint64),
    "MIN_ALIGNMENT_A_BYTES": (5, c_uint32),
    "MIN_ALIGNMENT_B_BYTES": (6, c_uint32),
    "MIN_ALIGNMENT_C_BYTES": (7, c_uint32),
    "MIN_ALIGNMENT_D_BYTES": (8, c_uint32),
}
"""cublasLtMatmulPreferenceAttributes_t, as far as they are used: number and type."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: opaque, and the same in another process with the same library and device."""

    _fields_ = (("data", c_uint64 * 8),)


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


class CublasLtError(Exception):
    """A status of cuBLASLt that is not 0."""


_OBJECT, _PLACE = c_void_p, POINTER(c_void_p)
_PRODUCT = (_OBJECT,) * 6  # handle, descriptor, layouts of A, B, C, D
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "Create": (_PLACE,),
    "Destroy": (_OBJECT,),
    "MatmulDescCreate": (_PLACE, c_int, c_int),
    "MatmulDescDestroy": (_OBJECT,),
    "MatmulDescSetAttribute": (_OBJECT, c_int, c_void_p, c_size_t),
    "MatmulDescGetAttribute": (_OBJECT, c_int, c_void_p, c_size_t, POINTER(c_size_t)),
    "MatrixLayoutCreate": (_PLACE, c_int, c_uint64, c_uint64, c_int64),
    "MatrixLayoutDestroy": (_OBJECT,),
    "MatmulPreferenceCreate": (_PLACE,),
    "MatmulPreferenceDestroy": (_OBJECT,),
    "MatmulPreferenceSetAttribute": (_OBJECT, c_int, c_void_p, c_size_t),
    "MatmulPreferenceGetAttribute": (_OBJECT, c_int, c_void_p, c_size_t, POINTER(c_size_t)),
    "MatmulAlgoGetHeuristic": (*_PRODUCT, _OBJECT, c_int, POINTER(Result), POINTER(c_int)),
    "MatmulAlgoCheck": (*_PRODUCT, POINTER(Algorithm), POINTER(Result)),
    # handle, descriptor, alpha, A, B, beta, C, D (each with its layout), algorithm, workspace and its size, stream
    "Matmul": (
        *(_OBJECT, _OBJECT, c_void_p, c_void_p, _OBJECT, c_void_p, _OBJECT, c_void_p, c_void_p, _OBJECT, c_void_p, _OBJECT),
        *(POINTER(Algorithm), c_void_p, c_size_t, c_void_p),
    ),
}  # fmt: skip


class Library:
    """libcublasLt: `call` its functions by what stands after "cublasLt" in their names.

    Raises DeviceError where a function is missing, or an attribute has another width than is documented.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        try:
            self._functions = {name: getattr(library, f"cublasLt{name}") for name in _SIGNATURES}
            status, version = library.cublasLtGetStatusString, library.cublasLtGetVersion
        except AttributeError as error:
            raise DeviceError(f"this libcublasLt is too old: {error}") from None
        for name, arguments in _SIGNATURES.items():
            self._functions[name].argtypes, self._functions[name].restype = arguments, c_int
        status.argtypes, status.restype = (c_int,), ctypes.c_char_p
        version.argtypes, version.restype = (), c_size_t
        self._status = status
        self.version = int(version())
        """As 10000 major + 100 minor + patch."""
        self._check_widths()

    def call(self, name: str, *arguments: object) -> None:
        """Raises CublasLtError, with the library's own words, for a status that is not 0."""
        status = self._functions[name](*arguments)
        if status:
            raise CublasLtError(f"{self._status(status).decode()} (status {status} of cublasLt{name})")

    def create(self, kind: str, *arguments: object) -> int:
        """A new object: kind "", "MatmulDesc", "MatrixLayout" or "MatmulPreference"."""
        place = c_void_p()
        self.call(f"{kind}Create", ctypes.byref(place), *arguments)
        assert place.value is not None  # status 0 means that there is one
        return place.value

    def set_attribute(self, kind: str, item: int, attribute: str, value: int) -> None:
        """Set an attribute of a "MatmulDesc" or "MatmulPreference"."""
        number, width = (DESCRIPTOR if kind == "MatmulDesc" else PREFERENCE)[attribute]
        self.call(f"{kind}SetAttribute", item, number, ctypes.byref(width(value)), ctypes.sizeof(width))

    def _check_widths(self) -> None:
        for kind, attributes, arguments in (
            ("MatmulDesc", DESCRIPTOR, (COMPUTE_32F, DATA_TYPE["float32"])),
            ("MatmulPreference", PREFERENCE, ()),
        ):
            item = self.create(kind, *arguments)
            try:
                for name, (number, width) in attributes.items():
                    size = c_size_t()
                    self.call(f"{kind}GetAttribute", item, number, None, 0, ctypes.byref(size))
                    if size.value != ctypes.sizeof(width):
                        raise DeviceError(
                            f"libcublasLt {self.version} keeps {name} in {size.value} bytes, "
                            f"where {ctypes.sizeof(width)} are documented: this version cannot be used"
                        )
            finally:
                self.call(f"{kind}Destroy", item)


@cache
def library(major: int) -> Library:
    """The libcublasLt of a major version of CUDA. Raises MissingExtraError where there is none."""
    found = Library(libraries.load("cublasLt", (major,)))
    if found.version // 10000 != major:
        raise DeviceError(f"libcublasLt.so.{major} says that it is version {found.version}")
    return found
