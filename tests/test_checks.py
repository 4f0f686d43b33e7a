from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.checks import check_array, check_finite, check_x, check_y
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError, GpuBackpropError
from gpubackprop.losses import get_loss

N, D, M = 4, 3, 2
F32 = np.dtype(np.float32)
GOOD = np.arange(12.0).reshape(N, D)


def x_check(x: Any, be: Backend | None = None, dtype: Any = F32) -> Any:
    return check_x(x, D, np.dtype(dtype), be or get_backend("cpu"))


def y_check(y: Any, loss: str = "half_squared_error", be: Backend | None = None, m: int = M, look: bool = True) -> Any:
    return check_y(y, N, m, F32, get_loss(loss), be or get_backend("cpu"), look=look)


def with_value(value: float, dtype: Any = np.float64) -> np.ndarray:
    x = GOOD.astype(dtype)
    x[2, 1] = value
    return x


class Stranger:
    """An array of a device that this process knows nothing of."""

    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}


BAD_X: dict[str, tuple[Any, type[GpuBackpropError], str]] = {
    "0-d": (3.0, ArgumentError, r"x must have shape \(n, 3\); got \(\)"),
    "one sample": (np.zeros(3), ArgumentError, r"one sample is x.reshape\(1, -1\)"),
    "images": (np.zeros((4, 1, 3)), ArgumentError, r"flatten each sample: x.reshape\(len\(x\), -1\)"),
    "too wide": (np.zeros((4, 4)), ArgumentError, r"the first layer takes 3 inputs; got \(4, 4\)"),
    "transposed": (GOOD.T, ArgumentError, r"got \(3, 4\)"),
    "no rows": (np.zeros((0, 3)), ArgumentError, r"x has no rows: shape \(0, 3\)"),
    "empty list": ([], ArgumentError, r"got \(0,\)"),
    "ragged": ([[1, 2, 3], [4, 5]], ArgumentTypeError, "x cannot be made into one array"),
    "None": (None, ArgumentTypeError, "x has dtype object"),
    "object": (GOOD.astype(object), ArgumentTypeError, "x has dtype object; convert it to numbers first"),
    "text": ([["1", "2", "3"]], ArgumentTypeError, "x has dtype <U1; convert it"),
    "bytes": (np.zeros((4, 3), "S2"), ArgumentTypeError, r"x has dtype \|S2; convert it"),
    "complex": (GOOD * 1j, ArgumentTypeError, "x has dtype complex128; only real numbers"),
    "dates": (np.zeros((4, 3), "M8[s]"), ArgumentTypeError, "only real numbers"),
    "records": (np.zeros((4, 3), "f4,f4"), ArgumentTypeError, "x has dtype"),
    "NaN": (with_value(np.nan), ArgumentError, r"x\[2, 1\] is nan; 1 of 12 values are not finite"),
    "infinity": (with_value(np.inf), ArgumentError, r"x\[2, 1\] is inf; 1 of 12"),
    "-infinity": (with_value(-np.inf, np.float32), ArgumentError, r"x\[2, 1\] is -inf"),
    "all NaN": (np.full((4, 3), np.nan), ArgumentError, r"x\[0, 0\] is nan; 12 of 12"),
    "too large": (with_value(1e300), ArgumentError, r"x\[2, 1\] is inf once converted to float32, from 1e\+300"),
    "masked": (np.ma.masked_array(GOOD, GOOD > 3), ArgumentTypeError, "x is a masked array with masked values"),
    "another device": (Stranger(), DeviceError, r"x is an array on another device \(.*Stranger\).*pass a host array"),
}


@pytest.mark.parametrize("case", BAD_X)
def test_bad_x(case: str) -> None:
    x, kind, message = BAD_X[case]
    with pytest.raises(kind, match=message):
        x_check(x)


GOOD_X: dict[str, Any] = {
    "float64": GOOD,
    "float32": GOOD.astype(np.float32),
    "float16": GOOD.astype(np.float16),
    "Fortran order": np.asfortranarray(GOOD),
    "negative strides": np.ascontiguousarray(GOOD[::-1, ::-1])[::-1, ::-1],
    "every other": np.repeat(np.repeat(GOOD, 2, 0), 2, 1)[::2, ::2],
    "transposed": np.ascontiguousarray(GOOD.T).T,
    "big-endian": GOOD.astype(">f8"),
    "big-endian float32": GOOD.astype(">f4"),
    "big-endian integers": GOOD.astype(">i2"),
    "int64": GOOD.astype(np.int64),
    "uint8": GOOD.astype(np.uint8),
    "list": GOOD.tolist(),
    "tuple of rows": tuple(GOOD),
    "matrix-like": np.lib.stride_tricks.as_strided(GOOD),
    "nothing masked": np.ma.masked_array(GOOD, False),
}


@pytest.mark.parametrize("case", GOOD_X)
def test_good_x(case: str) -> None:
    x = x_check(GOOD_X[case])
    assert type(x) is np.ndarray
    assert x.dtype == np.float32
    assert x.dtype.isnative
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x, GOOD)


def test_read_only_and_bool_and_huge_finite() -> None:
    x = GOOD.astype(np.float32)
    x.flags.writeable = False
    np.testing.assert_array_equal(x_check(x), GOOD)
    np.testing.assert_array_equal(x_check(GOOD > 5), (GOOD > 5).astype(np.float32))
    # Its square overflows, which is how a batch is looked at; each of its values is finite.
    np.testing.assert_array_equal(x_check(with_value(3e38)), with_value(3e38).astype(np.float32))
    np.testing.assert_array_equal(x_check(with_value(1e300), dtype=np.float64), with_value(1e300))


def test_broadcast_view_is_taken_for_its_values() -> None:
    np.testing.assert_array_equal(x_check(np.broadcast_to(GOOD[0], (4, 3))), np.tile(GOOD[0], (4, 1)))


BAD_Y: dict[str, tuple[str, Any, type[GpuBackpropError], str]] = {
    "(n,) against (n, m)": (
        "half_squared_error",
        np.zeros(4),
        ArgumentError,
        r"y must have shape \(4, 2\); got \(4,\)",
    ),
    "(n, 1) against (n, m)": ("half_squared_error", np.zeros((4, 1)), ArgumentError, r"got \(4, 1\)"),
    "(1, m)": ("mean_squared_error", np.zeros((1, 2)), ArgumentError, r"got \(1, 2\)"),
    "too few rows": ("mean_absolute_error", np.zeros((3, 2)), ArgumentError, r"got \(3, 2\)"),
    "labels for a regression": (
        "half_squared_error",
        np.zeros(4, int),
        ArgumentError,
        'for class labels use loss="cross_entropy"',
    ),
    "labels (n, 1)": ("cross_entropy", np.zeros((4, 1), int), ArgumentError, r"use y.ravel\(\)"),
    "labels too few": (
        "cross_entropy",
        np.zeros(3, int),
        ArgumentError,
        "one label for each of the 4 rows of x; got 3",
    ),
    "label negative": (
        "cross_entropy",
        [0, 1, -1, 0],
        ArgumentError,
        r"y\[2\] is -1; class labels must be from 0 to 1",
    ),
    "label too large": ("cross_entropy", [0, 1, 0, 2], ArgumentError, r"y\[3\] is 2; .* the network has 2 outputs"),
    "label huge": ("cross_entropy", np.array([0, 1, 0, 2**63], np.uint64), ArgumentError, "is 9223372036854775808"),
    "labels float": (
        "cross_entropy",
        [0.0, 1.0, 0.0, 1.0],
        ArgumentTypeError,
        "must be integers from 0 to 1; got dtype float64",
    ),
    "labels bool": (
        "cross_entropy",
        [True, False, True, False],
        ArgumentTypeError,
        r"bool \(for two classes use y.astype",
    ),
    "labels NaN": ("cross_entropy", [0.0, np.nan, 0.0, 1.0], ArgumentTypeError, "must be integers"),
    "labels text": ("cross_entropy", ["a", "b", "a", "b"], ArgumentTypeError, "y has dtype <U1"),
    "labels object": ("cross_entropy", np.array([0, 1, None, 1]), ArgumentTypeError, "y has dtype object"),
    "NaN": ("half_squared_error", [[0, 1], [1, 0], [np.nan, 0], [0, 0]], ArgumentError, r"y\[2, 0\] is nan"),
    "infinity": ("half_squared_error", [[0, 1], [1, 0], [0, 0], [0, np.inf]], ArgumentError, r"y\[3, 1\] is inf"),
    "complex": ("half_squared_error", np.zeros((4, 2), complex), ArgumentTypeError, "y has dtype complex128"),
    "no probabilities": (
        "binary_cross_entropy",
        np.full((4, 2), 1.5),
        ArgumentError,
        "from 0 to 1; got values from 1.5 to 1.5",
    ),
    "-1 and 1": ("binary_cross_entropy", np.full((4, 2), -1), ArgumentError, "takes probabilities from 0 to 1"),
    "(n,) for one output": ("binary_cross_entropy", np.zeros(4), ArgumentError, r"y must have shape \(4, 2\)"),
    "no distribution": (
        "cross_entropy",
        [[0.5, 0.5], [0.5, 0.4], [1, 0], [0, 1]],
        ArgumentError,
        "row 1 adds up to 0.9",
    ),
    "scalar": ("half_squared_error", 3.0, ArgumentError, r"got \(\)"),
}


@pytest.mark.parametrize("case", BAD_Y)
def test_bad_y(case: str) -> None:
    loss, y, kind, message = BAD_Y[case]
    with pytest.raises(kind, match=message):
        y_check(y, loss)


def test_one_output_never_broadcasts() -> None:
    with pytest.raises(ArgumentError, match=r"y must have shape \(4, 1\); got \(4,\); use y.reshape\(-1, 1\)"):
        y_check(np.zeros(4), m=1)
    assert y_check(np.zeros((4, 1)), m=1).shape == (4, 1)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.uint64, ">i4"])
def test_labels_of_any_integer_type(dtype: Any) -> None:
    labels = y_check(np.array([0, 1, 1, 0], dtype), "cross_entropy")
    np.testing.assert_array_equal(labels, np.array([0, 1, 1, 0]), strict=True)


def test_targets_of_any_real_type() -> None:
    one_hot = np.eye(2)[[0, 1, 1, 0]]
    for y in (one_hot, one_hot.astype(bool), one_hot.astype(np.int8), np.asfortranarray(one_hot), one_hot[::-1][::-1]):
        for loss in ("cross_entropy", "binary_cross_entropy", "half_squared_error"):
            np.testing.assert_array_equal(y_check(y, loss), one_hot.astype(np.float32), strict=True)


def test_arrays_of_the_device_itself() -> None:
    be = get_backend("strict")
    x, labels = be.asarray(GOOD), be.asarray(np.zeros(4, np.int64))
    waits = be.counts().waits
    assert x_check(x, be) is x
    assert y_check(labels, "cross_entropy", be, look=False) is labels
    with pytest.raises(ArgumentError, match="takes 3 inputs"):
        x_check(be.asarray(np.zeros((4, 2))), be)
    with pytest.raises(ArgumentError, match="x has no rows"):
        x_check(be.asarray(np.zeros((0, 3))), be)
    with pytest.raises(ArgumentTypeError, match="x has dtype complex128"):
        x_check(be.asarray(GOOD * 1j), be)
    with pytest.raises(ArgumentTypeError, match="labels must be integers from 0 to 1; got dtype float64"):
        y_check(be.asarray(np.zeros(4)), "cross_entropy", be)
    with pytest.raises(ArgumentError, match=r"use y.ravel\(\)"):
        y_check(be.asarray(np.zeros((4, 1), int)), "cross_entropy", be)
    assert be.counts().waits == waits
    assert y_check(labels, "cross_entropy", be) is labels
    with pytest.raises(ArgumentError, match="class labels must be from 0 to 1"):
        y_check(be.asarray(np.full(4, 7)), "cross_entropy", be)


def test_arrays_of_another_device() -> None:
    here, there = get_backend("strict"), get_backend("strict")
    for be in (here, get_backend("cpu")):
        with pytest.raises(DeviceError, match="x is an array on another device"):
            x_check(there.asarray(GOOD), be)
        with pytest.raises(DeviceError, match="y is an array on another device"):
            y_check(there.asarray(np.zeros((4, 2))), be=be)


@pytest.mark.parametrize("rows", [2, 5000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_value_anywhere_is_found(rows: int, value: float) -> None:
    for row in (0, rows // 2, rows - 1):
        x = np.full((rows, 3), 1e30, np.float32)
        check_finite(x, "x")
        x[row, 2] = value
        with pytest.raises(ArgumentError, match=rf"x\[{row}, 2\] is {value}; 1 of {3 * rows} values"):
            check_finite(x, "x")


def test_check_finite_leaves_no_warning_and_finds_the_first() -> None:
    check_finite(np.array([[1e38, -1e38]], np.float32), "x")
    with pytest.raises(ArgumentError, match=r"x\[1, 0\] is inf; 2 of 4"):
        check_finite(np.array([[1.0, 2.0], [np.inf, np.nan]]), "x")


def test_check_array() -> None:
    array = check_array([[1, 2]], (1, 2), F32, "weights['0.weight']")
    np.testing.assert_array_equal(array, np.array([[1, 2]], np.float32), strict=True)
    assert check_array(2, (), F32, "t").shape == ()
    for value, kind, message in (
        (np.zeros((2, 1)), ArgumentError, r"must have shape \(1, 2\); got \(2, 1\)"),
        ([[1.0, np.nan]], ArgumentError, r"\[0, 1\] is nan"),
        ([[1e300, 0.0]], ArgumentError, "inf once converted to float32"),
        ([["a", "b"]], ArgumentTypeError, "has dtype <U1"),
    ):
        with pytest.raises(kind, match=message):
            check_array(value, (1, 2), F32, "weights['0.weight']")
