"""The record of a fit in a file, a line as soon as an epoch is done."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.files.atomic import replacing
from gpubackprop.files.plain import as_json
from gpubackprop.training.callbacks import Callback, FitPlan, Training


class LogFile(Callback):
    """Writes each epoch's record (`History`) to a file: .csv, with a line of column names, or .jsonl, a JSON object a line.

    overwrite: replace a file that is there. A fit that goes on from a checkpoint writes the epochs before it anew. Raises
    ArgumentError for another suffix, and, when the fit begins, for a file that is there; DataError where it cannot be written.
    """

    writes = True

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        if self.path.suffix.lower() not in (".csv", ".jsonl"):
            raise ArgumentError(f"path must end in .csv or .jsonl; got {str(path)!r}")
        self._is_csv = self.path.suffix.lower() == ".csv"
        self._columns: list[str] = []

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        if self.path.exists() and not (self.overwrite or trainer.resumed):
            raise ArgumentError(f"{self.path} is there already: name another file, or say overwrite=True")
        self._write(trainer.history.records)

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        if self._is_csv and not record.keys() <= {*self._columns}:
            self._write(trainer.history.records)
            return
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._line(record))
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _line(self, record: dict[str, Any]) -> str:
        return _row(record.get(name, "") for name in self._columns) if self._is_csv else as_json(record) + "\n"

    def _write(self, records: list[dict[str, Any]]) -> None:
        """All records, with the columns of every one of them."""
        self._columns = list(dict.fromkeys(name for record in records for name in record))
        head = [_row(self._columns)] if self._is_csv and self._columns else []
        with replacing(self.path) as file:
            file.write("".join([*head, *map(self._line, records)]).encode())


def _row(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
