"""Products through cuBLASLt's interface: layouts, types, plans, and the self-test of epilogues."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest

from gpubackprop.backend.cuda.plans import Planner, Problem
from gpubackprop.backend.cuda.products import Products, alignment
from gpubackprop.backend.cuda.selftest import TOLERANCE, epilogue_error
from tests.cuda.stand_in import gpu, shim  # noqa: F401

ROUNDING = {"float32": 1e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 2e-2}


def matrices(cupy, n, k, m, dtype, transposed=(False, False)):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, k)), rng.normal(size=(k, m))
    there = [
        cupy.asarray(np.ascontiguousarray(v.T if t else v).astype(dtype))
        for v, t in zip((a, b), transposed, strict=True)
    ]
    return a, b, *(v.T if t else v for v, t in zip(there, transposed, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("transposed", list(product((False, True), repeat=2)))
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1), (33, 7, 130), (64, 128, 10)])
def test_every_layout(gpu, dtype, transposed, shape):  # noqa: F811
    products = Products(Planner(gpu.cupy, 0), tf32=False)
    n, k, m = shape
    a, b, da, db = matrices(gpu.cupy, n, k, m, dtype, transposed)
    out = gpu.cupy.empty((n, m), dtype)
    assert products.multiply(da, db, out)
    error = np.abs(out.get().astype(float) - a @ b).max() / np.abs(a @ b).max()
    assert error < 3 * ROUNDING[np.dtype(dtype).name]


def test_added(gpu):  # noqa: F811
    products = Products(Planner(gpu.cupy, 0), tf32=False)
    a, b, da, db = matrices(gpu.cupy, 9, 5, 7, np.float32)
    out = gpu.cupy.ones((9, 7), np.float32)
    assert products.multiply(da, db, out, beta=0.5)
    np.testing.assert_allclose(out.get(), a @ b + 0.5, rtol=1e-5, atol=1e-6)


def test_what_is_left_to_others(gpu):  # noqa: F811
    cupy = gpu.cupy
    products = Products(Planner(cupy, 0), tf32=False)
    square = cupy.ones((4, 4), np.float32)
    assert not products.multiply(square[:, ::2], square, square[::2])
    assert not products.multiply(square, cupy.ones((4, 4), np.float64), square)
    assert not products.multiply(square, square, cupy.ones((4, 4), np.int64))
    assert not products.multiply(cupy.ones((4,), np.float32), square, square)
    assert not Products(Planner(cupy, 0), tf32=False, epilogues=False).multiply(square, square, square, "BIAS")


def test_tf32_rounds_and_float32_does_not(gpu):  # noqa: F811
    a, b, da, db = matrices(gpu.cupy, 40, 50, 60, np.float32)
    errors = []
    for tf32 in (False, True):
        out = gpu.cupy.empty((40, 60), np.float32)
        Products(Planner(gpu.cupy, 0), tf32).multiply(da, db, out)
        errors.append(np.linalg.norm(out.get() - a @ b) / np.linalg.norm(a @ b))
    assert errors[0] < 1e-6 < 1e-5 < errors[1] < 1e-3


@pytest.mark.parametrize(
    "epilogue", ["BIAS", "RELU_BIAS", "RELU_AUX_BIAS", "RELU_AUX", "GELU_AUX_BIAS", "DRELU", "DGELU", "BGRADA"]
)
@pytest.mark.parametrize("type_", ["float32", "float16", "bfloat16"])
def test_self_test(gpu, epilogue, type_):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    for transpose_a, transpose_b in product((False, True), repeat=2):
        problem = Problem(136, 33, 24, transpose_a, transpose_b, (type_, type_), epilogue=epilogue)
        assert epilogue_error(planner, problem) <= TOLERANCE[type_]
    gpu.library.broken.add(epilogue)
    assert epilogue_error(planner, problem) > TOLERANCE[type_]


@pytest.mark.parametrize("epilogue", ["RELU", "RELU_BIAS", "RELU_AUX_BIAS"])
@pytest.mark.parametrize("transposed", [False, True])
def test_an_epilogue_that_hides_nan_is_not_used(gpu, epilogue, transposed):  # noqa: F811
    *_, da, db = matrices(gpu.cupy, 33, 7, 130, np.float32, (transposed, False))
    out, aux = gpu.cupy.empty((33, 130), np.float32), gpu.cupy.zeros((33, 256), np.uint8)
    bias = gpu.cupy.zeros((130,), np.float32)
    for hides in (False, True):
        gpu.library.relu_hides_nan = hides
        products = Products(Planner(gpu.cupy, 0), tf32=False)
        assert products.multiply(da, db, out, epilogue, bias=bias, aux=aux) is not hides
    assert "NaN into 0" in products.refused[f"{epilogue} in float32"]


def test_small_problems_keep_what_matters():
    for m in (1, 9, 128, 130, 1000, 4096):
        small = Problem(m, 10**6, 784, False, False, ("float32",) * 2, epilogue="RELU_AUX_BIAS").small()
        assert (small.M - m) % 128 == 0
        assert small.M * small.N * small.K < 10**7


def test_alignment():
    assert [alignment(a) for a in (512, 256, 16, 4, 6, 0)] == [256, 256, 16, 4, 2, 256]
