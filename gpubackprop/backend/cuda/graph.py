"""A step as a CUDA graph: what the layers' calls put on the stream, kept once and launched whole."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import cupy

log = logging.getLogger("gpubackprop.cuda")

Device: TypeAlias = Any
"""A `CudaBackend`, which makes these programs."""


class Recorder:
    """Captures on a stream and from a memory pool of its own, and knows whether it is doing so.

    launch: launches a graph, in turn with what else uses the memory that its products use.
    """

    def __init__(self, cupy: ModuleType, launch: Callable[[Any], None] | None = None) -> None:
        self.cupy = cupy
        self._launch = launch
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
            pool = _Pool(cupy)
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

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        """Put a host call between what was captured before it and what comes after."""
        assert self.parts is not None
        self._close()
        self.parts.append(lambda: function(*arguments))
        self._stream.begin_capture()

    def _close(self) -> None:
        assert self.parts is not None
        graph = self._stream.end_capture()
        self.parts.append(graph.launch if self._launch is None else partial(self._launch, graph))

    def _abandon(self, stream: cupy.cuda.Stream) -> None:
        """End a capture that went wrong: a stream that is left capturing would spoil whatever follows."""
        try:
            stream.end_capture()
        except Exception as error:  # the capture is invalid, and what invalidated it is being raised
            log.debug("the capture had become invalid: %s", error)


class _Pool:
    """The memory of a capture on the current device, given back with this: CuPy 14 loses what is free in a pool that goes."""

    def __init__(self, cupy: ModuleType) -> None:
        pool = cupy.cuda.MemoryPool()
        self.malloc = pool.malloc
        weakref.finalize(self, _give_back, cupy, cupy.cuda.Device().id, pool).atexit = False


def _give_back(cupy: ModuleType, index: int, pool: cupy.cuda.MemoryPool) -> None:
    with cupy.cuda.Device(index):
        pool.free_all_blocks()


class EagerProgram:
    """A step that is done as it is at each call.

    current: whoever calls it has seen to it that the copies of the parameters in half precision are up to date; otherwise the
    step makes them anew.
    """

    def __init__(self, device: Device, step: Callable[[], None], *, current: bool = False) -> None:
        self.device, self.step, self.current = device, step, current

    def __call__(self) -> None:
        if not self.current:
            self.device.parameters_changed()
        self.step()


class GraphProgram:
    """A recorded step. The first call does the step as it is, which plans its products and allocates its buffers; the
    second captures it; from then on a call is a launch. Where it cannot be captured it goes on as it is.

    warm: all that it launches was launched before, and the first call captures it. current: as for `EagerProgram`.
    """

    def __init__(self, device: Device, step: Callable[[], None], *, warm: bool = False, current: bool = False) -> None:
        self._device, self.step, self.warm = device, step, warm
        self._eager = EagerProgram(device, step, current=current)
        self.loop: Any = None
        """A `DeviceLoop` of this step, once there is one."""
        self._parts: list[Callable[[], Any]] = []
        self._kept: tuple[Any, ...] = ()
        """The memory that the graph's nodes point to, besides what `step` holds."""

    def __call__(self) -> None:
        if not self.warm:
            self._eager()
            self.warm = True
            return
        if not self._parts:
            try:
                self.capture()
            # The step ran without a graph before. So it goes on without one after any error, out of memory included, and says
            # why.
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                self._device.recorder.failure = reason
                log.warning("a step could not be captured into a CUDA graph and runs eagerly: %s", reason)
                self._parts = [self._eager]
        for part in self._parts:
            part()
        if not self._eager.current:
            self._device.parameters_changed()

    def capture(self) -> None:
        """Make the graph now. Raises what the step raises, and CuPy's errors for what cannot be captured."""
        device = self._device
        if not self._eager.current:
            device.parameters_changed()
        self._parts, pool = device.recorder.capture(self.step)
        self._kept = (pool, *device.memory_in_use())
