from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from gpubackprop.data import cells


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
        (pa.array([1.5, 2.5]).dictionary_encode(), [1.5, 2.5]),
        (pa.nulls(2), [np.nan, np.nan]),
        (pa.array([[1]]), [np.nan]),
    ):
        np.testing.assert_array_equal(cells.numbers(column), expected)


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
        (["2 baths", "3 baths"], None),
        (["750-67-8428"], None),
        (["abc"], None),
        ([], None),
    ],
)
def test_dates_as_people_write_them(texts: list[str], found: tuple[str, bool] | None) -> None:
    assert cells.time_format(pa.array([*texts, None], pa.string())) == found


def test_times_that_are_none_are_missing() -> None:
    assert cells.times(pa.array(["2019-13-01", "2019-12-01"]), "%Y-%m-%d").null_count == 1
    assert cells.times(pa.array([1, 2])).null_count == 2
    assert cells.times(pa.array(["10:29:00", "x"]), cells.OF_DAY).to_pylist() == [datetime.time(10, 29), None]
    assert cells.times(pa.array([datetime.date(2020, 1, 1)]), cells.OF_DAY).null_count == 1
