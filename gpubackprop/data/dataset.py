"""The type that every reader returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import cells
from gpubackprop.data.tables import Table, table_from
from gpubackprop.data.targets import Task, check_task, read_target_columns
from gpubackprop.data.text_tables import TextFormat, listed
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Rows to learn from, at least one.

    x: (n, d) array, C-contiguous, in native byte order, finite: uint8 for images, otherwise float32, or float64 where float32
    would lose the differences between the rows (see `gpubackprop.data.arrays.features`); or a `Table`, whose columns an
    encoder turns into inputs. y: (n,) int64 labels 0..k-1 for classification, (n, m) float64 for regression, (n, m) float64 of
    0 and 1 for several labels a row. classes: the k label names in label order, () otherwise. features: the d column names, ()
    where the source has none. x_test, y_test: the official test part, or None. targets: the names of what y holds. weights:
    (n,) float64, what each row counts, or None: all the same. groups: (n,) int64, rows of one number belong together, or None.
    image: the columns are pixels and share a unit. notes: what the reader found and decided, a sentence each.
    """

    name: str
    x: NDArray[Any] | Table
    y: NDArray[Any]
    task: Task
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    x_test: NDArray[Any] | None = None
    y_test: NDArray[Any] | None = None
    targets: tuple[str, ...] = ()
    weights: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    image: bool = False
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        goals = {"classification": f"{len(self.classes)} classes", "regression": f"{len(self.targets)} targets"}
        goal = goals.get(self.task, f"{len(self.targets)} labels a row")
        test = "" if self.x_test is None else f", {len(self.x_test):,} test rows"
        kind = "table" if isinstance(self.x, Table) else self.x.dtype
        return f"Dataset({self.name!r}: {self.task}, {kind} x {self.x.shape}, {goal}{test})"

    @classmethod
    def from_frame(
        cls,
        frame: object,
        target: str | Sequence[str] | None = None,
        *,
        task: str = "auto",
        weight: str | None = None,
        group: str | None = None,
        format: TextFormat | None = None,
        name: str = "frame",
    ) -> Dataset:
        """The data set in a data frame: pandas, polars, pyarrow, a dictionary of columns, or whatever has the Arrow PyCapsule
        interface.

        target: the column to predict, or several (also as text with commas between); "#0" is the first column, "#-1" the
        last. task: "classification", "regression", "multilabel" (a 0/1 column for each label), or "auto", as the target looks.
        weight: a column of what each row counts. group: a column whose equal values mark rows that no split may part. Rows
        without a target are left out, which the notes say.

        Raises ArgumentTypeError for what is no data frame or no name, DataError for columns that are not there or cannot be used.
        """
        check_task(task)
        table = table_from(frame, format)
        if target is None:
            raise DataError(f"{name}: say which column to predict, target=NAME; the columns are {listed(table.names)}")
        asked = [target] if isinstance(target, str) or not isinstance(target, Iterable) else [*target]
        if not all(isinstance(goal, str) for goal in asked):
            raise ArgumentTypeError(f"target is {target!r}; expected the name of a column, as text, or a list of names")
        goals = [table.find(goal, name) for goal in table.split(asked)]
        if len(set(goals)) < len(goals):
            raise DataError(f"{name}: target {target!r} names a column twice")
        extra = [table.find(column, name) for column in (weight, group) if column is not None]
        x = table.without([*goals, *extra])
        if not x.names:
            raise DataError(f"{name}: no column is left to predict from")
        where = f"{name}: column {', '.join(goals)}"
        notes = list(table.notes)
        columns = [table.column(goal) for goal in goals]
        has_target = np.logical_and.reduce([column.is_valid().to_numpy(zero_copy_only=False) for column in columns])
        kept = np.flatnonzero(has_target)
        if not len(kept):
            raise DataError(f"{where}: no row has a value")
        if len(kept) < len(table):
            notes.append(
                f"{len(table) - len(kept):,} of {len(table):,} rows have no {', '.join(goals)} and are left out"
            )
            table, x = table[kept], x[kept]
            columns = [table.column(goal) for goal in goals]
        groups = None if group is None else cells.levels(table.column(table.find(group, name)))[0]
        if groups is not None and (without := int((groups < 0).sum())):
            notes.append(f"{without:,} rows have no {group}: they are one group, which no split parts")
        targets = read_target_columns(columns, task, where, table.format.decimal)
        classes = targets.classes
        if len(goals) > 1:
            # Of one-hot columns, those that occur are known by their places.
            classes = tuple(goals[int(place)] for place in classes)
        return cls(
            name,
            x,
            targets.values,
            targets.task,
            classes,
            tuple(x.names),
            targets=tuple(goals),
            weights=None if weight is None else _weights(table, table.find(weight, name), name),
            groups=groups,
            notes=(*notes, *targets.notes),
        )


def _weights(table: Table, column: str, where: str) -> NDArray[np.float64]:
    weights = cells.numbers_as_said(table.column(column), table.format.decimal, f"{where}: column {column}")
    if np.isnan(weights).any() or weights.min() < 0:
        raise ArgumentError(f"{where}: column {column}: weights must be numbers, 0 or more, one for each row")
    return weights
