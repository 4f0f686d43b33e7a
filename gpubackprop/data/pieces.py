"""Data that are larger than the memory as a stream: files, shards and iterables as pieces that can be read one by one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.checks import whole_number
from gpubackprop.data import cells
from gpubackprop.data.arrays import named_x, npy_pair, read_header, read_npz_chunk, rows_of_npz
from gpubackprop.data.arrow import parquet
from gpubackprop.data.tables import COMPRESSED, SUFFIXES, Table, arrow_parts, from_arrow, opened
from gpubackprop.data.text_tables import NotUtf8Error, TextFormat, find_layout, parse
from gpubackprop.errors import ArgumentTypeError, DataError
from gpubackprop.files.regular import regular_file
from gpubackprop.network.stream import WINDOW, Chunk, Piece, Stream

Array = NDArray[Any]
WEIGHTS = "sample_weight"
BLOCK = 1 << 20
"""Bytes of x that are read from an .npy file at once, so that its rows can be shuffled in blocks of them."""
ROWS_AT_ONCE = 256
_NO_COLUMNS = "has no columns with names, which target, columns and weight ask for: leave them out"
_SUFFIXES = (".npz", *(table + packed for table in SUFFIXES for packed in COMPRESSED))


def open_stream(
    source: str | os.PathLike[str] | Callable[[], Iterable[Chunk]],
    target: str | Sequence[str] | None = None,
    *,
    rows: int | None = None,
    columns: Sequence[str] | None = None,
    weight: str | None = None,
    window: int = WINDOW,
    format: TextFormat | None = None,
) -> Stream:
    """Data to train on that need not fit into memory: `Trainer.fit(gb.open_stream(path), epochs=...)`.

    source: an .npy file of x (n, d) with y beside it, or "x.npy,y.npy" (as for `gb.data.load`), which are read in blocks of a
    megabyte, and beside a_x.npy the weights of its rows, (n,), where there is an a_sample_weight.npy; an .npz file of x and y,
    and sample_weight if it holds that; a table (text or Parquet, in parts; Parquet's row groups are its pieces); a folder of such
    files, its shards; or a function that returns an iterable of chunks (x, y) or (x, y, sample_weight), called anew for each
    epoch. target, columns, weight: of tables, the column to predict (several: a list), those to predict from (None: all others),
    and one of sample weights; all of them numbers. rows: of what a function returns; None: it is called once to count them.
    window: rows that are shuffled together. format: of text tables.

    Text is read from its beginning to its end, and so is what a function returns: their rows are shuffled within the window
    alone, and rows that lie sorted should be mixed first. Text is counted once here. y is taken as it is: labels 0..k-1, or
    values, of which (n,) stands for (n, 1).

    Raises DataError for files that cannot be used, ArgumentTypeError for another kind of source.
    """
    asked = _Asked([target] if isinstance(target, str) else list(target or ()), columns, weight, format)
    if callable(source):
        name = getattr(source, "__name__", type(source).__name__)
        if asked.named:
            raise ArgumentTypeError(f"{name}: {_NO_COLUMNS}")
        if rows is None:
            rows = sum(len(x) for x, *_ in Piece(name, 0, lambda: iter(source())).chunks())
        return Stream([Piece(name, whole_number("rows", rows), lambda: iter(source()))], window)
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentTypeError(
            "source must be a path, or a function that returns an iterable of chunks (x, y): an iterator can be gone through "
            f"once, and each epoch needs it anew; got {type(source).__name__}"
        )
    if rows is not None:
        raise ArgumentTypeError("rows is for a function that returns chunks; files say themselves how many they have")
    found = [_of_file(file, asked) for file in _files(Path(source))]
    return Stream([piece for pieces, _ in found for piece in pieces], window, [f for _, files in found for f in files])


@dataclass(frozen=True)
class _Asked:
    """Names of columns of a table: the targets, the inputs (None: all others), the weights of the rows (None: none); and how it
    is written."""

    goals: Sequence[str]
    inputs: Sequence[str] | None
    weight: str | None
    format: TextFormat | None

    @property
    def named(self) -> list[str]:
        """All of them."""
        return [*self.goals, *(self.inputs or ()), *filter(None, [self.weight])]


def _files(path: Path) -> list[str]:
    """The file itself, or all in a folder that can be streamed, in the order of their names."""
    if not path.is_dir():
        return [str(path)]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file())
    shards = [f for f in inside if named_x(f) if f.suffix.lower() == ".npy"]
    shards += [f for f in inside if f.name.lower().endswith(_SUFFIXES)]
    if not shards:
        raise DataError(
            f"{path}: holds no shards: no .npz, no table, and no .npy whose name ends in x, such as 01_x.npy"
        )
    return [str(shard) for shard in sorted(shards)]


def _of_file(source: str, asked: _Asked) -> tuple[list[Piece], list[Path]]:
    """The pieces of a file, and the files that they lie in. Raises DataError for one that is missing or of another kind, and for
    a table without `target`."""
    name = source.lower()
    if asked.named and name.endswith((".npy", ".npz")):
        raise DataError(f"{source}: {_NO_COLUMNS}")
    if name.endswith(".npy"):
        x_path, y_path = npy_pair(source)
        weights = x_path.with_name(f"{x_path.stem[:-1]}{WEIGHTS}.npy")
        paths = [x_path, y_path, *([weights] if named_x(x_path) and weights.exists() else [])]
        return _of_npy(paths), paths
    path, _ = regular_file(source)
    if name.endswith(".npz"):
        return [Piece(source, rows_of_npz(path), lambda: iter([read_npz_chunk(path)]))], [path]
    if not asked.goals:
        raise DataError(f"{source}: say which column to predict, target=NAME")
    read = partial(_chunks_of_table, source, asked)
    if (groups := rows_of_groups(path)) is not None:
        counted = enumerate(groups)
        return [Piece(f"{source}: row group {i}", rows, partial(read, [i])) for i, rows in counted if rows], [path]
    rows = sum(len(part) for part in read_table_parts(source, wanted=asked.named, format=asked.format))
    return [Piece(source, rows, read)], [path]


# -- .npy --------------------------------------------------------------------------------------------------------------------


def _of_npy(paths: Sequence[Path]) -> list[Piece]:
    """Blocks of rows of the files of x, of y, and of weights if there are some, which are read, not mapped: a file that shrinks
    meanwhile gives an error, no signal."""
    found = []
    for path in paths:
        path, size = regular_file(path)
        with path.open("rb") as file:
            shape, fortran, dtype, rest = read_header(file, size, str(path))
            start = file.tell() - len(rest)
        if fortran and len(shape) > 1:
            raise DataError(
                f"{path}: lies column by column; write it again with numpy.save(path, numpy.ascontiguousarray(a))"
            )
        found.append((path, start, shape, dtype))
    (x_path, _, shape, dtype), (y_path, _, y_shape, _), *_ = found
    if len(shape) < 2 or len(y_shape) not in (1, 2) or shape[:1] != y_shape[:1] or not shape[0]:
        raise DataError(
            f"{x_path}: x has shape {shape} and {y_path.name} {y_shape}; expected (n, d) and (n,) or (n, m)"
        )
    for path, _, of_weights, _ in found[2:]:
        if of_weights != shape[:1]:
            raise DataError(f"{path}: has shape {of_weights}, and x {shape}; expected ({shape[0]},)")
    rows, at_once = shape[0], max(1, BLOCK // max(1, dtype.itemsize * int(np.prod(shape[1:]))))
    return [
        Piece(f"{x_path}: from row {start}", min(at_once, rows - start), partial(_block_of_npy, found, start, at_once))
        for start in range(0, rows, at_once)
    ]


def _block_of_npy(found: Sequence[tuple[Path, int, tuple[int, ...], Any]], start: int, at_once: int) -> Iterator[Chunk]:
    parts = []
    for path, begin, shape, dtype in found:
        width, rows = int(np.prod(shape[1:])), min(at_once, shape[0] - start)
        part: Array = np.fromfile(path, dtype, rows * width, offset=begin + start * width * dtype.itemsize)
        if part.size != rows * width:
            raise DataError(f"{path}: became shorter while it was read")
        parts.append(part.astype(dtype.newbyteorder("="), copy=False).reshape(rows, *shape[1:]))
    yield parts[0].reshape(len(parts[0]), -1), *parts[1:]


# -- tables ------------------------------------------------------------------------------------------------------------------


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
    format = format or TextFormat()
    with opened(path, math.inf) as file:
        if file.is_arrow:
            with file.open() as content:
                schema, batches = arrow_parts(content, row_groups)
                for batch in batches:
                    if batch.num_rows:
                        yield from_arrow(file.where, schema, [batch], format, file.check)
            return
        layout = find_layout(file.where, file.start, file.whole, text, format, wanted)
        try:
            for part, _ in parse(layout, file.open):
                yield Table(part, None, layout.notes, layout.format)
        except NotUtf8Error:
            raise DataError(f"{file.where}: is not UTF-8 throughout; say encoding=NAME, such as latin-1") from None


def rows_of_groups(path: str | os.PathLike[str]) -> list[int] | None:
    """The rows of each row group of a Parquet file, from its metadata; None for another file, and for one that is compressed.

    Raises what `read_table` raises.
    """
    with opened(path, math.inf), open(path, "rb") as file:
        if file.read(4) != b"PAR1":
            return None
        found = parquet.read_metadata(file)
        return [found.row_group(i).num_rows for i in range(found.num_row_groups)]


def _chunks_of_table(source: str, asked: _Asked, row_groups: Sequence[int] | None = None) -> Iterator[Chunk]:
    done = 0
    for part in read_table_parts(source, wanted=asked.named, format=asked.format, row_groups=row_groups):
        names = [part.find(goal, source) for goal in asked.goals]
        weight = [part.find(asked.weight, source)] if asked.weight is not None else []
        inputs = [n for n in part.names if n not in (*names, *weight)] if asked.inputs is None else asked.inputs
        used = [part.find(name, source) for name in inputs]
        found = [_numbers(part, name, source, done) for name in used]
        x = np.empty((len(part), len(used)), np.result_type(np.float32, *(values.dtype for values in found)))
        # In blocks that stay in the cache: neighbours in a column are far apart among the rows.
        for start in range(0, len(part), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            if found:
                x[rows] = np.array([values[rows] for values in found], x.dtype).T
        y = np.stack([_numbers(part, name, source, done) for name in names], axis=1)
        is_label = len(names) == 1 and "int" in str(part.column(names[0]).type)
        weights = (_numbers(part, name, source, done) for name in weight)
        yield x, y[:, 0].astype(np.int64) if is_label else y, *weights
        done += len(part)


def _numbers(part: Table, name: str, source: str, done: int) -> Array:
    """The values (n,) of a column, all of them numbers: DataError for text, and for cells without a value."""
    column = part.column(name)
    if not column.null_count and str(column.type).startswith(("int", "float", "double")):
        plain: Array = column.to_numpy(zero_copy_only=False)
        if np.isfinite(plain).all():
            return plain
    values = cells.numbers_as_said(column, part.format.decimal, f"{source}: column {name}")
    if np.isnan(values).any():
        row = int(np.argmax(np.isnan(values)))
        raise DataError(
            f"{source}: row {done + row + 1}, column {name} holds {column[row].as_py()!r}, and a stream of a table takes "
            "finite numbers alone: leave the column out by columns=[...], or make numbers of it first"
        )
    return values
