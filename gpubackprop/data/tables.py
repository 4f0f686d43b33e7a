"""Tables, .csv, .csv.gz and .parquet: named columns, of which some are the target and the rest are numbers."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.arrays import FLOAT32_MAX, features
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.targets import read_targets
from gpubackprop.errors import DataError, MissingExtraError
from gpubackprop.files.regular import INFLATION_FLOOR, INFLATION_RATIO, check_inflation, regular_file

Array = NDArray[np.generic]
_BLOCK_ROWS = 4096


def load_csv(path: str | os.PathLike[str], target: str | None, task: str) -> Dataset:
    """The data set in a text table whose first row names the columns; gzipped or not (told from its first bytes).

    UTF-8 with or without a byte-order mark; the separator is whichever of comma, semicolon and tab divides the first
    row most often; fields may be quoted; blank lines are skipped. target: column name, or several with commas between.
    Every other column is a feature and must hold finite numbers; targets may be text, for classification.

    Raises DataError naming row and column for a cell that is empty, NaN, infinite or text where a number is needed,
    rows of unequal length, a missing header, an unknown target, a file of another kind; rows count from 1 after the
    header.
    """
    path, size = regular_file(path)
    try:
        with _open_text(path, size) as lines:
            first = lines.readline()
            separator = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
            lines.seek(0)
            rows = csv.reader(lines, delimiter=separator, strict=True)
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header)
            goals = find_targets(path, header, target)
            inputs = [i for i in range(len(header)) if i not in goals]
            blocks, cells = [], []
            for start, block in _row_blocks(path, rows, len(header)):
                blocks.append(_numbers(path, header, inputs, block, start))
                cells += [[row[i].strip() for i in goals] for row in block]
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: not a UTF-8 table ({error}); save it as CSV, UTF-8") from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read to its end ({error}); copy or download it again") from error
    if not blocks:
        raise DataError(f"{path}: has a header but no rows")
    raw = [_target_column(path, header[i], [row[k] for row in cells], task) for k, i in enumerate(goals)]
    return _assemble(path, header, goals, np.concatenate(blocks), raw, task)


def load_parquet(path: str | os.PathLike[str], target: str | None, task: str) -> Dataset:
    """The data set in a Parquet file; target and features as for `load_csv`. Needs pyarrow (extra "data").

    Features are bool, integer, floating or decimal columns without nulls; a target may also be text or a dictionary of
    text. Raises DataError naming the column for every other type, and the row for nulls, NaN and infinity.
    """
    path, size = regular_file(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading .parquet files", "data") from None
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            raise DataError(f"{path}: does not start with PAR1: not a Parquet file")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            goals = find_targets(path, header, target)
            check_inflation(path, size, 8 * file.metadata.num_rows * len(header))
            table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a whole Parquet file ({reason}); write or download it again") from error
    if not table.num_rows:
        raise DataError(f"{path}: has columns but no rows")
    inputs = [i for i in range(len(header)) if i not in goals]
    x = np.empty((table.num_rows, len(inputs)))
    for k, i in enumerate(inputs):
        x[:, k] = _parquet_column(path, header[i], table.column(i), text=False)
    raw = [_parquet_column(path, header[i], table.column(i), text=True) for i in goals]
    return _assemble(path, header, goals, x, raw, task)


def find_targets(path: Path, header: list[str], target: str | None) -> list[int]:
    """Positions of the target columns in a header with unique names, with features left over (otherwise DataError)."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: several columns are called {', '.join(repeated)}; give each its own name")
    columns = _listed(header)
    if target is None:
        raise DataError(f"{path}: say which column to predict, target=NAME; the columns are {columns}")
    names = [target] if target in header else [name.strip() for name in target.split(",")]
    for name in names:
        if name not in header:
            near = get_close_matches(name, header, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the columns are {columns}"
            if any(_number(cell) is not None for cell in header):
                hint += " (or has the file no header? the first row must name the columns)"
            raise DataError(f"{path}: has no column {name!r}; {hint}")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: target {target!r} names a column twice")
    if len(names) == len(header):
        raise DataError(f"{path}: every column is a target; at least one must be left to predict from")
    return [header.index(name) for name in names]


def _assemble(path: Path, header: list[str], goals: list[int], x: Array, raw: list[Array], task: str) -> Dataset:
    names = tuple(header[i] for i in goals)
    where = f"{path}: column {', '.join(names)}"
    if len(raw) > 1 and any(column.dtype.kind == "U" for column in raw):
        raise DataError(f"{where}: several targets must all be numbers; choose one column for classification")
    targets = read_targets(raw[0] if len(raw) == 1 else np.stack(raw, axis=1), task, where)
    inputs = tuple(name for i, name in enumerate(header) if i not in goals)
    return Dataset(
        path.name.split(".")[0],
        features(x, f"{path}: columns {_listed(list(inputs))}"),
        targets.values,
        targets.task,
        targets.classes,
        inputs,
        targets=names,
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])}, ... {names[-1]} ({len(names)} in all)"


@contextlib.contextmanager
def _open_text(path: Path, size: int) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        if head[:2] == b"\x1f\x8b":
            # nothing in a gzip file declares its size, so its text is inflated under a limit
            limit = max(INFLATION_FLOOR, INFLATION_RATIO * size)
            with gzip.GzipFile(fileobj=raw) as stream:
                text = stream.read(limit + 1)
            check_inflation(path, size, len(text))
            yield io.TextIOWrapper(io.BytesIO(text), encoding="utf-8-sig", newline="")
            return
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
        if head == b"PAR1" or head[:4] == b"PK\x03\x04":
            raise DataError(f"{path}: is {'Parquet' if head == b'PAR1' else 'a zip archive (a spreadsheet?)'}, not CSV")
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path}: the first line is blank; it must name the columns")
    if "" in header:
        raise DataError(
            f"{path}: column {header.index('') + 1} has no name: name it, or remove it if it numbers the rows"
        )
    # 0,1,2,... are the names that a table made from a bare array gets
    numbered = header == [str(i) for i in range(len(header))]
    if not numbered and all(_number(name) is not None for name in header):
        raise DataError(
            f"{path}: the first row holds only numbers, so the header is absent; put one that names the columns on top"
        )
    if len(header) < 2:
        raise DataError(
            f"{path}: has the single column {header[0]!r}; expected features and a target, separated by commas"
        )


def _row_blocks(path: Path, rows: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[list[str]]]]:
    """Blocks of rows with the number of each block's first row; every row has `width` cells."""
    start = 1
    filled = (row for row in rows if row)
    while block := list(islice(filled, _BLOCK_ROWS)):
        for number, row in enumerate(block, start):
            if len(row) != width:
                raise DataError(
                    f"{path}: row {number} has {len(row)} cells, the header {width}; mend or remove the row"
                )
        yield start, block
        start += len(block)


def _numbers(
    path: Path, header: list[str], inputs: list[int], block: list[list[str]], start: int
) -> NDArray[np.float64]:
    """The block's feature cells; the quick conversion first, cell by cell only to name the one that is wrong."""
    try:
        x = np.array([[float(row[i]) for i in inputs] for row in block])
        # float() reads 1_000, which is more likely an identifier
        if (np.abs(x) <= FLOAT32_MAX).all() and not any("_" in "".join(row) for row in block):
            return x
    except ValueError:
        x = np.empty((len(block), len(inputs)))
    for r, row in enumerate(block):
        for k, i in enumerate(inputs):
            value = _number(row[i])
            if value is None or not abs(value) <= FLOAT32_MAX:
                what = "is empty" if not row[i].strip() else f"holds {row[i].strip()[:40]!r}"
                raise DataError(
                    f"{path}: row {start + r}, column {header[i]} {what}; expected a finite number: fill it in, encode "
                    "the column as numbers, or remove it"
                )
            x[r, k] = value
    return x


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _target_column(path: Path, name: str, cells: list[str], task: str) -> Array:
    """Numbers if every cell is one, text if none is; a mixture is text only where classification is asked for."""
    values = [_number(cell) for cell in cells]
    numeric = [value for value in values if value is not None]
    for row, (cell, value) in enumerate(zip(cells, values, strict=True), 1):
        if not cell:
            raise DataError(f"{path}: row {row}, column {name} is empty: a target cannot be missing; remove the row")
        if value is not None and not math.isfinite(value):
            raise DataError(f"{path}: row {row}, column {name} holds {cell!r}: no target to learn; remove the row")
        if value is None and numeric and task != "classification":
            raise DataError(
                f"{path}: row {row}, column {name} holds {cell[:40]!r} among numbers; mend or remove it, or ask for "
                "classification to take every value as a class"
            )
    return np.array(values) if len(numeric) == len(cells) else np.array(cells)


def _parquet_column(path: Path, name: str, column: Any, *, text: bool) -> Array:
    import pyarrow

    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    numeric = (
        pyarrow.types.is_boolean(kind)
        or pyarrow.types.is_integer(kind)
        or pyarrow.types.is_floating(kind)
        or pyarrow.types.is_decimal(kind)
    )
    if not numeric and not (text and (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))):
        raise DataError(f"{path}: column {name} is of type {kind} ({column[0]}); encode it as numbers or remove it")
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise DataError(f"{path}: row {row}, column {name} is null; fill it in or remove the row")
    column = column.cast(kind)
    if not numeric:
        return np.array(column.to_pylist(), dtype=str)
    if pyarrow.types.is_decimal(kind):
        column = column.cast(pyarrow.float64())
    values: Array = column.to_numpy()
    usable = np.abs(values.astype(np.float64, copy=False)) <= FLOAT32_MAX
    if not usable.all():
        row = int(np.argmin(usable))
        raise DataError(f"{path}: row {row + 1}, column {name} holds {values[row]}; expected a finite number")
    return values
