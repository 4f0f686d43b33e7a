"""How many threads a program's products are given: all of BLAS's, or one where the products are small.

On small products two threads gain little on an idle machine, and lose much on a busy one, where each waits for the other at
every product. The choice looks at the sizes of the products alone, never at the load, so that results do not depend on it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from gpubackprop.backend.cpu.blas_info import blas_library

WORTH_THREADS = 2**22
"""Multiplications of a program's largest product from which it is given all threads."""
_TAKEN_ALONE = {"gemm": 2**18, "gemv": 9216, "axpy": 10_000, "axpby": 10_000}
"""Sizes up to which OpenBLAS gives a call one thread by itself."""

SLEEP_AFTER = 20
"""Base-2 logarithm of the processor's ticks for which an idle thread of OpenBLAS looks for work before it sleeps."""
_TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"
_SLEEP = ("openblas_thread_timeout", "openblas_read_env", "blas_thread_shutdown_")
_PTHREADS = 1
"""What OpenBLAS answers that has threads of its own, and not OpenMP's."""


def _size(function: Callable[..., object], arguments: tuple[Any, ...]) -> tuple[str, int] | None:
    """("gemm", n k m), ("gemv", n k) or ("axpy", n) of a recorded call; None for what is no call of BLAS."""
    operands: tuple[Any, ...] = getattr(function, "operands", ())
    if operands:
        arrays = [a for a in operands if isinstance(a, np.ndarray)]
        routine: str = getattr(function, "routine", "")
        if routine == "gemm":
            return routine, arrays[0].size * arrays[1].shape[-1]
        return routine, max(a.size for a in arrays)
    owner = getattr(function, "__self__", None)
    if getattr(function, "__name__", "") == "dot" and isinstance(owner, np.ndarray):
        other = arguments[0]
        if owner.ndim == 2 and other.ndim == 2:
            return "gemm", owner.size * other.shape[-1]
        return "gemv", max(owner.size, other.size)
    return None


def takes_one_thread(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> bool | None:
    """Whether a program's calls are given one thread; None where it makes no difference."""
    sizes = [size for call in calls if (size := _size(*call)) is not None]
    if all(n <= _TAKEN_ALONE[routine] for routine, n in sizes):
        return None
    return max((n for routine, n in sizes if routine == "gemm"), default=0) < WORTH_THREADS


class _Own(threading.local):
    inside = False
    """Whether this thread is in a program, whose layers may run others."""


class _Turns:
    """The number of BLAS's threads is one for the whole process: programs that take one, and programs that take all, from
    several threads of Python, wait for each other. Programs of the same kind do not.

    A signal's handler may raise between any two lines here: `end` puts right whatever `begin` had come to.
    """

    def __init__(self, get: Callable[[], int], put: Callable[[int], object]) -> None:
        self.get, self.put = get, put
        self._before: int | None = None
        """The number of threads from before the first of the programs that take one now; None where there are none."""
        self._make()

    def _make(self) -> None:
        # `with` enters a lock at once, and a condition by a function of Python's, which could be left with the lock held.
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._inside: dict[int, bool] = {}
        """Of each thread that is in a program, whether that takes one."""
        self.own = _Own()

    def after_fork(self) -> None:
        """In a new process: programs that ran in other threads of the old one do not run here."""
        if self._before is not None:
            self.put(self._before)
            self._before = None
        self._make()

    def begin(self, one: bool) -> None:
        """Before a program runs."""
        self.own.inside = True
        with self._lock:
            while (not one) in self._inside.values():
                self._turn.wait()
            self._inside[threading.get_ident()] = one
            if one and self._before is None:
                self._before = self.get()
                self.put(1)

    def end(self) -> None:
        """After it, whether or not `begin` was done; once more changes nothing."""
        self.own.inside = False
        with self._lock:
            self._inside.pop(threading.get_ident(), None)
            if self._before is not None and True not in self._inside.values():
                self.put(self._before)
                self._before = None
            self._turn.notify_all()


@cache
def turns() -> _Turns | None:
    """None where the library does not let its threads be set."""
    found = blas_library()
    if found is None:
        return None
    library, getter = found
    setter = getter.replace("get_num", "set_num").replace("Get_Max", "Set_Num")
    if not hasattr(library, setter):
        return None
    get, put = library[getter], library[setter]
    get.restype, get.argtypes, put.restype, put.argtypes = ctypes.c_int, [], None, [ctypes.c_int]
    made = _Turns(get, put)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made.after_fork)
    return made


def idle_threads_sleep() -> bool:
    """Whether the threads of NumPy's OpenBLAS leave their cores to others soon after a product.

    As delivered they look for more work for some 100 ms. They are told to sleep earlier, unless the environment says how long
    (OPENBLAS_THREAD_TIMEOUT), or another thread of Python might be in a product now. OpenBLAS reads the time when it starts its
    threads: they are ended, as it does itself around a fork, and the next product starts them anew.
    """
    found = blas_library()
    if found is None or not all(hasattr(found[0], name) for name in _SLEEP):
        return False
    library, getter = found
    patience, read_again, end_threads = (library[name] for name in _SLEEP)
    own = library[getter.replace("num_threads", "parallel")]() == _PTHREADS
    if own and not patience() and _TIMEOUT not in os.environ and len(sys._current_frames()) == 1:
        os.environ[_TIMEOUT] = str(SLEEP_AFTER)
        try:
            read_again()
        finally:
            del os.environ[_TIMEOUT]
        end_threads()
    return 0 < int(patience()) <= SLEEP_AFTER


def share_cores(processes: int) -> None:
    """Leave BLAS this process's share of the cores, where so many processes compute on this machine side by side: with more
    threads than cores each waits for the others at every product. What the environment says of threads stays."""
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")):
        return
    found = turns()
    # A launcher that binds each process to cores of its own has shared them out already.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = min(bound, max((os.cpu_count() or 1) // processes, 1))
    if found is not None and found.get() > share:
        found.put(share)


def with_threads(run: Callable[..., Any], one: bool | None) -> Callable[..., Any]:
    """`run` with the threads that `takes_one_thread` says; as it is where that makes no difference."""
    found = None if one is None else turns()
    if found is None or one is None:
        return run
    took = found

    def limited(*arguments: object) -> object:
        if took.own.inside:
            return run(*arguments)
        try:
            took.begin(one)
            return run(*arguments)
        finally:
            try:
                took.end()
            except BaseException:
                # A signal's handler raised on the way.
                took.end()
                raise

    return limited
