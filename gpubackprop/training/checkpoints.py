"""Checkpoints while a network trains: everything that the fit needs to go on, bit for bit, written beside the training."""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.backend.base import Backend
from gpubackprop.checks import whole_number
from gpubackprop.errors import ArgumentError, CheckpointError
from gpubackprop.files.checkpoint import Checkpoint, Snapshot, load_checkpoint, snapshot, write
from gpubackprop.files.manifest import Custom
from gpubackprop.training.callbacks import Callback, FitPlan, FitProgress, Training
from gpubackprop.training.history import History
from gpubackprop.training.interrupts import Interrupts, TrainingInterrupted

_NAME = re.compile(r"step-(\d{10})\.safetensors")
_REST = 20
"""Times as long as the last checkpoint took to write, the writer rests before the next: 5 percent of the time at most."""
_EVERY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|s|seconds?|m|min|minutes?|h|hours?|epochs?)\s*")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often: after so many steps, or seconds, or epochs; the others are None."""

    steps: int | None = None
    seconds: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> Every:
        """From text such as "500 steps", "5 minutes", "2 epochs". Raises ArgumentError for anything else."""
        found = _EVERY.fullmatch(text.lower()) if isinstance(text, str) else None
        if found and (amount := float(found[1])) > 0:
            unit = found[2]
            if unit.startswith(("step", "epoch")):
                if amount == int(amount):
                    return cls(**{f"{unit.rstrip('s')}s": int(amount)})
            else:
                return cls(seconds=amount * _SECONDS[unit[0]])
        raise ArgumentError(f'checkpoint_every must be like "500 steps", "5 minutes" or "2 epochs"; got {text!r}')


class Checkpoints(Callback):
    """Writes a checkpoint into a folder now and then, from which `Trainer.resume` goes on.

    folder: for the checkpoints of one fit, made if need be. every: "500 steps", "5 minutes", "2 epochs"; None: every minute, and
    after each epoch that improved. There is one at the end of the fit, and one when a signal ends it (`Interrupts`), whatever
    `every` says. keep: the newest so many files stay. extra: as for `gb.save`. report: called with a line where a checkpoint
    cannot be written, while training goes on, and where it can be again.

    The state is copied while training waits; a thread writes it. What a newer checkpoint overtakes before it is written is left
    out, and epochs that improve wait until the thread has rested: it takes a twentieth of the time at most.

    Raises ArgumentError for a name in extra that the fit itself uses, and, when the fit begins, for a folder with checkpoints of
    another fit, or with later ones than that from which this one goes on.
    """

    writes = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: str | Every | None = None,
        *,
        keep: int = 2,
        extra: Mapping[str, Any] | None = None,
        report: Callable[[str], None] = warnings.warn,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every = Every(seconds=60.0) if every is None else every if isinstance(every, Every) else Every.parse(every)
        self.improving = every is None
        self.keep = whole_number("keep", keep)
        self.extra = dict(extra or {})
        if taken := [name for name in self.extra if is_of_the_fit(name)]:
            raise ArgumentError(
                f"extra: {', '.join(taken)} would be overwritten by the state of the fit; take other names"
            )
        self.interrupts = interrupts or Interrupts()
        self.every_steps = self.every.steps
        self.best: float | None = None
        self._improved = False
        """Whether an epoch has improved since the last checkpoint."""
        self._writer = _Writer(self._write, report)
        self._due = time.monotonic()

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        self.plan, self.best, self._improved = plan, None, False
        for record in trainer.history:
            self._improves(record)
        found = stored(self.folder)
        if found and not trainer.resumed:
            raise ArgumentError(
                f"{self.folder}: holds {found[-1].name} of another fit; go on with it by Trainer.resume, or take another folder"
            )
        if found and int(found[-1].stem[5:]) > trainer.steps_done:
            # It would be taken for the newest: what is written here would be removed at once, and the next fit go on from it.
            raise ArgumentError(
                f"{self.folder}: holds {found[-1].name}, later than step {trainer.steps_done}, from which this fit goes on; take "
                "another folder, or remove the later checkpoints"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for cut_off in self.folder.glob(".step-*.partial"):
                cut_off.unlink()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot be made: {error.strerror}") from error
        self._due = time.monotonic() + (self.every.seconds or 0.0)

    def on_progress(self, trainer: Training, progress: FitProgress) -> None:
        every = self.every
        steps = (progress.epoch - 1) * progress.steps_per_epoch + progress.step
        if (every.steps and steps % every.steps == 0) or (every.seconds and time.monotonic() >= self._due):
            self.save(trainer)
        self._poll(trainer)

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        if not isfinite(record["loss"]):
            return
        every, epoch = self.every, record["epoch"]
        self._improved |= self._improves(record)
        steps = epoch * self.plan.steps_per_epoch
        if (
            (self._improved and self.improving and self._writer.idle)
            or (every.epochs and epoch % every.epochs == 0)
            or (every.steps and steps % every.steps == 0)
            or (every.seconds and time.monotonic() >= self._due)
            or epoch == self.plan.epochs
            or trainer.stopping
        ):
            self.save(trainer)
        self._poll(trainer)

    def on_fit_end(self, trainer: Training, history: History) -> None:
        # Who interrupts twice does not want to wait; what is being written replaces nothing until it is whole.
        if not self.interrupts.forced:
            self.flush()

    def save(self, trainer: Training) -> None:
        """Take a snapshot now; it is written as soon as the one before is. Sums that overflowed are not worth one."""
        self._due = time.monotonic() + (self.every.seconds or 0.0)
        self._improved = False
        state = trainer.state()
        if all(map(isfinite, state["fit"]["sums"])):
            taken = snapshot(trainer.net, optimizer=trainer.optimizer, extra={**self.extra, **state})
            self._writer.hand_over(trainer.steps_done, taken)

    def flush(self) -> None:
        """Wait until everything that was handed over is on the disk, or could not be written."""
        self._writer.finish()

    def _improves(self, record: dict[str, Any]) -> bool:
        value = record.get("val_loss", record["loss"])
        improved = isfinite(value) and (self.best is None or value < self.best)
        if improved:
            self.best = value
        return improved

    def _poll(self, trainer: Training) -> None:
        if self.interrupts.signal is not None:
            self.save(trainer)
            self.flush()
            raise TrainingInterrupted(
                self.interrupts.signal,
                f"interrupted by signal {self.interrupts.signal}; go on with Trainer.resume({str(self.folder)!r})",
            )

    def _write(self, step: int, taken: Snapshot) -> None:
        for name, array in taken.arrays.items():
            if not np.isfinite(array).all():
                raise CheckpointError(f"{name} is not finite after {step} steps, and is not saved")
        write(self.folder / f"step-{step:010}.safetensors", taken)
        for old in stored(self.folder)[: -self.keep]:
            old.unlink(missing_ok=True)


def is_of_the_fit(name: str) -> bool:
    """Whether `Trainer.state` has an entry of this name, or may have one."""
    own = ("fit", "history", "reason", "rows_at_once", "digests", "callbacks", "order")
    return name in own or str(name).startswith("callback.")


def stored(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the oldest to the newest; none where there is no folder."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if _NAME.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def newest(folder: Path, device: str | Backend, custom: Custom | None = None) -> Checkpoint:
    """The newest checkpoint of a folder that is whole. One that is damaged is removed, with a warning.

    Raises CheckpointError where there is none, DeviceError for a device that is not there.
    """
    found = stored(folder)
    if not found:
        raise CheckpointError(f"{folder}: holds no checkpoint (step-....safetensors)")
    while True:
        path = found.pop()
        try:
            return load_checkpoint(path, device, custom=custom)
        except CheckpointError as error:
            if not found:
                raise
            warnings.warn(f"{error}; taking {found[-1].name}, the checkpoint before", RuntimeWarning, stacklevel=3)
        path.unlink(missing_ok=True)


class Trouble:
    """Tells once that something cannot be written while training goes on, and once that it can be again."""

    def __init__(self, what: str, report: Callable[[str], None]) -> None:
        self.what, self.report = what, report
        self.told = False

    def note(self, failure: str | None) -> None:
        """How the last attempt went: what was wrong, or None."""
        if failure and not self.told:
            self.report(f"{failure}; training goes on, and what was saved before is whole")
        elif self.told and not failure:
            self.report(f"the {self.what} can be written again")
        self.told = failure is not None


class _Writer:
    """Writes the newest of what it is handed, one at a time, on a thread that ends when there is nothing to do."""

    def __init__(self, job: Callable[[int, Snapshot], None], report: Callable[[str], None]) -> None:
        self._job, self._trouble = job, Trouble("checkpoints", report)
        self._changed = threading.Condition()
        self._waiting: tuple[int, Snapshot] | None = None
        self._thread: threading.Thread | None = None
        self._hurry = False
        self._failure: str | None = None

    @property
    def idle(self) -> bool:
        """Whether everything is written, and the rest after it is over."""
        return self._thread is None

    def hand_over(self, step: int, taken: Snapshot) -> None:
        """Write this instead of what still waits. Reports what happened to those before."""
        with self._changed:
            self._waiting = step, taken
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self._thread.start()
        self._trouble.note(self._failure)

    def finish(self) -> None:
        """Write what waits, without a rest, and wait for it."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._hurry = False
        self._trouble.note(self._failure)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._waiting is None:
                    self._thread = None
                    return
                (step, taken), self._waiting = self._waiting, None
            started = time.monotonic()
            try:
                self._job(step, taken)
                self._failure = None
            except (CheckpointError, OSError) as error:
                self._failure = str(error)
            except Exception as error:
                # Whatever it was, such as no memory for the file's content, the thread must live to write the next one.
                self._failure = f"a checkpoint could not be written ({type(error).__name__}: {error})"
            del taken
            rest = _REST * (time.monotonic() - started)
            with self._changed:
                self._changed.wait_for(lambda: self._hurry, rest)
