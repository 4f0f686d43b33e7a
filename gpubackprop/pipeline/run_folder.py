"""The folder that a run leaves behind: model, settings, history, metrics, pictures, and the checkpoints to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop import __version__
from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads
from gpubackprop.errors import DataError
from gpubackprop.files import lock
from gpubackprop.files.atomic import exchange, replacing
from gpubackprop.files.lock import FolderLock
from gpubackprop.files.plain import as_json

MODEL = "model.safetensors"
HISTORY = "history.jsonl"
FILES = (MODEL, "settings.json", HISTORY, "metrics.json")
PICTURES = ("curves.png", "confusion.png", "predicted.png")
CHECKPOINTS = "checkpoints"
ENCODED = "rows"
"""The rows of a table that is streamed, as the network's inputs, while the run is not finished."""
UNFINISHED = ".unfinished"
"""Behind the name of a run: the folder beside it in which a run that is to replace it is trained."""
_REPLACING = ".replacing"
"""A file of the new run until the other one is replaced, and what was left of that is cleared away."""


class RunFolder:
    """A folder that one run writes into, locked. A run that was there before stays whole until the new one is.

    path: the folder. work: where files go for now: `path` itself, or `<path>.unfinished` when another run is in it.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path, self.work = path, work
        self._locks: list[FolderLock] = []
        try:
            for folder in dict.fromkeys((path, work)):
                self._locks.append(FolderLock(folder))
            if (path / _REPLACING).exists():
                # A process was killed between the exchange and the clearing.
                self._discard(_unfinished(path))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- which folder ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, out: str | os.PathLike[str] | None, name: str, overwrite: bool) -> RunFolder:
        """Make the folder `out`, or the first of runs/<name>-1, runs/<name>-2, ... that is not there, for a new run.

        Raises DataError where there is something already and `overwrite` is not set, where another process writes a run, and
        where nothing can be written.
        """
        if out is None:
            return cls._numbered(re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data")
        path = Path(out)
        with _as_data_error(path):
            if path.is_symlink() and not path.exists():
                raise DataError(f"out={path} is a link to {os.readlink(path)}, which is not there")
            if path.exists() and not path.is_dir():
                raise DataError(f"out={path} is a file; it must name a folder")
            path.mkdir(parents=True, exist_ok=True)
            if not overwrite and _entries(path):
                raise DataError(
                    f"out={path} is not empty; choose another folder, or say overwrite=True to replace the run in it"
                )
            work = _unfinished(path) if _entries(path) else path
            work.mkdir(exist_ok=True)
            folder = cls(path, work)
            if work == path and _entries(path):
                # Another process was quicker, and is done.
                folder.close()
                return cls.create(out, name, overwrite)
            if work != path:
                folder._clear(work)
                (work / _REPLACING).touch()
            return folder

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

    @classmethod
    def reopen(cls, run: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that goes on: that which was to replace `run`, where there is one, otherwise `run` itself.

        Raises DataError where there is no folder, where another process writes into it, and where it cannot be written.
        """
        path = Path(run)
        with _as_data_error(path):
            if not path.is_dir():
                raise DataError(f"{path}: no such folder; name one that `gpubackprop train` wrote")
            replaced = path.with_name(path.name.removesuffix(UNFINISHED))
            if path.name.endswith(UNFINISHED) and replaced.is_dir():
                path = replaced
            work = _unfinished(path)
            return cls(path, work if (work / _REPLACING).exists() else path)

    # -- what is written ------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; it may not exist yet."""
        return self.work / CHECKPOINTS

    def write(self, name: str, content: bytes) -> None:
        """Write one of the files, whole or not at all. Raises DataError."""
        with replacing(self.work / name) as file:
            file.write(content)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write settings.json or metrics.json. Raises DataError."""
        self.write(name, (as_json(value, indent=2) + "\n").encode())

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let this run take the place of the one before, in one rename; files there that no run wrote stay.

        Raises DataError where the folders cannot be exchanged: both runs are then whole, each under its name.
        """
        if self.work == self.path:
            return
        try:
            exchange(self.work.resolve(), self.path.resolve())
        except OSError as error:
            raise DataError(
                f"{self.path}: the run there cannot be replaced ({error.strerror}); the new one is whole in {self.work}"
            ) from error
        # The locks went with the folders.
        self._locks[0].path, self._locks[1].path = self._locks[1].path, self._locks[0].path
        old, self.work = self.work, self.path
        # The new run is in its place: what may go wrong with the rest of the old one is no failure of it.
        with contextlib.suppress(OSError):
            self._discard(old)

    def close(self) -> None:
        """Let other processes write here; the files stay."""
        for held in self._locks:
            held.release()

    def _discard(self, old: Path) -> None:
        """Clear away what is left of a run that was replaced, but for the folder itself where the next one is trained there."""
        if old.is_dir():
            self._clear(old)
            if old.resolve() != self.work.resolve():
                (old / lock.NAME).unlink(missing_ok=True)
                old.rmdir()
        (self.path / _REPLACING).unlink()

    def _clear(self, folder: Path) -> None:
        """Take out what a run wrote; what nobody knows goes to `path`, unless it is the folder that is cleared."""
        for name in _entries(folder):
            entry = folder / name
            if name in (CHECKPOINTS, ENCODED) and not entry.is_symlink():
                shutil.rmtree(entry)
            elif name in (*FILES, *PICTURES, CHECKPOINTS, ENCODED, _REPLACING) or _PARTIAL.fullmatch(name):
                entry.unlink()
            elif folder != self.path and not os.path.lexists(self.path / name):
                entry.rename(self.path / name)


def versions() -> dict[str, Any]:
    """What a run's bits depend on beside its settings and the device."""
    return {"gpubackprop": __version__, "numpy": np.__version__, "blas": blas_name(), "threads": blas_threads()}


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


_PARTIAL = re.compile(r"\..*\.[0-9a-f]{8}\.partial")


def _entries(folder: Path) -> list[str]:
    return [entry for entry in os.listdir(folder) if entry != lock.NAME]


def _unfinished(path: Path) -> Path:
    """The folder beside a run, following links, in which one is trained that is to replace it. Raises DataError."""
    real = path.resolve()
    work = real.with_name(real.name + UNFINISHED)
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise DataError(f"{work}: is in the way of the new run, and not a folder; move it elsewhere")
    return work


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be written: {error}") from error
