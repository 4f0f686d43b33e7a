"""A table that is too large to be read whole: rows that are drawn from all of it, in the memory that these take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.arrow import pa, pc
from gpubackprop.data.cells import WHOLE, Writing, find_writing, is_text, levels, without_levels
from gpubackprop.data.dataset import Dataset
from gpubackprop.data.pieces import read_table_parts
from gpubackprop.data.tables import Table, title_of
from gpubackprop.data.text_tables import TextFormat, common_type, find_name
from gpubackprop.errors import DataError
from gpubackprop.random import host_generator

_STREAM = 16


def sample_table(
    source: str | os.PathLike[str],
    rows: int,
    seed: int,
    *,
    text: Sequence[str] = (),
    format: TextFormat | None = None,
) -> tuple[Table, NDArray[np.int64], int]:
    """`rows` rows of a table file, drawn at random, in their order (all, where it has no more); their places in the file, (n,);
    and the number of its rows.

    The file is read once, part by part. text: columns to keep as text, as for `read_table`. Raises what `read_table_parts`
    raises, and DataError for a table without rows.
    """
    generator, total, below = host_generator(seed, _STREAM), 0, 1.0
    asked = format
    kept: list[tuple[Any, NDArray[np.int64], NDArray[np.float64]]] = []
    notes: tuple[str, ...] = ()
    for part in read_table_parts(source, text=text, format=format):
        # The rows with the smallest of as many random numbers are a sample in which each row is as likely as any other.
        numbers = generator.random(len(part))
        chosen = np.flatnonzero(numbers < below)
        kept.append((part.columns.take(chosen), total + chosen, numbers[chosen]))
        total, notes, format = total + len(part), part.notes, part.format
        if sum(len(places) for _, places, _ in kept) > 2 * rows:
            kept, below = _fewer(kept, rows)
    if not total:
        raise DataError(f"{os.fspath(source)}: has no rows")
    kept, _ = _fewer(kept, rows)
    parts = [columns for columns, _, _ in kept]
    if mixed := [name for name, kind in _types(parts).items() if kind is None]:
        # What was taken for numbers in one part is text in another: the same rows again, as the text that they were.
        return sample_table(source, rows, seed, text=[*text, *mixed], format=asked)
    table = pa.concat_tables([part.cast(pa.schema(_types(parts))) for part in parts])
    return Table(table, None, notes, format), np.concatenate([places for _, places, _ in kept]), total


class Sample(NamedTuple):
    """Rows of a table file that were drawn at random.

    data: a data set of them; x.format says how numbers are written in all of the file. places: where the sample's rows are in
    the file; of the data set's row i it is places[x.rows[i]]. total: the number of rows there. groups: of each of the sample's
    rows the text that its group is known by (`identities`); None without groups.
    """

    data: Dataset
    places: NDArray[np.int64]
    total: int
    groups: pa.Array | None


def load_sample(
    source: str,
    rows: int,
    seed: int,
    target: str | Sequence[str] | None,
    task: str,
    format: TextFormat | None = None,
    text: Sequence[str] = (),
    weight: str | None = None,
    group: str | None = None,
) -> Sample:
    """A sample of so many rows of a table file. Arguments as for `load`."""
    goals = [target] if isinstance(target, str) else list(target or ())
    known = [*goals, *text, *filter(None, [group])]
    table, places, total = sample_table(source, rows, seed, text=known, format=format)
    asked, found = table.format.decimal, [find_name(name, table.names) for name in table.split(goals)]
    writings = [w for name in found if name is not None and (w := _writing(table.column(name))) is not None]

    def decide(marks: set[str]) -> None:
        # One part of the file may show the decimal mark of its targets, and the next may not: the sample decides for all of them.
        if table.format.decimal is None and len(marks) == 1:
            table.format = replace(table.format, decimal=marks.pop())

    decide({w.decimal for w in writings if not w.unsure})
    title = title_of(source)
    data = Dataset.from_frame(table, target, task=task, weight=weight, group=group, name=title)
    decide({w.decimal for w in writings})
    if table.format.decimal != asked and table.format.decimal == ",":
        # The rows that are trained on are read with the mark that was found, and these have to be too.
        return load_sample(source, rows, seed, target, task, table.format, text, weight, group)
    if isinstance(data.x, Table):
        rows_of = np.arange(len(data.x)) if data.x.rows is None else data.x.rows
        data = replace(data, x=Table(data.x.columns, rows_of, data.x.notes, table.format))
    groups = None if group is None else identities(table.column(table.find(group, title)))
    if groups is not None and isinstance(data.x, Table):
        data = replace(data, groups=levels(groups)[0][data.x.rows])
    notes = (f"{total:,} rows: looked at by a sample of {len(places):,}, trained on as a stream", *data.notes)
    return Sample(replace(data, notes=notes), places, total, groups)


def identities(column: pa.ChunkedArray) -> pa.Array:
    """The text by which the cells of a column are told apart, missing ones as they are: what it is for a cell does not depend on
    the others, so that it is the same in every part of a table. 1 and 1.0 are one."""
    return pc.replace_substring_regex(without_levels(column).cast(pa.string()), WHOLE, r"\1")


def _writing(column: pa.ChunkedArray) -> Writing | None:
    """How the numbers of a column of text are written; None where none shows a point or a comma."""
    if not is_text(column.type) or not pc.any(pc.match_substring_regex(column.cast("string"), "[.,]")).as_py():
        return None
    return find_writing(column)


def _fewer(kept: list[Any], rows: int) -> tuple[list[Any], float]:
    """The `rows` rows with the smallest numbers, and the number that all of these are below."""
    numbers = np.concatenate([each for _, _, each in kept])
    if len(numbers) <= rows:
        return kept, 1.0
    below = float(np.partition(numbers, rows)[rows])
    return [
        (columns.take(few), places[few], each[few])
        for columns, places, each in kept
        if len(few := np.flatnonzero(each < below))
    ], below


def _types(parts: list[pa.Table]) -> dict[str, pa.DataType | None]:
    """The type of each column that holds its values in all parts; None where only text would, and it was not read as text."""
    found = {name: {part.schema.field(name).type for part in parts} - {pa.null()} for name in parts[0].column_names}
    return {
        name: pa.string() if all(map(is_text, kinds)) and kinds else common_type(kinds) for name, kinds in found.items()
    }
