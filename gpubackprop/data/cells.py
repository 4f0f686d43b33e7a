"""The meaning of the cells of a column: numbers, also as people write them, yes or no, points in time, levels of text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.arrow import pa, pc
from gpubackprop.errors import DataError

Floats = NDArray[np.float64]

# $ before or after, per cent after, and between thousands a comma, a point, an apostrophe or a blank.
_BEFORE, _AFTER = r"^[-+−]?\s?[$€£¥₹]?\s?[-+−]?", r"\s?[%‰$€£¥₹]?$"
_NUMBER = {
    mark: _BEFORE
    + rf"([1-9]\d{{0,2}}([{other}'’\x{{00A0}}\x{{202F}} ]\d{{3}})+(\{mark}\d*)?|\d+(\{mark}\d*)?|\{mark}\d+)"
    r"([eE][-+]?\d+)?" + _AFTER
    for mark, other in ((".", ","), (",", "."))
}
_TIMES = (
    *("%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y", "%y-%m-%d", "%y/%m/%d"),
    *("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
_HOURS = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MEANING = {
    word: float(i) for i, words in enumerate(("no n false f off 0", "yes y true t on 1")) for word in words.split()
}
WHOLE = r"^(-?[0-9]+)\.0*$"
"""A whole number that is written with a point."""
OF_DAY = "%H:%M:%S"
_READ = {
    "": [f"%Y-%m-%d{hour}" for hour in ("", " %H:%M:%S", " %H:%M", " %H", " %H:%M:%S%z", " %H:%M%z")],
    OF_DAY: [OF_DAY, "%H:%M"],
}
"""What Arrow's CSV parser takes for points in time and for times of day, without T and fractions of seconds."""
_IN_A_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
MOSTLY = 0.9
"""The share of a text column's cells that must be numbers for the column to be one of numbers."""


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text, in levels or not."""
    # By name: older versions of Arrow have no string_view. A list or struct of text is none.
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view")


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds numbers (or lengths of time), in levels or not."""
    t = pa.types
    kind = kind.value_type if t.is_dictionary(kind) else kind
    return any(check(kind) for check in (t.is_integer, t.is_floating, t.is_decimal, t.is_duration))


def is_time(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds dates, points in time or times of day."""
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind))


# -- numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writing:
    """How the numbers of a text column are written: their decimal mark; unsure: whether the other one would do as well;
    wrong: cells that are no numbers, wrong_cell: the first of them."""

    decimal: str
    unsure: bool = False
    wrong: int = 0
    wrong_cell: str = ""


def find_writing(column: pa.ChunkedArray, decimal: str | None = None, least: float = MOSTLY) -> Writing | None:
    """How the numbers of a text column (pyarrow.Array) are written; None where fewer than 9 in 10 cells (`least`) are numbers.

    decimal: the mark to take where both would do for nearly all cells that show one, as in 1,234.
    """
    column = column.cast("string").drop_null()
    fits = {mark: pc.match_substring_regex(column, pattern) for mark, pattern in _NUMBER.items()}
    count = {mark: pc.sum(fit).as_py() or 0 for mark, fit in fits.items()}
    if not len(column) or max(count.values()) < least * len(column):
        return None
    mark, other = (",", ".") if count[","] > count["."] else (".", ",")
    shows = pc.match_substring_regex(column, "[.,]")
    shown = {each: pc.sum(pc.and_(fit, shows)).as_py() or 0 for each, fit in fits.items()}
    # One odd cell, such as 12,50 among thousands, may be a slip.
    unsure = shown[other] >= MOSTLY * shown[mark]
    if unsure:
        in_dollars = pc.any(pc.match_substring_regex(column, "[$£]")).as_py()
        plain = mark == "." and not pc.any(pc.match_substring(column, ",")).as_py()
        # 1,234,567 and 1,234.5 can be read in one way.
        certain = pc.any(pc.and_(fits[mark], pc.match_substring_regex(column, "[.,].*[.,]"))).as_py()
        mark = decimal or ("." if in_dollars else mark)
        unsure = not (decimal or in_dollars or plain or certain)
    wrong = column.filter(pc.invert(fits[mark]))
    return Writing(mark, unsure, len(wrong), wrong[0].as_py() if len(wrong) else "")


def numbers(column: pa.ChunkedArray, decimal: str = ".") -> Floats:
    """The numbers (n,) in a column of any type, NaN where there is none and where it is infinite; text by its decimal mark.

    Dates and times are seconds since 1970, times of day seconds since midnight, booleans 0 and 1.
    """
    kind = column.type
    if is_text(kind):
        column = column.cast(pa.string())
        fit = pc.match_substring_regex(column, _NUMBER[decimal])
        column = pc.if_else(fit, pc.replace_substring(column, "−", "-"), pa.scalar(None, pa.string()))
        column = pc.replace_substring_regex(column, rf"[^-+0-9eE\{decimal}]", "")
        column = pc.replace_substring(column, ",", ".").cast(pa.float64())
    elif is_time(kind):
        column = times(column, OF_DAY if pa.types.is_time(kind) else "")
        column = column.cast(pa.int64() if column.type.bit_width == 64 else pa.int32())
    elif pa.types.is_duration(kind):
        seconds = column.cast(pa.int64()).cast(pa.float64(), safe=False)
        column = pc.divide(seconds, _IN_A_SECOND[kind.unit])
    elif not (is_number(kind) or pa.types.is_boolean(kind)):
        column = pa.nulls(len(column), pa.float64())
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def numbers_as_said(column: pa.ChunkedArray, decimal: str | None, where: str) -> Floats:
    """`numbers` by the mark that was said, for all parts of a table alike; DataError where none was and text can be read in two
    ways."""
    if decimal is None and is_text(column.type) and (writing := find_writing(column)) and writing.unsure:
        raise both_ways(column, where)
    return numbers(column, decimal or ".")


def both_ways(column: pa.ChunkedArray, where: str) -> DataError:
    """The error for a text column whose decimal mark must be said."""
    shown = column.drop_null()[0].as_py()
    return DataError(
        f"{where}: {shown!r} can be read with a decimal point or a decimal comma; say decimal=. or decimal=,"
    )


def as_number(text: str) -> float | None:
    """The number that a text is, as float() takes it, but without underscores and not infinite; None for other text."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# -- the rest ---------------------------------------------------------------------------------------------------------


def levels(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Codes (n,) of a column's cells, -1 for missing ones and NaN, and the texts that they stand for, in the order of their
    coming.

    Whole numbers are written without a point, whatever their type, so that 1 in one file is 1.0 in another. Raises DataError
    for lists, structs and maps.
    """
    column = without_levels(column)
    if pa.types.is_nested(column.type):
        raise DataError(
            f"cells of type {column.type} are no levels; make text of them, or a column for each of their parts"
        )
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        if (np.abs(values[finite]) < 2.0**63).all() and (np.rint(values[finite]) == values[finite]).all():
            column = pa.array(np.where(finite, values, 0).astype(np.int64), mask=~finite)
        else:
            column = pa.array(values, from_pandas=True)
    if pa.types.is_boolean(column.type):
        column = pc.if_else(column, "True", "False")
    if not is_text(column.type):
        column = column.cast(pa.string())
    coded = column.dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, coded.dictionary.to_pylist()


def identity(level: str) -> str:
    """The text that 1, 1. and 1.0 have in common."""
    return re.sub(WHOLE, r"\1", level) if "." in level else level


def without_levels(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same cells, each with its own value where they were codes of levels."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def distinct(column: pa.ChunkedArray) -> int:
    """How many different values a column has, missing ones aside."""
    return int(pc.count_distinct(without_levels(column)).as_py())


def yes_or_no(column: pa.ChunkedArray) -> Floats:
    """1 and 0 (n,) where cells mean yes and no, NaN for all others."""
    codes, found = levels(column)
    values: Floats = np.array([*(_MEANING.get(level.lower(), np.nan) for level in found), np.nan])[codes]
    return values


def is_yes_or_no(column: pa.ChunkedArray) -> bool:
    """Whether all cells of a column that are not missing mean yes or no, in six spellings at most."""
    found = levels(column)[1] if distinct(column) <= 6 else []
    return bool(found) and all(level.lower() in _MEANING for level in found)


def time_format(column: pa.ChunkedArray) -> tuple[str, bool] | None:
    """The strptime format in which every cell of a text column is a date, and whether its day, month and year could stand in
    another order; None where there is none."""
    column = column.cast("string").drop_null()
    few = column.slice(0, 100)
    if not len(few) or not pc.all(pc.match_substring_regex(few, r"\d")).as_py():
        return None
    formats = [f for day in _TIMES for hour in _HOURS if not times(few, f := day + hour).null_count]
    formats = [f for f in formats if not times(column, f).null_count]
    first = {f[:2] for f in formats} & {"%d", "%m", "%y"}
    return (formats[0], len(first) > 1) if formats else None


def times(column: pa.ChunkedArray, format: str = "", short: bool = False) -> pa.ChunkedArray:
    """Times, to the second, as pyarrow timestamps, or as times of day where the format is OF_DAY; from text in a strptime
    format, "" for ISO 8601; null for all else. short: take 99 for the year 99 where the format has years of four digits."""
    kind = pa.time32("s") if format == OF_DAY else pa.timestamp("s")
    if is_text(column.type):
        text, result = column.cast(pa.string()), pa.nulls(len(column), kind)
        if format in _READ:
            text = pc.replace_substring_regex(text, r"(:\d\d)\.\d+", r"\1")
            text = pc.replace_substring_regex(text, r"^(\d{4}-\d\d-\d\d)T", r"\1 ")
        if "%Y" in (format or "%Y") and not short:
            # C's %Y takes two digits too.
            text = pc.if_else(pc.match_substring_regex(text, r"\d{4}"), text, pa.scalar(None, pa.string()))
        for each in _READ.get(format, [format]):
            result = pc.coalesce(result, pc.strptime(text, format=each, unit="s", error_is_null=True).cast(kind))
            if result.null_count == column.null_count:
                break
        return result
    if is_time(column.type) and pa.types.is_time(column.type) == (format == OF_DAY):
        return column.cast(kind, safe=False)
    return pa.nulls(len(column), kind)
