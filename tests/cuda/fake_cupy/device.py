"""Devices, streams, events, captures and graphs, as CUDA's documentation describes them and as CuPy 14.2 shows them.

Work is done when it is queued or, with `State.deferred`, when something waits for it and not a moment sooner: a stream does
only what is waited for, and what that itself waits for. What CUDA leaves to chance then comes out as badly as it can.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# ---- errors -------------------------------------------------------------------------------------------------------

ERRORS = {
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    101: ("cudaErrorInvalidDevice", "invalid device ordinal"),
    400: ("cudaErrorInvalidResourceHandle", "invalid resource handle"),
    401: ("cudaErrorIllegalState", "the operation cannot be performed in the present state"),
    600: ("cudaErrorNotReady", "device not ready"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"),
    904: ("cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"),
    905: ("cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"),
    906: (
        "cudaErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    907: ("cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"),
}


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""

    def __init__(self, status: int) -> None:
        super().__init__(": ".join(ERRORS[status]))
        self.status = status


# ---- what is counted, limited and current -------------------------------------------------------------------------

HOST = 0.01
"""Milliseconds that the host needs for one launch or one event."""


@dataclass
class State:
    """The machine: its devices, what was asked of them so far, and how it behaves.

    deferred: work is put off until something waits for it. strict: what CuPy and CUDA allow, but this library must not do,
    is an error too: memory for a capture from another pool than its own, numbers read from the device by the way, a graph
    launched into a capture or after its memory was given back.
    """

    devices: int = 1
    deferred: bool = False
    strict: bool = True
    interleaved: bool = False
    """Whether the streams of a device work at the same time: after each piece of one a piece of every other is done."""
    allocations: int = 0
    transfers: int = 0
    waits: int = 0
    launches: int = 0
    graph_launches: int = 0
    limit: int = 1 << 40
    """Bytes of memory that each device has."""
    pinned: int = 0
    """Bytes of the host's memory that are page-locked: never given back, as CuPy keeps them."""
    host: float = 0.0
    """Milliseconds that the host has spent on queueing work and on waiting for it."""
    queues: dict[int, Queue] = field(default_factory=dict)
    nulls: list[Queue] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)  # type: ignore[valid-type]
    local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.nulls = [Queue(i, True, 0, self.deferred) for i in range(self.devices)]
        self.used = dict.fromkeys(range(self.devices), 0)
        self.taken = dict.fromkeys(range(self.devices), 0)

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return int(self.local.__dict__.setdefault("device", 0))

    @device.setter
    def device(self, index: int) -> None:
        if not 0 <= index < self.devices:
            raise CUDARuntimeError(101)
        self.local.device = index

    @property
    def live(self) -> int:
        """Bytes of the first device's memory that arrays hold."""
        memory.settle()
        return self.used[0]

    def streams(self, device: int) -> list[Any]:
        """The current streams of this thread on a device, innermost last."""
        stacks = self.local.__dict__.setdefault("streams", {})
        return stacks.setdefault(device, [Stream.null])  # type: ignore[no-any-return]

    @property
    def allocators(self) -> list[Any]:
        """The allocators that were put in place in this thread."""
        return self.local.__dict__.setdefault("allocators", [])  # type: ignore[no-any-return]

    def counts(self) -> tuple[int, int, int]:
        """Allocations, transfers and waits."""
        return self.allocations, self.transfers, self.waits


# ---- queues -------------------------------------------------------------------------------------------------------

_numbers = itertools.count(0x10000, 16)


class Marker(NamedTuple):
    """A place in a queue: everything up to item number `count`."""

    queue: Queue
    count: int

    @property
    def passed(self) -> bool:
        """Whether that is done."""
        return self.queue.done >= self.count


class Node(NamedTuple):
    """One piece of captured work: what it does, how long that takes, and addresses that it touches."""

    work: Callable[[], Any]
    milliseconds: float
    touches: Sequence[int]


class Capture:
    """What is captured between `begin_capture` and `end_capture`."""

    def __init__(self, origin: Queue) -> None:
        self.nodes: list[Node] = []
        self.members = [origin]
        self.invalid = False


class Queue:
    """A stream as CUDA has it: items in order, each done after the ones before it."""

    def __init__(self, device: int, blocking: bool, number: int, late: bool) -> None:
        self.device, self.blocking, self.number = device, blocking, number
        self.items: deque[Callable[[], Any] | Marker] = deque()
        self.late = late
        """Whether work is put off here until something waits for it."""
        self.queued = self.done = 0
        self.clock = 0.0
        """When the device is done with what is queued here, in milliseconds."""
        self.capture: Capture | None = None
        self.captured = self.joined = 0
        """Nodes that this stream put into the capture, and how many of them others have waited for."""
        self.destroyed = False

    def put(
        self, work: Callable[[], Any], milliseconds: float, touches: Sequence[int] = (), *, anywhere: bool = False
    ) -> None:
        """Queue work, or capture it. anywhere: as copies may, also while another device is current."""
        self.put_all([Node(work, milliseconds, touches)], anywhere=anywhere)

    def put_all(self, nodes: list[Node], *, anywhere: bool = False) -> None:
        """Queue several pieces at once, or capture them."""
        with state.lock:
            if self.device != state.device and not anywhere:
                raise CUDARuntimeError(400)
            if self.capture is not None:
                if self.capture.invalid:
                    raise CUDARuntimeError(901)
                self.capture.nodes += nodes
                self.captured += len(nodes)
                return
            self.spend(sum(node.milliseconds for node in nodes))
            self._after_the_legacy_stream()
            for node in nodes:
                self.add(node.work)

    def add(self, item: Callable[[], Any] | Marker) -> None:
        """Append an item as it is."""
        self.items.append(item)
        self.queued += 1
        if not self.late:
            self.finish()

    def spend(self, milliseconds: float) -> None:
        """Time for work of so many milliseconds on the device; queueing it takes the host `HOST`."""
        state.host += HOST
        self.clock = max(self.clock, state.host) + milliseconds

    def finish(self, until: int | None = None) -> None:
        """Do what is queued, up to an item's number."""
        with state.lock:
            until = self.queued if until is None else until
            while self.done < until:
                item = self.items.popleft()
                self.done += 1
                if isinstance(item, Marker):
                    item.queue.finish(item.count)
                    continue
                item()
                if state.interleaved:
                    self._let_others_work()
            if self.destroyed and not self.items:
                state.queues.pop(self.number, None)

    def _let_others_work(self) -> None:
        for other in queues_of(self.device):
            if other is not self and other.items and not isinstance(other.items[0], Marker):
                other.done += 1
                other.items.popleft()()  # type: ignore[operator]

    def destroy(self) -> None:
        """What is queued is still done some time."""
        self.destroyed = True
        if not self.items:
            state.queues.pop(self.number, None)

    def _after_the_legacy_stream(self) -> None:
        """The legacy default stream and the streams that block with it wait for each other."""
        if not self.blocking:
            return
        null = state.nulls[self.device]
        if self is not null:
            self.add(Marker(null, null.queued))
            return
        for other in list(state.queues.values()):
            if other.blocking and other.device == self.device:
                if other.capture is not None:
                    raise CUDARuntimeError(906)
                self.add(Marker(other, other.queued))


def queues_of(device: int) -> list[Queue]:
    """All of a device, the legacy default stream first."""
    return [state.nulls[device], *(q for q in list(state.queues.values()) if q.device == device)]


def queue_of(number: int) -> Queue:
    """The stream behind a `cudaStream_t`: 0 is the current device's legacy default stream."""
    return state.queues[number] if number else state.nulls[state.device]


def current() -> Queue:
    """The current stream of this thread and device."""
    queue: Queue = state.streams(state.device)[-1].queue
    return queue


def run(
    work: Callable[[], Any], queue: Queue | None = None, milliseconds: float = 0.002, touches: Sequence[int] = ()
) -> None:
    """Queue some device work, which takes the device so long, on the current stream or on another."""
    (queue or current()).put(work, milliseconds, touches)


def refuse_under_capture(queue: Queue, what: str) -> None:
    """CuPy's own error for a transfer on a stream that is being captured."""
    if queue.capture is not None:
        raise RuntimeError(f"the current stream is capturing, so {what} transfers are disallowed")


# ---- what CuPy makes of it ----------------------------------------------------------------------------------------


class Stream:
    """cupy.cuda.Stream."""

    null: Stream

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        assert not ptds, "the stand-in has no per-thread default streams"
        self._own: Queue | None = None
        self.device_id, self.ptr = -1, 0
        if not null:
            self.device_id, self.ptr = state.device, next(_numbers)
            self._own = state.queues[self.ptr] = Queue(self.device_id, not non_blocking, self.ptr, state.deferred)
            weakref.finalize(self, self._own.destroy)

    @property
    def queue(self) -> Queue:
        """What it stands for; the null stream is another one on every device."""
        return state.nulls[state.device] if self._own is None else self._own

    def _check_device(self) -> int:
        if self.device_id not in (-1, state.device):
            raise RuntimeError(f"the stream was created on device {self.device_id}, and {state.device} is current")
        return state.device

    def __enter__(self) -> Stream:
        device = self._check_device()
        state.streams(device).append(self)
        state.local.__dict__.setdefault("entered", []).append(device)
        return self

    def __exit__(self, *_: Any) -> None:
        state.streams(state.local.entered.pop()).pop()

    def use(self) -> Stream:
        """Make it current until another one is."""
        state.streams(self._check_device())[-1] = self
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.ptr, self.device_id) == (other.ptr, other.device_id)

    def __hash__(self) -> int:
        return self.ptr

    @property
    def done(self) -> bool:
        """Whether all that is queued is done; nothing is done for the asking."""
        if self.queue.capture is not None:
            self.queue.capture.invalid = True
            return False
        return self.queue.done == self.queue.queued

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        queue = self.queue
        if queue.capture is not None:
            queue.capture.invalid = True
            raise CUDARuntimeError(900)
        state.waits += 1
        queue.finish()
        state.host = max(state.host, queue.clock)

    def record(self, event: Event | None = None) -> Event:
        """Record an event, or a new one, and return it."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What is queued from now on comes after the event; one that was never recorded is no reason to wait."""
        queue = self.queue
        with state.lock:
            if event.capture is not None:
                if queue.capture is None:
                    queue.capture, queue.captured, queue.joined = event.capture, 0, 0
                    event.capture.members.append(queue)
                if queue.capture is not event.capture:
                    raise CUDARuntimeError(905)
                if event.source is not queue:
                    event.source.joined = max(event.source.joined, event.captured)
            elif event.marker is not None:
                if queue.capture is not None:
                    queue.capture.invalid = True
                    raise CUDARuntimeError(905)
                queue.clock = max(queue.clock, event.at)
                queue.add(event.marker)

    def is_capturing(self) -> bool:
        """Whether it is being captured."""
        return self.queue.capture is not None

    def begin_capture(self, mode: Any = None) -> None:
        """Capture what is queued from now on, without doing it."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.queue.capture is not None:
            raise CUDARuntimeError(401)
        self.queue.capture, self.queue.captured, self.queue.joined = Capture(self.queue), 0, 0

    def end_capture(self) -> Graph:
        """The graph of what was captured."""
        capture = self.queue.capture
        if capture is None or capture.members[0] is not self.queue:
            raise CUDARuntimeError(401)
        unjoined = any(member.captured > member.joined for member in capture.members[1:])
        for member in capture.members:
            member.capture = None
        if capture.invalid:
            raise CUDARuntimeError(901)
        if unjoined:
            raise CUDARuntimeError(904)
        return Graph(capture.nodes)


class Event:
    """cupy.cuda.Event."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.timing = not disable_timing
        self.at = 0.0
        self.marker: Marker | None = None
        self.capture: Capture | None = None
        self.source: Any = None
        self.captured = 0

    def record(self, stream: Stream | None = None) -> None:
        """From now on it stands for this place in the stream."""
        queue = current() if stream is None else stream.queue
        if queue.device != state.device:
            raise CUDARuntimeError(400)
        with state.lock:
            self.capture, self.source, self.captured = queue.capture, queue, queue.captured
            if queue.capture is not None:
                if queue.capture.invalid:
                    raise CUDARuntimeError(901)
                self.marker = None
                return
            queue.spend(0.0)
            self.marker, self.at = Marker(queue, queue.queued), queue.clock

    @property
    def done(self) -> bool:
        """Whether that place is reached; nothing is done for the asking."""
        if self.capture is not None:
            raise CUDARuntimeError(907)
        return self.marker is None or self.marker.passed

    def synchronize(self) -> None:
        """Wait for that place."""
        if self.capture is not None:
            self.capture.invalid = True
            raise CUDARuntimeError(907)
        if self.marker is not None:
            state.waits += 1
            self.marker.queue.finish(self.marker.count)
            state.host = max(state.host, self.at)


def elapsed_time(start: Event, end: Event) -> float:
    """cupy.cuda.get_elapsed_time: milliseconds between two events."""
    for event in (start, end):
        if event.capture is not None:
            raise CUDARuntimeError(907)
        if event.marker is None or not event.timing:
            raise CUDARuntimeError(400)
        if not event.marker.passed:
            raise CUDARuntimeError(600)
    return end.at - start.at


class Graph:
    """cupy.cuda.Graph."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def launch(self, stream: Stream | None = None) -> None:
        """Queue all of it at once."""
        queue = current() if stream is None else stream.queue
        if state.strict:
            assert queue.capture is None, "a graph was launched on a stream that is being captured"
            for node in self.nodes:
                for address in node.touches:
                    assert memory.is_held(address), "a graph was launched whose memory was given back"
        state.graph_launches += 1
        queue.put_all(self.nodes)

    def upload(self, stream: Any = None) -> None:
        """Nothing to upload."""


class Device:
    """cupy.cuda.Device."""

    compute_capability = "90"

    def __init__(self, device: int | None = None) -> None:
        self.id = state.device if device is None else int(device)

    @property
    def attributes(self) -> dict[str, int]:
        """Of what the device is made."""
        self._check()
        return {"MultiProcessorCount": 2}

    @property
    def pci_bus_id(self) -> str:
        """Where it sits in its machine."""
        self._check()
        return f"0000:{0x18 + self.id:02X}:00.0"

    def _check(self) -> None:
        if not 0 <= self.id < state.devices:
            raise CUDARuntimeError(101)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __index__(self) -> int:
        return self.id

    def use(self) -> None:
        """Make it this thread's current device."""
        state.device = self.id

    def synchronize(self) -> None:
        """Wait for all that is queued on it."""
        self._check()
        captured = [q.capture for q in queues_of(self.id) if q.capture is not None]
        for capture in captured:
            capture.invalid = True
        if captured:
            raise CUDARuntimeError(900)
        state.waits += 1
        for queue in queues_of(self.id):
            queue.finish()
            state.host = max(state.host, queue.clock)

    def __enter__(self) -> Device:
        state.local.__dict__.setdefault("devices", []).append(state.device)
        state.device = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        state.device = state.local.devices.pop()


state = State()
Stream.null = Stream(null=True)

from tests.cuda.fake_cupy import memory  # noqa: E402 - it needs the state
