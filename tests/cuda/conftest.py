"""The kernels on the CPU. What the default run builds and checks is `is_core`; the rest of the variants is nightly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.select import fallback_reason
from tests.cuda import harness
from tests.cuda.variants import variants

MULTIPROCESSORS = 2
"""Few, so that every thread takes several turns of its loop."""

_ACTIVATIONS = {"bias_activation", "activation", "activation_derivative"}


def is_core(name: str, template: tuple[Any, ...]) -> bool:
    """Whether an instantiation belongs to the default run: every type and every function, but not every pair."""
    if name in _ACTIVATIONS:
        return template[0] == "float" or template[1] in ("LeakyReLU", "GELU", "Identity")
    if name == "optimizer_step":
        return template[1] in ("float", "double") or template[0] in ("Momentum", "Adam")
    if name == "cross_entropy":
        t, y, group = template
        return (t == "float" and y in ("int", "float")) or (group == 8 and y in ("long long", "float", "double"))
    if name == "gather_rows":
        s, t, q, _ = template
        return (s == t == "float") or (q == "long long" and (s == "float" or s == t))
    return True


def core() -> dict[str, list[tuple[Any, ...]]]:
    """The instantiations of the default run, by kernel."""
    return {name: [t for t in templates if is_core(name, t)] for name, templates in variants().items()}


def cases(name: str, where: Callable[..., bool] = lambda *_: True) -> list[Any]:
    """The variants of a kernel as parameters of a test."""
    return [
        pytest.param(*t, marks=() if is_core(name, t) else pytest.mark.nightly, id="-".join(map(str, t)))
        for t in variants()[name]
        if where(*t)
    ]


class Kernels:
    """run(name, template, launch, *arguments) on the CPU; the library is built when a test first needs it."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.runners: dict[bool, harness.Runner] = {}

    def __call__(
        self, name: str, template: Iterable[Any], launch: table.Launch, *arguments: Any, offset: int = 0
    ) -> None:
        template = tuple(template)
        wanted = is_core(name, template)
        if wanted not in self.runners:
            self.runners[wanted] = harness.all_kernels(self.folder, core() if wanted else variants())
        self.runners[wanted](name, template, launch, *arguments, offset=offset)


class OnDevice:
    """The same on the GPU, with the same guards around every array and the same call twice for the same bits."""

    def __init__(self) -> None:
        import cupy

        from gpubackprop.backend.cuda.launcher import Kernels as Launcher

        self.cupy, self.kernels = cupy, Launcher(cupy, 0)

    def __call__(
        self, name: str, template: Iterable[Any], launch: table.Launch, *arguments: Any, offset: int = 0
    ) -> None:
        first, second = (self._once(name, tuple(template), launch, arguments, offset) for _ in range(2))
        for key, array in first.items():
            assert array.tobytes() == second[key].tobytes(), f"{name}: two launches gave different bits"
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                argument[...] = first[id(argument)]

    def _once(
        self, name: str, template: tuple[Any, ...], launch: table.Launch, arguments: tuple[Any, ...], offset: int
    ) -> dict[int, np.ndarray]:
        held: dict[int, tuple[harness.Guarded, Any]] = {}
        values = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                if id(argument) not in held:
                    guarded = harness.Guarded(argument, offset)
                    # Device memory is aligned to 256 bytes: the array must lie as far from that as it does on the host.
                    there = self.cupy.empty((len(guarded.bytes) + 16,), np.uint8)
                    shift = guarded.bytes.ctypes.data % 16
                    there[shift : shift + len(guarded.bytes)].set(guarded.bytes)
                    held[id(argument)] = (guarded, there[shift:])
                guarded, there = held[id(argument)]
                values.append(there[guarded.start : guarded.stop])
            else:
                values.append(argument)
        self.kernels.launch(name, template, launch, *values)
        found = {}
        for key, (guarded, there) in held.items():
            guarded.bytes[...] = self.cupy.asnumpy(there[: len(guarded.bytes)])
            guarded.check(name)
            found[key] = guarded.array.copy()
        return found


@pytest.fixture(scope="session", params=["shim", pytest.param("gpu", marks=pytest.mark.cuda)])
def run(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Any:
    """The kernels on the CPU, and, where there is a GPU, on it."""
    if request.param == "gpu":
        if reason := fallback_reason():
            pytest.skip(f"no GPU to test on: {reason}")
        return OnDevice()
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to run the kernels on the CPU")
    return Kernels(pytestconfig.cache.mkdir("cuda_kernels"))
