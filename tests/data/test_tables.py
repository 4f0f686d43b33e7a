"""The one reader: whatever a table is written in, the same columns come out, or an error that says what is wrong."""

from __future__ import annotations

import bz2
import codecs
import csv
import datetime
import decimal
import gzip
import io
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubackprop.data import Table, TextFormat, cells, read_table, text_tables
from gpubackprop.data.tables import is_table, table_from
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError, MissingExtraError

PLAIN = "a,b,kind\n1,2.5,cat\n3,4e-1,dog\n-5,6,cat\n7,.5,dog\n"
COLUMNS = {"a": [1, 3, -5, 7], "b": [2.5, 0.4, 6, 0.5], "kind": ["cat", "dog", "cat", "dog"]}


def zipped(content: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


# -- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN.replace("\n", "\n\n"),
        "\n\n" + PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace(",", " "),
        " " + PLAIN.replace(",", "   ").replace("\n", " \n  ").rstrip() + "\n",
        PLAIN.replace(",", " , "),
        PLAIN.replace("kind", '"kind"').replace("cat", '"cat"'),
        PLAIN.replace("kind", ' "kind"').replace("cat", ' "cat"'),
        "\ufeff" + PLAIN.replace("a,", '"a",', 1),
        "sep=;\n" + PLAIN.replace(",", ";"),
        "sep=,\r\n" + PLAIN.replace("\n", "\r\n"),
    ],
)
@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd, lambda c: zipped(c, "t.csv")]
)
def test_dialects(write, content: str, packed) -> None:
    table = read_table(write("t.csv", packed(content.encode())))
    assert table.columns.to_pydict() == COLUMNS
    assert table.notes == ()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "latin-1", "utf-8-sig"])
def test_encodings(write, encoding: str) -> None:
    text = PLAIN.replace("cat", "Käse")
    table = read_table(write("t.csv", text.encode(encoding)))
    assert table.columns.to_pydict() == {**COLUMNS, "kind": ["Käse", "dog"] * 2}
    assert table.notes == (() if encoding == "utf-8-sig" else (f"read as {encoding}",))


def test_an_encoding_that_is_told(write) -> None:
    path = write("t.csv", PLAIN.replace("cat", "кот").encode("cp1251"))
    assert read_table(path, format=TextFormat(encoding="cp1251")).column("kind")[0].as_py() == "кот"
    with pytest.raises(DataError, match="cannot be decoded"):
        read_table(path, format=TextFormat(encoding="utf-8"))
    with pytest.raises(ArgumentError, match="encoding 'utf-9'"):
        TextFormat(encoding="utf-9")


def test_bytes_that_turn_out_late_not_to_be_utf8(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubackprop.data.tables._START", 1000)
    lines = ["a,b", *(["1,x"] * 1000), "2,é"]
    table = read_table(write("t.csv", "\n".join(lines).encode("latin-1")))
    assert table.column("b")[-1].as_py() == "é"
    assert table.notes == ("read as latin-1",)


def test_quoted_newlines_and_separators_across_blocks(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "BLOCK", 64)
    monkeypatch.setattr(text_tables, "_BLOCK_ROWS", 0)
    cells = ['line\nbreak, and "quotes"', 'x;y\n\n"', "plain", "5 inch", "a\r\nb"] * 40
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["id", "note"], *enumerate(cells)])
    table = read_table(write("t.csv", text.getvalue()))
    assert table.columns.to_pydict() == {"id": list(range(200)), "note": cells}


def test_a_quote_inside_a_cell(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "BLOCK", 32)
    monkeypatch.setattr(text_tables, "_BLOCK_ROWS", 0)
    rows = [[f"{i}", '5" pipe' if i == 3 else "rod"] for i in range(50)]
    table = read_table(write("t.csv", "\n".join(",".join(row) for row in [["a", "b"], *rows])))
    assert [list(row.values()) for row in table.columns.to_pylist()] == [[int(a), b] for a, b in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.floats(-1e300, 1e300), st.integers(-(2**63), 2**63 - 1), st.text("ab \",;\n\r'é", max_size=5)),
        min_size=1,
        max_size=30,
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([16, 100, 1 << 20]),
)
def test_round_trip(tmp_path: Path, rows: list[tuple[float, int, str]], newline: str, block: int) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=newline, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("x", "i", "text"), *rows])
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tables, "BLOCK", block)
        patch.setattr(text_tables, "_BLOCK_ROWS", 0)
        columns = read_table(tmp_path / "t.csv", text=["text"]).columns.to_pydict()
    assert columns["x"] == [x for x, _, _ in rows]
    assert columns["i"] == [i for _, i, _ in rows]
    assert columns["text"] == [t.strip() or None for _, _, t in rows]


def test_types_are_those_of_all_rows_not_of_the_first(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "BLOCK", 64)
    monkeypatch.setattr(text_tables, "_BLOCK_ROWS", 0)
    lines = [f"{i},{i % 3},{'NA' if i < 50 else i},007,2020-01-01" for i in range(100)]
    lines[70] = "3.5,300,70,x,2020-01-01 10:00"
    table = read_table(write("t.csv", "\n".join(["float,int,gaps,mixed,time", *lines])))
    columns = table.columns.to_pydict()
    assert columns["float"][69:72] == [69, 3.5, 71]
    assert str(table.columns.schema.field("int").type) == "int16"
    assert columns["gaps"][48:52] == [None, None, 50, 51]
    assert columns["mixed"][:2] + columns["mixed"][70:71] == ["007", "007", "x"], (
        "text is what it was, not a number again"
    )
    assert columns["time"][70] == datetime.datetime(2020, 1, 1, 10)


def test_labels_are_text(write) -> None:
    table = read_table(write("t.csv", "a,y\n1,01\n2,1\n3,9007199254740993\n4,1E2\n"), text=["y"])
    assert table.columns["y"].to_pylist() == ["01", "1", "9007199254740993", "1E2"]


def test_a_decimal_comma_that_is_said_makes_thousands_of_points(write, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "a;b;c\n" + "".join(f"{k}.{k}00;{k}.5;{k},5\n" for k in range(1, 10)) * 100
    for block in (text_tables.BLOCK, 500):
        monkeypatch.setattr(text_tables, "BLOCK", block)
        table = read_table(write("t.csv", content), format=TextFormat(separator=";", decimal=","))
        numbers = [cells.numbers(table.column(name), ",")[:2].tolist() for name in ("a", "b", "c")]
        assert numbers == [[1100, 2200], [1.5, 2.5], [1.5, 2.5]]
    table = read_table(write("t.csv", content))
    assert table.column("a").to_pylist()[:2] == [1.1, 2.2]


def test_missing_values(write) -> None:
    words = ["", "NA", "N/A", "NaN", "null", "None", "?", "-", "#N/A"]
    path = write("t.csv", "n,t\n" + "".join(f"{word},{word}\n" for word in words) + "1,x\n")
    table = read_table(path)
    assert table.columns["n"].to_pylist() == table.columns["t"].to_pylist()[:-1].__add__([1])
    assert "'None' taken for a missing value in t (1 rows); missing says what is" in table.notes
    kept = read_table(path, format=TextFormat(missing=("",)))
    assert kept.columns["t"].to_pylist()[1:] == [*words[1:], "x"]
    assert kept.notes == ()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", ["#0", "#1", "#2"]),
        ("1,2,3\n4,5,6\n", ["#0", "#1", "#2"]),
        ("M,1\nF,2\nM,3\n", ["#0", "#1"]),
        ("x,y\nx,z\nq,z\n", ["#0", "#1"]),
        ("a,b\nc,d\ne,f\n", ["a", "b"]),
        ("name,b\nc,1\ne,2\n", ["name", "b"]),
        ("0,1,2\n5.5,6.5,0\n7,8,1\n", ["0", "1", "2"]),
        ("country,1999,2000,2001\nA,1,2,3\nB,4,5,6\n", ["country", "1999", "2000", "2001"]),
        ("?,2\n3,4\n", ["#0", "#1"]),
    ],
)
def test_whether_there_is_a_header(write, content: str, names: list[str]) -> None:
    path = write("t.csv", content)
    table = read_table(path)
    assert table.names == names
    assert len(table) == content.count("\n") - (names[0] != "#0")
    assert any("no header" in note for note in table.notes) == (names[0] == "#0")
    assert len(read_table(path, format=TextFormat(header=False))) == content.count("\n")
    assert len(read_table(path, format=TextFormat(header=True))) == content.count("\n") - 1


def test_a_name_that_is_asked_for_makes_a_header(write) -> None:
    path = write("t.csv", "7,y\n1,2\n3,4\n")
    assert read_table(path, text=["y"]).names == ["7", "y"]


def test_names_that_are_empty_or_repeated(write) -> None:
    table = read_table(write("t.csv", ",a,a,b,\n1,2,3,4,\n5,6,7,8,\n"))
    assert table.names == ["column 1", "a", "a.2", "b", "column 5"]
    assert table.notes == ("names that are empty or repeated: called column 1, a.2, column 5",)
    assert table.columns["column 5"].null_count == 2


def test_a_header_without_the_name_of_its_row_names(write) -> None:
    table = read_table(write("t.csv", 'mpg,cyl\n"Mazda",21,6\n"Fiat",32,4\n'))
    assert table.columns.to_pydict() == {"row": ["Mazda", "Fiat"], "mpg": [21, 32], "cyl": [6, 4]}


def test_comments(write) -> None:
    path = write("t.csv", "# made 2024, by hand\n# twice\n" + PLAIN.replace("-5", "# in between\n-5"))
    assert read_table(path, format=TextFormat(comment="#")).columns.to_pydict() == COLUMNS
    with pytest.raises(DataError, match=r"begins with '# made 2024'.*comment='#'"):
        read_table(path)


def test_wide_tables(write) -> None:
    width = 3000
    x = np.random.default_rng(0).integers(0, 9, (20, width))
    text = ",".join(f"g{i}" for i in range(width)) + "\n" + "\n".join(",".join(map(str, row)) for row in x)
    table = read_table(write("t.csv", text))
    np.testing.assert_array_equal(np.stack([c.to_numpy() for c in table.columns.columns], axis=1), x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n \n", "only blanks"),
        ("a,b,y\n", "header but no rows"),
        ("a,b,y\n1,2,3\n1,2\n", "row 2 has 2 cells, and 3 were expected"),
        ("a,b,y\n1,2,3\n1,2,3,4\n1,2,3\n", "row 2 has 4 cells"),
        ('a,b,y\n1,"2,3\n', "row 1 has 2 cells.*a quote is not closed"),
        ("<!DOCTYPE html><html></html>", "web page"),
        ('{"a": 1}', "JSON"),
        (b"PK\x03\x04" + b"\0" * 40, "cannot be read"),
        (b"PAR1" + b"\0" * 40, "cannot be read"),
        (b"ARROW1\0\0" + b"\0" * 40, "cannot be read"),
        (zipped(b"", "xl/workbook.xml", "[Content_Types].xml"), "Excel"),
        (zipped(PLAIN.encode(), "a.csv", "b.csv"), "holds a.csv, b.csv; unpack it"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 40, "another kind"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-8] + b"\0" * 8, "cannot be read to its end"),
    ],
)
def test_what_is_no_table(write, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(write("bad.csv", content))
    assert "bad.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_row_numbers_count_over_blocks(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "BLOCK", 20)
    monkeypatch.setattr(text_tables, "_BLOCK_ROWS", 0)
    lines = ["a,b"] + ["1,2"] * 100
    lines[78] = "1,2,3"
    with pytest.raises(DataError, match="row 78 has 3 cells"):
        read_table(write("t.csv", "\n".join(lines)))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd, lambda c: zipped(c, "t.csv")])
def test_truncated_at_every_byte(write, pack) -> None:
    content = pack(PLAIN.encode())
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"t\.csv"):
            read_table(write("t.csv", content[:length]))


def test_memory_has_a_limit(write, tmp_path: Path) -> None:
    bomb = gzip.compress(b"a,y\n" + b"0,0\n" * 2_000_000, mtime=0)
    with pytest.raises(DataError, match="takes more than 1,000,000 bytes"):
        read_table(write("t.csv.gz", bomb), max_bytes=1_000_000)
    assert len(read_table(write("t.csv.gz", bomb))) == 2_000_000
    larger = write("t.csv.gz", gzip.compress(b"a,y\n" + b"0,0\n" * 9_000_000, 1, mtime=0))
    with pytest.raises(DataError, match=r"takes more than 134,217,728 bytes of memory .* max_bytes=NUMBER"):
        read_table(larger)
    assert len(read_table(larger, max_bytes=1 << 30)) == 9_000_000
    with pytest.raises(DataError, match="takes more than 1,000,000 bytes"):
        read_table(write("blank.csv.gz", gzip.compress(b"a,y\n" + b"\n" * (1 << 22))), max_bytes=1_000_000)
    zeros = np.zeros(1 << 21, np.int8)
    pq.write_table(pa.table({"a": zeros}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="takes more than"):
        read_table(tmp_path / "b.parquet", max_bytes=1 << 20)
    one_hot = pa.table({f"c{i}": np.zeros(20_000, np.float32) for i in range(300)})
    pq.write_table(one_hot, tmp_path / "o.parquet", compression="zstd")
    assert read_table(tmp_path / "o.parquet").shape == (20_000, 300)
    many = write("m.csv", ",".join("abcdefgh" * 1000) + "\n" + ",".join("1" * 8000) + "\n")
    with pytest.raises(DataError, match="takes more than"):
        read_table(many, max_bytes=1 << 20)


def test_one_endless_row(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "LONGEST_ROW", 1 << 20)
    with pytest.raises(DataError, match="a row of more than"):
        read_table(write("t.csv", b"a,b\n1,2\n" * 30 + b'"' + b"x" * (6 << 20)))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (PLAIN.encode(), gzip.compress(PLAIN.encode())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert read_table("-").columns.to_pydict() == COLUMNS
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(DataError, match="standard input: is empty"):
        read_table("-")


# -- Parquet, Feather, data frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_arrow_files(tmp_path: Path, write, pack) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "t")
    assert read_table(write("t.parquet", pack((tmp_path / "t").read_bytes()))).columns.to_pydict() == COLUMNS
    pyarrow.feather.write_feather(pa.table(COLUMNS), tmp_path / "t")
    assert read_table(write("t.feather", pack((tmp_path / "t").read_bytes()))).columns.to_pydict() == COLUMNS


def test_text_inside_of_other_cells_stays_there(tmp_path: Path) -> None:
    columns = {"a": [1, 2], "tags": [["x"], ["y", "z"]], "place": [{"town": "x"}, {"town": "y"}]}
    pq.write_table(pa.table(columns), tmp_path / "t")
    assert read_table(tmp_path / "t").columns.to_pydict() == columns
    assert table_from(pa.table(columns)).columns.to_pydict() == columns


def test_parquet_truncated_at_every_byte(tmp_path: Path, write) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "t")
    content = (tmp_path / "t").read_bytes()
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"cut\.parquet"):
            read_table(write("cut.parquet", content[:length]))
    pq.write_table(pa.table(COLUMNS).slice(0, 0), tmp_path / "t")
    with pytest.raises(DataError, match="columns but no rows"):
        read_table(tmp_path / "t")


def test_one_long_text_repeated_in_parquet_is_not_written_out(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"a": long}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", max_bytes=100_000_000).shape == (100_000, 1)


def test_the_index_of_a_pandas_frame_is_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame(COLUMNS).sample(4, random_state=0)
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.names == ["a", "b", "kind"]
    assert table.notes == ("__index_level_0__: the index of a data frame, and no column",)
    assert table_from(frame).names == ["a", "b", "kind"]
    frame.index.name = "who"
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").names == ["a", "b", "kind"]


class Capsule:
    """Nothing but the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.table(COLUMNS).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, dict, lambda _: Capsule()])
def test_data_frames(make) -> None:
    table = table_from(make(COLUMNS))
    assert table.columns.to_pydict() == COLUMNS


def test_text_of_data_frames_is_cleaned_as_that_of_files() -> None:
    texts = [" x ", "NA", None, "y"]
    for frame in (
        pd.DataFrame({"t": texts}),
        pd.DataFrame({"t": pd.Categorical(texts)}),
        pl.DataFrame({"t": texts}),
        pl.DataFrame({"t": pl.Series(texts, dtype=pl.Categorical)}),
    ):
        table = table_from(frame)
        assert table.column("t").cast("string").to_pylist() == ["x", None, None, "y"]
        assert table.notes == ("'NA' taken for a missing value in t (1 rows); missing says what is",)


def test_types_of_data_frames() -> None:
    frame = pd.DataFrame({3: [1, 2], "d": [decimal.Decimal("1.5")] * 2, "t": pd.to_datetime(["2020-01-01"] * 2)})
    assert table_from(frame).names == ["3", "d", "t"]
    for frame in ([1, 2], np.zeros((2, 2)), "text"):
        with pytest.raises(ArgumentTypeError, match="expected a data frame"):
            table_from(frame)
    with pytest.raises(DataError, match="Sparse pandas data"):
        table_from(pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1.0])}))
    with pytest.raises(DataError, match="cannot be read"):
        table_from(pd.DataFrame({"o": [object(), 1]}))
    with pytest.raises(DataError, match="columns but no rows"):
        table_from(pd.DataFrame({"a": []}))


# -- the table -----------------------------------------------------------------------------------------------------


def test_rows_are_chosen_without_copies() -> None:
    table = Table(pa.table(COLUMNS))
    few = table[np.array([3, 1])]
    assert (len(few), few.shape, few.column("a").to_pylist()) == (2, (2, 3), [7, 3])
    assert few[1:].column("kind").to_pylist() == ["dog"]
    assert table[np.array([True, False, False, False])].column("a").to_pylist() == [1]
    assert few.without(["a"]).names == ["b", "kind"]
    assert few.columns is table.columns


def test_columns_are_found_by_name_or_place() -> None:
    table = Table(pa.table({"a": [1], "age ": [2], "#5": [3]}))
    assert [table.find(n, "t") for n in ("a", "#0", "#-1", "#5", "age ")] == ["a", "a", "#5", "#5", "age "]
    for name in ("agee", "#7", "#x"):
        with pytest.raises(DataError, match="t: has no column"):
            table.find(name, "t")
    with pytest.raises(DataError, match="did you mean age"):
        table.find("agee", "t")


def test_is_table() -> None:
    assert all(
        is_table(n) for n in ("-", "a.csv", "A.CSV.gz", "b.tsv.zst", "c.data", "d.parquet", "e.feather", "x.csv.zip")
    )
    assert not any(is_table(n) for n in ("digits", "x.npy", "x.npz", "csv"))
    assert is_table("x.zip")
    assert is_table("X.GZ")


def test_without_pyarrow(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"gpubackprop\[data\]"):
        read_table(write("t.csv", PLAIN))


def test_bad_formats() -> None:
    for bad in ({"separator": ";;"}, {"decimal": "x"}, {"encoding": "none-such"}):
        with pytest.raises(ArgumentError, match=next(iter(bad))):
            TextFormat(**bad)
    assert codecs.lookup(TextFormat(encoding="latin-1").encoding or "").name == "iso8859-1"
