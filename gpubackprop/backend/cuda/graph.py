"""A step as a CUDA graph: what the layers' calls put on the stream, kept once and launched whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("gpubackprop.cuda")


class Recorder:
    """Captures on a stream and from a memory pool of its own, and knows whether it is doing so."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.parts: list[Callable[[], Any]] | None = None
        """While capturing: the graphs so far, and the host calls between them."""
        self.failure: str | None = None
        """Why the last capture that failed did."""
        self.graphs = 0
        """Graphs made so far."""

    def capture(self, step: Callable[[], None]) -> tuple[list[Callable[[], Any]], Any]:
        """The step as graphs to launch, with the host calls between them, and the memory that they were given. Nothing of the
        step is done.

        Raises what `step` raises, and CuPy's errors for what cannot be captured.
        """
        cupy = self.cupy
        stream = cupy.cuda.Stream(non_blocking=True)
        self.parts = []
        try:
            # Should anything allocate after all, it must not be handed out again while the graph lives.
            pool = cupy.cuda.MemoryPool()
            with cupy.cuda.using_allocator(pool.malloc), stream:
                self._stream = stream
                stream.begin_capture()
                try:
                    step()
                except BaseException:
                    self._abandon(stream)
                    raise
                self._close()
            parts, self.graphs = self.parts, self.graphs + 1
            return parts, pool
        finally:
            self.parts = None

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Put a host call between what was captured before it and what comes after."""
        assert self.parts is not None
        self._close()
        self.parts.append(lambda: function(*arguments))
        self._stream.begin_capture()

    def _close(self) -> None:
        assert self.parts is not None
        self.parts.append(self._stream.end_capture().launch)

    def _abandon(self, stream: Any) -> None:
        """End a capture that went wrong: a stream that is left capturing would spoil whatever follows."""
        try:
            stream.end_capture()
        except Exception as error:  # the capture is invalid, and what invalidated it is being raised
            log.debug("the capture had become invalid: %s", error)


class GraphProgram:
    """A recorded step. The first call does the step as it is, which plans its products and allocates its buffers; the
    second captures it; from then on a call is a launch. Where it cannot be captured it goes on as it is."""

    def __init__(self, backend: Any, step: Callable[[], None], warm: bool = False) -> None:
        self.backend, self.step, self.warm = backend, step, warm
        self.loop: Any = None
        """A `DeviceLoop` of this step, once there is one."""
        self.parts: list[Callable[[], Any]] | None = None
        self.kept: tuple[Any, ...] = ()
        """The memory that the graph's nodes point to, besides what `step` holds."""

    def __call__(self) -> None:
        if self.parts is not None:
            for part in self.parts:
                part()
        elif not self.warm:
            with self.backend.inside_program():
                self.step()
            self.warm = True
        else:
            self._capture()
            self()

    def _capture(self) -> None:
        backend = self.backend
        try:
            with backend.inside_program():
                self.parts, pool = backend.recorder.capture(self.step)
            self.kept = (pool, *backend.memory_in_use())
        except backend.memory_errors:
            raise
        except Exception as error:  # whatever it is, the step runs without a graph, and says why
            reason = f"{type(error).__name__}: {error}"
            backend.recorder.failure = reason
            log.warning("a step could not be captured into a CUDA graph and runs eagerly: %s", reason)
            self.parts = [self._eagerly]

    def _eagerly(self) -> None:
        with self.backend.inside_program():
            self.step()
