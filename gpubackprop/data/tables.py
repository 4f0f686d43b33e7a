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
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import cells
from gpubackprop.data.text_tables import (
    LONGEST_ROW,
    NotUtf8Error,
    TextFormat,
    find_layout,
    listed,
    read_rows,
    unique_names,
    without_missing,
)
from gpubackprop.errors import ArgumentTypeError, DataError, MissingExtraError
from gpubackprop.files.regular import regular_file

SUFFIXES = (".csv", ".tsv", ".tab", ".data", ".txt", ".parquet", ".feather", ".arrow")
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst", ".zip")
_START = 1 << 20
_COLUMN_BYTES = 4096
"""What a column takes beside its values, roughly."""

Opener = Callable[[], contextlib.AbstractContextManager[Any]]
Check = Callable[[int], None]
"""Called with the bytes that a table takes so far; raises DataError where that is too much."""


class Table:
    """Named columns of one length, of which rows are chosen without copying them.

    columns: a pyarrow.Table with unique names. rows: (n,) int64, which of its rows; None: all. notes: what the reader found
    and decided, a sentence each. format: how the text of the source was taken.
    """

    def __init__(
        self,
        columns: Any,
        rows: NDArray[np.int64] | None = None,
        notes: Sequence[str] = (),
        format: TextFormat | None = None,
    ) -> None:
        self.columns, self.rows, self.notes, self.format = columns, rows, tuple(notes), format or TextFormat()

    def __len__(self) -> int:
        return self.columns.num_rows if self.rows is None else len(self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        names: list[str] = self.columns.column_names
        return names

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.columns.num_columns

    def __getitem__(self, rows: Any) -> Table:
        chosen = np.arange(self.columns.num_rows) if self.rows is None else self.rows
        return Table(self.columns, chosen[rows], self.notes, self.format)

    def column(self, name: str) -> Any:
        """The values of a column, a pyarrow.Array of n."""
        import pyarrow as pa

        column = self.columns.column(name)
        if self.rows is not None:
            column = column.take(pa.array(self.rows))
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def without(self, names: Iterable[str]) -> Table:
        """The same rows without these columns."""
        dropped = set(names)
        kept = [name for name in self.names if name not in dropped]
        return Table(self.columns.select(kept), self.rows, self.notes, self.format)

    def find(self, name: str, where: str) -> str:
        """The column that `name` means (see `find_name`); DataError where there is none."""
        found = find_name(name, self.names)
        if found is None:
            near = get_close_matches(name, self.names, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the columns are {listed(self.names)}"
            raise DataError(f"{where}: has no column {name!r}; {hint}")
        return found


def find_name(name: str, names: Sequence[str]) -> str | None:
    """The one of `names` that is meant: the same but for blanks around it, or by place: "#0" the first, "#-1" the last."""
    if name in names:
        return name
    with contextlib.suppress(ValueError, IndexError):
        if name.startswith("#"):
            return names[int(name[1:])]
    return next((known for known in names if known == name.strip()), None)


def read_table(
    source: str | os.PathLike[str],
    *,
    text: Sequence[str] = (),
    format: TextFormat | None = None,
    max_bytes: int | None = None,
) -> Table:
    """The table in a file, or in what comes from standard input ("-").

    text: columns of a text table to keep as text: labels, which are no numbers, and known categories. format: how the text
    is written, where that is known. max_bytes: the memory that the table may take, by default what the machine has.

    Raises DataError for a file that is missing, damaged, larger than that, or no table, MissingExtraError without pyarrow.
    """
    pa = _pyarrow()
    format, where = format or TextFormat(), "standard input" if os.fspath(source) == "-" else os.fspath(source)
    limit = max_bytes or _memory()

    def check(size: int) -> None:
        if size > limit:
            raise DataError(
                f"{where}: takes more than {limit:,} bytes of memory as a table, and was not read further; "
                "if it is what you want to read, say max_bytes=NUMBER"
            )

    try:
        with contextlib.ExitStack() as stack:
            open_file = _opener(source, stack)
            with open_file() as file:
                start = _first_bytes(file)
            if start[:4] == b"PAR1":
                return _from_arrow(where, _parquet(open_file), format, check)
            if start[:6] == b"ARROW1":
                return _from_arrow(where, _feather(open_file), format, check)
            return _from_text(where, start, open_file, text, format, check)
    except DataError:
        raise
    except (
        pa.ArrowException,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{where}: cannot be read to its end ({reason}); copy or download it again") from error
    except UnicodeError as error:
        raise DataError(f"{where}: cannot be decoded ({error}); say encoding=NAME") from error


def table_from(frame: Any, format: TextFormat | None = None) -> Table:
    """The table of a data frame: pandas, polars, pyarrow, a dictionary of columns, or anything with the Arrow PyCapsule
    interface. A pandas index is no column.

    Raises ArgumentTypeError for anything else, DataError for values that Arrow has no type for.
    """
    pa = _pyarrow()
    if isinstance(frame, Table):
        return frame
    try:
        if isinstance(frame, dict):
            table = pa.table(frame)
        elif type(frame).__module__.split(".")[0] == "pandas" and hasattr(frame, "columns"):
            table = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
        elif hasattr(frame, "__arrow_c_stream__"):
            table = pa.RecordBatchReader.from_stream(frame).read_all()
        else:
            raise ArgumentTypeError(
                f"frame is a {type(frame).__name__}; expected a data frame of pandas, polars or pyarrow, a dictionary of "
                "columns, or anything with __arrow_c_stream__"
            )
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"the data frame cannot be read: {str(error).splitlines()[0]}") from error
    parts = iter([table.slice(0, 0), *table.to_batches()])
    return _from_arrow("the data frame", parts, format or TextFormat(), lambda size: None)


def is_table(source: str) -> bool:
    """Whether a source is named like a table: by its suffix, or "-" for standard input."""
    lower = source.lower()
    return source == "-" or any(lower.endswith(kind + packed) for kind in SUFFIXES for packed in COMPRESSED)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("reading tables", "data") from None
    return pyarrow


def _memory() -> int:
    """Bytes of memory that the machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 16 << 30


# -- opening --------------------------------------------------------------------------------------------------------


def _opener(source: str | os.PathLike[str], stack: contextlib.ExitStack) -> Opener:
    """A function that opens the content of a source from its beginning, decompressed."""
    if os.fspath(source) != "-":
        path, _ = regular_file(source)
        return lambda: _decompressed(str(path), path.open("rb"))
    # Standard input goes by once; a table may have to be read twice.
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(sys.stdin.buffer, copy)
    if not copy.tell():
        raise DataError("standard input: is empty")

    def again() -> contextlib.AbstractContextManager[Any]:
        copy.seek(0)
        return _decompressed("standard input", open(os.dup(copy.fileno()), "rb"))

    return again


@contextlib.contextmanager
def _decompressed(where: str, file: BinaryIO) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        magic = file.read(6)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            yield stack.enter_context(gzip.GzipFile(fileobj=file))
        elif magic[:3] == b"BZh":
            yield stack.enter_context(bz2.BZ2File(file))
        elif magic == b"\xfd7zXZ\0":
            yield stack.enter_context(lzma.LZMAFile(file))
        elif magic[:4] == b"\x28\xb5\x2f\xfd":
            yield stack.enter_context(_pyarrow().CompressedInputStream(file, "zstd"))
        elif magic[:4] == b"PK\3\4":
            archive = stack.enter_context(zipfile.ZipFile(file))
            inside = [entry for entry in archive.infolist() if not entry.is_dir()]
            if any(entry.filename.startswith("xl/") for entry in inside):
                raise DataError(f"{where}: is an Excel workbook; save the sheet as CSV or Parquet")
            if len(inside) != 1:
                raise DataError(
                    f"{where}: holds {listed([e.filename for e in inside])}; unpack it and name one of them"
                )
            yield stack.enter_context(archive.open(inside[0]))
        else:
            yield file


def _first_bytes(file: Any) -> bytes:
    """What decides how a file is read: its first megabyte, or more where rows are long."""
    start = b""
    while more := file.read(_START):
        start += more
        if start.count(b"\n") + start.count(b"\r") > 20 or len(start) > LONGEST_ROW:
            break
    return start


# -- the kinds of files -----------------------------------------------------------------------------------------------


def _from_text(
    where: str, start: bytes, open_file: Opener, text: Sequence[str], format: TextFormat, check: Check
) -> Table:
    if not start.strip():
        raise DataError(f"{where}: holds only blanks")
    if start[:4] in (b"\xd0\xcf\x11\xe0", b"\x89HDF", b"FEA1", b"SQLi"):
        raise DataError(f"{where}: is a file of another kind; save the table as CSV or Parquet")
    while True:
        layout = find_layout(where, start, len(start) < _START, text, format)
        check(_COLUMN_BYTES * len(layout.names))
        as_text = {found for name in text if (found := find_name(name, layout.names)) is not None}
        try:
            columns, words = read_rows(where, open_file, layout, as_text, format.missing, check)
        except NotUtf8Error:
            format = replace(format, encoding="latin-1")
            continue
        if format.decimal is None and layout.separator == ",":
            # A decimal comma would need quotes around every number: 1,234 is a thousand.
            format = replace(format, decimal=".")
        return Table(columns, None, [*layout.notes, *_told(words)], format)


def _parquet(open_file: Opener) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet

    with open_file() as file:
        content = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())
        schema = pa.parquet.read_schema(content)
        # Text as codes and a dictionary: a page of one long text, repeated, must not be written out.
        coded = [
            field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        content.seek(0)
        with pa.parquet.ParquetFile(content, read_dictionary=coded) as parquet:
            yield pa.table([pa.array([], field.type) for field in parquet.schema_arrow], schema=parquet.schema_arrow)
            yield from parquet.iter_batches(batch_size=1 << 16)


def _feather(open_file: Opener) -> Iterator[Any]:
    import pyarrow as pa

    with open_file() as file:
        content = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())
        with pa.ipc.open_file(content) as reader:
            yield pa.table([pa.array([], field.type) for field in reader.schema], schema=reader.schema)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _from_arrow(where: str, parts: Iterator[Any], format: TextFormat, check: Check) -> Table:
    """One table of parts that have one schema, in which text is cleaned as that of a text table is."""
    import pyarrow as pa

    head = next(parts)
    check(_COLUMN_BYTES * head.num_columns)
    batches, size = [], 0
    for batch in parts:
        batches.append(batch)
        size += batch.nbytes
        check(size)
    table = pa.Table.from_batches(batches, head.schema).unify_dictionaries()
    notes: list[str] = []
    index = [
        name for name in (head.schema.pandas_metadata or {}).get("index_columns", []) if name in table.column_names
    ]
    if index:
        notes.append(f"{listed(index)}: the index of a data frame, and no column")
    table = table.drop_columns(index) if index else table
    if not table.num_rows or not table.num_columns:
        raise DataError(f"{where}: has {'columns but no rows' if table.num_columns else 'no columns'}")
    names = unique_names([str(name).strip() for name in table.column_names], notes)
    columns, words = [], {}
    for name, column in zip(names, table.columns, strict=True):
        if cells.is_text(column.type) and not _is_clean(column, format.missing):
            column, words[name] = without_missing(_as_text(column), format.missing)
        columns.append(column)
    return Table(pa.table(columns, names=names), None, [*notes, *_told(words)], format)


def _is_clean(column: Any, missing: Sequence[str]) -> bool:
    """Whether text is in levels that hold no missing value and no blanks around them, and are of Arrow's plain type."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type):
        return False
    levels = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
    return not any(level is None or level != level.strip() or level in missing for level in levels)


def _as_text(column: Any) -> Any:
    """A text column without levels."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return column.cast(pa.large_string())
    chunks = [chunk.dictionary.cast(pa.large_string()).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.large_string())


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
