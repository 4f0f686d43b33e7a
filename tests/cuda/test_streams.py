"""Rows that stay on the host: the same training, with transfers fetched ahead."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.streams import StreamedRows
from tests.cuda.stand_in import gpu, shim  # noqa: F401


def data(n=150):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 4, n)


@pytest.mark.parametrize("shuffled", [True, False])
def test_rows_in_order(gpu, shuffled):  # noqa: F811
    be, (x, y) = CudaBackend(0), data()
    rows = StreamedRows(be, x, y)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(150) if shuffled else np.arange(150)
        if shuffled:
            rows.order(order)
        for start in range(0, 150, 40):
            n = min(40, 150 - start)
            a, b = be.empty((n, 6), np.float32), be.empty((n,), np.int64)
            rows.load(start, a, b)
            np.testing.assert_array_equal(be.to_host(a), x[order[start : start + n]])
            np.testing.assert_array_equal(be.to_host(b), y[order[start : start + n]])
    assert rows.batches == 12


def test_any_place_may_be_asked_for(gpu):  # noqa: F811
    be, (x, y) = CudaBackend(0), data()
    rows = StreamedRows(be, x, y.astype(np.float32).reshape(-1, 1))
    assert rows.kind == "targets"
    for start, n in ((100, 50), (0, 10), (10, 10), (3, 147), (20, 1)):
        a, b = be.empty((n, 6), np.float32), be.empty((n, 1), np.float32)
        rows.load(start, a, b)
        np.testing.assert_array_equal(be.to_host(a), x[start : start + n])


def test_an_error_of_the_thread_arrives(gpu):  # noqa: F811
    be, (x, y) = CudaBackend(0), data()
    rows = StreamedRows(be, x, y)
    a, b = be.empty((4, 6), np.float32), be.empty((4,), np.int64)
    rows.order(np.arange(150))
    rows.load(0, a, b)
    rows.x = x[:, :3].copy()
    rows.load(4, a, b)  # was fetched before
    with pytest.raises(ValueError, match="output array"):
        rows.load(8, a, b)


@pytest.mark.parametrize("precision", ["native", "bf16"])
def test_training_from_a_file_is_training_from_memory(gpu, tmp_path, precision):  # noqa: F811
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    weights, transfers = [], []
    for source, share in ((x, 0.5), (mapped, 0.0)):
        backend = CudaBackend(0, precision)
        backend.data_share, backend.loops = share, False
        net = gb.mlp([6, 16, 4], loss="cross_entropy", device=backend, seed=3)
        before = gpu.state.transfers
        gb.Trainer(net, gb.Adam(0.01)).fit(source, y, epochs=3, batch_size=40)
        transfers.append(gpu.state.transfers - before)
        weights.append(net.get_weights())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])
    # x and y once, an order an epoch; or x and y of each of twelve batches
    assert transfers[1] - transfers[0] == 2 * 12 - 2 - 3
