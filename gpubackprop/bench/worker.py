"""A contender's own process: it does what comes through its input and answers through its output.

The number of BLAS threads is fixed when NumPy is loaded, and what one contender leaves in memory must not cost another
anything; so each has a process. Requests and answers are pickled: both ends are this library.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO

from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.select import get_backend
from gpubackprop.bench.ceilings import ceilings
from gpubackprop.bench.contenders import Contender, available_cores
from gpubackprop.bench.measure import Measurement
from gpubackprop.errors import DeviceError, GpuBackpropError


class Server:
    """The device of one contender and the measurement that it is at. Each method is a request."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.measurement: Measurement | None = None

    def describe(self) -> dict[str, Any]:
        """What the contender runs on."""
        backend = self._new_backend()
        on_gpu = backend.name.startswith("cuda")
        threads = None if on_gpu else blas_threads() or self.contender.threads or available_cores()
        return {"device": backend.name, "threads": threads}

    def ceilings(self) -> dict[str, float]:
        """See `ceilings.ceilings`."""
        return ceilings(self._new_backend(), self.contender.dtype)

    def prepare(
        self, described: dict[str, Any], n: int, optimizer: str, seed: int, plain: bool = False
    ) -> dict[str, Any]:
        """Build a network and batches of n rows; what they compute, and what work a step is."""
        self.measurement = None
        c = self.contender
        # A backend of its own for each, so that scratch memory of the network before is not there already.
        self.measurement = Measurement(described, self._new_backend(), c.dtype, c.precision, n, optimizer, seed, plain)
        m = self.measurement
        return {"tensors": m.tensors(), "work": m.work(), "how": m.describe()}

    def block(self, seconds: float, phases: bool) -> dict[str, float]:
        """See `Measurement.block`."""
        assert self.measurement is not None, "prepare comes first"
        return self.measurement.block(seconds, phases)

    def release(self) -> None:
        """Let go of the network."""
        self.measurement = None

    def _new_backend(self) -> Backend:
        return get_backend(self.contender.device, precision=self.contender.precision)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests (name, arguments) with ("ok", result) or (kind of error, message), until the input ends."""
    server: Server | None = None
    while True:
        try:
            name, arguments = pickle.load(source)
        except EOFError:
            return
        try:
            if name == "start":
                server = Server(*arguments)
                answer: tuple[str, Any] = ("ok", server.describe())
            else:
                answer = ("ok", getattr(server, name)(*arguments))
        except MemoryError as error:
            answer = ("memory", f"not enough memory: {error or 'an allocation failed'}")
        except DeviceError as error:
            answer = ("device", str(error))
        except GpuBackpropError as error:
            answer = ("argument", str(error))
        except Exception as error:
            # Whatever a device's libraries raise is this contender's result, not the end of the others'.
            kind = "memory" if type(error).__name__ == "OutOfMemoryError" else "failure"
            answer = (kind, f"{type(error).__name__}: {error}")
        if answer[0] == "memory" and server is not None:
            server.release()
        pickle.dump(answer, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()


def main() -> None:
    """Serve on standard input and output; what anything else prints goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
