"""Tables, from a file or another library's data frame, as Arrow columns: one reader to train, evaluate and predict from.

Text (.csv, .tsv, .txt, .data), Parquet and Feather, alone or compressed with gzip, bzip2, xz, zstd or as a zip archive's one
file. What a file is, its first bytes say, not its name. Needs pyarrow (extra "data").
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
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
from functools import cached_property
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import cells
from gpubackprop.data.text_tables import (
    LONGEST_ROW,
    Layout,
    NotUtf8Error,
    Readable,
    Source,
    TextFormat,
    bytes_of,
    find_layout,
    listed,
    parts_of_rows,
    read_rows,
    unique_names,
    without_missing,
)
from gpubackprop.errors import ArgumentTypeError, DataError, MissingExtraError
from gpubackprop.files.regular import INFLATION_RATIO, memory, regular_file

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv", ".tab", ".data", ".txt", ".parquet", ".feather", ".arrow")
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst", ".zip")
_START = 1 << 20
_PART = 16 << 20
"""Bytes of a Parquet file's rows that are read together where it is read in parts."""
_FLOOR = 128 << 20
"""Bytes that a table may take however small its file is."""
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
        columns: pa.Table,
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
        return list(self._known)

    @cached_property
    def _known(self) -> dict[str, None]:
        # Arrow makes the list of names anew each time, which takes long where thousands of columns are looked up.
        return dict.fromkeys(self.columns.column_names)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.columns.num_columns

    def __getitem__(self, rows: slice | np.ndarray) -> Table:
        chosen = np.arange(self.columns.num_rows) if self.rows is None else self.rows
        return Table(self.columns, chosen[rows], self.notes, self.format)

    def column(self, name: str) -> pa.Array:
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
        found = name if name in self._known else find_name(name, self.names)
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
    is written, where that is known. max_bytes: the memory that the table may take, rows x columns x 8 at least; by default 100
    times as much as its file, or 128 MB, and no more than the machine has.

    Raises DataError for a file that is missing, damaged, larger than that, or no table, MissingExtraError without pyarrow.
    """
    _pyarrow()
    format, where = format or TextFormat(), "standard input" if os.fspath(source) == "-" else os.fspath(source)
    limit = max_bytes or memory()

    def check(size: int) -> None:
        if size > limit:
            raise DataError(
                f"{where}: takes more than {limit:,} bytes of memory as a table, and was not read further; "
                "if it is what you want to read, say max_bytes=NUMBER; gb.open_stream trains on a file part by part"
            )

    with _readable(where), contextlib.ExitStack() as stack:
        open_file, stored = _opener(source, stack, check)
        if not max_bytes:
            limit = min(limit, max(_FLOOR, INFLATION_RATIO * stored))
        with open_file() as file:
            start, whole = _first_bytes(file)
        if start.startswith((b"PAR1", b"ARROW1")):
            return _from_arrow(where, _arrow_parts(open_file, start, check), format, check)
        return _from_text(where, start, whole, open_file, text, format, check)


def read_table_parts(
    path: str | os.PathLike[str],
    *,
    wanted: Sequence[str] = (),
    text: Sequence[str] = (),
    format: TextFormat | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[Table]:
    """The table in a file part by part, in the memory of a part each. wanted: names that say which row is a header. text: those
    of columns to keep as text, as for `read_table`, which say it too. row_groups: of a Parquet file, which to read; None: all.

    What a column of text holds is looked at part by part, so that its type may differ between them. Raises what `read_table`
    raises.
    """
    _pyarrow()
    where, format = os.fspath(path), format or TextFormat()

    def nothing(size: int) -> None:
        return

    with _readable(where), contextlib.ExitStack() as stack:
        open_file, _ = _opener(path, stack, nothing)
        with open_file() as file:
            start, whole = _first_bytes(file)
        if start.startswith((b"PAR1", b"ARROW1")):
            parts = _arrow_parts(open_file, start, nothing, row_groups)
            head = next(parts)
            for batch in parts:
                if batch.num_rows:
                    yield _from_arrow(where, iter([head, batch]), format, nothing)
            return
        _check_is_text(where, start)
        layout = find_layout(where, start, whole, [*wanted, *text], format)
        format = _with_decimal(format, layout)
        as_text = {found for name in text if (found := find_name(name, layout.names)) is not None}
        try:
            for part in parts_of_rows(Source(where, open_file, layout, format.missing, nothing), as_text):
                yield Table(part, None, layout.notes, format)
        except NotUtf8Error:
            raise DataError(f"{where}: is not UTF-8 throughout; say encoding=NAME, such as latin-1") from None


def rows_of_groups(path: str | os.PathLike[str]) -> list[int]:
    """The rows of each row group of a Parquet file, from its metadata. Raises what `read_table` raises."""
    _pyarrow()
    import pyarrow.parquet as parquet

    where = os.fspath(path)
    with _readable(where):
        found = parquet.read_metadata(regular_file(path)[0])
        return [found.row_group(i).num_rows for i in range(found.num_row_groups)]


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """What goes wrong while a table is read becomes DataError."""
    pa = _pyarrow()
    try:
        yield
    except DataError:
        raise
    except (
        pa.ArrowException,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        IndexError,
        struct.error,
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
    """Whether a source is named like a table: by its suffix, also of something compressed alone, or "-" for standard input."""
    return source == "-" or source.lower().endswith((*SUFFIXES, *filter(None, COMPRESSED)))


def _pyarrow() -> ModuleType:
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise MissingExtraError("reading tables", "data") from None


# -- opening --------------------------------------------------------------------------------------------------------


def _opener(source: str | os.PathLike[str], stack: contextlib.ExitStack, check: Check) -> tuple[Opener, int]:
    """A function that opens the content of a source from its beginning, decompressed, and the bytes that are stored of it."""
    if os.fspath(source) != "-":
        path, stored = regular_file(source)
        return lambda: _decompressed(str(path), path.open("rb"), check), stored
    # Standard input goes by once; a table may have to be read twice.
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(sys.stdin.buffer, copy)
    if not (stored := copy.tell()):
        raise DataError("standard input: is empty")

    def again() -> contextlib.AbstractContextManager[Any]:
        copy.seek(0)
        return _decompressed("standard input", open(os.dup(copy.fileno()), "rb"), check)

    return again, stored


class _Counted:
    """A file that inflates while it is read, which `check` is told of."""

    def __init__(self, file: Readable, check: Check) -> None:
        self._file, self._check, self._read = file, check, 0

    def read(self, size: int) -> bytes:
        block: bytes = self._file.read(size)
        self._read += len(block)
        self._check(self._read)
        return block


@contextlib.contextmanager
def _decompressed(where: str, file: IO[bytes], check: Check) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        magic = file.read(6)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            yield _Counted(gzip.GzipFile(fileobj=file), check)
        elif magic[:3] == b"BZh":
            yield _Counted(bz2.BZ2File(file), check)
        elif magic == b"\xfd7zXZ\0":
            yield _Counted(lzma.LZMAFile(file), check)  # noqa: SIM115 - closed with `file`
        elif magic[:4] == b"\x28\xb5\x2f\xfd":
            yield _Counted(stack.enter_context(_pyarrow().CompressedInputStream(file, "zstd")), check)
        elif magic[:4] == b"PK\3\4":
            archive = stack.enter_context(zipfile.ZipFile(file))
            inside = [entry for entry in archive.infolist() if not entry.is_dir()]
            if any(entry.filename.startswith("xl/") for entry in inside):
                raise DataError(f"{where}: is an Excel workbook; save the sheet as CSV or Parquet")
            if len(inside) != 1:
                raise DataError(
                    f"{where}: holds {listed([e.filename for e in inside])}; unpack it and name one of them"
                )
            yield _Counted(stack.enter_context(archive.open(inside[0])), check)
        else:
            yield file


def _first_bytes(file: Readable) -> tuple[bytes, bool]:
    """What decides how a file is read, its first megabyte, or more where rows are long, and whether that is all of it."""
    start = b""
    while more := file.read(_START):
        start += more
        if (len(start) >= _START and start.count(b"\n") + start.count(b"\r") > 20) or len(start) > LONGEST_ROW:
            return start, False
    return start, True


# -- the kinds of files -----------------------------------------------------------------------------------------------


def _from_text(
    where: str, start: bytes, whole: bool, open_file: Opener, text: Sequence[str], format: TextFormat, check: Check
) -> Table:
    _check_is_text(where, start)
    while True:
        layout = find_layout(where, start, whole, text, format)
        check(_COLUMN_BYTES * len(layout.names))
        as_text = {found for name in text if (found := find_name(name, layout.names)) is not None}
        try:
            columns, words = read_rows(Source(where, open_file, layout, format.missing, check), as_text)
        except NotUtf8Error:
            format = replace(format, encoding="latin-1")
            continue
        return Table(columns, None, [*layout.notes, *_told(words)], _with_decimal(format, layout))


def _with_decimal(format: TextFormat, layout: Layout) -> TextFormat:
    # Between commas a decimal comma would need quotes around every number: 1,234 is a thousand.
    return replace(format, decimal=".") if format.decimal is None and layout.separator == "," else format


def _check_is_text(where: str, start: bytes) -> None:
    if not start.strip():
        raise DataError(f"{where}: holds only blanks")
    if start[:4] in (b"\xd0\xcf\x11\xe0", b"\x89HDF", b"FEA1", b"SQLi"):
        raise DataError(f"{where}: is a file of another kind; save the table as CSV or Parquet")


def _arrow_parts(
    open_file: Opener, start: bytes, check: Check, row_groups: Sequence[int] | None = None
) -> Iterator[Any]:
    """The schema of a Parquet or Feather file as a table without rows, and then its record batches, or those of some groups."""
    import pyarrow as pa
    import pyarrow.parquet

    with contextlib.ExitStack() as stack:
        content = stack.enter_context(open_file())
        if not isinstance(content, io.BufferedReader):
            file, content = content, io.BytesIO()
            while block := file.read(_START):
                content.write(block)
            content.seek(0)
        if start[:4] == b"PAR1":
            # Text as codes and a dictionary: a page of one long text, repeated, must not be written out.
            coded = [field.name for field in pa.parquet.read_schema(content) if "string" in str(field.type)]
            content.seek(0)
            reader = stack.enter_context(pa.parquet.ParquetFile(content, read_dictionary=coded))
            yield reader.schema_arrow.empty_table()
            rows = 1 << 16 if row_groups is None else max(256, _PART // (8 * max(1, len(reader.schema_arrow))))
            yield from reader.iter_batches(batch_size=rows, row_groups=row_groups)
        else:
            reader = stack.enter_context(pa.ipc.open_file(content))
            yield reader.schema.empty_table()
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


def _from_arrow(where: str, parts: Iterator[Any], format: TextFormat, check: Check) -> Table:
    """One table of parts that have one schema, in which text is cleaned as that of a text table is."""
    import pyarrow as pa

    head = next(parts)
    check(_COLUMN_BYTES * head.num_columns)
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
    table, notes = pa.Table.from_batches(batches, head.schema), []
    index = [n for n in (head.schema.pandas_metadata or {}).get("index_columns", []) if n in table.column_names]
    if index:
        notes.append(f"{listed(index)}: the index of a data frame, and no column")
        table = table.drop_columns(index)
    if not table.num_rows or not table.num_columns:
        raise DataError(f"{where}: has {'columns but no rows' if table.num_columns else 'no columns'}")
    names = unique_names([name.strip() for name in table.column_names], notes)
    columns, words = [], {}
    for name, column in zip(names, table.columns, strict=True):
        if cells.is_text(column.type):
            column, words[name] = _cleaned(column, format.missing)
        columns.append(column)
    return Table(pa.table(columns, names=names), None, [*notes, *_told(words)], format)


def _cleaned(column: pa.ChunkedArray, missing: Sequence[str]) -> tuple[pa.ChunkedArray, Counter[str]]:
    """`without_missing` for text in levels too: there the levels are cleaned, and stay."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return without_missing(column.cast(pa.large_string()), missing)
    chunks, words = [], Counter[str]()
    for chunk in column.chunks:
        levels = chunk.dictionary.cast(pa.string())
        cleaned = without_missing(levels, missing)[0].dictionary_encode()
        for word in levels.filter(pc.and_(cleaned.is_null(), levels.is_valid())).to_pylist():
            rows = pc.sum(pc.equal(chunk.indices, pc.index(levels, word))).as_py()
            words += Counter({word.strip(): rows} if word.strip() and rows else {})
        chunks.append(pa.DictionaryArray.from_arrays(cleaned.indices.take(chunk.indices), cleaned.dictionary))
    return pa.chunked_array(chunks).unify_dictionaries(), words


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
