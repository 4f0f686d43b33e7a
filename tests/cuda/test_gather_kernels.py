"""gather.cu against NumPy's indexing."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS, cases
from tests.cuda.harness import NUMPY, empty, to_float64, to_storage


@pytest.mark.parametrize(("s", "t", "q", "r"), cases("gather_rows"))
def test_gather_rows(run, s, t, q, r):
    rng, template = np.random.default_rng(0), (s, t, q, r)
    for rows, cols, targets in [(1, 1, 1), (31, 33, 1), (40, 37, 5), (17, 132, 40)]:
        x, y = to_storage(s, rng.integers(0, 256, (100, cols))), rng.integers(0, 200, (100, targets)).astype(NUMPY[q])
        permutation, offset, launch = rng.permutation(100), np.array([7], np.int64), table.gather(rows, MULTIPROCESSORS)
        want = to_float64(t, to_storage(t, to_float64(s, x)))
        for order, ahead, misaligned in ((permutation, 2, 0), (None, 40, 1)):
            taken = (np.arange(100) if order is None else order)[7 + ahead : 7 + ahead + rows]
            out, labels = empty(t, (rows, cols)), np.full((rows, targets), 99, NUMPY[r])
            run(
                "gather_rows",
                template,
                launch,
                x,
                out,
                cols,
                y,
                labels,
                targets,
                order,
                offset,
                ahead,
                rows,
                offset=misaligned,
            )
            np.testing.assert_array_equal(to_float64(t, out), want[taken])
            np.testing.assert_array_equal(labels, y[taken])


def test_gather_of_rows_or_targets_alone(run):
    launch, order = table.gather(3, MULTIPROCESSORS), np.array([5, 0, 2])
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6)
    out, labels = empty("float", (3, 2)), np.full(3, -9)
    template = ("float", "float", "long long", "long long")
    run("gather_rows", template, launch, x, out, 2, None, None, 0, order, None, 0, 3)
    run("gather_rows", template, launch, None, None, 0, y, labels, 1, order, None, 0, 3)
    np.testing.assert_array_equal(out, x[order])
    np.testing.assert_array_equal(labels, y[order])


@pytest.mark.parametrize(("s", "t"), cases("convert"))
@pytest.mark.parametrize("n", [1, 31, 33, 5003])
def test_convert(run, s, t, n):
    source = to_storage(s, np.random.default_rng(0).normal(size=n) * 100)
    for offset in (0, 1):
        out = empty(t, n)
        run("convert", (s, t), table.flat(n, 4, MULTIPROCESSORS), source, out, n, offset=offset)
        np.testing.assert_array_equal(to_float64(t, out), to_float64(t, to_storage(t, to_float64(s, source))))
