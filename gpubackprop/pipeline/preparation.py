"""From a data set to what a network is trained on: parts, inputs, encoded targets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpubackprop.data import Dataset, Standardizer, Table, cells, split
from gpubackprop.data.targets import Task
from gpubackprop.data.text_tables import listed
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import Loss
from gpubackprop.random import host_generator

Array = np.ndarray
FEWEST = 20
"""Below this many rows nothing is held out: scores of two or three rows say nothing."""
_TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Part:
    """Some rows of a data set as they came, and in words which ones. x: a `Table` or (n, d); y: (n,) labels or (n, m) values;
    weights: (n,) what each row counts, or None."""

    x: Array | Table
    y: Array
    what: str
    weights: Array | None = None

    def some(self, rows: int, seed: int) -> Part:
        """So many of its rows, drawn at random, or all."""
        chosen = drawn(len(self.x), rows, seed)
        return Part(self.x[chosen], self.y[chosen], f"{len(chosen):,} rows of {self.what}")


def drawn(n: int, rows: int, seed: int) -> Array:
    """So many of n rows, drawn at random, in their order, or all: indices."""
    chosen: Array = np.sort(host_generator(seed, 14).permutation(n)[:rows])
    return chosen


@dataclass(frozen=True)
class Parts:
    """Rows to train on, rows to watch while training (None: none), and rows to judge the result by."""

    train: Part
    validation: Part | None
    test: Part


def divide(data: Dataset, *, test: float, validation: float, seed: int, rare_together: bool = True) -> Parts:
    """The parts of a data set, the same for the same data, shares and seed.

    test: the share of all rows that is held out, where the data set has no official test part; 0: judge by the
    training rows. validation: the share of what is left then; 0: none. Classes keep their proportions in each part,
    and so do combinations of several labels a row (those that occur once, as one) and the tenths of a regression's first
    target. Fewer than 20 rows are not divided. rare_together: False for runs of older versions, which never held out a
    combination that occurs once.

    Raises ArgumentError for shares outside [0, 1), or that leave a part without rows.
    """
    for name, share in (("test", test), ("validation", validation)):
        if not 0 <= share < 1:
            raise ArgumentError(f"{name} must be a share, 0 or more and below 1; got {share}")
    rows, whole = np.arange(len(data.x)), f"all {len(data.x):,} rows"
    judged: Part | None = None
    if data.x_test is not None and data.y_test is not None:
        judged = Part(data.x_test, data.y_test, f"the official test part, {len(data.x_test):,} rows")
    elif len(rows) >= FEWEST and test > 0:
        rows, held = _split(data, rows, test, seed, rare_together)
        how = "at random" if data.groups is None else "in whole groups"
        whole = f"{len(rows):,} rows"
        judged = _part(data, held, f"{len(held):,} of {len(data.x):,} rows, held out {how}")
    watched: Part | None = None
    if len(rows) >= FEWEST and validation > 0:
        rows, held = _split(data, rows, validation, seed, rare_together)
        watched, whole = _part(data, held, f"{len(held):,} rows"), f"{len(rows):,} rows"
    train = _part(data, rows, whole)
    itself = replace(train, what=f"the {len(rows):,} training rows themselves: none were held out")
    return Parts(train, watched, judged or itself)


def _split(data: Dataset, rows: Array, share: float, seed: int, rare_together: bool) -> tuple[Array, Array]:
    groups = None if data.groups is None else data.groups[rows]
    kept, held = split(len(rows), share, seed=seed, labels=_strata(data, rows, rare_together), groups=groups)
    return rows[kept], rows[held]


def _part(data: Dataset, rows: Array, what: str) -> Part:
    # A view where nothing was taken out: image sets are large.
    chosen: Any = slice(None) if len(rows) == len(data.x) else rows
    return Part(data.x[chosen], data.y[chosen], what, None if data.weights is None else data.weights[chosen])


def _strata(data: Dataset, rows: Array, rare_together: bool) -> Array:
    y: Array = data.y[rows]
    if data.task == "multilabel":
        _, codes, counts = np.unique(y, axis=0, return_inverse=True, return_counts=True)
        codes = codes.reshape(-1)
        # A class of one row is never held out: what occurs once is one class together.
        return np.where(counts[codes] == 1, -1, codes) if rare_together else codes
    return y if data.task == "classification" else np.searchsorted(np.quantile(y[:, 0], _TENTHS), y[:, 0])


def fingerprint(data: Dataset) -> str:
    """SHA-256 of all values of a data set: whether the held-out rows are still those that were held out."""
    digest = hashlib.sha256()
    for array in (*_arrays(data.x), data.y, data.x_test, data.y_test, data.groups):
        if array is not None:
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(x: Array | Table) -> Iterator[Array]:
    """The values of rows, as arrays that do not depend on how Arrow lays them out."""
    if not isinstance(x, Table):
        yield x
        return
    for name in x.names:
        column = x.column(name)
        yield np.frombuffer(name.encode(), np.uint8)
        if cells.is_text(column.type):
            codes, names = cells.levels(column)
            yield from (codes, np.frombuffer("\0".join(names).encode(), np.uint8))
        else:
            yield cells.numbers(column)


def baseline(data: Dataset, part: Part) -> dict[str, Any]:
    """What the targets of the training rows are, and the scores of always giving one answer, by which to judge others.

    {"classes": {name: rows}, "accuracy"}, {"labels": {name: rows}, "accuracy"} for several labels a row, or {"values": {name:
    {"mean", "least", "most", "mean_absolute_error"}}}: the mean is the answer then, and R^2 is 0.
    """
    if data.classes:
        counts = np.bincount(part.y, minlength=len(data.classes))
        named = {name: int(count) for name, count in zip(data.classes, counts, strict=True)}
        return {"classes": named, "accuracy": float(counts.max() / counts.sum())}
    names = data.targets or tuple(f"y{i}" for i in range(part.y.shape[1]))
    if data.task == "multilabel":
        share = part.y.mean(axis=0)
        named = {name: int(count) for name, count in zip(names, part.y.sum(axis=0), strict=True)}
        return {"labels": named, "accuracy": float(np.maximum(share, 1 - share).mean())}
    return {
        "values": {
            name: {
                "mean": float(y.mean()),
                "least": float(y.min()),
                "most": float(y.max()),
                "mean_absolute_error": float(np.abs(y - y.mean()).mean()),
            }
            for name, y in zip(names, part.y.T, strict=True)
        }
    }


def told(found: dict[str, Any]) -> list[str]:
    """A `baseline` in words, a line for each target."""
    if "values" in found:
        return [
            f"{name}: {v['least']:g} to {v['most']:g}; always its mean, {v['mean']:g}: r2 0, mean_absolute_error "
            f"{v['mean_absolute_error']:.4g}"
            for name, v in found["values"].items()
        ]
    kind = "classes" if "classes" in found else "labels"
    counts = listed([f"{name} {count:,}" for name, count in found[kind].items()], 20)
    return [f"{kind}: {counts}; always the most frequent: accuracy {found['accuracy']:.4f}"]


def outputs_for(task: Task, classes: int, targets: int, loss: Loss) -> int:
    """How many outputs a network needs. Raises ArgumentError where the loss does not suit the task."""
    if task == "regression":
        if loss.output != "identity":
            raise ArgumentError(
                f"loss={loss.name} is for classes, and the target is a number: take mean_squared_error or another "
                "error, or say task=classification"
            )
        return targets
    if task == "multilabel":
        if loss.output != "sigmoid":
            raise ArgumentError(f"loss={loss.name} cannot learn several labels a row: take binary_cross_entropy")
        return targets
    return 1 if loss.output == "sigmoid" and classes == 2 else classes


def encode(y: Array, outputs: int, loss: Loss, scale: Standardizer | None, dtype: DTypeLike) -> Array:
    """Targets as the loss takes them: labels (n,), 0/1 (n, m), one-hot (n, k), or values (n, m), standardised."""
    if y.ndim == 2:
        values: Array = y.astype(dtype) if scale is None else scale.transform(y, dtype)
        return values
    if loss.labels:
        return y
    if outputs == 1:
        return y.reshape(-1, 1).astype(dtype)
    one_hot = np.zeros((len(y), outputs), dtype)
    one_hot[np.arange(len(y)), y] = 1
    return one_hot
