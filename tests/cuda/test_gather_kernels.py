"""gather.cu against NumPy's take."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import NUMPY, assert_close, empty, to_float64, to_storage


@pytest.mark.parametrize(("s", "i", "t"), cases("gather_rows"))
def test_gather_rows(run, s, i, t):
    rng = np.random.default_rng(0)
    real = "double" if t == "double" else "float"
    for rows, cols in [(1, 1), (31, 33), (40, 37), (17, 132)]:
        source = to_storage(s, rng.integers(0, 256, (100, cols)))
        permutation = rng.permutation(100).astype(NUMPY[i])
        offset = np.array([7], np.int64)
        values = to_float64(s, source)[permutation[7 : 7 + rows]]
        mean, scale = to_storage(real, rng.normal(size=cols) * 50), to_storage(real, rng.uniform(0.01, 1, cols))
        launch = table.gather(rows, MULTIPROCESSORS)

        out = empty(t, (rows, cols))
        run("gather_rows", (s, i, t), launch, source, permutation, offset, out, rows, cols, mean, scale, 1)
        assert_close(t, out, (values - mean.astype(float)) * scale.astype(float), factor=2)

        out = empty(t, (rows, cols))
        one = to_storage(real, [1 / 255])
        run("gather_rows", (s, i, t), launch, source, permutation, offset, out, rows, cols, None, one, 0)
        assert_close(t, out, values * float(one[0]))

        out = empty(t, (rows, cols))
        run("gather_rows", (s, i, t), launch, source, None, None, out, rows, cols, None, None, 0, offset=1)
        np.testing.assert_array_equal(to_float64(t, out), to_float64(t, to_storage(t, to_float64(s, source)[:rows])))


@pytest.mark.parametrize(("s", "i", "t"), cases("gather_labels"))
def test_gather_labels(run, s, i, t):
    rng = np.random.default_rng(1)
    source, permutation = rng.integers(0, 200, 500).astype(NUMPY[s]), rng.permutation(500).astype(NUMPY[i])
    for rows in (1, 31, 400):
        out = np.full(rows, -9, NUMPY[t])
        launch = table.flat(rows, 1, MULTIPROCESSORS)
        run("gather_labels", (s, i, t), launch, source, permutation, np.array([90], np.int64), out, rows)
        np.testing.assert_array_equal(out, source[permutation[90 : 90 + rows]])


@pytest.mark.parametrize(("s", "t"), cases("convert"))
@pytest.mark.parametrize("n", [1, 31, 33, 5003])
def test_convert(run, s, t, n):
    source = to_storage(s, np.random.default_rng(0).normal(size=n) * 100)
    for offset in (0, 1):
        out = empty(t, n)
        run("convert", (s, t), table.flat(n, 4, MULTIPROCESSORS), source, out, n, offset=offset)
        np.testing.assert_array_equal(to_float64(t, out), to_float64(t, to_storage(t, to_float64(s, source))))
