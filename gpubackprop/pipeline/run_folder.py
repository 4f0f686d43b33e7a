"""The folder that `train` leaves behind: model.safetensors, settings.json, history.jsonl, curves.png."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from gpubackprop.errors import DataError
from gpubackprop.files.atomic import replacing
from gpubackprop.training import History

FILES = ("model.safetensors", "settings.json", "history.jsonl", "curves.png")


class RunFolder:
    """A folder that a run writes into. Of a run that was there before, nothing is lost until the new one is complete.

    path: the folder. work: where files go for now: `path` itself, or `path/unfinished` when another run is in it.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = path
        self.work = work

    @classmethod
    def create(cls, out: str | None, name: str, overwrite: bool) -> RunFolder:
        """Make the folder `out`, or the first of runs/<name>-1, runs/<name>-2, ... that is not there.

        Raises DataError where there is something already and `overwrite` is not set, and where nothing can be written.
        """
        if out is None:
            return cls._numbered(re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data")
        path = Path(out)
        with _as_data_error(path):
            if path.exists() and not path.is_dir():
                raise DataError(f"out={path} is a file; it must name a folder")
            taken = path.is_dir() and any(path.iterdir())
            if taken and not overwrite:
                raise DataError(
                    f"out={path} is not empty; choose another folder, or say overwrite=True to replace the run in it"
                )
            work = path / "unfinished" if taken else path
            work.mkdir(parents=True, exist_ok=True)
            for file in FILES:
                (work / file).unlink(missing_ok=True)
            return cls(path, work)

    @classmethod
    def _numbered(cls, name: str) -> RunFolder:
        with _as_data_error(Path("runs")):
            os.makedirs("runs", exist_ok=True)
            number = 1
            while True:
                path = Path("runs", f"{name}-{number}")
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    return cls(path, path)
                number += 1

    def write(self, name: str, content: bytes) -> None:
        """Write one of the files, whole or not at all."""
        with replacing(self.work / name) as file:
            file.write(content)

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write settings.json."""
        self.write("settings.json", (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode())

    def append_history(self, record: dict[str, Any]) -> None:
        """Add one epoch's line to history.jsonl, at once: a run that is killed keeps it."""
        with _as_data_error(self.work), open(self.work / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(_line(record))

    def write_history(self, history: History) -> None:
        """Write all of history.jsonl: an interrupt may have come between an epoch and its line."""
        self.write("history.jsonl", "".join(map(_line, history)).encode())

    def finish(self) -> None:
        """Let this run's files take the place of those of the run before."""
        if self.work == self.path:
            return
        with _as_data_error(self.path):
            for file in FILES:
                if (self.work / file).exists():
                    os.replace(self.work / file, self.path / file)
                else:
                    (self.path / file).unlink(missing_ok=True)
            self.work.rmdir()
        self.work = self.path


def read_settings(run: Path) -> dict[str, Any]:
    """settings.json of a run folder; DataError where there is none that can be read."""
    path = run / "settings.json"
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); is {run} a folder that `gpubackprop train` wrote?"
        ) from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: holds no JSON object")
    return settings


def _line(record: dict[str, Any]) -> str:
    # JSON has no NaN: what is not finite any more becomes null.
    valid = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in record.items()}
    return json.dumps(valid) + "\n"


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be written: {error}") from error
