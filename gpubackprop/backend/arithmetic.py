"""How steps compute on the host's processor: what overflows is infinite without a warning, and what is below the smallest
normal number is 0.

Weights and moments that decay (of units that are dead, under momentum or weight decay) end as subnormal numbers and stay
there, where each operation takes some fifty times as long. The processor can flush them to zero; it is told so for the
calling thread alone, and for the length of a `with` block.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from functools import cache
from typing import Any

import numpy as np

_SIZE = 64
"""Bytes, and more than that, of the C library's `fenv_t`."""

_CONTROL = {("linux", "x86_64"): (28, 0x8040), ("linux", "aarch64"): (0, 0x1000000)}
"""Where the word that controls vector arithmetic lies in a `fenv_t`, and its bits for flushing: FTZ and DAZ of MXCSR (Intel,
Software Developer's Manual, 10.2.3), FZ of FPCR (Arm, Architecture Reference Manual, C5.2.8)."""


class _Own:
    """The state of one thread: how many blocks it is in, and the settings from before the first one."""

    __slots__ = ("before", "depth", "errors")

    def __init__(self) -> None:
        self.depth = 0
        self.errors: Any = None
        self.before = ctypes.create_string_buffer(_SIZE)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.own = _Own()


_thread = _Thread()


@cache
def _flushing() -> tuple[Any, Any, Any] | None:
    """(fegetenv, fesetenv, the environment that flushes), tried out; None where there is no such thing, or not known."""
    where = _CONTROL.get((sys.platform, platform.machine()))
    if where is None:
        return None
    try:
        library = ctypes.CDLL(None)
        get, put = library.fegetenv, library.fesetenv
    except (OSError, AttributeError):  # a C library without floating-point environments
        return None
    start, bits = where
    before, flushing = ctypes.create_string_buffer(_SIZE), ctypes.create_string_buffer(_SIZE)
    if get(before) or get(flushing):
        return None
    word = ctypes.c_uint32.from_buffer(flushing, start)
    word.value |= bits
    subnormal = np.full(16, 1e-40, np.float32)
    try:
        put(flushing)
        flushed = not (subnormal * np.float32(0.5)).any()
    finally:
        put(before)
    return (get, put, flushing) if flushed and (subnormal * np.float32(0.5)).all() else None


class Arithmetic:
    """`with Arithmetic():` in the calling thread; blocks may lie within one another. What was set before is set again after."""

    def __enter__(self) -> None:
        own = _thread.own
        own.depth += 1
        if own.depth > 1:
            return
        own.errors = np.errstate(all="ignore")
        own.errors.__enter__()
        flushing = _flushing()
        if flushing is not None:
            get, put, environment = flushing
            get(own.before)
            put(environment)

    def __exit__(self, *exception: object) -> None:
        own = _thread.own
        own.depth -= 1
        if own.depth:
            return
        flushing = _flushing()
        if flushing is not None:
            flushing[1](own.before)
        own.errors.__exit__(*exception)
