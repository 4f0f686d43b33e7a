"""Streams: which row comes when, what goes wrong while reading, and a thread that ends with the fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.network.stream import Piece, StreamRows
from gpubackprop.random import host_generator
from tests.small import assert_same_bits, make_data
from tests.training.test_checkpoints import Each

N, ROWS, WINDOW, SIZE = 104, 17, 30, 6
X, Y = make_data(N, 5, 3, "cross_entropy")


def pieces(x=X, y=Y, *weights, rows=ROWS):
    def chunks(start):
        # In chunks that end where neither batches nor windows do.
        for first in range(start, min(start + rows, len(x)), 4):
            stop = min(first + 4, start + rows, len(x))
            yield tuple(array[first:stop] for array in (x, y, *weights))

    starts = range(0, len(x), rows)
    return [Piece(f"piece {i}", min(rows, len(x) - s), lambda s=s: chunks(s)) for i, s in enumerate(starts)]


def stream(**options):
    return gb.Stream(pieces(**options), WINDOW)


def network(**options):
    layers = [gb.Dense(5, 8), gb.BatchNorm(8), gb.Activation("relu"), gb.Dropout(0.2), gb.Dense(8, 3)]
    return gb.Network(layers, **{"loss": "cross_entropy", "device": "cpu", "seed": 4, **options})


def expected_order(seed, epoch):
    """As the module says: pieces in an order of their own, cut into windows of whole batches, each of them shuffled."""
    starts = np.arange(0, N, ROWS)[host_generator(seed, 1, epoch).permutation(-(-N // ROWS))]
    rows = np.concatenate([np.arange(s, min(s + ROWS, N)) for s in starts])
    found = np.empty(N, int)
    for i, start in enumerate(range(0, N, WINDOW)):
        part = rows[start : start + WINDOW]
        found[start + host_generator(seed, 1, epoch, i).permutation(len(part))] = part
    return found


def reading():
    return [t for t in threading.enumerate() if t.name == "gpubackprop-stream"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not reading()


def test_a_fit_is_the_written_out_loop_over_the_stated_order(backend):
    """Every row once an epoch, on every device in the same order."""
    net, by_hand = network(device=backend), network(device=backend)
    gb.Trainer(net, gb.SGD(0.1)).fit(stream(), epochs=3, batch_size=SIZE)
    optimizer = gb.SGD(0.1)
    orders = [expected_order(4, epoch) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(N)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    for order in orders:
        for start in range(0, N, SIZE):
            rows = order[start : start + SIZE]
            by_hand.train_step(X[rows], Y[rows], optimizer)
    assert_same_bits(net.get_weights(), by_hand.get_weights())


def test_without_shuffling_it_is_the_fit_of_the_arrays():
    in_memory, streamed = network(), network()
    a = gb.Trainer(in_memory).fit(X, Y, epochs=2, batch_size=SIZE, shuffle=False, validation_data=(X[:9], Y[:9]))
    b = gb.Trainer(streamed).fit(stream(), epochs=2, batch_size=SIZE, shuffle=False, validation_data=(X[:9], Y[:9]))
    assert_same_bits(in_memory.get_weights(), streamed.get_weights())
    assert (a["loss"], a["val_loss"]) == (b["loss"], b["val_loss"])


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_size": 4},
        {"on_nan": "skip"},
        {"batch_size": None},
        {"batch_size": 70},
        {"patience": 1, "monitor": "loss"},
    ],
    ids=str,
)
def test_with_what_a_fit_can_do(options):
    found = []
    for data in ((stream(),), (X, Y)):
        net = gb.mlp([5, 8, 3], loss="cross_entropy", device="cpu", seed=4)
        gb.Trainer(net, gb.SGD(0.1)).fit(*data, **{"epochs": 2, "batch_size": SIZE, "shuffle": False, **options})
        found.append(net.get_weights())
    assert_same_bits(*found)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 4}], ids=str)
def test_rows_with_weights(backend, options):
    weights = np.tile([0.0, 0.0, 0.0, 0.0, 2.0, 0.5, 1.0], 15)[:N]
    options |= {"epochs": 2, "batch_size": SIZE, "shuffle": False}
    streamed, in_memory, unweighted = network(device=backend), network(device=backend), network(device=backend)
    gb.Trainer(streamed, gb.SGD(0.1)).fit(gb.Stream(pieces(X, Y, weights), WINDOW), **options)
    gb.Trainer(in_memory, gb.SGD(0.1)).fit(X, Y, sample_weight=weights, **options)
    assert_same_bits(streamed.get_weights(), in_memory.get_weights())
    gb.Trainer(unweighted, gb.SGD(0.1)).fit(stream(), **options)
    assert not np.array_equal(streamed.get_weights()["0.weight"], unweighted.get_weights()["0.weight"])


def test_some_row_of_a_stream_must_count():
    weights = np.zeros(N)
    trainer = gb.Trainer(network(), gb.SGD(0.1))
    with pytest.raises(DataError, match="all sample weights are 0"):
        trainer.fit(gb.Stream(pieces(X, Y, weights), WINDOW), epochs=1, batch_size=SIZE)
    weights[-1] = 1
    trainer.fit(gb.Stream(pieces(X, Y, weights), WINDOW), epochs=2, batch_size=SIZE)


def test_steps_in_machine_code_take_no_stream():
    pytest.importorskip("numba")
    found = []
    for compiled in (False, True):
        net = gb.mlp([5, 8, 3], loss="cross_entropy", device="cpu", seed=4, compile=compiled)
        gb.Trainer(net, gb.SGD(0.1)).fit(stream(), epochs=1, batch_size=SIZE)
        found.append(net.get_weights())
    assert_same_bits(*found)


def test_it_goes_on_at_the_same_row_after_every_step(tmp_path):
    whole = network()
    gb.Trainer(whole, callbacks=[Each(tmp_path)]).fit(stream(), epochs=2, batch_size=SIZE)
    written = sorted(tmp_path.iterdir())
    assert len(written) >= 2 * -(-N // SIZE)
    for path in written[::3]:
        trainer = gb.Trainer.resume(path, device="cpu")
        trainer.continue_fit(stream())
        assert_same_bits(trainer.net.get_weights(), whole.get_weights())


def test_a_fit_goes_on_with_the_same_stream_only(tmp_path):
    gb.Trainer(network(), callbacks=[Each(tmp_path)]).fit(stream(), epochs=1, batch_size=SIZE)
    other = X.copy()
    other[0] += 1
    for given in (stream(x=other), stream(rows=18), gb.Stream(pieces(), WINDOW + 1)):
        with pytest.raises(ArgumentError, match="x must be the data of the fit"):
            gb.Trainer.resume(tmp_path, device="cpu").continue_fit(given)
    with pytest.raises(ArgumentError, match="must be the data of the fit"):
        gb.Trainer.resume(tmp_path, device="cpu").continue_fit(X, Y)


def test_a_window_is_read_ahead_and_no_more():
    begun = []

    def noting(i, piece):
        def read():
            begun.append(i)
            return piece.read()

        return Piece(piece.name, piece.rows, read)

    whole = [noting(i, p) for i, p in enumerate(pieces(rows=WINDOW))]
    rows = StreamRows(gb.Stream(whole, WINDOW), network(), SIZE, shuffle=False)
    begun.clear()
    x, y = np.empty((SIZE, 5), np.float32), np.empty(SIZE, np.int64)
    rows.begin(0)
    for start in range(0, 2 * WINDOW, SIZE):
        rows.load(start, x, y)
        wanted, until = [0, 1, 2][: 2 + start // WINDOW], time.monotonic() + 10
        while begun != wanted and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.02)
        assert begun == wanted
    rows.close()


@pytest.mark.parametrize("where", ["begin", "middle", "callback", "interrupt", "diverged"])
def test_the_thread_ends_however_the_fit_does(where):
    class Ends(gb.Callback):
        every_steps = 3

        def on_fit_start(self, trainer, plan):
            if where == "begin":
                raise RuntimeError("begin")

        def on_progress(self, trainer, progress):
            assert reading()
            if where in ("middle", "interrupt"):
                raise KeyboardInterrupt if where == "interrupt" else RuntimeError("middle")

        def on_epoch_end(self, trainer, record):
            if where == "callback":
                raise RuntimeError("callback")

    trainer = gb.Trainer(network(), gb.SGD(1e30 if where == "diverged" else 0.1), callbacks=[Ends()])
    if where == "diverged":
        trainer.fit(stream(), epochs=2, batch_size=SIZE)
        assert trainer.history.stopped == "diverged"
    else:
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            trainer.fit(stream(), epochs=2, batch_size=SIZE)
    assert not reading()


def damaged(how):
    x = X.astype(np.float32)
    x[50, 2] = {"nan": np.nan}.get(how, x[50, 2])
    y = Y.copy()
    y[50] = {"label": 7}.get(how, y[50])
    weights = np.ones(N)
    weights[50] = -1
    given = pieces(x, y, *([weights] if "weight" in how else []))
    if how == "no weights":
        given[2] = pieces(x, y)[2]
    if how in ("more", "fewer"):
        rows = given[2].rows + (2 if how == "fewer" else -2)
        given[2] = Piece(given[2].name, rows, given[2].read)
    if how == "raises":

        def read():
            yield x[34:38], y[34:38]
            raise OSError("the disk is gone")

        given[2] = Piece(given[2].name, given[2].rows, read)
    if how == "no pair":
        given[2] = Piece(given[2].name, given[2].rows, lambda: iter([x[34:51]]))
    if how == "uneven":
        given[2] = Piece(given[2].name, given[2].rows, lambda: iter([(x[34:51], y[34:50])]))
    return gb.Stream(given, WINDOW)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"piece 2, from its row 1[26] on: x\[\d, 2\] is nan"),
        ("label", r"piece 2, .* y\[\d\] is 7; class labels must be from 0 to 2"),
        ("more", "piece 2: has more than the 15 rows"),
        ("fewer", "piece 2: has 17 rows, and had 19"),
        ("raises", "piece 2: cannot be read: OSError: the disk is gone"),
        ("no pair", r"piece 2: gave ndarray, and a chunk is \(x, y\)"),
        ("no weights", "piece 2.* comes without sample_weight, other than the first rows"),
        ("negative weight", r"piece 2.*: sample_weight must be 0 or more"),
        ("uneven", r"piece 2: its arrays have the shapes x \(17, 5\), y \(16,\)"),
    ],
)
def test_what_goes_wrong_while_reading_reaches_the_caller_with_the_name_of_the_piece(how, message):
    with pytest.raises((DataError, ArgumentError), match=message):
        gb.Trainer(network()).fit(damaged(how), epochs=1, batch_size=SIZE)


def test_bytes_stay_bytes_and_are_refused_among_floats():
    x = (X * 20 + 100).clip(0, 255).astype(np.uint8)
    found = []
    for data in ((gb.Stream(pieces(x), WINDOW),), (x, Y)):
        net = network()
        gb.Trainer(net).fit(*data, epochs=1, batch_size=SIZE, shuffle=False)
        found.append(net.get_weights())
    assert_same_bits(*found)
    mixed = gb.Stream([*pieces(x), *pieces(X)], WINDOW)
    with pytest.raises(DataError, match=r"piece 6.* has dtype float64, where the first rows of the stream have uint8"):
        gb.Trainer(network()).fit(mixed, epochs=1, batch_size=SIZE)


def test_a_single_target_is_a_column_for_a_regression():
    net = gb.mlp([5, 4, 1], loss="mean_squared_error", device="cpu")
    history = gb.Trainer(net).fit(gb.Stream(pieces(X, X[:, 0]), WINDOW), epochs=1)
    assert np.isfinite(history["loss"]).all()


def test_arguments():
    trainer = gb.Trainer(network())
    with pytest.raises(ArgumentError, match="a Stream has its own targets"):
        trainer.fit(stream(), Y)
    with pytest.raises(ArgumentError, match="a Stream has its own targets"):
        trainer.fit(stream(), sample_weight=np.ones(N))
    with pytest.raises(ArgumentError, match="y is missing"):
        trainer.fit(X)
    with pytest.raises(ArgumentError, match=r"must have shape \(n, 5\)"):
        trainer.fit(stream(x=X[:, :4]))
    with pytest.raises(DataError, match="has no rows"):
        gb.Stream([])
    with pytest.raises(DataError, match="piece 0: has no rows, and was to have 17"):
        trainer.fit(gb.Stream([Piece("piece 0", 17, lambda: iter([]))]))
    with pytest.raises(ArgumentError, match="one row"):
        trainer.fit(stream(), batch_size=N - 1)


def test_a_window_that_the_host_has_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said as what it is; a step of fewer rows would not help."""

    def windows(*arguments: object) -> Iterator[object]:
        raise MemoryError("no room")
        yield

    monkeypatch.setattr("gpubackprop.network.stream._windows", windows)
    net, (x, y) = gb.mlp([3, 2, 1], device="cpu"), make_data(16, 3, 1)
    with pytest.raises(DataError, match=r"no memory for two windows of 8 rows \(no room\).*smaller window"):
        gb.Trainer(net, "sgd").fit(gb.open_stream(lambda: [(x, y)], rows=16, window=8), epochs=1, batch_size=8)
