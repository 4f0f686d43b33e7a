"""Where NVIDIA's libraries are looked for: small libraries, built here, in each of the places."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpubackprop.backend.cuda import libraries
from gpubackprop.errors import MissingExtraError

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to build a library")


def build(folder: Path, file: str, number: int, function: str = "number") -> Path:
    """A library `file` with a function that returns a number."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f'extern "C" int {function}() {{ return {number}; }}'
    command = ["g++", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-x", "c++", "-", "-o", str(folder / file)]
    subprocess.run(command, input=code, text=True, check=True)
    return folder / file


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process that finds nothing of NVIDIA's by itself."""
    monkeypatch.setattr(libraries, "_by_pathfinder", lambda name: "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "nothing")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nothing"))
    for name in ("CUDA_PATH", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(libraries, "_is_installed", lambda package: False)
    return monkeypatch


# A library stays loaded to the end of the process, so each of these has a name of its own.


def test_in_wheels(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build(tmp_path / "nvidia" / "one" / "lib", "libgbwheel.so.12", 12)
    build(tmp_path / "nvidia" / "cu13" / "lib", "libgbwheel.so.13", 13)
    bare.setattr(sys, "path", [str(tmp_path)])
    assert libraries.load("gbwheel", (12,)).number() == 12
    # What is loaded comes before what is newer.
    assert libraries.load("gbwheel", (13, 12)).number() == 12
    assert libraries.load("gbwheel", (13,)).number() == 13


@pytest.mark.parametrize("variable", ["CUDA_PATH", "CUDA_HOME"])
def test_in_a_toolkit(bare: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    name = f"gb{variable.lower()}"
    build(tmp_path / "lib64", f"lib{name}.so.12", 3)
    bare.setenv(variable, str(tmp_path))
    assert libraries.load(name).number() == 3


def test_in_the_environment(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build(tmp_path / "lib", "libgbprefix.so.13", 4)
    bare.setattr(sys, "prefix", str(tmp_path))
    assert libraries.load("gbprefix").number() == 4


def test_by_pathfinder(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = build(tmp_path, "libgbfinder.so.12", 5)
    bare.setattr(libraries, "_by_pathfinder", lambda name: str(found))
    # Another major version than the one that is asked for is not taken.
    with pytest.raises(MissingExtraError):
        libraries.load("gbfinder", (13,))
    assert libraries.load("gbfinder", (12,)).number() == 5


@pytest.mark.parametrize("error", [RuntimeError("Failed to dlopen libgb.so.13"), OSError("dlinfo failed")])
def test_what_pathfinder_cannot_load_is_not_there(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(name: str) -> None:
        raise error

    finder = SimpleNamespace(load_nvidia_dynamic_lib=load)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=finder))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    assert libraries._by_pathfinder("gb") == ""


def test_nowhere(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(libraries, "driver_version", lambda: 13000)
    with pytest.raises(MissingExtraError, match=r"libgbnowhere\.so\.13 or libgbnowhere\.so\.12.*gpubackprop\[cuda13\]"):
        libraries.load("gbnowhere")
    with pytest.raises(MissingExtraError, match=r"libgbnowhere\.so\.12 needs.*gpubackprop\[cuda12\]"):
        libraries.load("gbnowhere", (12,))


def test_on_a_system_that_loads_otherwise(bare: pytest.MonkeyPatch) -> None:
    """As on Windows: nothing is found, and nothing breaks."""
    for name in ("RTLD_NOLOAD", "RTLD_NOW"):
        bare.delattr("os." + name)
    bare.setattr(sys, "platform", "win32")
    assert libraries.driver_version() == 0
    with pytest.raises(MissingExtraError):
        libraries.load("gbnowhere")
    bare.setattr(libraries, "_by_pathfinder", lambda name: "C:/nvidia/bin/gbnowhere64_120_0.dll")
    opened: list[str] = []
    bare.setattr(libraries, "_open", lambda file, only_if_loaded=False: opened.append(file))
    with pytest.raises(MissingExtraError):
        libraries.load("gbnowhere", (13, 12))
    assert [f for f in opened if "/" in f] == ["C:/nvidia/bin/gbnowhere64_120_0.dll"]


@pytest.mark.parametrize(
    ("installed", "driver", "extra"),
    [("", 0, "cuda12"), ("", 12080, "cuda12"), ("", 13000, "cuda13"), ("", 14010, "cuda13"), ("", 11040, "cuda12"),
     ("cupy-cuda12x", 13000, "cuda12"), ("cupy-cuda13x", 0, "cuda13")],
)  # fmt: skip
def test_the_extra_that_fits(monkeypatch: pytest.MonkeyPatch, installed: str, driver: int, extra: str) -> None:
    def version(package: str) -> str:
        if package != installed:
            raise PackageNotFoundError
        return "14.0"

    monkeypatch.setattr(libraries, "version", version)
    monkeypatch.setattr(libraries, "driver_version", lambda: driver)
    assert libraries.extra() == extra


@pytest.mark.parametrize("major", libraries.MAJORS)
def test_an_extra_brings_libraries_of_one_version_of_cuda(major: int) -> None:
    """What NVIDIA names without a version is the newest one's; bindings in Python are not needed."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    found = re.search(rf"^cuda{major} = \[(.*)\]$", text, re.MULTILINE)
    assert found is not None
    packages = re.findall(r'"([^"]+)"', found[1])
    of_nvidia = [p for p in packages if p.startswith("nvidia-")]
    assert [p.split(">")[0].removesuffix(f"-cu{major}") for p in of_nvidia] == [
        f"nvidia-{name}" for name in ("cublas", "cuda-nvrtc", "cuda-runtime")
    ]
    assert all(p.endswith((f"-cu{major}", f">={major},<{major + 1}")) for p in of_nvidia)
    assert [re.split("[>=]", p)[0] for p in packages if p not in of_nvidia] == [f"cupy-cuda{major}x", "ml_dtypes"]
