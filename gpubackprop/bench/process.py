"""An object in a process of its own, whose methods are called through a pipe.

The number of BLAS threads is fixed when NumPy is loaded, and what one contender leaves in memory must not cost another
anything; so each has a process. Requests and answers are pickled: both ends are this library.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import gpubackprop
from gpubackprop.errors import ArgumentError, DeviceError, GpuBackpropError

COMMAND = (sys.executable, "-c", "from gpubackprop.bench.process import main; main()")
ROOT = Path(gpubackprop.__file__).resolve().parent.parent
"""Where the process finds this package, and what lies beside it."""
_ERRORS: dict[str, type[GpuBackpropError]] = {"argument": ArgumentError, "device": DeviceError}


class WorkerError(GpuBackpropError):
    """The process could not do what it was asked, or is gone; the message says why."""


class Worker:
    """An object in a process, which is started at the first call of a method and again at the next one if it died.

    place: "module:class" of the object. arguments: of the class. environment: variables that the process gets beside those
    of this one. command: what to start; another one is for tests.
    """

    def __init__(
        self,
        place: str,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        self._make = place, arguments
        self._environment = dict(environment or {})
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._late = ""

    def ask(self, name: str, *arguments: object, limit: float | None = None) -> Any:
        """Call the object's method `name` and return its result. limit: seconds after which the process is ended.

        Raises DeviceError and ArgumentError where the method does, for all other errors WorkerError.
        """
        self._late = ""
        timer = Timer(limit or 0, self._end, (f"it took more than {limit} s",))
        if limit is not None:
            timer.start()
        try:
            if self._process is None:
                self._start()
            return self._call(name, arguments)
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process and all that it started, without waiting for what they do."""
        if self._process is None:
            return
        self._end()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # what was not sent yet has nobody to read it any more
                continue
        self._process = None

    def _end(self, reason: str = "") -> None:
        process, self._late = self._process, reason
        if process is None:
            return
        if not hasattr(os, "killpg"):
            process.kill()
            return
        # It leads a group of its own, which its children are in: compilers, for one.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _start(self) -> None:
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH", ""), str(ROOT)) if p)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **self._environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            # Ctrl-C is for the parent, which ends its workers when it has printed what it has.
            start_new_session=True,
        )
        try:
            self._call(*self._make)
        except GpuBackpropError:
            self.close()
            raise

    def _call(self, name: str, arguments: tuple[object, ...]) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((name, arguments), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            kind, value = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise WorkerError(self._last_words()) from None
        if kind == "ok":
            return value
        raise _ERRORS.get(kind, WorkerError)(value)

    def _last_words(self) -> str:
        assert self._process is not None
        code, late = self._process.wait(), self._late
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self.close()
        if late:
            return late
        if hasattr(signal, "SIGKILL") and code == -signal.SIGKILL:
            return "its process was killed, most likely because memory ran out"
        return f"its process ended with exit code {code}{': ' + lines[-1] if lines else ''}"


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Make the object that the first request (place, arguments) names, then call its methods (name, arguments), until the
    input ends. Each answer is ("ok", result) or (kind of error, message)."""
    served: Any = None
    while True:
        try:
            name, arguments = pickle.load(source)
        except EOFError:
            return
        try:
            if served is None:
                module, _, kind = name.partition(":")
                served = getattr(import_module(module), kind)(*arguments)
                answer: tuple[str, Any] = "ok", None
            else:
                answer = "ok", getattr(served, name)(*arguments)
        except MemoryError as error:
            answer = "failure", f"not enough memory: {error or 'an allocation failed'}"
        except DeviceError as error:
            answer = "device", str(error)
        except GpuBackpropError as error:
            answer = "argument", str(error)
        except Exception as error:
            # Whatever a device's libraries raise is this contender's result, not the end of the others'.
            answer = "failure", f"{type(error).__name__}: {error}"
        pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


def main() -> None:
    """Serve on standard input and output; what anything else prints goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)
