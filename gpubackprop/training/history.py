"""The record of a fit: one line for each epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpubackprop.errors import ArgumentError, DataError, unknown_name
from gpubackprop.files.atomic import replacing
from gpubackprop.files.plain import as_json


class History:
    """One record an epoch, in order.

    records: [{"epoch": 1, "loss": ..., "val_loss": ..., "accuracy": ..., "learning_rate": ..., "gradient_norm": ...,
    "seconds": ..., "samples_per_second": ...}, ...]. "loss" is the mean over the epoch's batches, before each update;
    "gradient_norm" the mean of the norms of the steps' gradients; what starts with "val_" is of the validation data at
    the end of the epoch. `history["loss"]` is a list over the epochs. stopped: why training ended, "epochs",
    "gradient_tolerance", "patience", "diverged" or "interrupted". best_epoch: the epoch whose weights the network has now, if
    early stopping chose one. diagnosis: where and how the loss ceased to be finite, or None.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.stopped = ""
        self.best_epoch: int | None = None
        self.diagnosis: str | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Add an epoch's record."""
        self.records.append(record)

    def __getitem__(self, name: str) -> list[Any]:
        if not self.records:
            raise ArgumentError("the history is empty: no epoch was finished")
        if name not in self.records[-1]:
            raise unknown_name("column of the history", name, self.records[-1])
        return [record.get(name) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        if not self.records:
            return "History(no epochs)"
        last = ", ".join(f"{k}={v:.4g}" for k, v in self.records[-1].items() if isinstance(v, float))
        why = f"; {self.diagnosis}" if self.diagnosis else ""
        return f"History({len(self)} epochs, stopped by {self.stopped or 'nothing yet'}; last: {last}{why})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON line an epoch, replacing the file only once all is written; NaN and infinity become null.

        Raises DataError where the file cannot be written.
        """
        with replacing(Path(path)) as file:
            file.write("".join(as_json(record) + "\n" for record in self.records).encode())

    @classmethod
    def restored(cls, records: list[dict[str, Any]]) -> History:
        """The history with these records, as JSON gave them back: null was NaN or infinity."""
        history = cls()
        for record in records:
            history.append({k: float("nan") if v is None else v for k, v in record.items()})
        return history

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read what `save` wrote. Raises DataError for a file that is missing or holds something else."""
        history = cls()
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a history: {error}") from None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{path}, line {number}: expected one JSON object an epoch, got {type(record).__name__}"
                )
            history.append(record)
        return history
