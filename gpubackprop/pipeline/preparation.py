"""From a data set to what a network is trained on: parts, standardised inputs, encoded targets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.data import Dataset, Standardizer, split
from gpubackprop.data.dataset import Task
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import Loss

Array = np.ndarray
FEWEST = 20
"""Below this many rows nothing is held out: scores of two or three rows say nothing."""
_TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Part:
    """Some rows of a data set as they came, and in words which ones. x (n, d), y (n,) labels or (n, m) values."""

    x: Array
    y: Array
    what: str


@dataclass(frozen=True)
class Parts:
    """Rows to train on, rows to watch while training (None: none), and rows to judge the result by."""

    train: Part
    validation: Part | None
    test: Part


def divide(data: Dataset, *, test: float, validation: float, seed: int) -> Parts:
    """The parts of a data set, the same for the same data, shares and seed.

    test: the share of all rows that is held out, where the data set has no official test part; 0: judge by the
    training rows. validation: the share of what is left then; 0: none. Classes keep their proportions in each part,
    and so do the tenths of a regression's first target. Fewer than 20 rows are not divided.

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
        rows, held = split(len(rows), test, seed=seed, labels=_strata(data, rows))
        whole = f"{len(rows):,} rows"
        judged = Part(data.x[held], data.y[held], f"{len(held):,} of {len(data.x):,} rows, held out at random")
    watched: Part | None = None
    if len(rows) >= FEWEST and validation > 0:
        kept, held = split(len(rows), validation, seed=seed, labels=_strata(data, rows))
        watched = Part(data.x[rows[held]], data.y[rows[held]], f"{len(held):,} rows")
        rows, whole = rows[kept], f"{len(kept):,} rows"
    # A view where nothing was taken out: image sets are large.
    x, y = (data.x, data.y) if len(rows) == len(data.x) else (data.x[rows], data.y[rows])
    train = Part(x, y, whole)
    return Parts(train, watched, judged or Part(x, y, f"the {len(x):,} training rows themselves: none were held out"))


def _strata(data: Dataset, rows: Array) -> Array:
    y: Array = data.y[rows]
    return y if data.task == "classification" else np.searchsorted(np.quantile(y[:, 0], _TENTHS), y[:, 0])


def fingerprint(data: Dataset) -> str:
    """SHA-256 of all arrays of a data set: whether the held-out rows are still those that were held out."""
    digest = hashlib.sha256()
    for array in (data.x, data.y, data.x_test, data.y_test):
        if array is not None:
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fit_inputs(x: Array) -> Standardizer:
    """The standardisation of training inputs (n, d): a mean and a scale for each column, or one for all that share a unit.

    Columns share a unit, as pixels do, where all hold whole numbers from 0 on and at least half of them reach the
    largest: a scale for each would blow up the pixels that are nearly always dark.
    """
    largest = x.max(axis=0)
    shared = x.dtype == np.uint8 or (
        x.min() >= 0 and np.median(largest) == largest.max() and bool((x == np.rint(x)).all())
    )
    return Standardizer(per_feature=not shared).fit(x)


def outputs_for(task: Task, classes: int, targets: int, loss: Loss) -> int:
    """How many outputs a network needs. Raises ArgumentError where the loss does not suit the task."""
    if task == "regression":
        if loss.output != "identity":
            raise ArgumentError(
                f"loss={loss.name} is for classes, and the target is a number: take mean_squared_error or another "
                "error, or say task=classification"
            )
        return targets
    return 1 if loss.output == "sigmoid" and classes == 2 else classes


def encode(y: Array, outputs: int, loss: Loss, scale: Standardizer | None, dtype: Any) -> Array:
    """Targets as the loss takes them: labels (n,), 0/1 (n, 1), one-hot (n, k), or values (n, m), standardised."""
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
