"""Classification or regression, and the labels or values that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import cells
from gpubackprop.data.arrow import pa
from gpubackprop.errors import DataError, unknown_name

Task = Literal["classification", "regression", "multilabel"]
TASKS = ("auto", "classification", "regression", "multilabel")
FEW = 20
MANY = 1000

Array = NDArray[Any]


@dataclass(frozen=True)
class Targets:
    """values: (n,) int64 labels, (n, m) float64 numbers, or (n, m) float64 of 0 and 1 for several labels a row; classes: the
    label names in label order, () for regression; notes: what was decided, a sentence each."""

    values: Array
    task: Task
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_task(task: str) -> None:
    """Raise ArgumentError unless task is one of TASKS."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)


def read_targets(raw: Array, task: str, where: str) -> Targets:
    """The targets in `raw`: (n,) or (n, m) bool or numbers, or (n,) text, read as `task` says.

    "auto" decides so:
      * text and bool are classification;
      * numbers, one column, all whole, with k different values, two rows or more for each on average (2k <= n), are
        classification if k <= 20, or if they are exactly 0..k-1 and k <= 1000;
      * several columns of 0 and 1 are classification if each row has a single one, otherwise several labels a row;
      * everything else is regression.
    Labels are numbered in the order of the numbers that they are, or else of the alphabet; their texts are their names.
    `where` opens every message.

    Raises DataError for NaN or infinity, for classification of numbers that are not whole, for regression on text, and for
    several columns that are not 0 and 1 in classification.
    """
    check_task(task)
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        row = int(np.argwhere(~np.isfinite(raw))[0][0])
        raise DataError(f"{where}: row {row} holds NaN or infinity; remove the row or fill it in")
    if task == "auto":
        task = _guess(raw)
    if task == "regression":
        if raw.dtype.kind in "UO":
            raise DataError(f"{where}: holds text ({str(raw.flat[0])!r}), which regression cannot use")
        return Targets(np.ascontiguousarray(raw.reshape(len(raw), -1), np.float64), "regression")
    if task == "multilabel":
        if raw.dtype.kind in "UO" or raw.ndim == 1 or not _zeros_and_ones(raw):
            raise DataError(f"{where}: several labels a row need several columns of 0 and 1")
        return Targets(np.ascontiguousarray(raw, np.float64), "multilabel")
    if raw.ndim == 2:
        if not _one_hot(raw):
            raise DataError(f"{where}: has shape {raw.shape} and is not one-hot: classification takes one label a row")
        raw = raw.argmax(axis=1)
    if raw.dtype.kind == "f":
        if not _whole(raw):
            value = raw[raw != np.rint(raw)][0]
            raise DataError(f"{where}: holds {value}, which is no class: classification takes text or whole numbers")
        raw = np.array([f"{value:.0f}" for value in raw]) if np.abs(raw).max() >= 2.0**63 else raw.astype(np.int64)
    levels, codes = np.unique(raw, return_inverse=True)
    return _labels(codes.reshape(-1), [str(level) for level in levels])


def read_target_columns(columns: Sequence[Any], task: str, where: str, decimal: str | None = None) -> Targets:
    """The targets in columns of a table (pyarrow.Array without nulls), read as `task` says; labels are text and stay it.

    decimal: the mark of numbers that can be read both ways. What a table leaves open is asked, not guessed: DataError for
    dates, for numbers with other text among them, for one number written in two ways and for text that nearly always
    differs, where `task` does not say what is meant.
    """
    check_task(task)
    if len(columns) > 1 or task == "multilabel":
        parts = [_values(column, task, where, decimal) for column in columns]
        targets = read_targets(np.stack([values for values, _ in parts], axis=1), task, where)
        return replace(targets, notes=tuple(note for _, notes in parts for note in notes))
    column = columns[0]
    if not cells.is_text(column.type) and task != "classification":
        return read_targets(_values(column, task, where, decimal)[0], task, where)
    if task != "classification" and cells.distinct(column) > MANY and cells.find_writing(column):
        task = "regression"
    if task == "regression":
        values, notes = _values(column, task, where, decimal)
        return Targets(values[:, None], "regression", (), tuple(notes))
    codes, names = cells.levels(column)
    if (codes < 0).any():
        raise _no_target(column, int(np.argmax(codes < 0)), where)
    writing = cells.find_writing(column, decimal) if decimal == "," else None
    thousands = writing is not None and writing.decimal == ","
    plain = [None if thousands and "." in name else cells.as_number(name) for name in names]
    if None not in plain:
        values = np.array(plain, np.float64)[codes]
        if task == "auto" and _guess(values) == "regression":
            return Targets(values[:, None], "regression")
        if not _whole(values):
            raise DataError(f"{where}: holds {names[0]} and so on, which are no classes: text or whole numbers are")
        for one, other in pairwise(sorted(names, key=Decimal) if task == "auto" else []):
            if Decimal(one) == Decimal(other):
                raise DataError(f"{where}: {one!r} and {other!r} are one number written in two ways; {_QUESTION}")
    elif task == "auto":
        if cells.find_writing(column, decimal) or cells.time_format(column):
            values, notes = _values(column, task, where, decimal)
            return Targets(values[:, None], "regression", (), tuple(notes))
        if 2 * plain.count(None) < len(plain):
            other = names[plain.index(None)]
            raise DataError(f"{where}: holds {other[:40]!r} among numbers; mend or remove it, or {_QUESTION}")
        if len(names) > max(FEW, len(codes) // 2):
            raise DataError(f"{where}: holds {len(names):,} different texts in {len(codes):,} rows; {_QUESTION}")
    return _labels(codes, names)


_QUESTION = "say task=classification for a class for each text, or task=regression for numbers"


def _labels(codes: Array, names: Sequence[str]) -> Targets:
    """Labels for codes of texts, numbered in the order of the numbers that the texts are, or else of the alphabet."""
    numeric = all(cells.as_number(name) is not None for name in names)
    order = sorted(range(len(names)), key=lambda i: (Decimal(names[i]) if numeric else 0, names[i]))
    place = np.argsort(order)
    return Targets(place[codes].astype(np.int64), "classification", tuple(names[i] for i in order))


def _values(column: pa.Array, task: str, where: str, decimal: str | None) -> tuple[Array, list[str]]:
    """The numbers (n,) of a target column, and what was decided; DataError where they are not numbers beyond doubt."""
    column = cells.without_levels(column)
    kind = column.type
    if cells.is_time(kind) or "time" in str(kind):
        raise DataError(f"{where}: holds dates or times ({column[0].as_py()}); make numbers of them, or {_QUESTION}")
    if not cells.is_text(kind):
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return column.to_numpy(zero_copy_only=False), []
        return _finite(cells.numbers(column), column, where), []
    flags = cells.is_yes_or_no(column)
    if flags and (task == "multilabel" or all(level.lower() in ("true", "false") for level in cells.levels(column)[1])):
        return cells.yes_or_no(column), []
    writing = cells.find_writing(column, decimal)
    if writing is None:
        if cells.time_format(column):
            raise DataError(f"{where}: holds dates ({column[0].as_py()}); make numbers of them, or {_QUESTION}")
        raise DataError(f"{where}: holds text ({str(column[0].as_py())[:40]!r}), which regression cannot use")
    if writing.wrong:
        raise DataError(f"{where}: holds {writing.wrong_cell[:40]!r} among numbers; mend or remove it, or {_QUESTION}")
    if writing.unsure:
        raise cells.both_ways(column, where)
    values = _finite(cells.numbers(column, writing.decimal), column, where)
    example = str(column[0].as_py())
    return values, [] if cells.as_number(example) is not None else [f"{where}: {example!r} is read as {values[0]:g}"]


def _finite(values: Array, column: pa.Array, where: str) -> Array:
    if not np.isfinite(values).all():
        raise _no_target(column, int(np.argmin(np.isfinite(values))), where)
    return values


def _no_target(column: pa.Array, row: int, where: str) -> DataError:
    return DataError(f"{where}: row {row + 1} holds {column[row].as_py()}, which is no target; remove the row")


def _guess(raw: Array) -> Task:
    if raw.ndim == 2:
        if not _zeros_and_ones(raw):
            return "regression"
        return "classification" if _one_hot(raw) else "multilabel"
    if raw.dtype.kind in "bUO":
        return "classification"
    if not _whole(raw):
        return "regression"
    levels = np.unique(raw)
    few = 2 * levels.size <= raw.size and (
        levels.size <= FEW or (levels.size <= MANY and levels[0] == 0 and levels[-1] == levels.size - 1)
    )
    return "classification" if few else "regression"


def _whole(raw: Array) -> bool:
    return raw.dtype.kind in "biu" or bool((raw == np.rint(raw)).all())


def _zeros_and_ones(raw: Array) -> bool:
    return raw.dtype.kind in "biuf" and bool(((raw == 0) | (raw == 1)).all())


def _one_hot(raw: Array) -> bool:
    return _zeros_and_ones(raw) and bool((raw == 1).sum(axis=1).min() == 1 == (raw == 1).sum(axis=1).max())
