"""Kernels of a graph that begin while the one before them ends: what CUDA calls programmatic dependent launch.

Every kernel then waits, before it does anything else, until all that came before it is done and can be seen, and lets the next
one begin (`waiting`). The order of things stays as it is, and the blocks of a kernel are there when their turn comes. What that
saves is not yet measured.

Numbers and layouts are those of NVIDIA's documentation (cuda.h, CUlaunchConfig; PTX ISA, griddepcontrol).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from ctypes import POINTER, c_char, c_int, c_uint, c_void_p
from types import ModuleType

import numpy as np

from gpubackprop.backend.cuda import libraries
from gpubackprop.backend.cuda.kernel_table import Launch
from gpubackprop.errors import DeviceError

CAPABILITY = 90
"""The first architecture whose kernels can wait for others."""
VERSION = 12030
"""The first CUDA version of a driver that keeps such launches in a graph."""
_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_KERNEL = re.compile(r"(__global__ void \w+\([^)]*\) \{)")
_WAIT = 'asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory");'


def problem(arch: str) -> str:
    """Why kernels for this architecture cannot be launched so here; "" where they can."""
    if int(arch.removeprefix("sm_")) < CAPABILITY:
        return f"it takes compute capability 9.0, and kernels here are for {arch}"
    version = libraries.driver_version()
    if version < VERSION:
        return f"it takes a driver for CUDA 12.3, and this one is for {version // 1000}.{version % 1000 // 10}"
    return ""


def waiting(text: str) -> str:
    """CUDA C++ with every kernel beginning by its wait."""
    changed, count = _KERNEL.subn(rf"\1 {_WAIT}", text)
    assert count == text.count("__global__"), "a kernel is written in another way than this looks for"
    return changed


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, whose value is a union of 64 bytes."""

    _fields_ = (("number", c_int), ("padding", c_int), ("allowed", c_int), ("rest", c_char * 60))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", POINTER(_Attribute)),
        ("count", c_uint),
    )


class Overlap:
    """Launches of kernels that wait, by the driver's own call, as CuPy's has no place for the attribute."""

    def __init__(self, cupy: ModuleType) -> None:
        self._cupy = cupy
        driver = libraries.driver()
        assert driver is not None  # its version is known
        self._launch = driver.cuLaunchKernelEx
        self._launch.argtypes = (POINTER(_Config), c_void_p, POINTER(c_void_p), POINTER(c_void_p))

    def capture(self, function: int, geometry: Launch, arguments: Sequence[np.generic]) -> bool:
        """Put a launch of a CUfunction into the graph that the current stream is captured for; False where it is not.

        Raises DeviceError where the driver refuses.
        """
        stream = self._cupy.cuda.get_current_stream()
        if not stream.is_capturing():
            return False
        values = [np.array(value) for value in arguments]
        addresses = (c_void_p * len(values))(*(value.ctypes.data for value in values))
        attribute = _Attribute(_SERIALIZATION, 0, 1)
        config = _Config(geometry.grid, geometry.block, 0, stream.ptr, ctypes.pointer(attribute), 1)
        code = self._launch(ctypes.byref(config), function, addresses, None)
        if code:
            raise DeviceError(f"cuLaunchKernelEx failed (error {code} of the CUDA driver API)")
        return True
