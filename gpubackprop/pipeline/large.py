"""Training on a table that is larger than the memory: a sample of its rows decides what becomes of the columns and gives the rows
that are held out; all others become the network's inputs once, in files beside the run, from which they are streamed. Where rows
of a group are kept together, the sample decides for the groups that it has seen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpubackprop.data import Dataset, Table, TextFormat
from gpubackprop.data.arrow import pc
from gpubackprop.data.pieces import WEIGHTS, read_table_parts
from gpubackprop.data.sampling import Sample, identities
from gpubackprop.data.tables import COMPRESSED, is_table
from gpubackprop.errors import DataError
from gpubackprop.files.regular import memory, regular_file
from gpubackprop.network.stream import WINDOW
from gpubackprop.pipeline.encoder import Encoder
from gpubackprop.pipeline.model import Model
from gpubackprop.pipeline.preparation import Part, Parts

TEXT, PACKED = 4, 16
"""The memory that training takes for each byte of a file of text, and of one that is compressed, roughly: the table, and the
inputs made of it."""
_WHOLE = "whole"
FEWEST = 4096
"""Rows that are shuffled together at least."""


def is_large(source: str, most: int | None) -> bool:
    """Whether a table file would not fit into `most` bytes, by default those of the machine."""
    if source == "-" or not is_table(source) or not os.path.isfile(source):
        return False
    packed = source.lower().endswith((".parquet", ".feather", ".arrow", *filter(None, COMPRESSED)))
    return (PACKED if packed else TEXT) * regular_file(source)[1] > (most or memory())


def rows_together(width: int, most: int | None) -> int:
    """The rows of `width` inputs that are shuffled together: two times as many are in memory, in a quarter of it."""
    return max(FEWEST, min(WINDOW, (most or memory()) // 8 // (4 * max(1, width))))


class Held:
    """The rows of a table that are not for training: those of a sample of it which were held out, and, where rows are kept
    together, all others of their groups. Groups that the sample has not seen are for training."""

    def __init__(self, sample: Sample, parts: Parts, group: str | None) -> None:
        apart = [part.x.rows for part in (parts.test, parts.validation) if part and part.x is not parts.train.x]  # type: ignore[union-attr]
        rows = np.concatenate([np.zeros(0, np.int64), *apart])
        self.group = group
        self._places = np.unique(sample.places[rows])
        self.trained = sample.places[parts.train.x.rows]  # type: ignore[union-attr]
        self._groups = None if sample.groups is None else sample.groups.take(rows).unique()

    def rows(self, part: Table, first: int, where: str) -> NDArray[np.bool_]:
        """Which rows of a part of the table they are; first: the place of its first row in the file."""
        held = np.isin(np.arange(first, first + len(part)), self._places)
        if self._groups is not None and self.group is not None:
            groups = identities(part.column(part.find(self.group, where)))
            held |= pc.is_in(groups, self._groups).to_numpy(zero_copy_only=False)
        return held

    def count(self, source: str, format: TextFormat | None) -> int:
        """How many they are; with groups the file is read once more for that."""
        if self.group is None:
            return len(self._places)
        done = found = 0
        for part in read_table_parts(source, text=[self.group], format=format):
            found += int(self.rows(part, done, source).sum())
            done += len(part)
        return found


def encode_all(model: Model, held: Held, train: Part, folder: Path, balanced: bool = False) -> None:
    """Write all rows of the model's table but those `held`, as the network's inputs and targets and with their
    weights, to files of `folder` for `open_stream`, where they are not there yet. train: the rows of the sample that are for
    training, which must not be told their own targets. balanced: each class counts the same.

    Raises DataError for rows that the sample did not prepare for (an unknown class), and where the folder cannot be written.
    """
    known = model.data
    source, goals, weight, group = known["source"], known["targets"], known["weight"], known["group"]
    if (folder / _WHOLE).exists():
        return
    text = [*goals, *model.text, *filter(None, [group])]
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        by_means = isinstance(model.inputs, Encoder) and model.inputs.has_means
        own = model.prepare_training(train) if by_means else None
        done = 0
        for number, part in enumerate(read_table_parts(source, text=text, format=model.format())):
            rows = part[~held.rows(part, done, source)]
            first, done = done, done + len(part)
            if not len(rows) or any(rows.column(goal).null_count == len(rows) for goal in goals):
                continue
            data = Dataset.from_frame(rows, goals, task=known["task"], weight=weight, group=group, name=source)
            x, y = model.match(data)
            arrays = {"x": model.prepare(x), "y": model.prepare_targets(y)}
            if own is not None and isinstance(x, Table) and x.rows is not None:
                _, here, there = np.intersect1d(first + x.rows, held.trained, return_indices=True)
                arrays["x"][here] = own[there]
            if data.weights is not None:
                arrays[WEIGHTS] = data.weights
            for name, array in arrays.items():
                np.save(folder / f"{number:06}_{name}.npy", array)
        if weight is not None or balanced:
            _weigh(folder, len(model.classes or ()) if balanced else 0, f"{source}: column {weight}")
        (folder / _WHOLE).touch()
    except OSError as error:
        raise DataError(
            f"{folder}: the encoded rows cannot be written: {error.strerror}; they take 4 bytes a number"
        ) from error


def _weigh(folder: Path, classes: int, where: str) -> None:
    """Write the weights of all rows as `Settings.row_weights` has them for a table in memory: with the mean 1. classes: how many
    of them count the same; 0: that is not asked for."""
    files = [
        (path, path.with_name(path.name.replace("_y.", f"_{WEIGHTS}."))) for path in sorted(folder.glob("*_y.npy"))
    ]
    rows = np.zeros(classes)
    for y, _ in files if classes else ():
        rows += np.bincount(_labels(y), minlength=classes)

    def weights(y: Path, own: Path) -> NDArray[np.float64]:
        labels = _labels(y)
        found: NDArray[np.float64] = np.load(own) if own.exists() else np.ones(len(labels))
        return found / rows[labels] if classes else found

    total, count = 0.0, 0
    for y, own in files:
        part = weights(y, own)
        total, count = total + float(part.sum()), count + len(part)
    if not total:
        raise DataError(f"{where}: no row counts; some must have a weight above 0")
    for y, own in files:
        np.save(own, weights(y, own) * (count / total))


def _labels(path: Path) -> NDArray[np.int64]:
    """The class of each row, (n,), from a file of targets."""
    y: NDArray[np.generic] = np.load(path)
    labels = y if y.ndim == 1 else y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
    return labels.astype(np.int64)
