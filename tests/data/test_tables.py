from __future__ import annotations

import csv
import decimal
import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from gpubackprop.data import load
from gpubackprop.errors import DataError, MissingExtraError

PLAIN = "a,b,kind\n1,2.5,cat\n3,4e-1,dog\n-5,6,cat\n7,.5,dog\n"


def check_plain(data) -> None:
    assert (data.features, data.targets, data.classes) == (("a", "b"), ("kind",), ("cat", "dog"))
    np.testing.assert_array_equal(data.x, np.float32([[1, 2.5], [3, 0.4], [-5, 6], [7, 0.5]]))
    assert data.y.tolist() == [0, 1, 0, 1]
    assert data.x.dtype == np.float32


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " , "),
        PLAIN.replace("kind", '"kind"').replace("cat", '"cat"'),
        "\ufeff" + PLAIN.replace("a,", '"a",', 1),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_dialects(write, content: str, compress: bool) -> None:
    name, stored = ("t.csv.gz", gzip.compress(content.encode(), mtime=0)) if compress else ("t.csv", content)
    data = load(write(name, stored), target="kind")
    assert data.name == "t"
    check_plain(data)
    # the first bytes decide, not the name
    check_plain(load(write("t.csv", stored), target="kind"))


def test_iris_as_a_file(tmp_path: Path) -> None:
    iris = load_iris()
    with (tmp_path / "iris.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*iris.feature_names, "species"])
        writer.writerows([*row, iris.target_names[k]] for row, k in zip(iris.data, iris.target, strict=True))
    table = pa.table(
        {name: iris.data[:, i] for i, name in enumerate(iris.feature_names)}
        | {"species": iris.target_names[iris.target]}
    )
    pq.write_table(table, tmp_path / "iris.parquet")
    for name in ("iris.csv", "iris.parquet"):
        data = load(tmp_path / name, target="species")
        np.testing.assert_array_equal(data.x, iris.data.astype(np.float32))
        np.testing.assert_array_equal(data.y, iris.target)
        assert data.classes == tuple(iris.target_names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.floats(-1e30, 1e30), st.floats(-1, 1), st.floats(-1e300, 1e300)), min_size=1, max_size=20
    ),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=3, max_size=3),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_round_trip(tmp_path: Path, rows: list[tuple[float, ...]], names: list[str], newline: str) -> None:
    header = [f"{i} {name.strip()} ." for i, name in enumerate(names)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=newline, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(header)
    writer.writerows(rows)
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
    data = load(tmp_path / "t.csv", target=header[2], task="regression")
    assert data.features == tuple(header[:2])
    values = np.array(rows)
    np.testing.assert_array_equal(data.x, values[:, :2].astype(data.x.dtype))
    np.testing.assert_array_equal(data.y, values[:, 2:])


def test_rows_over_several_blocks(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.tables._BLOCK_ROWS", 3)
    lines = [f"{i},{i * 0.5},{i * 0.25}" for i in range(10)]
    data = load(write("t.csv", "\n".join(["a,b,y", *lines])), target="y")
    np.testing.assert_array_equal(data.x[:, 0], np.arange(10))
    np.testing.assert_array_equal(data.y[:, 0], np.arange(10) * 0.25)
    lines[7] = "7,seven,1"
    with pytest.raises(DataError, match="row 8, column b holds 'seven'"):
        load(write("t.csv", "\n".join(["a,b,y", *lines])), target="y")


def test_several_targets(write) -> None:
    path = write("t.csv", "a,y1,b,y2\n1,2.5,3,4\n5,6,7,8\n")
    data = load(path, target="y2, y1")
    assert (data.task, data.features, data.targets) == ("regression", ("a", "b"), ("y2", "y1"))
    np.testing.assert_array_equal(data.y, [[4, 2.5], [8, 6]])
    comma = load(write("c.csv", 'a,"y, z"\n1,2.5\n3,4\n'), target="y, z")
    assert comma.targets == ("y, z",)


def test_a_bare_arrays_column_numbers_are_a_header(write) -> None:
    data = load(write("t.csv", "0,1,2\n5.5,6.5,0\n7,8,1\n5,6,1\n5,4,0\n"), target="2")
    assert (data.features, data.classes) == (("0", "1"), ("0", "1"))


BAD = [
    ("", "empty"),
    ("\n\n", "first line is blank"),
    ("a,b,y\n", "header but no rows"),
    ("a,b,y\n1,x,2\n", "row 1, column b holds 'x'; expected a finite number"),
    ("a,b,y\n1,2,2\n1,,2\n", "row 2, column b is empty"),
    ("a,b,y\n1,nan,2\n", "row 1, column b holds 'nan'"),
    ("a,b,y\n1,-inf,2\n", "row 1, column b holds '-inf'"),
    ("a,b,y\n1,1e999,2\n", "row 1, column b holds '1e999'"),
    ("a,b,y\n1,1e300,2\n", "row 1, column b holds '1e300'"),
    ("a,b,y\n1,1_000,2\n", "row 1, column b holds '1_000'"),
    ("a,b,y\n1,2,3\n1,2\n", "row 2 has 2 cells, the header 3"),
    ("a,b,y\n1,2,3\n1,2,3,4\n", "row 2 has 4 cells"),
    ("a,b,y\n1,2,\n", "row 1, column y is empty: a target cannot be missing"),
    ("a,b,y\n1,2,NaN\n", "row 1, column y holds 'NaN'"),
    ("a,b,y\n1,2,3.5\n1,2,NA\n", "row 2, column y holds 'NA' among numbers"),
    ("a,b,y\n1,2,cat\n1,2,cat\n", "every row holds 'cat'"),
    ("a,b,target_y\n1,2,3\n", "has no column 'y'; the columns are a, b, target_y"),
    ("a,b,Y\n1,2,3\n", "has no column 'y'"),
    ("5.1,3.5,0\n4.9,3.0,0\n", "header is absent"),
    ("5.1,3.5,setosa\n4.9,3.0,setosa\n", "has the file no header"),
    ("a,a,y\n1,2,3\n", "several columns are called a"),
    (",a,y\n0,1,2\n", "column 1 has no name"),
    ("y\n1\n2\n", "single column 'y'"),
    ('a,b,y\n1,"2,3\n', "not a UTF-8 table"),
    (PLAIN.encode("utf-16"), "UTF-16"),
    ("a,b,y\n1,2,é\n".encode("latin-1"), "not a UTF-8 table"),
    (b"PK\x03\x04" + b"\0" * 40, "spreadsheet"),
    (b"PAR1" + b"\0" * 40, "is Parquet"),
    (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "cannot be read to its end"),
    (gzip.compress(PLAIN.encode(), mtime=0)[:-8] + b"\0" * 8, "cannot be read to its end"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_csv(write, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(write("bad.csv", content), target="y")
    assert "bad.csv" in str(caught.value)


def test_target_argument(write) -> None:
    path = write("t.csv", PLAIN)
    for target, message in (
        (None, "say which column to predict, target=NAME; the columns are a, b, kind"),
        ("kinds", "did you mean kind"),
        ("a,a", "twice"),
        ("a,b,kind", "every column is a target"),
        ("a,kind", "must all be numbers"),
    ):
        with pytest.raises(DataError, match=message):
            load(path, target=target)
    with pytest.raises(DataError, match="column kind: holds text"):
        load(path, target="kind", task="regression")
    mixed = load(write("m.csv", "a,y\n1,1\n2,NA\n3,1\n"), target="y", task="classification")
    assert mixed.classes == ("1", "NA")


def test_inflation_has_a_limit(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.files.regular.INFLATION_FLOOR", 1 << 16)
    monkeypatch.setattr("gpubackprop.data.tables.INFLATION_FLOOR", 1 << 16)
    bomb = gzip.compress(b"a,y\n" + b"0,0\n" * 200_000, mtime=0)
    with pytest.raises(DataError, match="would inflate"):
        load(write("t.csv.gz", bomb), target="y")


def test_gzip_truncated_at_every_byte(write) -> None:
    content = gzip.compress(PLAIN.encode(), mtime=0)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"t\.csv\.gz"):
            load(write("t.csv.gz", content[:length]), target="kind")


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_types(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        flag=pa.array([True, False, True, True]),
        count=pa.array([1, 2, 3, 4], pa.int16()),
        price=pa.array([decimal.Decimal("1.25")] * 4),
        half=pa.array(np.float16([1, 2, 3, 4])),
        coded=pa.array([1.5, 2.5, 1.5, 2.5]).dictionary_encode(),
        kind=pa.array(["b", "a", "b", "a"]).dictionary_encode(),
    )
    data = load(path, target="kind")
    assert data.features == ("flag", "count", "price", "half", "coded")
    assert data.classes == ("a", "b")
    np.testing.assert_array_equal(data.x[0], [1, 1, 1.25, 1, 1.5])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["u", "v"]), "column bad is of type string"),
        (pa.array([1.0, None]), "row 2, column bad is null"),
        (pa.array([1.0, np.nan]), "row 2, column bad holds nan"),
        (pa.array([np.inf, 1.0]), "row 1, column bad holds inf"),
        (pa.array([0, 1], pa.timestamp("s")), "timestamp"),
        (pa.array([[1], [2]]), "list"),
    ],
)
def test_bad_parquet_columns(tmp_path: Path, column: pa.Array, message: str) -> None:
    path = parquet(tmp_path / "t.parquet", a=pa.array([1, 2]), bad=column, y=pa.array([0.5, 1.5]))
    with pytest.raises(DataError, match=message):
        load(path, target="y")


def test_bad_parquet_files(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    good = parquet(tmp_path / "t.parquet", a=pa.array([1, 2]), y=pa.array([0.5, 1.5])).read_bytes()
    for length in range(len(good)):
        with pytest.raises(DataError, match=r"cut\.parquet"):
            load(write("cut.parquet", good[:length]), target="y")
    with pytest.raises(DataError, match="PAR1"):
        load(write("csv.parquet", PLAIN), target="kind")
    with pytest.raises(DataError, match="no rows"):
        load(parquet(tmp_path / "none.parquet", a=pa.array([], pa.int8()), y=pa.array([], pa.int8())), target="y")
    monkeypatch.setattr("gpubackprop.files.regular.INFLATION_FLOOR", 1 << 16)
    zeros = np.zeros(1 << 20, np.int8)
    with pytest.raises(DataError, match="would inflate"):
        load(parquet(tmp_path / "bomb.parquet", a=zeros, y=zeros), target="y")


def test_without_pyarrow(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "t.parquet", a=pa.array([1, 2]), y=pa.array([0.5, 1.5]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"gpubackprop\[data\]"):
        load(path, target="y")
    check_plain(load(write("t.csv", PLAIN), target="kind"))
