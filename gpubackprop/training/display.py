"""The display of training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from gpubackprop.metrics import COLUMNS
from gpubackprop.terminal import Terminal, say
from gpubackprop.training.callbacks import Callback, FitPlan, FitProgress, Training
from gpubackprop.training.history import History

LINES = 20
"""Of a long run about this many epochs get a line."""


class Display(Callback):
    """Prints a line for some epochs and, on a terminal, keeps a bar with the state of the epoch below them."""

    writes = True

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Terminal()
        self.started = time.perf_counter()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_fit_start(self, trainer: Training, plan: FitPlan) -> None:
        self.plan = plan
        self.started = time.perf_counter()
        self._every = max(-(-plan.epochs // LINES), 1)
        self._before = len(trainer.history)
        self._last = ""
        if self.console.is_terminal and not self.console.is_jupyter:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(None),
                TextColumn("{task.fields[state]}"),
                console=self.console,
            )
            total = plan.epochs * plan.steps_per_epoch
            self._task = self._bar.add_task(f"epoch 1/{plan.epochs}", total=total, state="")
            self._bar.start()

    def on_progress(self, trainer: Training, progress: FitProgress) -> None:
        if self._bar is not None:
            state = _state({"loss": progress.loss}, self._last, progress.samples_per_second, progress.seconds_left)
            done = (progress.epoch - 1) * self.plan.steps_per_epoch + progress.step
            epoch = f"epoch {progress.epoch}/{self.plan.epochs}"
            self._bar.update(self._task, completed=done, description=epoch, state=state)

    def on_epoch_end(self, trainer: Training, record: dict[str, Any]) -> None:
        epoch, epochs = record["epoch"], self.plan.epochs
        left = (time.perf_counter() - self.started) / (epoch - self._before) * (epochs - epoch)
        scores = {k: v for k, v in record.items() if isinstance(v, (int, float)) and (k == "loss" or k not in COLUMNS)}
        state = _state(scores, "", record["samples_per_second"], left)
        self._last = " ".join(f" {k} {v:.4f}" for k, v in scores.items() if not k.endswith("loss"))
        if epoch % self._every == 0 or epoch in (1, epochs):
            say(self.console, f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {state}")
        if self._bar is not None:
            # Fewer words than in the lines: the bar must fit into a terminal of 80 columns.
            short = _state({"loss": record["loss"]}, self._last, record["samples_per_second"], left)
            self._bar.update(self._task, completed=epoch * self.plan.steps_per_epoch, state=short)

    def on_fit_end(self, trainer: Training, history: History) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _state(scores: dict[str, float], more: str, rate: float, seconds_left: float) -> str:
    shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    return f"{shown} {more} {rate:>11,.0f} samples/s  {duration(seconds_left)} left"


def duration(seconds: float) -> str:
    """Seconds as people read them: "7 s", "2:05", "1:00:03"."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
