"""The side of the one who asks: a contender's process, started, asked and ended."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gpubackprop
from gpubackprop.bench.contenders import Contender
from gpubackprop.errors import ArgumentError, DeviceError

COMMAND = (sys.executable, "-m", "gpubackprop.bench.worker")


class ContenderError(Exception):
    """A contender could not do what it was asked; the message says why."""


class Client:
    """A contender in a process of its own, which is started when it is first asked and again if it died.

    command: what to start; another one is for tests.
    """

    def __init__(self, contender: Contender, command: tuple[str, ...] = COMMAND) -> None:
        self.contender = contender
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None

    def start(self) -> dict[str, Any]:
        """Start the process; what the contender runs on. Raises DeviceError where its device does not work."""
        root = str(Path(gpubackprop.__file__).resolve().parent.parent)
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH", ""), root) if p)
        environment = {**os.environ, **self.contender.environment(), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            # Ctrl-C is for the parent, which ends its workers when it has printed what it has.
            start_new_session=True,
        )
        found: dict[str, Any] = self._call("start", self.contender)
        return found

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer to a request (a method of `worker.Server`). Raises ContenderError if there is none."""
        if self._process is None:
            self.start()
        return self._call(name, *arguments)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was not sent yet has nobody to read it any more
                continue
        self._process = None

    def _call(self, name: str, *arguments: Any) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((name, arguments), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            kind, value = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise ContenderError(self._last_words()) from None
        if kind == "ok":
            return value
        if kind == "device":
            raise DeviceError(value)
        if kind == "argument":
            raise ArgumentError(value)
        raise ContenderError(value)

    def _last_words(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        if code == -signal.SIGKILL if hasattr(signal, "SIGKILL") else False:
            return "its process was killed, most likely because memory ran out"
        return f"its process ended with exit code {code}{': ' + lines[-1] if lines else ''}"
