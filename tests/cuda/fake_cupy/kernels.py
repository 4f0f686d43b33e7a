"""cupy.RawModule: kernels that g++ built and that run in the shim."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tests.cuda.fake_cupy import memory
from tests.cuda.fake_cupy.device import CUDARuntimeError, run, state


class Function(NamedTuple):
    """What is behind a CUfunction. waits: whether it is compiled to wait for the kernels before it."""

    name: str
    parameters: Any
    waits: bool
    launch: Callable[..., None]


FUNCTIONS: dict[int, Function] = {}
"""By their addresses."""
WAITS = b" waits"
"""How the "cubin" of a kernel that waits ends."""
_addresses = itertools.count(0x7000, 16)


class RawModule:
    """cupy.RawModule of a "cubin" that was loaded on the current device. `runner_of(expression)` finds (library, index,
    parameters)."""

    runner_of: Callable[[str], tuple[Any, int, Any]]

    def __init__(self, *, path: str) -> None:
        self.path = path

    def get_function(self, name: str) -> Callable[..., None]:
        """A function (grid, block, arguments) that queues a launch on the current stream."""
        from gpubackprop.backend.cuda.kernel_table import SCALAR

        waits = Path(self.path).read_bytes().endswith(WAITS)
        library, index, parameters = type(self).runner_of(name)
        function = getattr(library, f"launch_{index}")
        function.restype = ctypes.c_char_p
        device = state.device

        def call(grid: Any, block: Any, arguments: Any) -> None:
            if state.device != device:
                raise CUDARuntimeError(400)
            state.launches += 1
            assert len(arguments) == len(parameters), f"{name} takes {[p.name for p in parameters]}"
            for parameter, value in zip(parameters, arguments, strict=True):
                wanted = np.uint64 if parameter.pointer else np.dtype(SCALAR[parameter.type]).type
                assert type(value) is wanted, f"{name}: {parameter.name} came as {type(value)}, expected {wanted}"
            addresses = [int(v) for p, v in zip(parameters, arguments, strict=True) if p.pointer and v]
            for address in addresses:
                found = memory.block_at(address)
                assert found is not None, f"{name}: an address that no memory of a device has"
                assert found.device == device, f"{name}: an array of device {found.device} on device {device}"
            values = [np.array(v) for v in arguments]
            pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
            geometry = (ctypes.c_uint * 6)(*grid, *block)

            def work(values: Any = values) -> None:
                failure = function(geometry, 0, pointers)
                if failure:
                    raise RuntimeError(f"{name}: {failure.decode()}")

            run(work, touches=addresses)

        address = next(_addresses)
        FUNCTIONS[address] = Function(name, parameters, waits, call)
        call.kernel = SimpleNamespace(ptr=address)  # type: ignore[attr-defined]
        return call
