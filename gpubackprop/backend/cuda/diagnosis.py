"""Why a GPU cannot be used, and what to do about it: what CuPy's own errors leave to the reader."""

from __future__ import annotations

import ctypes
import os
import re
from importlib.metadata import distributions, version

from gpubackprop.backend.cuda import libraries
from gpubackprop.errors import MissingExtraError

_WHEEL = re.compile(r"cupy(-cuda\d+x?|-rocm-.+)?", re.IGNORECASE)
_CUDA = re.compile(r"cupy-cuda(\d\d)")


def installed() -> list[str]:
    """The names of the CuPys that are installed; there must not be two, as they share their files."""
    names = {str(d.metadata["Name"]).lower() for d in distributions() if d.metadata["Name"]}
    return sorted(name for name in names if _WHEEL.fullmatch(name))


def explain(error: BaseException) -> str:
    """Why CuPy failed with this error, in one sentence, with the command that mends it where there is one."""
    driver, wheels = libraries.driver_version(), installed()
    if not driver:
        container = "; a container must be started with its GPUs, as by docker run --gpus all"
        return f"this machine has no NVIDIA driver (libcuda.so.1 cannot be loaded{container})"
    of_driver = f"the NVIDIA driver here supports CUDA {_written(driver)}"
    if driver < 1000 * min(libraries.MAJORS):
        return f"{of_driver}, and CuPy needs {min(libraries.MAJORS)}.0 or later: update the driver"
    extra = next(f"cuda{major}" for major in libraries.MAJORS if 1000 * major <= driver)
    install = f'pip install "gpubackprop[{extra}]"'
    if not wheels:
        return f"CuPy is not installed ({install}; {of_driver})"
    instead = f"pip uninstall -y {' '.join(wheels)} && {install}"
    if len(wheels) > 1:
        return f"{' and '.join(wheels)} are installed over each other: {instead}"
    if wheels[0].startswith("cupy-rocm"):
        return f"{wheels[0]} is for GPUs of AMD: {instead}"
    found = _CUDA.match(wheels[0])
    # A CuPy from conda-forge or from source has no CUDA version in its name; it is taken to fit.
    major = int(found[1]) if found else driver // 1000
    if driver < 1000 * major:
        return f"{wheels[0]} needs CUDA {major}.0 or later, and {of_driver}: {instead}, or update the driver"
    missing = _devices()
    if missing:
        return missing
    install = f'pip install "gpubackprop[cuda{major}]"'
    for name, what in (("nvrtc", "CUDA's run-time compiler"), ("cublas", "NVIDIA's cuBLAS")):
        try:
            libraries.load(name, (major,))
        except MissingExtraError:
            return f"{what}, lib{name}.so.{major}, is missing: {install}"
    text = str(error).strip()
    header = re.search(r'cannot open source file "([^"]+\.h[hp]*)"', text)
    if header:
        return f"CUDA's headers are missing ({header[1]}): {install}"
    return f"CuPy does not work: {type(error).__name__}: {(text.splitlines() or [''])[0]}"


def software() -> list[str]:
    """The installed software of NVIDIA and CuPy, a line each, for a report."""
    driver, wheels = libraries.driver_version(), installed()
    lines = [f"NVIDIA driver: supports CUDA {_written(driver)}" if driver else "NVIDIA driver: none"]
    lines += [f"CuPy: {', '.join(f'{name} {version(name)}' for name in wheels)}"] if wheels else []
    if len(wheels) > 1:
        lines.append(f"{' and '.join(wheels)} are installed over each other: uninstall all and install one")
    return lines


def _written(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def _devices() -> str:
    """Why the driver has no GPU to offer; "" where it has."""
    driver, count = libraries.driver(), ctypes.c_int(0)
    assert driver is not None
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, _NO_DEVICE):
        return f"the NVIDIA driver does not start (error {code} of the CUDA driver API)"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
    return "" if count.value else f"the NVIDIA driver finds no GPU{hint}"
