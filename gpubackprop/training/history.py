"""The record of a fit: one line for each epoch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubackprop.errors import ArgumentError, DataError, MissingExtraError, unknown_name
from gpubackprop.files.atomic import replacing
from gpubackprop.files.plain import as_json
from gpubackprop.layout import html
from gpubackprop.metrics import COLUMNS, larger_is_better
from gpubackprop.training.figures import figure, png

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure

SHOWN = 10
"""Epochs in a table of the history."""


class History:
    """One record an epoch, in order.

    records: [{"epoch": 1, "loss": ..., "val_loss": ..., "accuracy": ..., "learning_rate": ..., "gradient_norm": ...,
    "seconds": ..., "samples_per_second": ...}, ...]. "loss" is the mean over the epoch's batches, before each update;
    "gradient_norm" the mean of the norms of the steps' gradients, after `clip_value` but before `clip_norm` where that is given,
    else before all clipping; what starts with "val_" is of the validation data at the end of the epoch. `history["loss"]` is a
    list over the epochs. stopped: why training ended, "epochs", "gradient_tolerance", "patience", "diverged" or "interrupted".
    best_epoch: the epoch whose weights the network has now, if early stopping chose one. diagnosis: where and how the loss ceased
    to be finite, or None.
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

    def rows(self) -> list[list[str]]:
        """The columns' names, and the values of about `SHOWN` epochs, the last included, as text; [] without an epoch."""
        if not self.records:
            return []
        columns = [k for k, v in self.records[-1].items() if isinstance(v, (int, float))]
        step = -(-len(self) // SHOWN)
        chosen = [r for i, r in enumerate(self.records) if i % step == 0 or r is self.records[-1]]
        return [columns, *([_number(record.get(column)) for column in columns] for record in chosen)]

    def _repr_html_(self) -> str:
        return html([repr(self)], self.rows())

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The `curves` of this fit, a matplotlib Figure; path: a PNG to write too. Raises what `curves` raises, and DataError
        where the file cannot be written."""
        made = curves({"": self})
        if path is not None:
            with replacing(Path(path)) as file:
                file.write(png(made))
        return made

    def to_frame(self, library: str | None = None) -> pandas.DataFrame | polars.DataFrame:
        """A data frame, a row an epoch. library: "pandas" or "polars"; None: the one that is imported already, or installed.

        Raises ArgumentError for another library, MissingExtraError where there is none.
        """
        if library not in (None, "pandas", "polars"):
            raise ArgumentError(f'library must be "pandas" or "polars"; got {library!r}')
        for name in [library] if library else sorted(("pandas", "polars"), key=lambda n: n not in sys.modules):
            try:
                frames = import_module(name)
            except ImportError:
                continue
            records = [{c: r.get(c) for c in self.records[-1]} for r in self.records]
            return frames.DataFrame(records)
        raise MissingExtraError("to_frame", "pandas")

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


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return "" if value is None else str(value)


def curves(histories: Mapping[str, History], title: str = "") -> Figure:
    """A matplotlib Figure: on the left the losses (logarithmic), on the right those metrics that are best large.
    histories: by the name that each has in the legend, "" for none.

    Raises ArgumentError where no history has an epoch, MissingExtraError without matplotlib.
    """
    drawn = {name: history for name, history in histories.items() if len(history)}
    if not drawn:
        raise ArgumentError("there is nothing to draw: no epoch was finished")
    there = list(dict.fromkeys(c for history in drawn.values() for c in history.records[-1]))
    scores = [c for c in there if c not in COLUMNS and larger_is_better(c)]
    made = figure(12 if scores else 6, 4.5, title)
    panels: list[list[str]] = [[c for c in ("loss", "val_loss") if c in there], *([scores] if scores else [])]
    for ax, columns in zip(made.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        names = list(dict.fromkeys(c.removeprefix("val_") for c in columns))
        for column in columns:
            rows = "validation rows" if column.startswith("val_") else "training rows"
            # Of the steps, while the weights change and dropout leaves units out; all else is taken after the epoch.
            rows += ", in the steps, any dropout on" if column == "loss" else ", after the epoch"
            what = f"{column.removeprefix('val_')}: " if len(names) > 1 else ""
            for name, history in drawn.items():
                if column in history.records[-1]:
                    label = f"{what}{rows}{name and f', {name}'}".replace("$", r"\$")
                    marker = "." if len(history) == 1 else None
                    ax.plot(history["epoch"], history[column], label=label, marker=marker)
        for history in drawn.values():
            if history.best_epoch and len(drawn) == 1:
                ax.axvline(history.best_epoch, color="grey", linestyle=":", label=f"epoch {history.best_epoch}, kept")
        ax.set(xlabel="epoch", ylabel=" and ".join(names))
        ax.legend(fontsize="small")
        ax.grid(alpha=0.3)
        if ax.get_ylabel() == "loss" and all(v is not None and v > 0 for line in ax.lines for v in line.get_ydata()):
            ax.set_yscale("log")
    return made
