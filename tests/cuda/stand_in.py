"""The whole CUDA backend on a machine without a GPU: `gpu` puts the stand-ins for CuPy, cuBLASLt and NVRTC in place."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpubackprop.backend import select
from gpubackprop.backend.cuda import compile as compiler
from gpubackprop.backend.cuda import cublaslt, libraries, plans, timing
from gpubackprop.backend.cuda import kernel_table as table
from tests.cuda import fake_cublaslt, fake_cupy, fake_driver, harness
from tests.cuda.conftest import core
from tests.cuda.fake_cupy.kernels import WAITS
from tests.cuda.variants import variants

FUNCTIONS = ("activation", "bias_activation", "activation_derivative")


def _family(name: str, template: tuple[str, ...]) -> dict[str, list[tuple[Any, ...]]]:
    """What is built together with an instantiation: of an activation, all functions in that type."""
    if name not in FUNCTIONS:
        return {name: [template]}
    return {n: [t for t in variants()[n] if t[0] == template[0]] for n in FUNCTIONS}


class Shim:
    """Finds the g++ build of an instantiation; those of the default kernel tests are built already, others as asked for.

    together: begin with all of the default kernel tests.
    """

    def __init__(self, folder: Path, together: bool = True) -> None:
        self.folder = folder
        self.together = together
        self.runners: list[harness.Runner] = []
        self.lock = threading.Lock()

    def __call__(self, expression: str) -> tuple[Any, int, Any]:
        with self.lock:
            return self._find(expression)

    def _find(self, expression: str) -> tuple[Any, int, Any]:
        if self.together and not self.runners:
            self.runners.append(harness.all_kernels(self.folder, core()))
        runner = next((r for r in self.runners if expression in r.index), None)
        if runner is None:
            name, _, rest = expression.partition("<")
            template = tuple(part.strip() for part in rest.rstrip(">").split(",") if rest)
            runner = harness.all_kernels(self.folder, _family(name, template))
            self.runners.append(runner)
        return runner.library, runner.index[expression], runner.parameters[expression]


@pytest.fixture(scope="session")
def shim(pytestconfig: pytest.Config) -> Shim:
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to run the kernels on the CPU")
    return Shim(pytestconfig.cache.mkdir("cuda_kernels"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, shim: Shim) -> Iterator[SimpleNamespace]:
    """A machine with one GPU, as far as Python can tell. `gpu.state` counts; `gpu.library` is cuBLASLt's stand-in, `gpu.driver`
    the driver's; `gpu.launched`: the graphs of steps that were launched."""
    machine = put_in_place(monkeypatch, shim, tmp_path / "cache")
    yield machine
    cublaslt.library.cache_clear()
    violations = machine.library.violations + machine.driver.violations
    assert not violations, violations[0]
    select._cuda_problem.cache_clear()


def stand_in_for_this_process(strict: bool = True) -> None:
    """The same to the end of a process that is no test. Kernels that g++ has built stay, beside those of the tests."""
    folder = Path(__file__).parents[2] / ".pytest_cache" / "d" / "cuda_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    cache = Path(tempfile.mkdtemp(prefix="gpubackprop-stand-in-"))
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    put_in_place(pytest.MonkeyPatch(), Shim(folder, together=False), cache, strict=strict)


def put_in_place(monkeypatch: pytest.MonkeyPatch, shim: Shim, folder: Path, **options: Any) -> SimpleNamespace:
    """Put the stand-ins in place; folder: of the user's cache; options: of `fake_cupy.State`."""
    cupy = fake_cupy.install(monkeypatch, shim, **options)
    library, driver = fake_cublaslt.install(monkeypatch), fake_driver.Driver()
    monkeypatch.setattr(libraries, "driver", lambda: driver)
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(folder))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time, for what is thrown away

    def compile_cubin(text: str, arch: str, expression: str) -> tuple[bytes, str]:
        waits = WAITS if "griddepcontrol.wait" in text else b""
        return expression.encode() + waits, expression

    monkeypatch.setattr(compiler, "compile_cubin", compile_cubin)
    monkeypatch.setattr(compiler, "version", lambda: "shim")
    monkeypatch.setattr(compiler, "supported_architectures", lambda: ["sm_70", "sm_80", "sm_90", "sm_100"])
    # Fewer calls to time, as what is timed here runs on the CPU, and a host so quick that the differences still show.
    monkeypatch.setattr(fake_cupy.device, "HOST", 0.001)
    monkeypatch.setattr(timing, "CALLS", 3)
    monkeypatch.setattr(timing, "LEAST", 1)
    launched: list[Any] = []
    launch = plans.Planner.launch
    monkeypatch.setattr(plans.Planner, "launch", lambda self, graph: launched.append(graph) or launch(self, graph))
    select._cuda_problem.cache_clear()
    return SimpleNamespace(
        cupy=cupy, state=fake_cupy.state, library=library, driver=driver, table=table, launched=launched
    )
