"""Classification or regression, and the labels or values that go with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data.dataset import Task
from gpubackprop.errors import DataError, unknown_name

TASKS = ("auto", "classification", "regression")
FEW = 20
MANY = 1000


@dataclass(frozen=True)
class Targets:
    """values: (n,) int64 labels or (n, m) float64; classes: label names in label order, () for regression.

    levels: the distinct raw values that the labels stand for, in label order (None for regression).
    """

    values: NDArray[np.generic]
    task: Task
    classes: tuple[str, ...] = ()
    levels: NDArray[np.generic] | None = None

    def encode(self, raw: NDArray[np.generic], where: str) -> NDArray[np.generic]:
        """More targets of the same kind, a test part's, in the same labels; DataError for a class not seen before."""
        if self.levels is None:
            return _values(raw, self.values.shape[1], where)
        raw = _column(raw, where)
        if raw.dtype.kind != "U" and self.levels.dtype.kind != "U":
            _check_finite(raw, where)
        labels = np.minimum(np.searchsorted(self.levels, raw), self.levels.size - 1)
        wrong = np.flatnonzero(self.levels[labels] != raw)
        if wrong.size:
            raise DataError(f"{where}: row {wrong[0]} holds {raw[wrong[0]]}, which no training row has")
        return labels.astype(np.int64)


def check_task(task: str) -> None:
    """Raise ArgumentError unless task is "auto", "classification" or "regression"."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)


def read_targets(raw: NDArray[np.generic], task: str, where: str) -> Targets:
    """The targets in `raw`: (n,) or (n, m) text, bool or numbers, read as `task` says.

    "auto" decides so:
      * text and bool are classification;
      * numbers, one column, all whole, with k different values, two rows or more for each on average (2k <= n), are
        classification if k <= 20, or if they are exactly 0..k-1 and k <= 1000;
      * several columns that are one-hot (zeros and a single one in each row) are classification;
      * everything else is regression.
    Labels are numbered in the sorted order of the values; the values stay as names. `where` opens every message.

    Raises DataError for NaN or infinity, for classification with a single class or of numbers that are not whole, for
    regression on text, and for several columns that are not one-hot in classification.
    """
    check_task(task)
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.dtype.kind not in "bU":
        _check_finite(raw, where)
    if task == "auto":
        task = "classification" if _looks_like_classes(raw) else "regression"
    if task == "regression":
        if raw.dtype.kind == "U":
            raise DataError(
                f"{where}: holds text ({str(raw.flat[0])!r}), which regression cannot use; ask for classification"
            )
        return Targets(_values(raw, 1 if raw.ndim == 1 else raw.shape[1], where), "regression")
    if raw.ndim == 2:
        raw = _column(raw, where)
    if raw.dtype.kind == "f" and not _whole(raw):
        value = raw[raw != np.rint(raw)][0]
        raise DataError(f"{where}: holds {value}, which is no class: classification takes text or whole numbers")
    levels, labels = np.unique(raw, return_inverse=True)
    if levels.size < 2:
        raise DataError(
            f"{where}: every row holds {_class_name(levels[0])!r}: with one class there is nothing to learn"
        )
    return Targets(labels.reshape(-1).astype(np.int64), "classification", tuple(map(_class_name, levels)), levels)


def _looks_like_classes(raw: NDArray[np.generic]) -> bool:
    if raw.dtype.kind in "bU":
        return raw.ndim == 1 or _one_hot(raw)
    if raw.ndim == 2:
        return _one_hot(raw)
    if not _whole(raw):
        return False
    levels = np.unique(raw)
    if 2 * levels.size > raw.size:
        return False
    return levels.size <= FEW or bool(levels.size <= MANY and levels[0] == 0 and levels[-1] == levels.size - 1)


def _whole(raw: NDArray[np.generic]) -> bool:
    return raw.dtype.kind in "biu" or bool((raw == np.rint(raw)).all())


def _one_hot(raw: NDArray[np.generic]) -> bool:
    return raw.dtype.kind in "biuf" and bool((((raw == 0) | (raw == 1)).all()) and ((raw == 1).sum(axis=1) == 1).all())


def _column(raw: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    """One class value a row: (n,) and (n, 1) as they are, one-hot rows as the index of their one."""
    if raw.ndim == 1:
        return raw
    if raw.ndim == 2 and raw.shape[1] == 1:
        return raw[:, 0]
    if raw.ndim != 2 or not _one_hot(raw):
        raise DataError(f"{where}: has shape {raw.shape} and is not one-hot: classification takes one label a row")
    labels: NDArray[np.int64] = raw.argmax(axis=1)
    return labels


def _values(raw: NDArray[np.generic], width: int, where: str) -> NDArray[np.float64]:
    columns = raw[:, None] if raw.ndim == 1 else raw
    if columns.ndim != 2 or columns.shape[1] != width:
        raise DataError(f"{where}: has shape {raw.shape}, expected (n, {width})")
    values = np.ascontiguousarray(columns, dtype=np.float64)
    _check_finite(values, where)
    return values


def _check_finite(raw: NDArray[np.generic], where: str) -> None:
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        row = int(np.argwhere(~np.isfinite(raw))[0][0])
        raise DataError(f"{where}: row {row} holds NaN or infinity; remove the row or fill it in")


def _class_name(level: np.generic) -> str:
    return str(int(level)) if level.dtype.kind == "f" else str(level)
