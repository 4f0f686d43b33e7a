"""The functions of libcuda that this library calls, at C's interface: numbers and places as in cuda.h of CUDA 12.9 and 13.5."""

from __future__ import annotations

import ctypes
import struct
import traceback
from ctypes import c_int, c_void_p
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend.cuda.kernel_table import SCALAR
from tests.cuda import fake_cupy
from tests.cuda.fake_cupy.kernels import FUNCTIONS

INVALID_VALUE, INVALID_HANDLE, NOT_SUPPORTED = 1, 400, 801
UNKNOWN = 999
PROGRAMMATIC_STREAM_SERIALIZATION = 6


class Launched(NamedTuple):
    """A launch by cuLaunchKernelEx: of which kernel, and whether it may overlap with the one before it."""

    kernel: str
    overlaps: bool


class Driver:
    """What ctypes.CDLL gives. version: of CUDA; fails: what each launch returns."""

    def __init__(self, version: int = 12090, fails: int = 0) -> None:
        self.fails = fails
        self.launched: list[Launched] = []
        self.violations: list[str] = []
        """What would be undefined with the real driver."""

        def get_version(place: int) -> int:
            c_int.from_address(place).value = version
            return 0

        def launch(*arguments: int) -> int:
            try:
                return self._launch(*arguments)
            except Exception:  # it cannot pass through C
                self.violations.append(traceback.format_exc())
                return UNKNOWN

        self.cuDriverGetVersion = ctypes.CFUNCTYPE(c_int, c_void_p)(get_version)
        self.cuLaunchKernelEx = ctypes.CFUNCTYPE(c_int, *(c_void_p,) * 4)(launch)

    def _launch(self, config: int, function: int, parameters: int, extra: int | None) -> int:
        if self.fails:
            return self.fails
        if function not in FUNCTIONS:
            return INVALID_HANDLE
        *geometry, shared, stream, attributes, count = struct.unpack_from("=7I4xQQI", ctypes.string_at(config, 56))
        if shared or extra or not count:
            return INVALID_VALUE
        overlaps = False
        for place in range(attributes, attributes + 72 * count, 72):
            number, value = struct.unpack_from("=i4xi", ctypes.string_at(place, 72))
            if number != PROGRAMMATIC_STREAM_SERIALIZATION:
                return NOT_SUPPORTED
            overlaps = value != 0
        name, signature, waits, launch = FUNCTIONS[function]
        queue = fake_cupy.queue_of(stream)
        assert waits or not overlaps, f"{name} may begin before what it reads is written, and does not wait"
        assert queue is fake_cupy.device.current(), "another stream than the current one"
        assert queue.capture is not None, "this library launches so in captures only"
        values: list[Any] = []
        for k, parameter in enumerate(signature):
            dtype = np.dtype(np.uint64 if parameter.pointer else SCALAR[parameter.type])
            (place,) = struct.unpack("=Q", ctypes.string_at(parameters + 8 * k, 8))
            values.append(np.frombuffer(ctypes.string_at(place, dtype.itemsize), dtype)[0])
        launch(tuple(geometry[:3]), tuple(geometry[3:]), values)
        self.launched.append(Launched(name, overlaps))
        return 0
