"""Tables, from a file or another library's data frame, as Arrow columns: one reader to train, evaluate and predict from.

Text (.csv, .tsv, .txt, .data), Parquet and Feather, alone or compressed with gzip, bzip2, xz, zstd or as a zip archive's one
file. What a file is, its first bytes say, not its name. Needs pyarrow (extra "data").
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import cells
from gpubackprop.data.arrow import pa, parquet
from gpubackprop.data.text_tables import (
    LONGEST_ROW,
    NotUtf8Error,
    Readable,
    TextFormat,
    bytes_of,
    find_layout,
    find_name,
    listed,
    read_rows,
    unique_names,
    without_missing,
)
from gpubackprop.errors import ArgumentTypeError, DataError
from gpubackprop.files.regular import INFLATION_RATIO, memory, regular_file

SUFFIXES = (".csv", ".tsv", ".tab", ".data", ".txt", ".parquet", ".feather", ".arrow")
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst", ".zip")
_START = 1 << 20
_PART = 16 << 20
"""Bytes of a Parquet file's rows that are read together where it is read in parts."""
_FLOOR = 128 << 20
"""Bytes that a table may take however small its file is."""
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, IndexError, struct.error, OSError, RuntimeError)
"""What Python's readers raise for files that are damaged."""
_COLUMN_BYTES = 4096
"""What a column takes beside its values, roughly."""


class Table:
    """Named columns of one length, of which rows are chosen without copying them.

    columns: a pyarrow.Table with unique names. rows: (n,) int64, which of its rows; None: all. notes: what the reader found
    and decided, a sentence each. format: how the text of the source was taken.
    """

    def __init__(
        self,
        columns: pa.Table,
        rows: NDArray[np.int64] | None = None,
        notes: Sequence[str] = (),
        format: TextFormat | None = None,
    ) -> None:
        self.columns, self.rows, self.notes, self.format = columns, rows, tuple(notes), format or TextFormat()
        # Arrow makes the list of names anew each time, which takes long where thousands of columns are looked up.
        self._known = dict.fromkeys(columns.column_names)

    def __len__(self) -> int:
        return self.columns.num_rows if self.rows is None else len(self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._known)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.columns.num_columns

    def __getitem__(self, rows: slice | np.ndarray) -> Table:
        chosen = np.arange(self.columns.num_rows) if self.rows is None else self.rows
        return Table(self.columns, chosen[rows], self.notes, self.format)

    def column(self, name: str) -> pa.Array:
        """The values of a column, a pyarrow.Array of n."""
        column = self.columns.column(name)
        if self.rows is not None:
            column = column.take(pa.array(self.rows))
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def without(self, names: Iterable[str]) -> Table:
        """The same rows without these columns."""
        dropped = set(names)
        kept = [name for name in self.names if name not in dropped]
        return Table(self.columns.select(kept), self.rows, self.notes, self.format)

    def split(self, names: Iterable[str]) -> Iterator[str]:
        """Names one by one, those that no column has taken apart at their commas."""
        for name in names:
            yield from (name,) if name.strip() in self._known else (part.strip() for part in name.split(","))

    def find(self, name: str, where: str) -> str:
        """The column that `name` means (see `find_name`); DataError where there is none."""
        found = name if name in self._known else find_name(name, self.names)
        if found is None:
            near = get_close_matches(name, self.names, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the columns are {listed(self.names)}"
            raise DataError(f"{where}: has no column {name!r}; {hint}")
        return found


def read_table(
    source: str | os.PathLike[str],
    *,
    text: Sequence[str] = (),
    format: TextFormat | None = None,
    max_bytes: int | None = None,
) -> Table:
    """The table in a file, or in what comes from standard input ("-").

    text: columns of a text table to keep as text: labels, which are no numbers, and known categories. format: how the text
    is written, where that is known. max_bytes: the memory that the table may take, rows x columns x 8 at least; by default 100
    times as much as its file, or 128 MB, and no more than the machine has.

    Raises DataError for a file that is missing, damaged, larger than that, or no table, MissingExtraError without pyarrow.
    """
    format = format or TextFormat()
    with opened(source, max_bytes) as file:
        if file.is_arrow:
            with file.open() as content:
                return from_arrow(file.where, *arrow_parts(content), format, file.check)
        while True:
            layout = find_layout(file.where, file.start, file.whole, text, format)
            file.check(_COLUMN_BYTES * len(layout.names))
            try:
                columns, words = read_rows(layout, file.open, file.check)
            except NotUtf8Error:
                format = replace(format, encoding="latin-1")
                continue
            return Table(columns, None, [*layout.notes, *_told(words)], layout.format)


def table_from(frame: Any, format: TextFormat | None = None) -> Table:
    """The table of a data frame: pandas, polars, pyarrow, a dictionary of columns, or anything with the Arrow PyCapsule
    interface. A pandas index is no column.

    Raises ArgumentTypeError for anything else, DataError for values that Arrow has no type for.
    """
    if isinstance(frame, Table):
        return frame
    try:
        if _is_pandas(frame):
            table = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
        elif is_frame(frame):
            table = pa.table(frame)
        else:
            raise ArgumentTypeError(
                f"frame is a {type(frame).__name__}; expected a data frame of pandas, polars or pyarrow, a dictionary of "
                "columns, or anything with __arrow_c_stream__"
            )
    except ArgumentTypeError:
        raise
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"the data frame cannot be read: {str(error).splitlines()[0]}") from error
    return from_arrow("the data frame", table.schema, table.to_batches(), format or TextFormat(), lambda size: None)


def title_of(source: str) -> str:
    """What a table is called by the name of its file."""
    return "stdin" if source == "-" else os.path.basename(source).split(".")[0]


def is_frame(rows: object) -> bool:
    """Whether `table_from` takes it. Frames of pandas before 2.2 have no Arrow interface."""
    return isinstance(rows, (Table, dict)) or hasattr(rows, "__arrow_c_stream__") or _is_pandas(rows)


def _is_pandas(rows: object) -> bool:
    return type(rows).__module__.split(".")[0] == "pandas" and hasattr(rows, "columns")


def is_table(source: str) -> bool:
    """Whether a source is named like a table: by its suffix, also of something compressed alone, or "-" for standard input."""
    return source == "-" or source.lower().endswith((*SUFFIXES, *filter(None, COMPRESSED)))


# -- files --------------------------------------------------------------------------------------------------------

_PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
}
"""How compressed files begin, and what decompresses them."""


class TableFile:
    """A file that can be read several times. where: its name, for messages. limit: the memory that a table made of it may take.
    start: its first megabyte, or more where rows are long, decompressed; whole: whether that is all."""

    def __init__(self, where: str, stored: IO[bytes], limit: float) -> None:
        self.where, self._stored, self.limit = where, stored, limit
        self.start, self.whole = b"", True
        with self.open() as file:
            while self.whole and (more := file.read(_START)):
                self.start += more
                rows = self.start.count(b"\n") + self.start.count(b"\r")
                self.whole = (len(self.start) < _START or rows <= 20) and len(self.start) <= LONGEST_ROW
        self.is_arrow = self.start.startswith((b"PAR1", b"ARROW1"))

    def check(self, size: int) -> None:
        """Raise DataError if a table that takes so many bytes by now takes too much."""
        if size > self.limit:
            raise DataError(
                f"{self.where}: takes more than {self.limit:,} bytes of memory as a table, and was not read further; "
                "if it is what you want to read, say max_bytes=NUMBER; gb.open_stream trains on a file part by part"
            )

    @contextlib.contextmanager
    def open(self) -> Iterator[Readable]:
        """The content from its beginning, decompressed, which `check` is told of."""
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(os.dup(self._stored.fileno()), "rb"))
            file.seek(0)
            magic = file.read(6)
            file.seek(0)
            unpack = next((unpack for begin, unpack in _PACKED.items() if magic.startswith(begin)), None)
            if magic.startswith(b"PK\3\4"):
                archive = stack.enter_context(zipfile.ZipFile(file))
                unpacked: Any = archive.open(self._member(archive))
            elif unpack:
                unpacked = unpack(file)
            else:
                yield file
                return
            yield _Counted(stack.enter_context(unpacked), self.check)

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        inside = [entry for entry in archive.infolist() if not entry.is_dir()]
        if any(entry.filename.startswith("xl/") for entry in inside):
            raise DataError(f"{self.where}: is an Excel workbook; save the sheet as CSV or Parquet")
        if len(inside) != 1:
            raise DataError(
                f"{self.where}: holds {listed([e.filename for e in inside])}; unpack it and name one of them"
            )
        return inside[0]


class _Counted:
    """A file that inflates while it is read, which `check` is told of."""

    def __init__(self, file: Readable, check: Callable[[int], None]) -> None:
        self._file, self._check, self._read = file, check, 0

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._read += len(block)
        self._check(self._read)
        return block


@contextlib.contextmanager
def opened(source: str | os.PathLike[str], max_bytes: float | None) -> Iterator[TableFile]:
    """A file, or standard input ("-"). What goes wrong while it is read becomes DataError."""
    piped = os.fspath(source) == "-"
    where = "standard input" if piped else os.fspath(source)
    try:
        # What is piped goes by once; a table may have to be read twice.
        with tempfile.TemporaryFile() if piped else regular_file(source)[0].open("rb") as stored:
            if piped:
                shutil.copyfileobj(sys.stdin.buffer, stored)
            if not (size := stored.seek(0, os.SEEK_END)):
                raise DataError(f"{where}: is empty")
            yield TableFile(where, stored, max_bytes or min(memory(), max(_FLOOR, INFLATION_RATIO * size)))
    except DataError:
        raise
    except UnicodeError as error:
        raise DataError(f"{where}: cannot be decoded ({error}); say encoding=NAME") from error
    except (pa.ArrowException, *DAMAGED) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where}: cannot be read to its end ({reason}); copy or download it again") from error


# -- the kinds of files -----------------------------------------------------------------------------------------------


def arrow_parts(content: Any, row_groups: Sequence[int] | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of a Parquet or Feather file, and its record batches, or those of some groups."""
    if not isinstance(content, io.BufferedReader):
        packed, content = content, io.BytesIO()
        while block := packed.read(_START):
            content.write(block)
        content.seek(0)
    is_parquet = content.read(4) == b"PAR1"
    content.seek(0)
    if not is_parquet:
        reader = pa.ipc.open_file(content)
        return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    # Text as codes and a dictionary: a page of one long text, repeated, must not be written out.
    reader = parquet.ParquetFile(content)
    if coded := [field.name for field in reader.schema_arrow if cells.is_text(field.type)]:
        content.seek(0)
        reader = parquet.ParquetFile(content, metadata=reader.metadata, read_dictionary=coded)
    rows = 1 << 16 if row_groups is None else max(256, _PART // (8 * max(1, len(reader.schema_arrow))))
    return reader.schema_arrow, reader.iter_batches(batch_size=rows, row_groups=row_groups)


def from_arrow(
    where: str, schema: pa.Schema, parts: Iterable[pa.RecordBatch], format: TextFormat, check: Callable[[int], None]
) -> Table:
    """One table of parts that have one schema, in which text is cleaned as that of a text table is."""
    check(_COLUMN_BYTES * len(schema))
    batches, size = [], 0
    for batch in parts:
        try:
            # Arrow trusts a file's offsets and its text, and would read beyond them.
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise DataError(f"{where}: is damaged: {str(error).splitlines()[0]}") from error
        batches.append(batch)
        size += bytes_of(batch)
        check(size)
    table, notes = pa.Table.from_batches(batches, schema), []
    index = [n for n in (schema.pandas_metadata or {}).get("index_columns", []) if n in table.column_names]
    if index:
        notes.append(f"{listed(index)}: the index of a data frame, and no column")
        table = table.drop_columns(index)
    if not table.num_rows or not table.num_columns:
        raise DataError(f"{where}: has {'columns but no rows' if table.num_columns else 'no columns'}")
    names = unique_names([name.strip() for name in table.column_names], notes)
    columns, words = [], {}
    for name, column in zip(names, table.columns, strict=True):
        if cells.is_text(column.type):
            column = column if pa.types.is_dictionary(column.type) else column.cast(pa.large_string())
            column, words[name] = without_missing(column, format.missing)
        columns.append(column)
    return Table(pa.table(columns, names=names), None, [*notes, *_told(words)], format)


def _told(words: dict[str, Counter[str]]) -> list[str]:
    """What must be said of words for missing values in columns of text, where they may have meant something else."""
    by_word: dict[str, list[str]] = {}
    for name, counts in words.items():
        for word, count in counts.items():
            by_word.setdefault(word, []).append(f"{name} ({count:,} rows)")
    return [
        f"{word!r} taken for a missing value in {listed(names)}; missing says what is"
        for word, names in by_word.items()
    ]
