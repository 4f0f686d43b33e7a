"""random.cu: dropout by the same bits as gpubackprop.random, which has the published vectors."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda.conftest import MULTIPROCESSORS
from tests.cuda.harness import empty, to_float64, to_storage
from tests.words import random_words


@pytest.mark.parametrize("t", table.STORAGE)
@pytest.mark.parametrize("n", [1, 31, 33, 5003])
@pytest.mark.parametrize("first", [0, 16 * 77, 16 * 77 + 4, 16 * 77 + 15, 2**36 - 32])
def test_dropout(run, t, n, first):
    x = to_storage(t, np.random.default_rng(0).normal(size=n) + 3)
    seed, step, layer, keep = 0xA99F31D0A4093822, np.array([2**32 + 12345], np.uint64), 7, 0.7
    threshold = round(keep * 2**16)
    kept = random_words(n, seed=seed, step=int(step[0]), layer=layer, first=first) < threshold
    want = to_float64(t, to_storage(t, np.where(kept, to_float64(t, x) / keep, 0)))
    factor = to_float64(t, to_storage(t, np.where(kept, 1 / keep, 0)))
    arguments = (n, first, 1 / keep, threshold, step, layer, seed)
    launch = table.flat(-(-n // 16) + 1, 1, MULTIPROCESSORS)
    for offset in (0, 1):
        mask, out = empty(t, n), empty(t, n)
        run("dropout", (t,), launch, x, mask, out, *arguments, offset=offset)
        np.testing.assert_array_equal(to_float64(t, out) == 0, ~kept)
        np.testing.assert_array_equal(to_float64(t, mask), factor)
        np.testing.assert_allclose(to_float64(t, out), want, rtol=1e-2 if t == "bf16" else 1e-3 if t == "f16" else 1e-6)
    run("dropout", (t,), launch, x, mask, x, *arguments)
    np.testing.assert_array_equal(x, out)


def test_dropout_that_keeps_everything(run):
    x, out, mask = np.arange(1, 9, dtype=np.float32), empty("float", 8), empty("float", 8)
    run("dropout", ("float",), table.flat(3, 1, 1), x, mask, out, 8, 0, 1.0, 2**16, np.zeros(1, np.uint64), 0, 1)
    np.testing.assert_array_equal(x, out)


def test_what_is_not_finite_stays_so_where_it_is_dropped(run):
    x, out, mask = np.full(64, np.inf, np.float32), empty("float", 64), empty("float", 64)
    run("dropout", ("float",), table.flat(5, 1, 1), x, mask, out, 64, 0, 2.0, 2**15, np.zeros(1, np.uint64), 0, 1)
    assert 0 < np.isnan(out).sum() < 64
    np.testing.assert_array_equal(np.isnan(out), mask == 0)


def test_advance(run):
    row, offset = np.array([5], np.uint32), np.array([128], np.int64)
    run("advance", (), table.one_block(), row, offset, 16, 64)
    assert (row[0], offset[0]) == (21, 192)
