"""Why there is no GPU, on made-up machines: a driver built here or none, packages that seem to be installed, and a CuPy that
fails as the real one does there."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpubackprop.backend import select
from gpubackprop.backend.cuda import diagnosis, libraries
from gpubackprop.backend.select import fallback_reason, get_backend
from gpubackprop.cli import app
from gpubackprop.errors import DeviceError, MissingExtraError

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to build a driver")

INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_HEADER = """/site-packages/cupy/_core/include/cupy/float16.cuh(19): catastrophic error: cannot open source file "cuda_fp16.h"
  #include <cuda_fp16.h>
"""
"""What CuPy 14.2 says."""


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class CompileException(Exception):  # noqa: N818
    """cupy.cuda.compiler.CompileException."""


@dataclass
class Machine:
    """The NVIDIA software of a machine. driver: the CUDA version that it supports, 0 for none; init: what cuInit returns."""

    driver: int = 12080
    init: int = 0
    gpus: int = 1
    wheels: tuple[str, ...] = ("cupy-cuda12x",)
    missing: tuple[str, ...] = ()
    error: Exception | None = None

    def set_up(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Put it in the place of what this machine has."""
        library = self._driver(folder) if self.driver else None
        monkeypatch.setattr(libraries, "driver", lambda: library)

        def load(name: str, majors: Any) -> None:
            if name in self.missing:
                raise MissingExtraError(f"loading lib{name}", "cuda12")

        monkeypatch.setattr(libraries, "load", load)
        packages = [*self.wheels, "numpy", "cupy-notebook"]
        monkeypatch.setattr(diagnosis, "distributions", lambda: [_distribution(folder, name) for name in packages])
        monkeypatch.setattr(diagnosis, "version", lambda name: "14.2.0")
        monkeypatch.setitem(sys.modules, "cupy", self._cupy() if self.wheels else None)

    def _driver(self, folder: Path) -> ctypes.CDLL:
        file = folder / f"libcuda-{self.driver}-{self.init}-{self.gpus}.so"
        code = f"""
            extern "C" int cuDriverGetVersion(int* version) {{ *version = {self.driver}; return 0; }}
            static bool ready;
            extern "C" int cuInit(unsigned) {{ ready = {self.init} == 0; return {self.init}; }}
            extern "C" int cuDeviceGetCount(int* count) {{ *count = {self.gpus}; return ready ? 0 : 3; }}
        """
        command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(file)]
        subprocess.run(command, input=code, text=True, check=True)
        return ctypes.CDLL(str(file))

    def _cupy(self) -> types.ModuleType:
        def count() -> int:
            raise self.error or CUDARuntimeError(INSUFFICIENT)

        cupy = types.ModuleType("cupy")
        cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=count))  # type: ignore[attr-defined]
        return cupy


def _distribution(folder: Path, name: str) -> PathDistribution:
    place = folder / f"{name.replace('-', '_')}-14.2.0.dist-info"
    place.mkdir(exist_ok=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14.2.0\n")
    return PathDistribution(place)


CASES = {
    "no driver": (
        Machine(driver=0),
        "this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded; a container must be started with its GPUs, as by "
        "docker run --gpus all)",
    ),
    "no device": (Machine(init=100), "the NVIDIA driver finds no GPU"),
    "no device after all": (Machine(gpus=0), "the NVIDIA driver finds no GPU"),
    "a driver that fails": (Machine(init=804), "the NVIDIA driver does not start (error 804 of the CUDA driver API)"),
    "driver too old": (
        Machine(driver=11040),
        "the NVIDIA driver here supports CUDA 11.4, and CuPy needs 12.0 or later: update the driver",
    ),
    "wrong wheel": (
        Machine(wheels=("cupy-cuda13x",)),
        "cupy-cuda13x needs CUDA 13.0 or later, and the NVIDIA driver here supports CUDA 12.8: pip uninstall -y cupy-cuda13x && "
        'pip install "gpubackprop[cuda12]", or update the driver',
    ),
    "a wheel for other GPUs": (
        Machine(driver=13000, wheels=("cupy-rocm-7-0",)),
        'cupy-rocm-7-0 is for GPUs of AMD: pip uninstall -y cupy-rocm-7-0 && pip install "gpubackprop[cuda13]"',
    ),
    "two wheels": (
        Machine(driver=13000, wheels=("cupy-cuda12x", "cupy-cuda13x")),
        "cupy-cuda12x and cupy-cuda13x are installed over each other: pip uninstall -y cupy-cuda12x cupy-cuda13x && "
        'pip install "gpubackprop[cuda13]"',
    ),
    "no NVRTC": (
        Machine(missing=("nvrtc",), error=ImportError("Failure finding libnvrtc.so")),
        'CUDA\'s run-time compiler, libnvrtc.so.12, is missing: pip install "gpubackprop[cuda12]"',
    ),
    "no NVRTC of CUDA 13": (
        Machine(driver=13000, wheels=("cupy-cuda13x",), missing=("nvrtc",)),
        'CUDA\'s run-time compiler, libnvrtc.so.13, is missing: pip install "gpubackprop[cuda13]"',
    ),
    "no cuBLAS": (
        Machine(missing=("cublas",)),
        'NVIDIA\'s cuBLAS, libcublas.so.12, is missing: pip install "gpubackprop[cuda12]"',
    ),
    "no headers": (
        Machine(error=CompileException(NO_HEADER)),
        'CUDA\'s headers are missing (cuda_fp16.h): pip install "gpubackprop[cuda12]"',
    ),
    "a newer driver than the wheel": (
        Machine(driver=13000, error=CompileException(NO_HEADER)),
        'CUDA\'s headers are missing (cuda_fp16.h): pip install "gpubackprop[cuda12]"',
    ),
    "no CuPy": (
        Machine(wheels=()),
        'CuPy is not installed (pip install "gpubackprop[cuda12]"; the NVIDIA driver here supports CUDA 12.8)',
    ),
    "no CuPy on CUDA 13": (
        Machine(driver=13010, wheels=()),
        'CuPy is not installed (pip install "gpubackprop[cuda13]"; the NVIDIA driver here supports CUDA 13.1)',
    ),
    "something else": (
        Machine(wheels=("cupy",), error=CUDARuntimeError("cudaErrorECCUncorrectable: uncorrectable\nmore")),
        "CuPy does not work: CUDARuntimeError: cudaErrorECCUncorrectable: uncorrectable",
    ),
}


@pytest.fixture(autouse=True)
def _ask_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    select._cuda_problem.cache_clear()
    yield
    select._cuda_problem.cache_clear()


@pytest.mark.parametrize("name", CASES)
def test_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    machine, reason = CASES[name]
    machine.set_up(monkeypatch, tmp_path)
    assert fallback_reason() == reason
    with pytest.raises(DeviceError) as error:
        get_backend("cuda")
    assert reason in str(error.value)


def test_every_reason_is_another() -> None:
    kinds = ["no driver", "no device", "driver too old", "wrong wheel", "two wheels", "no NVRTC", "no headers"]
    assert len({CASES[kind][1] for kind in kinds}) == 7


@pytest.mark.parametrize(
    "name", ["no driver", "no device", "driver too old", "wrong wheel", "two wheels", "no NVRTC", "no headers"]
)
def test_doctor_says_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    machine, reason = CASES[name]
    machine.set_up(monkeypatch, tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f'device="auto" takes cpu: {reason}\n' in result.output
    driver = f"NVIDIA driver: supports CUDA {machine.driver // 1000}.{machine.driver % 1000 // 10}"
    assert (driver if machine.driver else "NVIDIA driver: none") in result.output
    for wheel in machine.wheels:
        assert f"{wheel} 14.2.0" in result.output
    # Another extra would put a second CuPy beside the first.
    assert set(re.findall(r"gpubackprop\[cuda\d\d\]", result.output)) == set(
        re.findall(r"gpubackprop\[cuda\d\d\]", reason)
    )


def test_gpus_that_are_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Machine(init=100).set_up(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert fallback_reason() == "the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES is '')"


def test_two_wheels_are_told_also_where_they_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    CASES["two wheels"][0].set_up(monkeypatch, tmp_path)
    assert (
        "cupy-cuda12x and cupy-cuda13x are installed over each other: uninstall all and install one"
        in diagnosis.software()
    )
