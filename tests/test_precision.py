from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubackprop.errors import ArgumentError
from gpubackprop.precision import accumulator, compute_type, resolve


@pytest.mark.parametrize(
    ("dtype", "precision", "expected"),
    [
        (None, None, ("float32", "native")),
        ("float32", None, ("float32", "native")),
        ("float64", None, ("float64", "native")),
        (float, None, ("float64", "native")),
        (np.float32, "native", ("float32", "native")),
        (None, "fp32", ("float32", "native")),
        (None, "fp64", ("float64", "native")),
        (None, "tf32", ("float32", "tf32")),
        ("float32", "bf16", ("float32", "bf16")),
        (None, "fp16", ("float32", "fp16")),
    ],
)
def test_resolve(dtype: Any, precision: str | None, expected: tuple[str, str]) -> None:
    chosen, how = resolve(dtype, precision)
    assert (chosen.name, how) == expected


def test_byte_order_is_this_machines() -> None:
    assert resolve(">f4", None)[0] == np.dtype(np.float32)
    assert resolve(">f8", None)[0].isnative


@pytest.mark.parametrize(
    ("dtype", "precision", "message"),
    [
        ("float16", None, 'ask for precision="fp16"'),
        (int, None, "dtype must be one of float32, float64; got int64$"),
        ("object", None, "got object"),
        ("f4,f4", None, "dtype must be one of"),
        ("single precision", None, "got 'single precision'"),
        (None, "double", "precision must be one of native, fp32"),
        ("float64", "tf32", 'precision="tf32" keeps its parameters in float32; got dtype="float64"'),
        ("float32", "fp64", 'precision="fp64" keeps its parameters in float64'),
    ],
)
def test_refused(dtype: Any, precision: str | None, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        resolve(dtype, precision)


def test_types_to_compute_in() -> None:
    assert accumulator(np.float32) == accumulator(np.float16) == np.float64
    assert accumulator(np.complex128) == np.complex128
    assert compute_type(np.float16) == compute_type(np.float32) == np.float32
    assert compute_type(np.float64) == np.float64
