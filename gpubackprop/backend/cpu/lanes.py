"""A recorded program's elementwise work on several threads.

Between two products a program has calls of NumPy that take one thread each. Where they work on parts of a batch that have
nothing to do with each other, they run side by side, as lanes. Which calls may do so is seen from the memory that they read
and write: no lane reads or writes what another one writes. Each call computes what it computes alone, so the bits are the same.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend.arithmetic import Arithmetic
from gpubackprop.backend.cpu.compiled import Fused
from gpubackprop.backend.cpu.recorder import PART, Call, replay
from gpubackprop.backend.cpu.threads import idle_threads_sleep

GROUP = 64
"""Rows that are added up one after the other; their sums, then, by a product: as exact as a product over all."""
FEW = 4 * 1024
"""Numbers of a call's output up to which it is, before others, a statistic of the batch that all of its parts wait for."""
LEAST = 300e-6
"""Seconds of one thread's work from which several share it: to wake the others and wait for them takes some 60 us."""
SIMPLE, FUNCTION = 0.2e-9, 0.8e-9
"""Seconds for each number of an operation such as a sum, and of a function such as exp, roughly."""
LONGEST = 0.6
"""The longest lane's share of the work, above which nothing is gained."""
_FUNCTIONS = {"exp", "expm1", "log", "log1p", "tanh", "sqrt", "divide"}
_ROW_BY_ROW = {"ij->i", "ij,ij->i", "gij,gij->gj"}
"""The einsum's whose output has a row for each of its operands' rows."""


def part_rows(width: int) -> int:
    """How many rows of this many numbers are worked on at a time."""
    rows = max(1, PART // width)
    return rows - rows % GROUP if rows > GROUP else rows


class _Known(NamedTuple):
    """A call that one thread of NumPy does."""

    call: Call
    read: list[np.ndarray]
    written: list[np.ndarray]
    by_rows: bool
    """Whether rows of the output come from the same rows of operands that have as many."""

    @property
    def seconds(self) -> float:
        function = self.call[0]
        if isinstance(function, Fused):
            return self.size * function.seconds
        function = function.func if isinstance(function, partial) else function
        return self.size * (FUNCTION if getattr(function, "__name__", "") in _FUNCTIONS else SIMPLE)

    @property
    def begins(self) -> bool:
        """Whether work that can be shared begins with it."""
        return isinstance(self.call[0], Fused) or self.written[0].size > FEW

    @property
    def size(self) -> int:
        return max(a.size for a in (*self.written, *self.read))


def _known(call: Call) -> _Known | None:
    """None for a product, and for what nothing is known of."""
    function, arguments = call
    options: dict[str, Any] = {}
    if isinstance(function, partial):
        if function.args:
            return None
        options, function = function.keywords, function.func
    if isinstance(function, Fused):
        if function.of_all:
            return None
        return _Known(call, list(arguments), list(arguments[function.read :]), by_rows=False)
    out: Any = options.get("out")
    by_rows = not options.keys() - {"out", "casting"}
    if function is np.copyto:
        out = arguments[0] if len(arguments) == 2 else None
    elif isinstance(function, np.ufunc):
        # Products of matrices are ufuncs too, which have a signature.
        if function.nout > 1 or function.signature is not None:
            return None
        out = arguments[function.nin] if len(arguments) > function.nin else out
    elif function is np.einsum:
        by_rows = by_rows and isinstance(arguments[0], str) and arguments[0] in _ROW_BY_ROW
    elif isinstance(getattr(function, "__self__", None), np.ufunc) and function.__name__ == "reduce":
        out, by_rows = arguments[3] if len(arguments) > 3 else out, False
    else:
        return None
    if not isinstance(out, np.ndarray):
        return None
    read = [a for a in (*arguments, *options.values()) if isinstance(a, np.ndarray) and a is not out]
    return _Known(call, read, [out], by_rows)


def _parts(known: _Known) -> list[_Known]:
    """A call over a whole batch as calls over successive rows; itself where it is no larger than a part."""
    out, dimensions = known.written[0], max(a.ndim for a in (*known.written, *known.read))
    summed = known.call[0] if not isinstance(known.call[0], partial) else known.call[0].func
    if known.size <= PART or not known.by_rows or dimensions < 2 or (dimensions > out.ndim and summed is not np.einsum):
        return [known]
    # NumPy reads what overlaps the output elsewhere before it writes; part by part it would read what a part has written.
    if not all(_same(a, out) or _apart_from(a, out) for a in known.read):
        return [known]
    n = len(out)
    rows = part_rows(known.size // n)
    function, arguments = known.call
    found = []
    for i in range(0, n, rows):

        def rows_of(a: Any, i: int = i) -> Any:
            whole = not isinstance(a, np.ndarray) or a.ndim < out.ndim or len(a) != n
            return a if whole else a[i : i + rows]

        own = tuple(map(rows_of, arguments))
        if isinstance(function, partial):
            call: Call = partial(function.func, **{key: rows_of(a) for key, a in function.keywords.items()}), own
        else:
            call = function, own
        part = _known(call)
        assert part is not None
        found.append(part)
    return found


def _span(a: np.ndarray) -> tuple[int, int]:
    """Addresses of the first byte of an array and of the one after its last."""
    first = last = a.__array_interface__["data"][0]
    for n, stride in zip(a.shape, a.strides, strict=True):
        first, last = first + min((n - 1) * stride, 0), last + max((n - 1) * stride, 0)
    return first, last + a.itemsize


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return _span(a) == _span(b) and a.strides == b.strides and a.dtype == b.dtype


def _apart_from(a: np.ndarray, b: np.ndarray) -> bool:
    (first, last), (start, stop) = _span(a), _span(b)
    return last <= start or stop <= first


def _apart(calls: list[_Known]) -> list[list[int]]:
    """The numbers of the calls in groups, each in order: no group reads or writes what another one writes."""
    group = list(range(len(calls)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    written: list[tuple[int, int, int]] = []
    for first, last, i in sorted((*_span(a), i) for i, known in enumerate(calls) for a in known.written):
        if written and first < written[-1][1]:
            first, before, j = written.pop()
            last = max(last, before)
            group[root(i)] = root(j)
        written.append((first, last, i))
    starts = [first for first, _, _ in written]
    for i, known in enumerate(calls):
        for first, last in map(_span, known.read):
            at = max(bisect_right(starts, first) - 1, 0)
            while at < len(written) and starts[at] < last:
                if written[at][1] > first:
                    group[root(i)] = root(written[at][2])
                at += 1
    groups: dict[int, list[int]] = {}
    for i in range(len(calls)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _shared(stretch: list[_Known], count: int) -> list[Call]:
    """Calls between two products, as one call of up to `count` lanes where that is faster; as they are elsewhere."""
    calls = [known.call for known in stretch]
    if not stretch or sum(known.seconds for known in stretch) < LEAST:
        return calls
    parts = [part for known in stretch for part in _parts(known)]
    groups = [(sum(parts[i].seconds for i in group), group) for group in _apart(parts)]
    lanes: list[list[int]] = [[] for _ in range(count)]
    taken = [0.0] * count
    for seconds, group in sorted(groups, reverse=True):
        least = taken.index(min(taken))
        taken[least] += seconds
        lanes[least] += group
    if max(taken) > LONGEST * sum(taken) or not idle_threads_sleep():
        return calls
    return [(SideBySide([[parts[i].call for i in sorted(lane)] for lane in lanes if lane]), ())]


def side_by_side(calls: list[Call], count: int) -> list[Call]:
    """A program's calls, with those between two products as up to `count` lanes where that is faster."""
    if count < 2:
        return calls
    found: list[Call] = []
    stretch: list[_Known] = []
    for call in calls:
        known = _known(call)
        if known is not None and (stretch or known.begins):
            stretch.append(known)
            continue
        found += [*_shared(stretch, count), call]
        stretch = []
    return found + _shared(stretch, count)


class SideBySide:
    """Lists of calls that several threads go through at the same time."""

    def __init__(self, lanes: list[list[Call]]) -> None:
        self.lanes = [replay(lane) for lane in lanes]

    def __call__(self) -> None:
        run_side_by_side(self.lanes)


def run_side_by_side(lanes: Sequence[Callable[[], object]]) -> None:
    """Call all of them at the same time, the first in the calling thread. The first error is raised when all have ended."""
    own, *others = lanes
    errors: list[BaseException | None] = []
    done: SimpleQueue[None] = SimpleQueue()
    inboxes, given = _inboxes(len(others)), 0
    try:
        for inbox, lane in zip(inboxes, others, strict=True):
            inbox.put((lane, errors, done))
            given += 1
        own()
    finally:
        # Also where this lane was interrupted: the others write into arrays that the caller goes on to use.
        if given < len(others):
            # The next one may have been given, too, before it was counted. Behind it comes nothing to do.
            after: list[BaseException | None] = []
            inboxes[given].put((_nothing, after, done))
            _wait(after, done, 1)
        _wait(errors, done, given)
    error = next((error for error in errors if error is not None), None)
    # What an error holds would hold it in turn.
    errors.clear()
    if error is not None:
        try:
            raise error
        finally:
            del error


def _nothing() -> None:
    """What a lane is given to tell that it has done all that came before."""


def _wait(errors: list[BaseException | None], done: SimpleQueue[None], count: int) -> None:
    interrupt: BaseException | None = None
    while True:
        try:
            while len(errors) < count:
                try:
                    done.get(timeout=1)
                except Empty:
                    continue
            break
        # From a signal's handler, whatever it raises.
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


_Work = tuple[Callable[[], object], list[BaseException | None], "SimpleQueue[None]"]
_threads: list[SimpleQueue[_Work]] = []
_starting = threading.Lock()


def _inboxes(count: int) -> list[SimpleQueue[_Work]]:
    """Where that many threads take their work from."""
    with _starting:
        while len(_threads) < count:
            inbox: SimpleQueue[_Work] = SimpleQueue()
            threading.Thread(target=_go, args=(inbox,), name="gpubackprop lane", daemon=True).start()
            _threads.append(inbox)
        return _threads[:count]


def _go(inbox: SimpleQueue[_Work]) -> None:
    with Arithmetic():
        while True:
            lane, errors, done = inbox.get()
            try:
                lane()
                errors.append(None)
            except BaseException as error:
                errors.append(error)
            done.put(None)
            del lane, errors, done


def _after_fork() -> None:
    """A new process has none of the threads of the old one."""
    global _starting
    _starting = threading.Lock()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
