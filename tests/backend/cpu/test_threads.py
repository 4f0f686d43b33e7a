"""The threads of BLAS that a program is given."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu import mkl, threads
from gpubackprop.backend.cpu.threads import _Turns, takes_one_thread


class Library:
    """A BLAS whose number of threads is 4 until it is set."""

    def __init__(self) -> None:
        self.now, self.set_to = 4, []

    def get(self) -> int:
        return self.now

    def put(self, number: int) -> None:
        self.now = number
        self.set_to.append(number)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    turns = _Turns(made.get, made.put)
    monkeypatch.setattr(threads, "turns", lambda: turns)
    return made


def calls(widths: list[int], rows: int) -> Any:
    net = gb.mlp(widths, loss="cross_entropy", device="cpu")
    x, y = np.zeros((rows, widths[0]), np.float32), np.zeros(rows, np.int64)
    net.train_step(x, y, gb.Adam())
    batch = net.engine.training.batch(rows)
    (program,) = [held[1] for key, held in batch.programs.items() if key[0] == "train"]
    return program.calls


@pytest.mark.parametrize(
    ("widths", "rows", "one"),
    [
        ([2, 16, 16, 2], 4, None),
        ([64, 256, 128, 10], 32, True),
        ([784, 512, 256, 10], 1024, False),
        ([10, 12, 2], 4096, True),
    ],
)
def test_the_sizes_of_the_products_decide(widths: list[int], rows: int, one: bool | None) -> None:
    assert takes_one_thread(calls(widths, rows)) is one


def test_the_number_is_set_while_a_small_program_runs_and_put_back(library: Library) -> None:
    seen = []

    class Looking(gb.Activation):  # type: ignore[misc]
        def forward(self, be: Any, v: Any, training: bool) -> None:
            seen.append(library.now)
            super().forward(be, v, training)

    net = gb.Network([gb.Dense(64, 256), Looking("relu"), gb.Dense(256, 10)], loss="cross_entropy", device="cpu")
    x, y = np.zeros((32, 64), np.float32), np.zeros(32, np.int64)
    for _ in range(2):
        net.train_step(x, y, gb.Adam())
    assert library.now == 4
    assert seen[-1] == 1
    assert library.set_to[-2:] == [1, 4]
    large = gb.Network([gb.Dense(512, 512), Looking("relu"), gb.Dense(512, 10)], loss="cross_entropy", device="cpu")
    before = len(library.set_to)
    for _ in range(2):
        large.train_step(np.zeros((256, 512), np.float32), np.zeros(256, np.int64), gb.Adam())
    assert seen[-1] == 4
    assert len(library.set_to) == before


def test_after_an_error_the_number_is_what_it_was(library: Library) -> None:
    def fails() -> None:
        assert library.now == 1
        raise MemoryError

    with pytest.raises(MemoryError):
        threads.with_threads(fails, True)()
    assert library.now == 4


def test_programs_of_both_kinds_wait_for_each_other(library: Library) -> None:
    seen: list[tuple[bool, int]] = []

    def run(one: bool) -> None:
        def look() -> None:
            first = library.now
            time.sleep(0.002)
            seen.extend([(one, first), (one, library.now)])

        for _ in range(20):
            threads.with_threads(look, one)()

    workers = [threading.Thread(target=run, args=(kind,)) for kind in (True, False, True, False)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert len(seen) == 160
    assert {one: {n for kind, n in seen if kind is one} for one in (True, False)} == {True: {1}, False: {4}}
    assert library.now == 4


def test_a_program_within_a_program_does_not_wait(library: Library) -> None:
    inner = threads.with_threads(lambda: library.now, False)
    assert threads.with_threads(inner, True)() == 1


def test_a_library_that_cannot_be_set_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "blas_library", lambda: None)
    threads.turns.cache_clear()
    try:
        assert threads.turns() is None
        assert threads.with_threads(len, True) is len
    finally:
        threads.turns.cache_clear()


def test_a_new_process_does_not_wait_for_threads_of_the_old_one(library: Library) -> None:
    turns = threads.turns()
    assert turns is not None
    entered, leave = threading.Event(), threading.Event()

    def stays() -> None:
        entered.set()
        leave.wait(30)

    other = threading.Thread(target=threads.with_threads(stays, True))
    other.start()
    assert entered.wait(30)
    turns.after_fork()
    assert library.now == 4
    assert threads.with_threads(lambda: library.now, False)() == 4
    assert threads.with_threads(lambda: library.now, True)() == 1
    leave.set()
    other.join()


def test_a_process_that_forks_inside_a_program_goes_on(library: Library) -> None:
    turns = threads.turns()
    assert turns is not None
    threads.with_threads(turns.after_fork, True)()
    assert library.now == 4
    assert threads.with_threads(lambda: library.now, False)() == 4
    assert threads.with_threads(lambda: library.now, True)() == 1


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("method", [_Turns.begin, _Turns.end])
def test_an_interrupt_at_any_line_leaves_nothing_behind(library: Library, method: Any, one: bool) -> None:
    """As a signal's handler raises it; the threads are as before, and programs of either kind run, in other threads too."""
    turns = threads.turns()
    assert turns is not None
    lines, start = inspect.getsourcelines(method)
    struck = sum(_interrupted(method, line, one) for line in range(start + 1, start + len(lines)))
    assert struck >= 5


def _interrupted(method: Any, line: int, one: bool) -> bool:
    """Whether a program of this kind came to the line of the method, where it was interrupted."""
    struck: list[int] = []

    def at_a_line(frame: Any, event: str, argument: object) -> Any:
        if event == "line" and frame.f_lineno == line and not struck:
            struck.append(line)
            raise KeyboardInterrupt
        return at_a_line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: at_a_line if frame.f_code is method.__code__ else None)
    try:
        threads.with_threads(lambda: None, one)()
    except KeyboardInterrupt:
        assert struck
    finally:
        sys.settrace(before)
    turns: Any = threads.turns()
    assert not turns._inside, line
    assert not turns.own.inside, line
    seen: list[int] = []
    for kind in (True, False):
        run = threads.with_threads(lambda: seen.append(turns.get()), kind)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(10)
    assert seen == [1, 4], line
    return bool(struck)


def test_processes_share_the_cores_unless_the_environment_says_more(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    threads.share_cores(1)
    assert library.set_to == []
    threads.share_cores(3)
    threads.share_cores(100)
    assert library.set_to == [2, 1]
    library.now = 4
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {2, 3}, raising=False)
    threads.share_cores(2)
    assert library.now == 2, "bound to cores of its own"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.share_cores(2)
    assert library.set_to == [2, 1, 2]


SLEEPS = """
import os, threading
import numpy as np
from gpubackprop.backend.cpu.blas_info import blas_library, blas_threads
from gpubackprop.backend.cpu.threads import idle_threads_sleep
a = np.random.default_rng(0).standard_normal((600, 600))
before, threads = a @ a, blas_threads()
kept = dict(os.environ)
if {busy}:
    ended = threading.Event()
    __import__("_thread").start_new_thread(ended.wait, ())
    __import__("time").sleep(0.2)
slept = idle_threads_sleep()
if {busy}:
    ended.set()
assert dict(os.environ) == kept and blas_threads() == threads
assert np.array_equal(a @ a, before)
found = blas_library()
print(int(slept), found[0].openblas_thread_timeout() if found and hasattr(found[0], "openblas_thread_timeout") else None)
"""


@pytest.mark.parametrize(
    ("environment", "busy", "expected"),
    [
        ({}, False, "1 20"),
        ({}, True, "0 0"),
        ({"OPENBLAS_THREAD_TIMEOUT": "26"}, False, "0 26"),
        ({"OPENBLAS_THREAD_TIMEOUT": "12"}, True, "1 12"),
    ],
)
def test_idle_threads_of_openblas_are_told_to_sleep(environment: dict[str, str], busy: bool, expected: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", SLEEPS.format(busy=busy)],
        env={**{k: v for k, v in os.environ.items() if k != "OPENBLAS_THREAD_TIMEOUT"}, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if found.stdout.strip() == "0 None":
        pytest.skip("NumPy's BLAS is no OpenBLAS with threads of its own")
    assert found.stdout.strip() == expected


@pytest.mark.parametrize("device", ["cpu", "cpu:mkl"])
def test_what_a_user_says_can_be_recorded_is_tried_with_the_threads_of_the_program(device: str) -> None:
    """Sums in another order, of other threads, are no fault of the user's class."""

    class Scale(gb.Layer):
        recordable = True

        def build(self, width: int) -> int:
            return width

        def forward(self, be: Any, v: Any, training: bool) -> None:
            be.xp.multiply(v.x, 0.7, out=v.a)

        def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
            be.xp.multiply(v.delta, 0.7, out=dx)

    if device == "cpu:mkl" and mkl.problem() is not None:
        pytest.skip("no MKL here")
    rng = np.random.default_rng(0)
    net = gb.Network([gb.Dense(784, 128, "relu"), Scale(), gb.Dense(128, 10)], loss="cross_entropy", device=device)
    net.train_step(rng.standard_normal((32, 784)), rng.integers(0, 10, 32), gb.SGD(0.1))
