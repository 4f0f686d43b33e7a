"""Files as streams: the rows of every kind of file, in the memory of a window, refused where they cannot be used."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.data import pieces
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError

pa = pytest.importorskip("pyarrow")
csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")

N, D = 300, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).round(3).astype(np.float32)
Y = RNG.integers(0, 3, N)
COLUMNS = {**{f"c{i}": X[:, i].astype(np.float64) for i in range(D)}, "y": Y}


def rows_of(stream):
    """All rows, in the order of the pieces."""
    chunks = [chunk for piece in stream.pieces for chunk in piece.chunks()]
    return np.concatenate([x for x, _ in chunks]), np.concatenate([y for _, y in chunks])


def save(folder: Path, kind: str, part: slice = slice(None), name: str = "data"):
    """Some rows as a file of a kind; what to open."""
    path = folder / f"{name}.{kind}"
    table = pa.table({name: values[part] for name, values in COLUMNS.items()})
    if kind == "npy":
        np.save(folder / f"{name}_x.npy", X[part])
        np.save(folder / f"{name}_y.npy", Y[part])
        return folder / f"{name}_x.npy"
    if kind == "npz":
        np.savez(path, x=X[part], y=Y[part])
    elif kind.startswith("parquet"):
        parquet.write_table(table, path, row_group_size=70)
        if kind == "parquet.gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    else:
        csv.write_csv(table, path)
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    from gpubackprop.data import text_tables

    monkeypatch.setattr(pieces, "BLOCK", 64 * 4 * D)
    monkeypatch.setattr(text_tables, "BLOCK", 2000)
    monkeypatch.setattr(text_tables, "_BLOCK_ROWS", 1)


@pytest.mark.parametrize(("kind", "count"), [("npy", 5), ("npz", 1), ("parquet", 5), ("parquet.gz", 1), ("csv", 1)])
def test_every_kind_of_file_alone_and_as_shards(tmp_path, small_blocks, kind, count):
    target = None if kind in ("npy", "npz") else "y"
    stream = gb.open_stream(save(tmp_path, kind), target)
    assert (len(stream), len(stream.pieces)) == (N, count)
    folder = tmp_path / "shards"
    folder.mkdir()
    for i, part in enumerate((slice(0, 120), slice(120, 130), slice(130, None))):
        save(folder, kind, part, f"{i:02}")
    (folder / "README.md").write_text("not a shard")
    for found in (stream, gb.open_stream(folder, target)):
        assert len(found) == N
        x, y = rows_of(found)
        np.testing.assert_array_equal(x.astype(np.float32), X)
        np.testing.assert_array_equal(y, Y)
        net = gb.mlp([D, 8, 3], loss="cross_entropy", device="cpu")
        assert np.isfinite(gb.Trainer(net).fit(found, epochs=2)["loss"]).all()


def test_a_text_table_is_read_in_parts(tmp_path, small_blocks):
    (piece,) = gb.open_stream(save(tmp_path, "csv"), "y").pieces
    assert max(len(x) for x, _ in piece.chunks()) < N / 2


def test_a_function_is_called_anew_for_each_epoch():
    calls = []

    def chunks():
        calls.append(1)
        for start in range(0, N, 50):
            yield X[start : start + 50], Y[start : start + 50]

    stream = gb.open_stream(chunks)
    assert (len(stream), len(calls)) == (N, 1)
    x, _ = rows_of(stream)
    np.testing.assert_array_equal(x, X)
    known = gb.open_stream(chunks, rows=N)
    assert (len(known), len(calls)) == (N, 2)


def test_columns_and_several_targets(tmp_path):
    path = save(tmp_path, "parquet")
    x, y = rows_of(gb.open_stream(path, ["c3", "c0"], columns=["c2"]))
    np.testing.assert_array_equal(x.astype(np.float32), X[:, [2]])
    np.testing.assert_array_equal(y.astype(np.float32), X[:, [3, 0]])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_weights(tmp_path, small_blocks, kind):
    stream = gb.open_stream(save(tmp_path, kind), "y", weight="c1")
    chunks = [chunk for piece in stream.pieces for chunk in piece.chunks()]
    x, y, weights = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    np.testing.assert_array_equal(x.astype(np.float32), np.delete(X, 1, axis=1))
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(weights.astype(np.float32), X[:, 1])


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_of_weights(tmp_path, small_blocks, kind):
    weights = np.arange(N) % 3
    path = save(tmp_path, kind)
    if kind == "npy":
        np.save(tmp_path / "data_sample_weight.npy", weights)
    else:
        np.savez(path, x=X, y=Y, sample_weight=weights)
    stream = gb.open_stream(path)
    chunks = [chunk for piece in stream.pieces for chunk in piece.chunks()]
    np.testing.assert_array_equal(np.concatenate([w for _, _, w in chunks]), weights)
    net = gb.mlp([D, 8, 3], loss="cross_entropy", device="cpu")
    assert np.isfinite(gb.Trainer(net).fit(stream, epochs=1)["loss"]).all()
    if kind == "npy":
        np.save(tmp_path / "data_sample_weight.npy", weights[:-1])
        with pytest.raises(DataError, match=r"data_sample_weight.npy: has shape \(299,\), and x \(300, 4\)"):
            gb.open_stream(path)


@pytest.mark.parametrize("options", [{"target": "y"}, {"columns": ["c1"]}, {"weight": "c1"}], ids=str)
def test_columns_of_what_is_no_table(tmp_path, options):
    for kind in ("npy", "npz"):
        with pytest.raises(DataError, match="has no columns with names"):
            gb.open_stream(save(tmp_path, kind), **options)
    with pytest.raises(ArgumentTypeError, match="has no columns with names"):
        gb.open_stream(lambda: [(X, Y)], **options)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_cells_that_are_no_numbers_are_refused_with_their_place(tmp_path, kind):
    table = pa.table({"a": [1.0] * 6, "b": ["x", "y", "x", "y", "x", "y"], "c": [1.0, 2.0, 3.0, None, 5.0, 6.0]})
    path = tmp_path / f"t.{kind}"
    parquet.write_table(table, path) if kind == "parquet" else csv.write_csv(table, path)
    net = gb.mlp([1, 1], device="cpu")
    for column, row, value in (("b", 1, "'x'"), ("c", 4, "None")):
        with pytest.raises(DataError, match=rf"t.{kind}: row {row}, column {column} holds {value}"):
            gb.Trainer(net).fit(gb.open_stream(path, "a", columns=[column]))


def test_numbers_are_read_by_the_mark_that_is_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b;y\n1,459;0,5;1.000\n2,500;1,5;2.500\n")
    for decimal, expected in ((",", [1.459, 2.5]), (".", [1459, 2500])):
        columns = ["a", "b"] if decimal == "," else ["a"]
        format = gb.data.TextFormat(separator=";", decimal=decimal)
        x, y = rows_of(gb.open_stream(path, "y", columns=columns, format=format))
        np.testing.assert_allclose(x[:, 0], expected)
        np.testing.assert_allclose(y[:, 0], [1000, 2500] if decimal == "," else [1, 2.5])
    with pytest.raises(DataError, match="column a: '1,459' can be read with a decimal point or a decimal comma"):
        rows_of(gb.open_stream(path, "y", columns=["a"]))


def test_what_cannot_be_a_stream(tmp_path):
    np.save(tmp_path / "f_x.npy", np.asfortranarray(X))
    np.save(tmp_path / "f_y.npy", Y)
    np.save(tmp_path / "g_x.npy", X)
    np.save(tmp_path / "g_y.npy", Y[:-1])
    (tmp_path / "empty").mkdir()

    def use(source, options):
        stream = gb.open_stream(source, **options)
        gb.Trainer(gb.mlp([D, 3], loss="cross_entropy", device="cpu")).fit(stream)

    for source, options, error, message in (
        (tmp_path / "f_x.npy", {}, DataError, "f_x.npy: lies column by column"),
        (tmp_path / "g_x.npy", {}, DataError, r"g_x.npy: x has shape \(300, 4\) and g_y.npy \(299,\)"),
        (tmp_path / "empty", {}, DataError, "empty: holds no shards"),
        (tmp_path / "none.npz", {}, DataError, "no such file"),
        (save(tmp_path, "csv"), {}, DataError, "say which column to predict"),
        (save(tmp_path, "csv"), {"target": "z"}, DataError, "has no column 'z'"),
        (save(tmp_path, "npz"), {"rows": 3}, ArgumentTypeError, "rows is for a function"),
        (iter([(X, Y)]), {}, ArgumentTypeError, "a function that returns an iterable"),
        (save(tmp_path, "npz"), {"window": 0}, ArgumentError, "window must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            use(source, options)


def test_a_file_that_shrinks_meanwhile_is_an_error_and_no_signal(tmp_path):
    path = save(tmp_path, "npy")
    stream = gb.open_stream(path)
    assert len(stream.first[0])
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"data_x\.npy: became shorter"):
        gb.Trainer(gb.mlp([D, 3], loss="cross_entropy", device="cpu")).fit(stream)


_CHILD = """
import resource, sys
import numpy as np
import gpubackprop as gb
x, budget, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
net = gb.mlp([200, 4, 2], loss="cross_entropy", device="cpu")
trainer = gb.Trainer(net)
trainer.fit(np.zeros((64, 200)), np.zeros(64, int), epochs=1)   # what the libraries take by themselves
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
resource.setrlimit(resource.RLIMIT_DATA, (int(status["VmData"].split()[0]) * 1024 + budget,) * 2)
if how == "whole":
    trainer.fit(np.load(x), np.load(x.replace("x.npy", "y.npy")), epochs=1, batch_size=256)
else:
    trainer.fit(gb.open_stream(x, window=8192), epochs=2, batch_size=256)
print(trainer.history["loss"])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
def test_a_file_larger_than_the_memory_trains_in_a_fixed_budget(tmp_path):
    """96 MB of rows, 48 MB for all: two windows of 6.5 MB each, blocks of 1 MB, and what a thread takes."""
    rows = 120_000
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 200))
    for start in range(0, rows, 10_000):
        x[start : start + 10_000] = np.random.default_rng(start).normal(size=(10_000, 200))
    x.flush()
    np.save(tmp_path / "y.npy", np.zeros(rows, np.int64))

    def train(how):
        given = [sys.executable, "-c", _CHILD, str(tmp_path / "x.npy"), str(48 << 20), how]
        return subprocess.run(given, capture_output=True, text=True, timeout=120, check=False)

    streamed, whole = train("streamed"), train("whole")
    assert streamed.returncode == 0, streamed.stderr
    assert "MemoryError" in whole.stderr, "the limit does not hold"
