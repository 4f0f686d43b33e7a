from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from gpubackprop.data import cells
from gpubackprop.errors import DataError


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["$117,800", "$1,000", "€ 5"], [117800, 1000, 5]),
        (["1,5", "160,0"], [1.5, 160]),
        (["1.234,5", "7"], [1234.5, 7]),
        (["1,234.5", "7"], [1234.5, 7]),
        (["41%", "3.5 %"], [41, 3.5]),
        (["-$3", "$-4", "+5", ".5", "5.", "−6"], [-3, -4, 5, 0.5, 5, -6]),
        (["1 234", "999", "1\u00a0234\u00a0567"], [1234, 999, 1234567]),
        (["1'234", "5"], [1234, 5]),
        (["1e5", "2E-3"], [1e5, 2e-3]),
        (["0,500", "1,200"], [0.5, 1.2]),
        (["1"] * 9 + ["?!"], [1] * 9 + [np.nan]),
    ],
)
def test_numbers_as_people_write_them(texts: list[str], numbers: list[float]) -> None:
    column = pa.array([*texts, None])
    writing = cells.find_writing(column, None)
    assert writing is not None
    np.testing.assert_array_equal(cells.numbers(column, writing.decimal), [*numbers, np.nan])
    assert writing.wrong == np.isnan(numbers).sum()


@pytest.mark.parametrize(
    "texts", [["a", "1"], ["100 km", "3 km"], ["1,23,456"], ["1.2.3"], ["750-67-8428"], ["", ""], []]
)
def test_what_is_no_number(texts: list[str]) -> None:
    assert cells.find_writing(pa.array(texts, pa.string()), None) is None


@pytest.mark.parametrize(
    ("texts", "unsure"), [(["1,234", "56"], True), (["$1,234"], False), (["1,23"], False), (["12"], False)]
)
def test_doubt_about_the_decimal_mark(texts: list[str], unsure: bool) -> None:
    column = pa.array(texts)
    writing = cells.find_writing(column, None)
    assert writing is not None
    assert writing.unsure == unsure
    assert cells.find_writing(column, ".").unsure is False  # type: ignore[union-attr]


def test_one_odd_cell_does_not_choose_the_decimal_mark() -> None:
    thousands = [f"{i},{i}" for i in range(100, 160)]
    for texts, decimal, expected in (
        ([*thousands, "12,50"], ".", (".", False, 1)),
        ([*thousands, "12,50"], None, (",", True, 0)),
        (["$5", *thousands, "12,50"], None, (".", False, 1)),
        ([*thousands, "1,234,567"], None, (".", False, 0)),
        ([*thousands, "1,234,567"], ",", (",", False, 1)),
        ([text.replace(",", ".") for text in [*thousands, "12,50"]], None, (".", False, 0)),
        # Many whole numbers say nothing of the mark.
        (["7"] * 60 + ["1,5", "2,25"], ".", (",", False, 0)),
        (["7 €", "8 €"], ",", (",", False, 0)),
    ):
        found = cells.find_writing(pa.array(texts), decimal)
        assert found is not None
        assert (found.decimal, found.unsure, found.wrong) == expected, texts[-1]
    assert cells.find_writing(pa.array(["1,5", "?", "k.A."]), None, 0.0) == cells.Writing(",", False, 2, "?")


def test_numbers_as_said() -> None:
    column = pa.array(["1,500", "2"])
    assert cells.numbers_as_said(column, ",", "x").tolist() == [1.5, 2]
    assert cells.numbers_as_said(column, ".", "x").tolist() == [1500, 2]
    with pytest.raises(DataError, match="x: '1,500' can be read with a decimal point or a decimal comma"):
        cells.numbers_as_said(column, None, "x")
    assert cells.numbers_as_said(pa.array([1, 2]), None, "x").tolist() == [1, 2]


def test_numbers_of_every_type() -> None:
    for column, expected in (
        (pa.array([1, None], pa.uint64()), [1, np.nan]),
        (pa.array([np.inf, 1.5]), [np.nan, 1.5]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([datetime.date(1970, 1, 2)]), [86400]),
        (pa.array([datetime.datetime(1970, 1, 1, 1)], pa.timestamp("ns")), [3600]),
        (pa.array([datetime.datetime(1970, 1, 1, 1)], pa.timestamp("us", "UTC")), [3600]),
        (pa.array([datetime.time(1, 0, 1)]), [3601]),
        (pa.array([datetime.timedelta(days=1)]), [86400]),
        (pa.array([250, -1750, None], pa.duration("ms")), [0.25, -1.75, np.nan]),
        (pa.array([250], pa.duration("s")), [250]),
        (pa.array([1.5, 2.5]).dictionary_encode(), [1.5, 2.5]),
        (pa.nulls(2), [np.nan, np.nan]),
        (pa.array([[1]]), [np.nan]),
    ):
        np.testing.assert_array_equal(cells.numbers(column), expected)


@pytest.mark.parametrize("values", [[0.5, np.nan, 2.0**53, 0.5], [1.0, np.nan, 2.0**53, 1.0]])
def test_no_number_is_missing_but_nan(values: list[float]) -> None:
    codes, found = cells.levels(pa.array(values))
    assert codes.tolist() == [0, -1, 1, 0]
    assert [float(level) for level in found] == [values[0], 2.0**53]


def test_text_inside_of_other_cells_is_no_text() -> None:
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        assert cells.is_text(kind)
    for kind in (pa.list_(pa.string()), pa.struct([("string", pa.int8())]), pa.map_(pa.string(), pa.int8())):
        assert not cells.is_text(kind)
        with pytest.raises(DataError, match="are no levels"):
            cells.levels(pa.nulls(1, kind))


def test_levels() -> None:
    for column, codes, names in (
        (pa.array(["b", None, "a", "b"]), [0, -1, 1, 0], ["b", "a"]),
        (pa.array(["b", "a"]).dictionary_encode(), [0, 1], ["b", "a"]),
        (pa.array([1.0, 2.0, None]), [0, 1, -1], ["1", "2"]),
        (pa.array([1.5, 2.0]), [0, 1], ["1.5", "2"]),
        (pa.array([7, 7]), [0, 0], ["7"]),
        (pa.array([True, None, False]), [0, -1, 1], ["True", "False"]),
        (pa.array([3, 4, 3]).dictionary_encode(), [0, 1, 0], ["3", "4"]),
    ):
        found = cells.levels(column)
        assert (found[0].tolist(), found[1]) == (codes, names)


def test_yes_or_no() -> None:
    np.testing.assert_array_equal(cells.yes_or_no(pa.array(["Yes", "no", None, "maybe"])), [1, 0, np.nan, np.nan])
    assert cells.is_yes_or_no(pa.array(["Yes", "NO", "y", None, "f", "TRUE"]))
    assert not cells.is_yes_or_no(pa.array(["yes", "maybe"]))
    assert not cells.is_yes_or_no(pa.nulls(2, pa.string()))
    np.testing.assert_array_equal(cells.yes_or_no(pa.array([True, False])), [1, 0])


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["1/5/2019", "3/27/2019"], ("%m/%d/%Y", False)),
        (["27/3/2019", "1/5/2019"], ("%d/%m/%Y", False)),
        (["1/5/2019", "2/6/2019"], ("%m/%d/%Y", True)),
        (["2019-01-02 10:00", "2020-01-01 1:11"], ("%Y-%m-%d %H:%M", False)),
        (["Jan 5, 2019"], ("%b %d, %Y", False)),
        (["5 Jan 2019"], ("%d %b %Y", False)),
        (["31.12.2020"], ("%d.%m.%Y", False)),
        (["12/31/99", "01/01/00"], ("%m/%d/%y", False)),
        (["31.12.99", "01.01.00"], ("%d.%m.%y", False)),
        (["31-Dec-99"], ("%d-%b-%y", False)),
        (["30-01-20", "01-02-20"], ("%d-%m-%y", True)),
        (["99-12-31"], ("%y-%m-%d", False)),
        (["2 baths", "3 baths"], None),
        (["750-67-8428"], None),
        (["abc"], None),
        ([], None),
    ],
)
def test_dates_as_people_write_them(texts: list[str], found: tuple[str, bool] | None) -> None:
    assert cells.time_format(pa.array([*texts, None], pa.string())) == found


def test_years_of_two_digits() -> None:
    column = pa.array(["01/02/21", "01/02/2021"])
    assert [t and t.year for t in cells.times(column, "%m/%d/%Y").to_pylist()] == [None, 2021]
    assert [t and t.year for t in cells.times(column, "%m/%d/%y").to_pylist()] == [2021, None]
    assert [t and t.year for t in cells.times(column, "%m/%d/%Y", short=True).to_pylist()] == [21, 2021]


def test_text_is_read_as_the_parser_of_files_reads_it(tmp_path: Path) -> None:
    """Points in time and times of day in text, with a cell that is none, are what they are in a file."""
    days = ["2024-01-31", "2024-01-31 10:30", "2024-01-31T10:30:05", "2024-01-31 10:30:05.25", "2024-01-31 10"]
    zones = ["2024-01-31 10:30:05+01:00", "2024-01-31T10:30:05Z", "2024-01-31 10:30-05:00"]
    for texts, format in ((days, ""), (zones, ""), (["10:30", "10:30:05"], cells.OF_DAY)):
        (tmp_path / "t.csv").write_text("\n".join(["a", *texts]) + "\n")
        parsed = csv.read_csv(tmp_path / "t.csv").column("a")
        assert cells.is_time(parsed.type)
        read = cells.times(pa.array([*texts, "n.d.", None]), format).to_pylist()
        assert read == [*cells.times(parsed, format).to_pylist(), None, None]


def test_times_that_are_none_are_missing() -> None:
    assert cells.times(pa.array(["2019-13-01", "2019-12-01"]), "%Y-%m-%d").null_count == 1
    assert cells.times(pa.array([1, 2])).null_count == 2
    assert cells.times(pa.array(["10:29:00", "x"]), cells.OF_DAY).to_pylist() == [datetime.time(10, 29), None]
    assert cells.times(pa.array([datetime.date(2020, 1, 1)]), cells.OF_DAY).null_count == 1
