"""Evaluates an expression with CuPy, or with its stand-in, and writes down what came out."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class Scope:
    """The names that an expression may use, made anew for each.

    cp, np; a: float32 (3, 4), the numbers 0 to 11; row: float32 (4,), 0 to 3; index: [0, 2]; stream, begin, end: a stream and two
    events; graph: one that fills `a` with 0; pinned(shape): page-locked float32.
    """

    def __init__(self, cp: Any, cupyx: Any) -> None:
        self.cp, self.np = cp, np
        self.a = cp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
        self.row = cp.asarray(np.arange(4, dtype=np.float32))
        self.index = cp.asarray(np.array([0, 2]))
        self.stream = cp.cuda.Stream(non_blocking=True)
        self.begin, self.end = cp.cuda.Event(), cp.cuda.Event()
        self._empty_pinned = cupyx.empty_pinned

    @property
    def graph(self) -> Any:
        """A graph that fills a with 0."""
        self.a.fill(0)
        return self.record(lambda: self.a.fill(0))

    def host(self, shape: Any = (3, 4)) -> np.ndarray:
        """A float32 host array of ones."""
        return np.ones(shape, np.float32)

    def there(self, values: Any, dtype: Any = np.float32) -> Any:
        """These values on the device."""
        return self.cp.asarray(np.array(values, dtype))

    def pinned(self, shape: Any) -> np.ndarray:
        """Page-locked float32."""
        array: np.ndarray = self._empty_pinned(shape, np.float32)
        return array

    def after(self, *done: Any) -> Any:
        """What `a` holds after these calls."""
        return self.a.get().tolist()

    def within(self, context: Any, f: Callable[[], Any]) -> Any:
        """f() in a `with`."""
        with context:
            return f()

    def pooled(self, f: Callable[[], Any]) -> Any:
        """f() with the memory of a pool of its own."""
        return self.within(self.cp.cuda.using_allocator(self.cp.cuda.MemoryPool().malloc), f)

    def threaded(self, f: Callable[[], Any]) -> Any:
        """f() in another thread."""
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(_written(f)))
        thread.start()
        thread.join()
        return Text(found[0])

    def captured(self, f: Callable[[Any], Any]) -> Any:
        """f(s) while the stream s is being captured; and what the end of the capture gave, unless that is a graph."""
        s = self.cp.cuda.Stream(non_blocking=True)
        with s:
            s.begin_capture()
            first = _written(lambda: f(s))
            last = _written(s.end_capture)
        return Text(first if last.startswith("<") else f"{first}; then {last}")

    def record(self, f: Callable[[], Any]) -> Any:
        """The graph of f()."""
        s = self.cp.cuda.Stream(non_blocking=True)
        with s:
            s.begin_capture()
            try:
                f()
            finally:
                graph = s.end_capture()
        return graph

    def replayed(self, f: Callable[[], Any], times: int = 1) -> Any:
        """The first row of `a` after so many launches of the graph of f()."""
        f()  # what must be compiled or loaded is, before the capture
        self.a.set(np.arange(12, dtype=np.float32).reshape(3, 4))
        graph = self.record(f)
        for _ in range(times):
            graph.launch()
        return self.a[0].get().tolist()

    def untimed(self) -> Any:
        """The time between two events that keep none."""
        begin, end = (self.cp.cuda.Event(disable_timing=True) for _ in range(2))
        begin.record(), end.record(), end.synchronize()
        return self.cp.cuda.get_elapsed_time(begin, end)

    def kept_scalar(self) -> Any:
        """Whether a graph has a number's value of the time of its capture."""
        number = np.array(2.0, np.float32)
        graph = self.record(lambda: self.cp.multiply(self.a, number[()], out=self.a))
        number[...] = 5
        graph.launch()
        return self.a[0].get().tolist()

    def dropped_temporary(self) -> Any:
        """Memory that was taken in a capture stays with the capture's stream: (another array, what the graph computed)."""
        cp, a = self.cp, self.a
        self.replayed(lambda: cp.add(a, a, out=a))
        a.set(np.arange(12, dtype=np.float32).reshape(3, 4))

        def double() -> None:
            twice = a + a
            cp.add(twice, 0, out=a)

        graph = self.record(double)
        other = cp.empty(a.shape, a.dtype)
        other.fill(100)
        graph.launch()
        return other[0].get().tolist(), a[0].get().tolist()

    def pool_of_a_capture(self) -> Any:
        """(bytes in use, bytes taken) of a pool that was in place for a capture."""
        pool = self.cp.cuda.MemoryPool()

        def f() -> None:
            with self.cp.cuda.using_allocator(pool.malloc):
                self.a + self.a

        self.record(f)
        return pool.used_bytes(), pool.total_bytes()

    def same_memory(self) -> bool:
        """Whether memory that was given back is handed out again."""
        first = self.cp.empty((100,), np.float32)
        where = first.data.ptr
        del first
        return bool(self.cp.empty((100,), np.float32).data.ptr == where)


class Text(str):
    """An answer that is written down already."""


def answer(cp: Any, cupyx: Any, expression: str) -> str:
    """What an expression gives: its value, or "Type: message" of the error that it raises."""
    scope = Scope(cp, cupyx)
    names = {name: getattr(scope, name) for name in dir(scope) if not name.startswith("_") and name != "graph"}
    if re.search(r"\bgraph\b", expression):
        names["graph"] = scope.graph
    return _written(lambda: eval(expression, names))


def _written(f: Callable[[], Any]) -> str:
    try:
        value = f()
        if isinstance(value, Text):
            return str(value)
        if hasattr(value, "get") and hasattr(value, "strides"):
            return f"array {value.shape} {value.dtype}"
        return repr(value)
    except Exception as error:
        lines = str(error).splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"


def differs(answer: str, wanted: str) -> bool:
    """Whether an answer is not the one that is wanted, in which "..." stands for anything."""
    pattern = ".*".join(map(re.escape, wanted.split("...")))
    return re.fullmatch(pattern, answer, re.DOTALL) is None


@contextlib.contextmanager
def quiet(cp: Any) -> Any:
    """After an expression: no stream of its own is current, and nothing is under way."""
    yield
    cp.cuda.Stream.null.use()
    cp.cuda.Device(0).synchronize()
