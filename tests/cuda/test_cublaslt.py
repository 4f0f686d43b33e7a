"""The binding of libcublasLt: on its stand-in, and on the real library where it is installed (no GPU is needed for that)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from gpubackprop.backend.cuda import cublaslt, libraries
from gpubackprop.backend.cuda.cublaslt import Algorithm, CublasLtError, Library, Result
from gpubackprop.errors import DeviceError, MissingExtraError
from tests.cuda import fake_cublaslt, fake_cupy


def stand_in() -> Any:
    fake_cupy.module()
    return fake_cublaslt.Library()


@pytest.fixture(params=["stand-in", 12, 13])
def raw(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What ctypes loads: the stand-in, or the library of CUDA 12 or 13."""
    if request.param == "stand-in":
        fake = stand_in()
        yield fake
        assert not fake.violations
        return
    try:
        yield libraries.load("cublasLt", (request.param,))
    except MissingExtraError:
        pytest.skip(f"libcublasLt.so.{request.param} is not installed")


def value(raw: Any, kind: str, item: int, number: int) -> int:
    """An attribute, read back in as many bytes as the library says that it has."""
    get = getattr(raw, f"cublasLt{kind}GetAttribute")
    get.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    size, buffer = ctypes.c_size_t(), ctypes.c_uint64()
    assert get(item, number, None, 0, ctypes.byref(size)) == 0
    assert get(item, number, ctypes.byref(buffer), size.value, ctypes.byref(size)) == 0
    return buffer.value


def test_attributes_are_what_was_set(raw: Any) -> None:
    library = Library(raw)
    item = library.create("MatmulDesc", cublaslt.COMPUTE_32F_FAST_TF32, cublaslt.DATA_TYPE["float32"])
    assert [value(raw, "MatmulDesc", item, number) for number in (0, 1)] == [77, 0]
    wanted = {"TRANSA": 1, "TRANSB": 1, "BIAS_POINTER": 2**40 + 16, "EPILOGUE_AUX_POINTER": 2**47 + 32,
              "EPILOGUE_AUX_LD": 2**33}  # fmt: skip
    for name, number in wanted.items():
        library.set_attribute("MatmulDesc", item, name, number)
        assert value(raw, "MatmulDesc", item, cublaslt.DESCRIPTOR[name][0]) == number
    for number in cublaslt.EPILOGUE.values():
        library.set_attribute("MatmulDesc", item, "EPILOGUE", number)
        assert value(raw, "MatmulDesc", item, cublaslt.DESCRIPTOR["EPILOGUE"][0]) == number
    library.call("MatmulDescDestroy", item)
    item = library.create("MatmulPreference")
    defaults = {"MAX_WORKSPACE_BYTES": 0} | {f"MIN_ALIGNMENT_{n}_BYTES": 256 for n in "ABCD"}
    for name, number in defaults.items():
        assert value(raw, "MatmulPreference", item, cublaslt.PREFERENCE[name][0]) == number
        library.set_attribute("MatmulPreference", item, name, 64)
        assert value(raw, "MatmulPreference", item, cublaslt.PREFERENCE[name][0]) == 64
    library.call("MatmulPreferenceDestroy", item)


def test_matrix_layouts(raw: Any) -> None:
    library = Library(raw)
    item = library.create("MatrixLayout", cublaslt.DATA_TYPE["bfloat16"], 2**33, 2**34, 2**35)
    if not isinstance(raw, fake_cublaslt.Library):
        # type, order (column-major), rows, columns, leading dimension of cublasLtMatrixLayoutAttribute_t
        found = [value(raw, "MatrixLayout", item, number) for number in range(5)]
        assert found == [14, 0, 2**33, 2**34, 2**35]
    library.call("MatrixLayoutDestroy", item)


def test_a_refusal_says_why(raw: Any) -> None:
    library = Library(raw)
    item = library.create("MatmulDesc", cublaslt.COMPUTE_32F, 0)
    number = ctypes.c_uint64(1)
    with pytest.raises(CublasLtError, match=r"\(status 7 of cublasLtMatmulDescSetAttribute\)"):
        library.call("MatmulDescSetAttribute", item, 7, ctypes.byref(number), 8)
    library.call("MatmulDescDestroy", item)


def test_the_structures_are_as_large_as_documented() -> None:
    assert (ctypes.sizeof(Algorithm), ctypes.sizeof(Result)) == (64, 96)
    assert (Result.workspace.offset, Result.state.offset, Result.waves.offset) == (64, 72, 76)


def test_another_width_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in()
    monkeypatch.setitem(fake_cublaslt.DESCRIPTOR, fake_cublaslt.AUX_LD, (4, 0))
    with pytest.raises(DeviceError, match="keeps EPILOGUE_AUX_LD in 4 bytes, where 8 are documented"):
        Library(fake)
    assert not fake.objects, "what was made to ask is destroyed"


def test_a_library_without_a_function_is_refused() -> None:
    fake = stand_in()
    del fake.cublasLtMatmulAlgoCheck
    with pytest.raises(DeviceError, match=r"too old: .*cublasLtMatmulAlgoCheck"):
        Library(fake)


def test_another_version_than_its_name_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cublaslt.install(monkeypatch, fake_cublaslt.Library(version=130100))
    with pytest.raises(DeviceError, match=r"libcublasLt\.so\.12 says that it is version 130100"):
        cublaslt.library(12)
    assert cublaslt.library(13) is cublaslt.library(13)
    cublaslt.library.cache_clear()


def test_the_real_library_has_a_version(raw: Any) -> None:
    library = Library(raw)
    assert library.version // 10000 in (12, 13)
