"""A stand-in for CuPy 14.2: NumPy underneath, CuPy's rules and words on top. It lets the host half of the CUDA backend run
without a GPU; `tests/cuda/conformance` says, expression by expression, what it has to answer, and asks the real CuPy the same.

Arrays refuse to become host arrays or Python numbers unasked and refuse to be mixed with host arrays or with arrays of another
device. Work is queued on streams; what is captured is done at each `Graph.launch`. Kernels run through g++ and the shim.
`install` puts it in the place of the real modules.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from typing import Any

from tests.cuda.fake_cupy import arrays, device, memory
from tests.cuda.fake_cupy.device import CUDARuntimeError, State, queue_of, run, state
from tests.cuda.fake_cupy.kernels import RawModule

DEFERRED = os.environ.get("GPUBACKPROP_TEST_DEFERRED", "") not in ("", "0")
"""Whether work is put off until something waits for it, in every test that does not say otherwise."""


def module(*, devices: int = 1, deferred: bool = DEFERRED, strict: bool = True) -> types.ModuleType:
    """A fresh `cupy` module over a fresh `state`."""
    fresh = State(devices, deferred, strict)
    state.__dict__.update(fresh.__dict__)
    memory.reset()
    cupy = types.ModuleType("cupy")
    cupy.__dict__.update(
        arrays.FUNCTIONS,
        __version__="14.2.0 (stand-in)",
        RawModule=RawModule,
        get_default_memory_pool=lambda: memory.default_pool,
        get_default_pinned_memory_pool=lambda: memory.pinned_pool,
    )
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: state.device,
        getDeviceCount=lambda: state.devices,
        getDeviceProperties=_properties,
        memGetInfo=lambda: (state.limit - state.taken[state.device], state.limit),
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 12090,
    )
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        Device=device.Device,
        Stream=device.Stream,
        Event=device.Event,
        Graph=device.Graph,
        MemoryPool=memory.MemoryPool,
        using_allocator=memory.using_allocator,
        get_current_stream=lambda device_id=-1: state.streams(state.device if device_id == -1 else device_id)[-1],
        get_elapsed_time=device.elapsed_time,
        memory=types.SimpleNamespace(OutOfMemoryError=memory.OutOfMemoryError),
        runtime=runtime,
    )
    return cupy


def _properties(index: int) -> dict[str, Any]:
    if not 0 <= index < state.devices:
        raise CUDARuntimeError(101)
    return {"name": b"stand-in", "major": 9, "minor": 0, "totalGlobalMem": state.limit, "multiProcessorCount": 2}


def install(
    monkeypatch: Any, runner_of: Callable[[str], tuple[Any, int, Any]] | None = None, **options: Any
) -> types.ModuleType:
    """Put the stand-in into sys.modules as cupy and cupyx, for the length of a test. options: of `module`."""
    cupy, cupyx = module(**options), types.ModuleType("cupyx")
    cupyx.empty_pinned = memory.empty_pinned  # type: ignore[attr-defined]
    names = {
        "cupy": cupy,
        "cupyx": cupyx,
    }
    for name, part in names.items():
        monkeypatch.setitem(sys.modules, name, part)
    if runner_of is not None:
        monkeypatch.setattr(RawModule, "runner_of", staticmethod(runner_of), raising=False)
    return cupy


__all__ = ["DEFERRED", "RawModule", "State", "install", "module", "queue_of", "run", "state"]
