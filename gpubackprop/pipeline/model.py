"""A trained network together with the preparation of its data: how raw rows become inputs, and outputs become answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.data import Dataset, Standardizer, load
from gpubackprop.data.inputs import load_inputs
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError
from gpubackprop.files.checkpoint import load_checkpoint, save
from gpubackprop.metrics import mean_absolute_error, r2
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer
from gpubackprop.pipeline.preparation import Part, divide, encode, fingerprint
from gpubackprop.training import evaluate

Array = np.ndarray
Rows = Any
"""Raw rows: something that NumPy makes a (n, d) array of real numbers of, a `Dataset`, or the name or file of one."""


@dataclass
class Model:
    """A network that takes raw rows and gives answers in the terms of the data that it was trained on.

    inputs and targets: standardisations of x and of regression targets (None: as they are). data: what the training data
    were: "source", "target", "task", "folder", "name", "classes", "features", "targets", "sha256", and how they were divided:
    "test", "validation", "seed".
    """

    network: Network
    inputs: Standardizer | None
    targets: Standardizer | None
    data: dict[str, Any]

    # -- what it is asked ---------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the columns of `predict_proba`; empty for regression."""
        names: list[str] = self.data["classes"]
        return names

    @property
    def features(self) -> list[str]:
        """The names of the input columns; empty where the data had none."""
        names: list[str] = self.data["features"]
        return names

    def predict(self, rows: Rows, batch_size: int | None = None) -> Array:
        """For each raw row the name of its class, (n,) text, or its values (n, m), float64, in the unit of the targets.

        Raises DataError for rows that lack columns, and what `load` raises for a name or a file.
        """
        answers = self.answers(self._raw(rows), batch_size)
        return np.array(self.classes)[answers.argmax(axis=1)] if self.classes else answers

    def predict_proba(self, rows: Rows, batch_size: int | None = None) -> Array:
        """For each raw row the probability of each class (n, k); under an error loss, the network's scores of the classes.

        Raises ArgumentError for a regression, and what `predict` raises.
        """
        if not self.classes:
            raise ArgumentError("predict_proba is for classes, and this network predicts values: call predict")
        return self.answers(self._raw(rows), batch_size)

    def score(self, rows: Rows, y: Any = None, batch_size: int | None = None) -> dict[str, float]:
        """{"accuracy", "loss"}, or {"r2", "mean_absolute_error" (in the unit of the targets), "loss"}, of raw rows.

        y: the names of the classes (n,), or values (n, m) or (n,); left out where `rows` is a data set, a name or a file,
        which has its own. Raises DataError for classes that the network does not know, and what `predict` raises.
        """
        if y is not None:
            return self.scores(self._raw(rows), self._target(y), batch_size)
        if isinstance(rows, (str, os.PathLike)):
            rows = load(rows, target=self.data["target"] if is_table(rows) else None, task=self.data["task"])
        if not isinstance(rows, Dataset):
            raise ArgumentTypeError("y is missing: only a data set, a name or a file has targets of its own")
        return self.scores(*self.match(rows), batch_size)

    # -- what the command asks ------------------------------------------------------------------------------------------

    def prepare(self, x: Array) -> Array:
        """Raw rows (n, d) as the network's inputs. Raises DataError for another number of columns."""
        if x.shape[1] != self.network.widths[0]:
            raise DataError(
                f"the data have {x.shape[1]} columns, and the network was trained on {self.network.widths[0]}"
            )
        return x if self.inputs is None else self.inputs.transform(x, self.network.dtype)

    def prepare_targets(self, y: Array) -> Array:
        """Raw targets, labels (n,) or values (n, m), as the network's loss takes them."""
        return encode(y, self.network.widths[-1], self.network.loss_function, self.targets, self.network.dtype)

    def answers(self, x: Array, batch_size: int | None = None) -> Array:
        """For raw rows (n, d): a score for each class (n, k), probabilities under a cross-entropy, or values (n, m) in
        the unit of the targets."""
        out = self.network.predict(self.prepare(x), batch_size)
        if not self.classes:
            return out if self.targets is None else self.targets.inverse(out)
        return np.hstack([1 - out, out]) if out.shape[1] == 1 else out

    def scores(self, x: Array, y: Array, batch_size: int | None = None) -> dict[str, float]:
        """`score` of raw rows (n, d) and raw targets, labels (n,) or values (n, m)."""
        loss = evaluate(self.network, self.prepare(x), self.prepare_targets(y), batch_size)["loss"]
        answers = self.answers(x, batch_size)
        if self.classes:
            return {"accuracy": float(np.mean(answers.argmax(axis=1) == y)), "loss": loss}
        return {"r2": r2(answers, y), "mean_absolute_error": mean_absolute_error(answers, y), "loss": loss}

    def match(self, data: Dataset) -> tuple[Array, Array]:
        """x and y of other data with the columns and labels that the network knows; x_test and y_test where there are
        such. Raises DataError for missing columns, classes never seen, and another number of targets."""
        x, y = (data.x, data.y) if data.x_test is None or data.y_test is None else (data.x_test, data.y_test)
        wanted = self.features
        if wanted and data.features and list(data.features) != wanted:
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
        return x, y

    def rows_to_judge(self, data: str | None = None, target: str | None = None, folder: str | None = None) -> Part:
        """The rows that training held out, where `data` is the training data (None), otherwise all rows of other data.

        target and folder: as for `load`; None: as in training. Raises what `load` and `match` raise, and DataError where
        the training data have changed.
        """
        known = self.data
        if data is None and known["source"] is None:
            raise DataError("the network was trained on arrays, not on a file: name the data to evaluate on")
        if data is None:
            loaded = load(known["source"], target=known["target"], task=known["task"], folder=folder or known["folder"])
        else:
            goal = target or (known["target"] if is_table(data) else None)
            loaded = load(data, target=goal, task=known["task"], folder=folder)
        if fingerprint(loaded) == known["sha256"]:
            return divide(loaded, test=known["test"], validation=known["validation"], seed=known["seed"]).test
        if data is None:
            raise DataError(
                f"{known['source']}: is not what the network was trained on, so nobody can tell which rows were held out; "
                "name the data to evaluate on"
            )
        x, y = self.match(loaded)
        return Part(x, y, f"{len(x):,} rows of {data}")

    def _raw(self, rows: Rows) -> Array:
        if isinstance(rows, (str, os.PathLike)):
            return np.asarray(load_inputs(os.fspath(rows), self.features))
        if isinstance(rows, Dataset):
            return rows.x
        x = np.asarray(rows)
        if x.ndim != 2 or x.dtype.kind not in "fiub":
            raise ArgumentTypeError(
                f"rows must be numbers of shape (n, {self.network.widths[0]}); got {x.dtype} {x.shape}"
            )
        return x

    def _target(self, y: Any) -> Array:
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
        """What a checkpoint needs beside the network: name -> array or plain value."""
        found: dict[str, Any] = {"data": self.data}
        for name, scale in (("inputs", self.inputs), ("targets", self.targets)):
            if scale is not None:
                found |= {f"{name}.{key}": array for key, array in scale.state().items()}
        return found

    def save(self, path: Path, optimizer: Optimizer | None) -> None:
        """Write everything to one .safetensors file. Raises CheckpointError if it cannot be written."""
        save(path, self.network, optimizer=optimizer, extra=self.extra())

    @classmethod
    def load(cls, run: Path, device: str = "auto") -> Model:
        """The model of a run folder (or in a .safetensors file of one), on a device.

        Raises CheckpointError where there is none, DeviceError for a device that is not there.
        """
        path = run / "model.safetensors" if run.is_dir() else run
        if run.is_dir() and not path.exists():
            raise CheckpointError(f"{run}: holds no model.safetensors: no folder that `gpubackprop train` finished")
        c = load_checkpoint(path, device)
        if "data" not in c.extra:
            raise CheckpointError(f"{path}: says nothing of its data: `gpubackprop train` did not write it")
        return cls.built(c.net, c.extra)

    @classmethod
    def built(cls, network: Network, extra: dict[str, Any]) -> Model:
        """The model of a network and what `extra` gave. Raises CheckpointError where that is something else."""
        scales = []
        for name in ("inputs.", "targets."):
            state = {k[len(name) :]: v for k, v in extra.items() if k.startswith(name)}
            scales.append(Standardizer.from_state(state) if state else None)
        return cls(network, scales[0], scales[1], extra["data"])


def load_run(path: str | os.PathLike[str], device: str = "auto") -> Model:
    """The trained model in a run folder that `gpubackprop train` or `gb.train_run` wrote, with the preparation of its data.

    Raises CheckpointError where there is none, or one that is damaged, DeviceError for a device that is not there.
    """
    return Model.load(Path(path), device)


def is_table(source: str | os.PathLike[str]) -> bool:
    """Whether a file has named columns, one of which is the target."""
    return os.fspath(source).lower().endswith((".csv", ".csv.gz", ".parquet"))
