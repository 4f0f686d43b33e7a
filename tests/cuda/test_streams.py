"""Rows that stay on the host: the same training, with transfers fetched ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.backend.cuda.streams import StreamedRows
from tests.cuda import fake_cupy
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.planted.bugs import Bug


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
    # The first of them times and tests the products that the others take.
    for source, share in ((x, 0.5), (x, 0.5), (mapped, 0.0)):
        backend = CudaBackend(0, precision)
        backend.data_share, backend.loops = share, False
        net = gb.mlp([6, 16, 4], loss="cross_entropy", device=backend, seed=3)
        before = gpu.state.transfers
        gb.Trainer(net, gb.Adam(0.01)).fit(source, y, epochs=3, batch_size=40)
        transfers.append(gpu.state.transfers - before)
        weights.append(net.get_weights())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])
        np.testing.assert_array_equal(array, weights[2][name])
    # x and y once, an order an epoch; or x and y of each of twelve batches
    assert transfers[2] - transfers[1] == 2 * 12 - 2 - 3


# -- the order of things, on streams that put off what nothing waits for ---------------------------------------------


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_cupy.install(monkeypatch, deferred=True)


def every_batch_arrives() -> None:
    """Many batches are under way before any of them is looked at."""
    be, (x, y) = CupyBackend(0), data()
    rows = StreamedRows(be, x, y)
    outs = []
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(150)
        rows.order(order)
        for start in range(0, 150, 10):
            a, b = be.empty((10, 6), np.float32), be.empty((10,), np.int64)
            rows.load(start, a, b)
            outs.append((order[start : start + 10], a, b))
    for index, a, b in outs:
        np.testing.assert_array_equal(be.to_host(a), x[index])
        np.testing.assert_array_equal(be.to_host(b), y[index])


def _loaded(be: Any, n: int) -> StreamedRows:
    """Rows of which the first n were handed out, and a copy of the next n is queued."""
    x, y = data()
    rows = StreamedRows(be, x, y)
    rows.load(0, be.empty((n, 6), np.float32), be.empty((n,), np.int64))
    assert rows._next is not None
    rows._next[3].result()
    return rows


def _assert_untouched(be: Any) -> None:
    """Whatever memory can be had now is nobody else's."""
    others = [be.zeros((10, 6), np.float32) for _ in range(8)]
    be.cupy.cuda.get_current_stream().synchronize()
    be.synchronize()
    for other in others:
        assert (be.to_host(other) == 0).all()


def slots_that_grow_leave_no_copy_behind() -> None:
    """A larger batch makes new slots while copies into the old ones are queued."""
    be = CupyBackend(0)
    rows = _loaded(be, 10)
    rows._drop()
    rows._begin(20, 40)
    _assert_untouched(be)


def rows_that_go_leave_no_copy_behind() -> None:
    """As after an interrupt."""
    be = CupyBackend(0)
    rows = _loaded(be, 10)
    thread = rows._thread
    del rows
    thread.shutdown(wait=True)
    _assert_untouched(be)


def slots_wait_for_who_had_their_memory() -> None:
    """New slots lie in memory that the main stream still has work for, which another stream knows nothing of."""
    be, (x, y) = CupyBackend(0), data()
    source, out = be.asarray(np.full((10, 6), 7.0, np.float32)), be.empty((10, 6), np.float32)
    a, b = be.empty((10, 6), np.float32), be.empty((10,), np.int64)
    be.synchronize()
    be.copy_in(source, out)
    del source
    rows = StreamedRows(be, x, y)
    rows._stream.queue.late = False
    rows.load(0, a, b)
    assert (be.to_host(out) == 7).all()


PROOFS: list[Callable[[], None]] = [
    every_batch_arrives,
    slots_that_grow_leave_no_copy_behind,
    rows_that_go_leave_no_copy_behind,
    slots_wait_for_who_had_their_memory,
]
_STREAMS = "backend.cuda.streams"
BUGS = [
    Bug(
        "no wait for the copy",
        f"{_STREAMS}:StreamedRows.load",
        "stream.wait_event(slot.copied)",
        "pass",
        "every_batch_arrives",
    ),
    Bug(
        "no word that a slot is free",
        f"{_STREAMS}:StreamedRows.load",
        "slot.free.record(stream)",
        "pass",
        "every_batch_arrives",
    ),
    Bug("no wait for a free slot", f"{_STREAMS}:_fill", "slot.free.synchronize()", "pass", "every_batch_arrives"),
    Bug(
        "no word that the copy is queued",
        f"{_STREAMS}:_fill",
        "slot.copied.record(stream)",
        "pass",
        "every_batch_arrives",
    ),
    Bug(
        "old slots go at once",
        f"{_STREAMS}:StreamedRows._begin",
        "self._stream.synchronize()",
        "pass",
        "slots_that_grow_leave_no_copy_behind",
    ),
    Bug("slots go at once", f"{_STREAMS}:_close", "stream.synchronize()", "pass", "rows_that_go_leave_no_copy_behind"),
    Bug(
        "new slots are free at once",
        f"{_STREAMS}:_Slot.__init__",
        "self.free.record()",
        "pass",
        "slots_wait_for_who_had_their_memory",
    ),
]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("proof", PROOFS)
def test_order(proof: Callable[[], None]) -> None:
    proof()


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_wait_is_needed(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    (proof,) = (p for p in PROOFS if p.__name__ == bug.caught_by)
    bug.plant(monkeypatch)
    with pytest.raises(AssertionError):
        proof()
