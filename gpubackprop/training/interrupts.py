"""Signals that end a training in good order: the batch is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from gpubackprop.errors import ArgumentError

_USUAL = ("SIGINT", "SIGTERM", "SIGHUP")


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a training, after what was reached was saved. signal: its number."""

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


class Interrupts:
    """`with Interrupts() as interrupts`: the first signal inside only sets `interrupts.signal`; a second one ends at once.

    SIGINT, SIGTERM and SIGHUP, unless the process ignores them already (nohup), and those of `more`. The second one raises
    KeyboardInterrupt after SIGINT, otherwise SystemExit with the status 128 + its number. Outside of the main thread, where
    Python has no signals, nothing happens. Raises ArgumentError for SIGKILL and SIGSTOP, which nobody can catch.
    """

    def __init__(self, more: Sequence[int] = ()) -> None:
        usual = [getattr(signal, name) for name in _USUAL if hasattr(signal, name)]
        for number in more:
            if signal.Signals(number).name in ("SIGKILL", "SIGSTOP"):
                raise ArgumentError(
                    f"{signal.Signals(number).name} cannot be caught: no training can end in order on it"
                )
        self.numbers = list(dict.fromkeys([*usual, *more]))
        self.signal: int | None = None
        self.forced = False
        """Whether a second signal came."""
        self._before: dict[int, Any] = {}
        self._depth = 0

    def __enter__(self) -> Interrupts:
        self._depth += 1
        if self._depth == 1:
            # A signal of the block before ended what was in that.
            self.signal, self.forced = None, False
            for number in self.numbers if threading.current_thread() is threading.main_thread() else ():
                # None: a handler that was not set from Python, and could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            return
        self.forced = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
