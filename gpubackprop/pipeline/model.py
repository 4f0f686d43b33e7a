"""A trained network together with the preparation of its data: how raw rows become inputs, and outputs become answers."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.checks import Data
from gpubackprop.data import NAMES, Dataset, Standardizer, Table, TextFormat, cells, load, load_rows
from gpubackprop.data.sampling import Sample, load_sample
from gpubackprop.data.tables import is_frame, is_table, read_table, table_from, title_of
from gpubackprop.data.text_tables import listed
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError
from gpubackprop.files.checkpoint import load_checkpoint
from gpubackprop.metrics import accuracy, label_accuracy, mean_absolute_error, r2
from gpubackprop.network.network import Network
from gpubackprop.pipeline.encoder import Encoder
from gpubackprop.pipeline.preparation import Part, divide, encode, fingerprint
from gpubackprop.pipeline.run_folder import CHECKPOINTS, MODEL
from gpubackprop.training import evaluate

Array = np.ndarray
Rows = Any
"""Rows as they come: the name or file of a data set, a `Dataset`, a `Table`, a data frame, or what NumPy makes a (n, d) array
of real numbers of."""


@dataclass
class Model:
    """A network that takes raw rows and gives answers in the terms of the data that it was trained on.

    inputs: how raw rows become inputs: the encoder of a table's columns, or the standardisation of an array (None: as it is).
    targets: the standardisation of regression targets (None: as they are). data: what the training data were: "source",
    "target", "task", "folder", "weight", "group", "max_bytes", "memory", "format", "name", "classes", "features", "targets",
    "sha256", of a table that is streamed "sampled" and "window" (rows) and "text" (columns), and how they were divided: "test",
    "validation", "seed", "rare_together".
    """

    network: Network
    inputs: Encoder | Standardizer | None
    targets: Standardizer | None
    data: dict[str, Any]

    # -- what it is asked ---------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the columns of `predict_proba`; empty for other tasks."""
        names: list[str] = self.data["classes"]
        return names

    @property
    def features(self) -> list[str]:
        """The names of the input columns; empty where the data had none."""
        names: list[str] = self.data["features"]
        return names

    def predict(self, rows: Rows, batch_size: int | None = None) -> Array:
        """For each raw row the name of its class, (n,) text, or its values (n, m), float64, in the unit of the targets; for
        several labels a row, 0 or 1 for each (n, m).

        Raises DataError for rows that lack columns, or whose classes cannot be told as their numbers are beyond what the network
        can compute with, and what `load` raises for a name or a file.
        """
        answers = self.answers(self.read(rows), batch_size)
        if self.classes:
            named: Array = np.array(self.classes)[self.best(answers)]
            return named
        if self.data["task"] != "multilabel":
            return answers
        self._check_told(answers)
        return (answers >= 0.5).astype(np.float64)

    def best(self, answers: Array) -> Array:
        """Of each row of `answers` the index of its class, (n,) int64. Raises DataError for rows of NaN."""
        self._check_told(answers)
        found: Array = answers.argmax(axis=1)
        return found

    def _check_told(self, answers: Array) -> None:
        if (untold := np.isnan(answers).any(axis=1)).any():
            raise DataError(
                f"row {int(untold.argmax()) + 1}: the network's answer is NaN, of no class ({untold.sum():,} such rows): the "
                f"row's numbers are too large to compute with in {self.network.dtype.name}; mend the row or leave it out"
            )

    def predict_proba(self, rows: Rows, batch_size: int | None = None) -> Array:
        """For each raw row the probability of each class (n, k), or of each label (n, m); under an error loss, the network's
        scores of the classes.

        Raises ArgumentError for a regression, and what `predict` raises.
        """
        if self.data["task"] == "regression":
            raise ArgumentError("predict_proba is for classes, and this network predicts values: call predict")
        return self.answers(self.read(rows), batch_size)

    def score(self, rows: Rows, y: Data | None = None, batch_size: int | None = None) -> dict[str, float]:
        """{"accuracy", "loss"}, or {"r2", "mean_absolute_error" (in the unit of the targets), "loss"}, of raw rows.

        y: the names of the classes (n,), or values (n, m) or (n,), of a data frame by the names of its columns; left out where
        `rows` is a data set, a name or a file, which has its own. Raises DataError for classes that the network does not know,
        and what `predict` raises.
        """
        if y is not None:
            return self.scores(self.read(rows), self._target(y), batch_size)
        if isinstance(rows, (str, os.PathLike)):
            rows = self.load_data(os.fspath(rows))
        if not isinstance(rows, Dataset):
            raise ArgumentTypeError("y is missing: only a data set, a name or a file has targets of its own")
        return self.scores(*self.match(rows), batch_size)

    # -- what the command asks ------------------------------------------------------------------------------------------

    def prepare(self, x: Array | Table) -> Array:
        """Raw rows as the network's inputs (n, d).

        Raises DataError for another number of columns, and for a table without those of training.
        """
        if isinstance(self.inputs, Encoder):
            return self.inputs.transform(self._table(x), self.network.dtype)
        if isinstance(x, Table):
            x = self._numbers(x)
        if x.shape[1] != self.network.widths[0]:
            raise DataError(
                f"the data have {x.shape[1]} columns, and the network was trained on {self.network.widths[0]}"
            )
        return x if self.inputs is None else self.inputs.transform(x, self.network.dtype)

    def remarks(self, x: Array | Table) -> list[str]:
        """Warnings about raw rows: columns, levels and missing values that training had not, a sentence each."""
        if not isinstance(self.inputs, Encoder):
            return []
        table = self._table(x)
        known = {*self.features, *self.data["targets"], self.data.get("weight"), self.data.get("group")}
        unused = [name for name in table.names if name not in known]
        new = [f"not used, since training had no such columns: {listed(unused)}"] if unused else []
        return [*new, *table.notes, *self.inputs.remarks(table)]

    def _table(self, x: Array | Table) -> Table:
        """Rows as a table: an array's columns are taken for those of the training table, in their order."""
        if isinstance(x, Table):
            return x
        if x.shape[1] != len(self.features):
            raise DataError(f"the data have {x.shape[1]} columns, and the network was trained on {len(self.features)}")
        return table_from(dict(zip(self.features, x.T, strict=True)))

    def prepare_training(self, part: Part) -> Array:
        """The inputs of the training rows (n, d), which must not be told their own targets."""
        if isinstance(self.inputs, Encoder) and isinstance(part.x, Table):
            return self.inputs.transform_training(part.x, part.y, len(self.classes), self.network.dtype)
        return self.prepare(part.x)

    def _numbers(self, table: Table) -> Array:
        """The columns that a network on arrays was trained on, as numbers (n, d); DataError where some are not there."""
        there = set(table.names)
        names = [n if n in there else table.find(n, "the table") for n in self.features] or table.names
        decimal = table.format.decimal
        x = np.stack([cells.numbers_as_said(table.column(n), decimal, f"column {n}") for n in names], axis=1)
        if np.isnan(x).any():
            column = int(np.argmax(np.isnan(x).any(axis=0)))
            row = int(np.argmax(np.isnan(x[:, column])))
            raise DataError(
                f"row {row + 1}, column {names[column]} holds no number, and the network was trained on numbers"
            )
        return x

    def prepare_targets(self, y: Array) -> Array:
        """Raw targets, labels (n,) or values (n, m), as the network's loss takes them."""
        return encode(y, self.network.widths[-1], self.network.loss_function, self.targets, self.network.dtype)

    def prepared(self, rows: Part) -> tuple[Array, Array]:
        """The inputs and targets of rows, as the network takes them."""
        return self.prepare(rows.x), self.prepare_targets(rows.y)

    def answers(self, x: Array | Table, batch_size: int | None = None) -> Array:
        """For raw rows: a score for each class (n, k), probabilities under a cross-entropy, the probability of each label
        (n, m), or values (n, m) in the unit of the targets."""
        out = self.network.predict(self.prepare(x), batch_size)
        if not self.classes:
            return out if self.targets is None else self.targets.inverse(out)
        return np.hstack([1 - out, out]) if out.shape[1] == 1 else out

    def scores(
        self, x: Array | Table, y: Array, batch_size: int | None = None, answers: Array | None = None
    ) -> dict[str, float]:
        """`score` of raw rows and raw targets, labels (n,) or values (n, m). answers: those of x, where they are known."""
        answers = self.answers(x, batch_size) if answers is None else answers
        # As it is in training, penalties included.
        loss = evaluate(self.network, self.prepare(x), self.prepare_targets(y), batch_size)["loss"]
        if self.classes:
            return {"accuracy": accuracy(answers, y), "loss": loss}
        if self.data["task"] == "multilabel":
            return {"accuracy": label_accuracy(answers, y), "loss": loss}
        return {"r2": r2(answers, y), "mean_absolute_error": mean_absolute_error(answers, y), "loss": loss}

    def match(self, data: Dataset) -> tuple[Array | Table, Array]:
        """x and y of other data with the labels, or the order of targets, that the network knows; x_test and y_test where there
        are such.

        Raises DataError for missing columns, classes never seen, and another number of targets.
        """
        x, y = (data.x, data.y) if data.x_test is None or data.y_test is None else (data.x_test, data.y_test)
        wanted = self.features
        if not isinstance(x, Table) and wanted and data.features and list(data.features) != wanted:
            missing = [name for name in wanted if name not in data.features]
            if missing or len(data.features) != len(wanted):
                raise DataError(
                    f"{data.name}: its columns are not those that the network was trained on: missing "
                    f"{', '.join(missing) or 'none'}, not known {', '.join(sorted({*data.features} - {*wanted})) or 'none'}"
                )
            x = x[:, [data.features.index(name) for name in wanted]]
        if self.classes:
            unknown = [name for name in data.classes if name not in self.classes]
            if not data.classes:
                raise DataError(f"{data.name}: its target is a number, and the network was trained on classes")
            if unknown:
                raise DataError(f"{data.name}: the network knows no class {', '.join(map(repr, unknown[:5]))}")
            y = np.array([self.classes.index(name) for name in data.classes], np.int64)[y]
        elif y.ndim != 2 or y.shape[1] != self.network.widths[-1]:
            raise DataError(f"{data.name}: expected {self.network.widths[-1]} targets a row, as in training")
        elif list(data.targets) != (names := self.data["targets"]) and {*data.targets} == {*names}:
            y = y[:, [data.targets.index(name) for name in names]]
        return x, y

    def rows_to_judge(self, data: str | None = None, target: str | None = None, folder: str | None = None) -> Part:
        """The rows that training held out, where `data` is the training data (None), otherwise all rows of other data.

        target and folder: as for `load`; None: as in training. Raises what `load` and `match` raise, and DataError where
        the training data have changed.
        """
        known, source = self.data, data or self.source("name the data to evaluate on")
        if data is None:
            folder = folder or known["folder"]
        elif known.get("sampled") and is_table(data) and data != "-":
            with contextlib.suppress(ArgumentError, DataError):
                if held := self._held_out(self.load_sample(data, target).data):
                    return held
        loaded = self.load_data(source, target=target, folder=folder, same=data is None)
        if held := self._held_out(loaded):
            return held
        if data is None:
            raise DataError(
                f"{source}: is not what the network was trained on, so nobody can tell which rows were held out; "
                "name the data to evaluate on"
            )
        x, y = self.match(loaded)
        return Part(x, y, f"{len(x):,} rows of {data}")

    def _held_out(self, data: Dataset) -> Part | None:
        """The rows that training held out, where it was trained on these data."""
        known = self.data
        # The fingerprint is of labels, not of what the classes are called.
        if fingerprint(data) != known["sha256"] or list(data.classes) != known["classes"]:
            return None
        shares = {name: known[name] for name in ("test", "validation", "seed")}
        return divide(data, **shares, rare_together=self.rare_together).test

    @property
    def rare_together(self) -> bool:
        """Which rule of `divide` held out the rows."""
        return bool(self.data.get("rare_together", False))

    def source(self, remedy: str) -> str:
        """The name or file that the network was trained on; DataError, with a remedy, where that was none."""
        found: str | None = self.data["source"]
        if found in (None, "-"):
            where = "arrays, not on a file" if found is None else "standard input"
            raise DataError(f"the network was trained on {where}: {remedy}")
        return found

    def load_data(
        self,
        source: str,
        *,
        target: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        same: bool = False,
    ) -> Dataset:
        """A data set to score the network on, its columns read as in training; target: None: as in training.

        same: it is what the network was trained on. Raises what `load` raises.
        """
        known = self.data
        if source in NAMES or not is_table(source):
            return load(source, target=target, task=known["task"], folder=folder)
        if same and known.get("sampled"):
            return self.load_sample(source, target).data
        goals, reading = target or known["targets"], self._reading()
        text = [*([goals] if isinstance(goals, str) else goals), *reading.pop("text")]
        table = read_table(source, text=text, **reading)
        read = partial(Dataset.from_frame, table, goals, task=known["task"], name=title_of(source))
        # Weights and groups matter for the training data alone: they say which rows were held out. Other data may have none.
        with contextlib.suppress(*() if same else (ArgumentError, DataError)):
            return read(weight=known.get("weight"), group=known.get("group"))
        return read()

    def load_sample(self, source: str, target: str | None = None) -> Sample:
        """The rows of a table that is streamed which the training looked at."""
        known, goals = self.data, target or self.data["targets"]
        as_then = {name: known[name] for name in ("seed", "task", "text", "weight", "group")}
        return load_sample(source, known["sampled"], target=goals, format=self.format(), **as_then)

    def read(self, rows: Rows, folder: str | None = None) -> Array | Table:
        """Raw rows from whatever they come in, without their targets. Raises ArgumentTypeError for what holds no rows."""
        if isinstance(rows, (str, os.PathLike)):
            return load_rows(os.fspath(rows), folder=folder, **self._reading())
        if isinstance(rows, Dataset):
            return rows.x
        if is_frame(rows):
            return table_from(rows, self.format())
        x = np.asarray(rows)
        if x.ndim != 2 or x.dtype.kind not in "fiub":
            raise ArgumentTypeError(
                f"rows must be numbers of shape (n, {self.network.widths[0]}); got {x.dtype} {x.shape}"
            )
        return x

    def format(self) -> TextFormat | None:
        """How text tables are read: as the training data were."""
        known = self.data.get("format")
        return known and TextFormat(**known)

    @property
    def text(self) -> list[str]:
        """The columns of a table that are read as text."""
        return self.inputs.text if isinstance(self.inputs, Encoder) else []

    def _reading(self) -> dict[str, Any]:
        return {"text": self.text, "format": self.format(), "max_bytes": self.data.get("max_bytes")}

    def _target(self, y: Data | None) -> Array:
        names = self.data["targets"]
        if len(names) > 1 and not self.classes and is_frame(y) and {*names} <= {*(frame := table_from(y)).names}:
            y = np.stack([frame.column(name).to_numpy(zero_copy_only=False) for name in names], axis=1)
        raw = np.asarray(y)
        if not self.classes:
            if raw.ndim not in (1, 2) or raw.dtype.kind not in "fiub":
                raise ArgumentTypeError(f"y must be numbers, a row for each row of x; got {raw.dtype} {raw.shape}")
            return raw.reshape(len(raw), -1)
        labels = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted({str(v) for v in raw.reshape(-1)} - labels.keys())
        if unknown or raw.ndim != 1:
            what = f"the network knows no class {', '.join(map(repr, unknown[:5]))}" if unknown else f"got {raw.shape}"
            raise DataError(f"y must be the names of classes, (n,), such as {self.classes[0]!r}; {what}")
        return np.array([labels[str(v)] for v in raw], np.int64)

    # -- on disk --------------------------------------------------------------------------------------------------------

    def extra(self) -> dict[str, Any]:
        """The state of the model beside its network, for a checkpoint: name -> array or plain value."""
        found: dict[str, Any] = {"data": self.data}
        for name, scale in (("inputs", self.inputs), ("targets", self.targets)):
            if scale is not None:
                found |= {f"{name}.{key}": value for key, value in scale.state().items()}
        return found

    @classmethod
    def built(cls, network: Network, extra: dict[str, Any]) -> Model:
        """The model of a network and what `extra` gave. Raises CheckpointError where that is something else."""
        found: list[Any] = []
        for name in ("inputs.", "targets."):
            state = {k[len(name) :]: v for k, v in extra.items() if k.startswith(name)}
            kind = Encoder if "columns" in state else Standardizer
            found.append(kind.from_state(state) if state else None)
        return cls(network, found[0], found[1], extra["data"])


def load_run(path: str | os.PathLike[str], device: str = "auto") -> Model:
    """The trained model in a run folder that `gpubackprop train` or `gb.train_run` wrote (or in its .safetensors file), with the
    preparation of its data.

    Raises CheckpointError where there is none, or one that is damaged, DeviceError for a device that is not there.
    """
    run = Path(path)
    path = run / MODEL if run.is_dir() else run
    if run.is_dir() and not path.exists():
        hint = f"; go on with it by resume_run({str(run)!r})" if (run / CHECKPOINTS).is_dir() else ""
        raise CheckpointError(f"{run}: holds no {MODEL}: no folder that `gpubackprop train` finished{hint}")
    c = load_checkpoint(path, device)
    if "data" not in c.extra:
        raise CheckpointError(f"{path}: says nothing of its data: `gpubackprop train` did not write it")
    return Model.built(c.net, c.extra)
