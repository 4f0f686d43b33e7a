"""Text tables: how a file is written, found from its first rows, and its rows, read in blocks by Arrow's CSV parser."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any, NoReturn, Protocol

import numpy as np

from gpubackprop.data.arrow import csv as arrow_csv
from gpubackprop.data.arrow import pa, pc
from gpubackprop.data.cells import as_number, find_writing
from gpubackprop.errors import ArgumentError, DataError

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None", "?", "-")
"""The cells that stand for a value that is not there, unless `TextFormat.missing` lists others."""

BLOCK = 4 << 20
LONGEST_ROW = 64 << 20
"""Bytes of text: what is parsed at once, and what the first rows, or one row alone, may take."""

_BLOCK_ROWS = 500
_SAMPLE_CELLS = 200_000
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
_BOMS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True)
class TextFormat:
    """How a text table is written; None: as its first rows look.

    separator: one character; " " stands for runs of blanks. encoding: a Python codec. header: whether the first row names
    the columns. comment: how lines begin that are no rows. missing: the cells that are no values. decimal: "." or ",",
    for numbers that can be read both ways.
    """

    separator: str | None = None
    encoding: str | None = None
    header: bool | None = None
    comment: str | None = None
    missing: Sequence[str] = MISSING
    decimal: str | None = None

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise ArgumentError(f"separator must be one character; got {self.separator!r}")
        if self.decimal not in (None, ".", ","):
            raise ArgumentError(f'decimal must be "." or ","; got {self.decimal!r}')
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ArgumentError(f"encoding {self.encoding!r} is not known; for instance utf-8, latin-1") from None


@dataclass(frozen=True)
class Layout:
    """What was found: encoding, separator, names of the columns, lines before the first row, what each block needs.

    where: the file, for messages. format: what was asked, and the decimal mark if only one can be. text: the columns to keep as
    text. spaced: quoted cells follow a blank. newline: what ends a row. block: bytes to read at once.
    """

    where: str
    format: TextFormat
    encoding: str
    separator: str
    names: list[str]
    text: set[str]
    skip: int
    spaced: bool
    newline: bytes
    notes: list[str]
    block: int

    def tidy(self, block: bytes) -> bytes:
        """Rows as Arrow's parser takes them: without comments, blanks before quotes, and runs of blanks."""
        if self.format.comment:
            block = re.sub(rb"(?m)^" + re.escape(self.format.comment.encode()) + rb"[^\r\n]*\r?\n?", b"", block)
        if self.separator == " ":
            block = re.sub(rb"(?m)^ +| +$", b"", re.sub(rb"[ \t]+", b" ", block))
        elif self.spaced:
            mark = re.escape(self.separator.encode())
            block = re.sub(mark + rb' +"(?!")', self.separator.encode() + b'"', block)
        return block


class NotUtf8Error(Exception):
    """Bytes that were taken for UTF-8 are not."""


# -- what the first rows say ---------------------------------------------------------------------------------------


def find_layout(
    where: str, start: bytes, whole: bool, keep: Sequence[str], asked: TextFormat, wanted: Sequence[str] = ()
) -> Layout:
    """The layout of the file that begins with `start` (`whole`: and ends with it).

    keep: columns to keep as text, also several with commas between. wanted: others that the caller will ask for; where the first
    row holds one of them all, it is a header. Raises DataError for what is no table, or one without columns or rows.
    """
    if not start.strip():
        raise DataError(f"{where}: holds only blanks")
    if start[:4] in (b"\xd0\xcf\x11\xe0", b"\x89HDF", b"FEA1", b"SQLi"):
        raise DataError(f"{where}: is a file of another kind; save the table as CSV or Parquet")
    keep = [part for name in keep for part in (name, *name.split(","))]
    encoding, notes = asked.encoding or _encoding(start), []
    if encoding not in ("utf-8", "ascii"):
        notes.append(f"read as {encoding}")
    text = codecs.getincrementaldecoder(encoding)("strict" if whole else "ignore").decode(start, whole)
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:14].lower().startswith(("<!doctype html", "<html", "{", "[")):
        raise DataError(f"{where}: is {'a web page' if text.lstrip()[0] == '<' else 'JSON'}, not a table")
    skip, separator = 0, asked.separator
    if declared := re.match(r'"?sep=(.)"?\r?\n', text):
        skip, separator, text = 1, separator or declared[1], text[declared.end() :]
    if asked.comment:
        text = re.sub(rf"(?m)^{re.escape(asked.comment)}[^\r\n]*\r?\n?", "", text)
    if not whole:
        text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
    separator = separator or _separator(text)
    spaced = bool(re.search(re.escape(separator) + ' +"', text)) and separator != " "
    (lines, first), *rows = _sample(text, separator) or [(0, [])]
    if not first:
        raise DataError(f"{where}: holds no rows")
    cells = [row for _, row in rows]
    width = Counter(map(len, cells)).most_common(1)[0][0] if cells else len(first)
    if asked.header or (asked.header is None and _is_header(first, cells, [*wanted, *keep])):
        if not cells:
            raise DataError(f"{where}: has a header but no rows")
        if len(first) != width and first[0][:1] in ("#", "%", "/", ";", "!"):
            raise DataError(f"{where}: begins with {first[0][:40]!r}: for lines that are comments, say comment='#'")
        if len(first) == width - 1:
            first = ["row", *first]
            notes.append("its header has one name less than its rows have cells: the first column is called row")
        names, skip = unique_names([name.strip() for name in first], notes), skip + lines
    else:
        names = [f"#{i}" for i in range(len(first))]
        notes.append(f"has no header: its columns are called #0 to #{len(first) - 1}")
    newline = b"\n" if "\n" in text or not text.count("\r") else b"\r"
    block = min(max(BLOCK, _BLOCK_ROWS * len(text) // (text.count(newline.decode()) or 1)), LONGEST_ROW)
    # Between commas a decimal comma would need quotes around every number: 1,234 is a thousand.
    format = replace(asked, decimal=".") if asked.decimal is None and separator == "," else asked
    known = {found for name in keep if (found := find_name(name, names)) is not None}
    return Layout(where, format, encoding, separator, names, known, skip, spaced, newline, notes, block)


def unique_names(names: Sequence[str], notes: list[str]) -> list[str]:
    """The names with those that are empty or not the first of their kind replaced, and a note where that happened."""
    given, result = set(names), []
    used: set[str] = set()
    for i, name in enumerate(names):
        new, number = name or f"column {i + 1}", 1
        while new in used or (new in given and new != name):
            number += 1
            new = f"{name or f'column {i + 1}'}.{number}"
        used.add(new)
        result.append(new)
    changed = [new for old, new in zip(names, result, strict=True) if old != new]
    if changed:
        notes.append(f"names that are empty or repeated: called {listed(changed)}")
    return result


def find_name(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that is meant: the same but for blanks around it, or by place: "#0" the first, "#-1" the last."""
    if name in names:
        return name
    with contextlib.suppress(ValueError, IndexError):
        if name.startswith("#"):
            return names[int(name[1:])]
    return next((known for known in names if known == name.strip()), None)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas between, the first few of many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def _encoding(start: bytes) -> str:
    for mark, name in _BOMS.items():
        if start.startswith(mark):
            return name
    even, odd = start[0:2000:2].count(0), start[1:2000:2].count(0)
    if even + odd > len(start[:2000]) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _sample(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The first rows of a text that are not blank, each with the number of lines that end with it."""
    if separator == " ":
        rows = [(i, line.split()) for i, line in enumerate(text.splitlines()[:100], 1)]
        return [(i, row) for i, row in rows if row]
    found, cells = [], 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            if any(row) or len(row) > 1:
                found.append((reader.line_num, row))
            cells += len(row)
            if cells > _SAMPLE_CELLS or len(found) > 100:
                break
    except csv.Error:
        pass  # an overlong or unclosed cell: the rows before it must do
    return found


def _separator(text: str) -> str:
    """The character that divides the most rows into the same number of cells, two or more."""

    def score(mark: str) -> tuple[float, int]:
        widths = Counter(len(row) for _, row in _sample(text, mark))
        width, rows = widths.most_common(1)[0] if widths else (1, 0)
        return (rows / widths.total(), width) if width > 1 else (0.0, 0)

    marks = [",", "\t", ";", "|"]
    best = max(marks, key=score)
    return best if score(best)[1] or score(" ")[0] != 1 else " "


def _is_header(first: list[str], rows: list[list[str]], wanted: Sequence[str]) -> bool:
    """Whether the first row names the columns: it holds a name that is asked for, or text where numbers follow."""
    stripped = [name.strip() for name in first]
    if any(name.strip() in stripped for name in wanted):
        return True
    numbers = [value for name in stripped if (value := as_number(name)) is not None]
    if len(numbers) > 1 and all(b - a == 1 for a, b in pairwise(numbers)):
        return numbers[0] == 0 or numbers[0] > 1000  # the numbers of a bare array's columns, or years
    votes = []
    for i, name in enumerate(stripped[:1000]):
        below = [row[i].strip() for row in rows if i < len(row) and row[i].strip() not in MISSING]
        if below and all(as_number(cell) is not None for cell in below):
            votes.append(as_number(name) is None and name not in MISSING)
        elif as_number(name) is not None or name in below:
            votes.append(False)
    return 2 * sum(votes) > len(votes) or not votes


# -- its rows --------------------------------------------------------------------------------------------------------


class Readable(Protocol):
    """A file of bytes, or what stands for one."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes more; none at the end."""


Opener = Callable[[], AbstractContextManager[Readable]]
"""Opens a file from its beginning, decompressed."""
Words = dict[str, Counter[str]]
"""Of each column of text, the words for missing values that it holds, with their numbers of rows."""


def read_rows(
    layout: Layout, open_file: Opener, check: Callable[[int], None], only: list[str] | None = None
) -> tuple[pa.Table, Words]:
    """The rows as a pyarrow.Table, each column of the narrowest type that holds all its cells, those in `layout.text` as text.

    check: is called with the memory that the rows take so far. only: the columns to read; None: all. Raises DataError for rows
    of unequal length and text that cannot be decoded, NotUtf8Error for bytes that are not UTF-8.
    """
    tables, words, size = [], Words(), 0
    for table, found in parse(layout, open_file, only, min(8, os.cpu_count() or 1)):
        tables.append(table)
        size += bytes_of(table)
        check(size)
        for name, counts in found.items():
            words.setdefault(name, Counter()).update(counts)
    if not tables:
        raise DataError(f"{layout.where}: has a header but no rows")
    names = tables[0].column_names
    kinds = [common_type({*found} - {pa.null()}) for found in zip(*(t.schema.types for t in tables), strict=True)]
    # Numbers in one block and text in another: the numbers are read again as the text that they were.
    mixed = [name for name, kind in zip(names, kinds, strict=True) if kind is None]
    again = replace(layout, text={*mixed})
    texts, more = read_rows(again, open_file, check, mixed) if mixed else (pa.table({}), {})
    columns = []
    for name, kind, parts in zip(names, kinds, zip(*(t.columns for t in tables), strict=True), strict=True):
        if kind is None:
            columns.append(texts.column(name))
        else:
            columns.append(pa.chunked_array([c.cast(kind, safe=False) for part in parts for c in part.chunks], kind))
    return pa.table(columns, names=names), words | more


def common_type(found: set[pa.DataType]) -> pa.DataType | None:
    """The type that holds the values of all these types without loss to a network; None where only text would."""
    if len(found) < 2:
        return next(iter(found), pa.null())
    if all(pa.types.is_integer(kind) for kind in found):
        return max(found, key=lambda kind: kind.bit_width)
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in found):
        return pa.float64()
    if all((pa.types.is_timestamp(kind) and kind.tz is None) or pa.types.is_date(kind) for kind in found):
        return max((kind for kind in found if pa.types.is_timestamp(kind)), key=lambda kind: kind.unit == "ns")
    return None


def parse(
    layout: Layout, open_file: Opener, only: list[str] | None = None, ahead: int = 0
) -> Iterator[tuple[pa.Table, Words]]:
    """The rows as pyarrow tables, a block of text each, and the words for missing values in them. Each column has in each part
    the narrowest type that holds its cells there. ahead: blocks that are parsed before they are asked for, each in a thread.
    Raises what `read_rows` raises."""
    one, rows = partial(_parse, layout=layout, only=only), 0
    with open_file() as file:
        blocks = _blocks(layout, file)
        for table, found in _mapped(one, blocks, ahead) if ahead else map(one, blocks):
            if isinstance(table, str):
                _refuse_row(layout, table, rows, found)
            rows += table.num_rows
            yield table, found


def _mapped(one: Callable[[bytes], Any], blocks: Iterator[bytes], ahead: int) -> Iterator[Any]:
    with ThreadPoolExecutor(ahead) as pool:
        coming = (pool.submit(one, block) for block in blocks)
        pending = deque(islice(coming, ahead + 1))
        while pending:
            done = pending.popleft().result()
            pending.extend(islice(coming, 1))
            yield done


def _blocks(layout: Layout, file: Readable) -> Iterator[bytes]:
    """Successive parts of the text after the header, each of whole rows, in UTF-8 without a byte-order mark."""
    utf8 = layout.encoding in ("utf-8", "ascii")
    pieces = iter(lambda: file.read(layout.block), b"")
    if not utf8:
        pieces = (text.encode() for text in codecs.iterdecode(pieces, layout.encoding))
    first = next(pieces, b"").removeprefix(codecs.BOM_UTF8)
    rest, lines = b"", layout.skip
    for more in chain([first], pieces, [b""]):
        block = rest + more
        # A row ends at a newline with an even number of quotes before it. Where there is none, more is read.
        cut = block.rfind(layout.newline) + 1 if more else len(block)
        tries = 4
        while more and cut and block.count(b'"', 0, cut) % 2:
            tries -= 1
            cut = block.rfind(layout.newline, 0, block.rfind(b'"', 0, cut)) + 1 if tries else 0
        if not cut and len(block) > LONGEST_ROW:
            raise DataError(
                f"{layout.where}: a row of more than {LONGEST_ROW:,} bytes, or a quote that is never closed"
            )
        rows, rest = block[:cut], block[cut:]
        if utf8 and not rows.isascii():
            try:
                rows.decode()
            except UnicodeDecodeError as error:
                raise NotUtf8Error from error
        rows = layout.tidy(rows)
        while lines and rows:
            lines, rows = lines - 1, rows[rows.find(layout.newline) + 1 or len(rows) :]
        if rows.strip():
            yield rows


def _parse(block: bytes, layout: Layout, only: list[str] | None) -> tuple[Any, Any]:
    """The rows of a block as a pyarrow.Table, and the words for missing values in it; or what is wrong, and the row."""
    bad: list[Any] = []
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=layout.names),
            parse_options=arrow_csv.ParseOptions(
                delimiter=layout.separator,
                newlines_in_values=b'"' in block,
                invalid_row_handler=lambda row: (bad.append(row), "error")[1],  # type: ignore[func-returns-value]
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(layout.text, pa.string()),
                include_columns=only,
                null_values=list(layout.format.missing),
                strings_can_be_null=False,
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
            ),
        )
    except pa.ArrowInvalid as error:
        return str(error), bad[0] if bad else None
    columns, words = [], {}
    points = [field.name for field in table.schema if layout.format.decimal == "," and field.type == pa.float64()]
    texts = _parse(block, replace(layout, text={*points}), points)[0] if points else pa.table({})
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):
            column, words[name] = without_missing(column, layout.format.missing)
        elif pa.types.is_int64(column.type):
            column = _narrowed(column)
        elif name in points and _with_comma(texts.column(name)):
            # Arrow takes 1.234, a thousand here, for a number with a point.
            column = texts.column(name)
        columns.append(column)
    return pa.table(columns, names=table.column_names), words


def _with_comma(column: pa.ChunkedArray) -> bool:
    """Whether the numbers in text can be written with a decimal comma, and show points."""
    writing = find_writing(column, ",")
    return writing is not None and writing.decimal == "," and bool(pc.any(pc.match_substring(column, ".")).as_py())


def bytes_of(rows: pa.Table | pa.RecordBatch) -> int:
    """The memory of rows in a pyarrow.Table or a batch; 8 bytes a cell at least, which what is made of them will take."""
    size: int = max(rows.nbytes, 8 * rows.num_rows * rows.num_columns)
    return size


def without_missing(column: pa.ChunkedArray, missing: Sequence[str]) -> tuple[pa.ChunkedArray, Counter[str]]:
    """A text column without blanks around its cells and null where a word for a missing value stands, and these words'
    counts, of all but the empty one. Text in levels stays that."""
    words = Counter[str]()
    if pa.types.is_dictionary(column.type):
        chunks = []
        for chunk in column.chunks:
            levels = without_missing(chunk.dictionary.cast(pa.string()), missing)[0].dictionary_encode()
            chunks.append(pa.DictionaryArray.from_arrays(levels.indices.take(chunk.indices), levels.dictionary))
        cleaned = pa.chunked_array(chunks).unify_dictionaries()
        gone = column.filter(pc.and_(cleaned.is_null(), column.is_valid()))
    else:
        column = pc.utf8_trim_whitespace(column)
        is_missing = pc.is_in(column, value_set=pa.array(missing, column.type))
        if not pc.any(is_missing).as_py():
            return column, words
        cleaned = pc.if_else(is_missing, pa.scalar(None, column.type), column)
        gone = column.filter(is_missing)
    for found in pc.value_counts(gone).to_pylist():
        if word := (found["values"] or "").strip():
            words[word] += found["counts"]
    return cleaned, words


def _narrowed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers as the narrowest signed type that holds them; ~most takes as many bits as most, and is negative."""
    least, most = pc.min_max(column).as_py().values()
    return column.cast(pa.from_numpy_dtype(np.min_scalar_type(min(least, ~most))))


def _refuse_row(layout: Layout, message: str, before: int, row: arrow_csv.InvalidRow | None) -> NoReturn:
    if row is None:
        raise DataError(f"{layout.where}: after row {before}: {message.splitlines()[0]}")
    hint = "; a quote is not closed" if row.text.count('"') % 2 else ""
    raise DataError(
        f"{layout.where}: row {before + row.number} has {row.actual_columns} cells, and {row.expected_columns} were "
        f"expected with {layout.separator!r} between them{hint}; mend or remove the row: {row.text[:60]!r}"
    )
