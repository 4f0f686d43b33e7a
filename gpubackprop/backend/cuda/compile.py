"""kernels.cu compiled with NVRTC, NVIDIA's run-time compiler. It needs neither a GPU nor a driver nor a CUDA toolkit:
the compiler's library alone, which the `cuda12` and `cuda13` extras bring."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from gpubackprop.backend.cuda import libraries
from gpubackprop.errors import ArgumentError, DeviceError

DIRECTORY = Path(__file__).parent
# generic lambdas have no place for a __device__ mark, hence the default execution space
OPTIONS = ("--std=c++17", "--device-as-default-execution-space")
_INCLUDE = re.compile(r'^#include "(.+)"$')


def source(name: str = "kernels.cu") -> str:
    """The CUDA C++ as one string: a quoted `#include` becomes the text of the file beside it, with `#line` marks so that
    a compiler's message names the file and line to look at."""

    def expand(file: str) -> str:
        lines = [f'#line 1 "{file}"']
        for number, line in enumerate((DIRECTORY / file).read_text(encoding="utf-8").splitlines(), 1):
            include = _INCLUDE.match(line)
            lines += [expand(include[1]), f'#line {number + 1} "{file}"'] if include else [line]
        return "\n".join(lines)

    return expand(name) + "\n"


@cache
def _nvrtc() -> ctypes.CDLL:
    library = libraries.load("nvrtc")
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _call(name: str, *arguments: object) -> None:
    code = getattr(_nvrtc(), name)(*arguments)
    if code:
        raise DeviceError(f"{name} failed: {_nvrtc().nvrtcGetErrorString(code).decode()}")


def _read(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


@cache
def version() -> str:
    """NVRTC's version, such as "12.9"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@cache
def supported_architectures() -> list[str]:
    """The real architectures that this NVRTC compiles for, ascending."""
    count = ctypes.c_int()
    _call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    _call("nvrtcGetSupportedArchs", numbers)
    return [f"sm_{number}" for number in numbers]


def compile_cubin(text: str, arch: str, kernel: str) -> tuple[bytes, str]:
    """`text` compiled for one architecture: the binary, and the name that the kernel has in it.

    arch: a real architecture such as "sm_90". kernel: the name expression to instantiate, such as "activation<float, ReLU>"; what
    is not named is not compiled. Raises ArgumentError for an architecture that is not of that form, DeviceError with the
    compiler's log where it refuses, MissingExtraError without NVRTC.
    """
    if not re.fullmatch(r"sm_\d+[af]?", arch):
        raise ArgumentError(f'arch is {arch!r}: expected "sm_" and a compute capability, such as "sm_90"')
    with _compiled(text, arch, [kernel]) as program:
        return _read(program, "CUBIN"), _lowered(program, kernel)


@contextmanager
def _compiled(
    text: str, arch: str, kernels: Sequence[str], options: Sequence[str] = OPTIONS
) -> Iterator[ctypes.c_void_p]:
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    try:
        for kernel in kernels:
            _call("nvrtcAddNameExpression", program, kernel.encode())
        flags = [f"--gpu-architecture={arch}".encode(), *(option.encode() for option in options)]
        if _nvrtc().nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags)):
            log = _read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise DeviceError(f"NVRTC could not compile kernels.cu for {arch}:\n{log}")
        yield program
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _lowered(program: ctypes.c_void_p, kernel: str) -> str:
    name = ctypes.c_char_p()
    _call("nvrtcGetLoweredName", program, kernel.encode(), ctypes.byref(name))
    assert name.value is not None  # NVRTC gives a name for every expression that it accepted
    return name.value.decode()
