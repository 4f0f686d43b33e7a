"""A trained network together with what its data were: how raw rows become inputs, and outputs become answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.cli.preparation import encode
from gpubackprop.data import Dataset, Standardizer
from gpubackprop.errors import CheckpointError, DataError
from gpubackprop.files.checkpoint import load_checkpoint, save
from gpubackprop.metrics import mean_absolute_error, r2
from gpubackprop.network.network import Network
from gpubackprop.optimizers import Optimizer
from gpubackprop.training import evaluate

Array = np.ndarray


@dataclass
class Model:
    """net; inputs and targets: standardisations of x and of regression targets (None: as they are); data: what the
    training data were: "source", "target", "task", "folder", "classes", "features", "targets", "sha256", and how they were
    divided: "test", "validation", "seed"."""

    net: Network
    inputs: Standardizer | None
    targets: Standardizer | None
    data: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """The class names in label order; empty for regression."""
        names: list[str] = self.data["classes"]
        return names

    def prepare(self, x: Array) -> Array:
        """Raw rows (n, d) as the network's inputs. Raises DataError for another number of columns."""
        if x.shape[1] != self.net.widths[0]:
            raise DataError(f"the data have {x.shape[1]} columns, and the network was trained on {self.net.widths[0]}")
        return x if self.inputs is None else self.inputs.transform(x, self.net.dtype)

    def prepare_targets(self, y: Array) -> Array:
        """Raw targets as the network's loss takes them."""
        return encode(y, self.net.widths[-1], self.net.loss_function, self.targets, self.net.dtype)

    def answers(self, x: Array, batch_size: int | None = None) -> Array:
        """For raw rows (n, d): a score for each class (n, k), probabilities under a cross-entropy, or values (n, m) in
        the unit of the targets."""
        out = self.net.predict(self.prepare(x), batch_size)
        if not self.classes:
            return out if self.targets is None else self.targets.inverse(out)
        return np.hstack([1 - out, out]) if out.shape[1] == 1 else out

    def score(self, x: Array, y: Array, batch_size: int | None = None) -> dict[str, float]:
        """{"accuracy", "loss"}, or {"r2", "mean_absolute_error" (in the unit of the targets), "loss"}, of raw rows."""
        loss = evaluate(self.net, self.prepare(x), self.prepare_targets(y), batch_size)["loss"]
        answers = self.answers(x, batch_size)
        if self.classes:
            return {"accuracy": float(np.mean(answers.argmax(axis=1) == y)), "loss": loss}
        return {"r2": r2(answers, y), "mean_absolute_error": mean_absolute_error(answers, y), "loss": loss}

    def match(self, data: Dataset) -> tuple[Array, Array]:
        """x and y of other data with the columns and labels that the network knows; x_test and y_test where there are
        such. Raises DataError for missing columns, classes never seen, and another number of targets."""
        x, y = (data.x, data.y) if data.x_test is None or data.y_test is None else (data.x_test, data.y_test)
        wanted = self.data["features"]
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
            if unknown:
                raise DataError(f"{data.name}: the network knows no class {', '.join(map(repr, unknown[:5]))}")
            y = np.array([self.classes.index(name) for name in data.classes], np.int64)[y]
        elif y.ndim != 2 or y.shape[1] != self.net.widths[-1]:
            raise DataError(f"{data.name}: expected {self.net.widths[-1]} targets a row, as in training")
        return x, y

    def save(self, path: Path, optimizer: Optimizer | None) -> None:
        """Write everything to one .safetensors file. Raises CheckpointError if it cannot be written."""
        extra: dict[str, Any] = {"data": self.data}
        for name, scale in (("inputs", self.inputs), ("targets", self.targets)):
            if scale is not None:
                extra |= {f"{name}.{key}": array for key, array in scale.state().items()}
        save(path, self.net, optimizer=optimizer, extra=extra)

    @classmethod
    def load(cls, run: Path, device: str) -> Model:
        """The model of a run folder (or in a .safetensors file that `train` wrote), on a device.

        Raises CheckpointError where there is none, DeviceError for a device that is not there.
        """
        path = run / "model.safetensors" if run.is_dir() else run
        if run.is_dir() and not path.exists():
            raise CheckpointError(f"{run}: holds no model.safetensors: no folder that `gpubackprop train` finished")
        c = load_checkpoint(path, device)
        if "data" not in c.extra:
            raise CheckpointError(f"{path}: says nothing of its data: `gpubackprop train` did not write it")
        scales = []
        for name in ("inputs.", "targets."):
            state = {k[len(name) :]: v for k, v in c.extra.items() if k.startswith(name)}
            scales.append(Standardizer.from_state(state) if state else None)
        return cls(c.net, scales[0], scales[1], c.extra["data"])
