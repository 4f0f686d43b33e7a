"""Runs the kernels of kernels.cu on the CPU: g++ and the shim beside this file, through ctypes.

Every array is copied between guard bytes and back; the guards must survive. Each launch is done twice, with the threads
of a block from first to last and from last to first, and must leave the same bits: a missing barrier shows there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.compile import source

SHIM = Path(__file__).parent / "shim" / "cuda_shim.hpp"
GUARD = 64
POISON = 0xA5
FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing", "-w", "-fsanitize=alignment")
NUMPY = {"float": np.float32, "double": np.float64, "f16": np.float16, "bf16": np.uint16, "unsigned char": np.uint8,
         "int": np.int32, "long long": np.int64, "index_t": np.int64, "unsigned": np.uint32,
         "unsigned long long": np.uint64}  # fmt: skip
"""The dtype of the host array for a pointer argument; bf16 travels as its bits."""


def build(folder: Path, text: str, instantiations: Sequence[tuple[str, tuple[str, ...]]]) -> ctypes.CDLL:
    """The shared library with the kernels of `text` that are named, each with the declarations of its arguments.

    The declarations must be the kernel's own: the assignment of its address checks it. Kept in `folder` by content.
    """
    faces = "\n".join(
        f"static void (*const k{i})({', '.join(arguments)}) = &{expression};\n"
        f'extern "C" const char* launch_{i}(const unsigned* geometry, int reversed, void** parameters) '
        f"{{ return shim::call(k{i}, geometry, reversed, parameters); }}"
        for i, (expression, arguments) in enumerate(instantiations)
    )
    program = f'#include "{SHIM}"\n{text}\n{faces}\n'
    digest = hashlib.sha256((program + SHIM.read_text() + repr(FLAGS)).encode()).hexdigest()[:16]
    library = folder / f"kernels_{digest}.so"
    if not library.exists():
        made = folder / f"kernels_{digest}.{os.getpid()}.tmp"  # another process may be building the same
        compiler = shutil.which("g++")
        assert compiler is not None
        command = [compiler, *FLAGS, "-x", "c++", "-", "-o", str(made)]
        done = subprocess.run(command, input=program, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ refused the kernels:\n{done.stderr[:4000]}")
        made.replace(library)
    return ctypes.CDLL(str(library))


def bound(kernel: table.Kernel, *arguments: str | int) -> tuple[table.Parameter, ...]:
    """The parameters of an instantiation, with plain types."""
    types = dict(zip(kernel.template, map(str, arguments), strict=True))

    def resolve(text: str) -> str:
        wrapped = re.fullmatch(r"acc_t<(\w+)>", text)
        if wrapped:
            return "double" if types[wrapped[1]] == "double" else "float"
        return types.get(text, {"step_t": "unsigned long long"}.get(text, text))

    return tuple(replace(p, type=resolve(p.type)) for p in kernel.parameters)


def declaration(parameter: table.Parameter) -> str:
    """Its type as C++ writes it."""
    return ("const " if parameter.const else "") + parameter.type + ("*" if parameter.pointer else "")


class Guarded:
    """A copy of an array with poison before and after it; `offset` elements off a 16-byte boundary."""

    def __init__(self, array: np.ndarray, offset: int) -> None:
        skip = offset * array.itemsize
        self.bytes = np.full(array.nbytes + 2 * GUARD + 16 + skip, POISON, np.uint8)
        self.start = -self.bytes.ctypes.data % 16 + GUARD + skip
        self.stop = self.start + array.nbytes
        self.array = self.bytes[self.start : self.stop].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def check(self, name: str) -> None:
        outside = np.delete(self.bytes, np.s_[self.start : self.stop])
        assert (outside == POISON).all(), f"the kernel wrote outside of {name}"


class Runner:
    """The kernels, by name expression."""

    def __init__(
        self, folder: Path, text: str, instantiations: Sequence[tuple[str, tuple[table.Parameter, ...]]]
    ) -> None:
        self.index = {expression: i for i, (expression, _) in enumerate(instantiations)}
        self.parameters = dict(instantiations)
        self.library = build(folder, text, [(e, tuple(map(declaration, ps))) for e, ps in instantiations])

    def __call__(
        self, name: str, template: tuple[Any, ...], launch: table.Launch, *arguments: Any, offset: int = 0
    ) -> None:
        """Launch; arrays are changed in place. `offset` puts every array so many elements off its alignment.

        The same array object given twice is one buffer, for launches in place.
        """
        expression = f"{name}<{', '.join(map(str, template))}>" if template else name
        parameters = self.parameters[expression]
        assert len(parameters) == len(arguments), f"{expression} takes {[p.name for p in parameters]}"
        forward, backward = (self._once(expression, parameters, launch, arguments, offset, order) for order in (0, 1))
        for key, guarded in forward.items():
            same = guarded.array.tobytes() == backward[key].array.tobytes()
            assert same, f"{expression}: an array depends on the order of the threads, so there is a race"
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                argument[...] = forward[id(argument)].array

    def _once(
        self,
        expression: str,
        parameters: tuple[table.Parameter, ...],
        launch: table.Launch,
        arguments: tuple[Any, ...],
        offset: int,
        backward: int,
    ) -> dict[int, Guarded]:
        copies: dict[int, Guarded] = {}
        values: list[Any] = []
        before: list[tuple[str, Guarded, bytes]] = []
        for parameter, argument in zip(parameters, arguments, strict=True):
            if not parameter.pointer:
                values.append(np.array(argument, NUMPY[parameter.type]))
            elif argument is None:
                values.append(np.zeros((), np.uint64))
            else:
                assert argument.dtype == NUMPY[parameter.type], f"{expression}: {parameter.name} is {argument.dtype}"
                guarded = copies.setdefault(id(argument), Guarded(argument, offset))
                values.append(np.array(guarded.array.ctypes.data, np.uint64))
                if parameter.const and sum(argument is other for other in arguments) == 1:
                    before.append((parameter.name, guarded, guarded.array.tobytes()))
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        geometry = (ctypes.c_uint * 6)(*launch.grid, *launch.block)
        function = getattr(self.library, f"launch_{self.index[expression]}")
        function.restype = ctypes.c_char_p
        failure = function(geometry, backward, pointers)
        if failure:
            raise RuntimeError(f"{expression}: {failure.decode()}")
        for name, guarded, bits in before:
            assert guarded.array.tobytes() == bits, f"{expression} changed its input {name}"
        for guarded in copies.values():
            guarded.check(expression)
        return copies


def all_kernels(folder: Path, chosen: dict[str, list[tuple[Any, ...]]]) -> Runner:
    """The runner for those instantiations of kernels.cu."""
    return Runner(
        folder,
        source(),
        [
            (table.kernel(name).expression(*template), bound(table.kernel(name), *template))
            for name, templates in chosen.items()
            for template in templates
        ],
    )


# -- values of the storage types ------------------------------------------------------------------------------------


def to_storage(c_type: str, values: Any) -> np.ndarray:
    """Values rounded to the storage type, as the host array that a kernel takes; bf16 rounds to nearest, ties to even."""
    if c_type != "bf16":
        return np.ascontiguousarray(np.asarray(values).astype(NUMPY[c_type]))
    bits = np.ascontiguousarray(np.asarray(values, np.float32)).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(bits.view(np.float32)), np.uint16(0x7FFF), rounded)


def to_float64(c_type: str, stored: np.ndarray) -> np.ndarray:
    """What a host array of that storage type means, in float64."""
    if c_type != "bf16":
        return stored.astype(np.float64)
    return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def empty(c_type: str, shape: Any) -> np.ndarray:
    """An output of NaNs, so that what a kernel forgets to write shows."""
    return to_storage(c_type, np.full(shape, np.nan))


TOLERANCE = {"float": 2e-6, "double": 1e-13, "f16": 1e-3, "bf16": 8e-3}
"""Largest allowed error relative to the array's norm: a few units of rounding."""


def assert_close(c_type: str, got: np.ndarray, want: Any, factor: float = 1.0) -> None:
    """Relative error in the Euclidean norm, and no element off by more than the same share of the largest."""
    value, want = to_float64(c_type, got), np.asarray(want, np.float64)
    assert value.shape == want.shape
    assert np.isfinite(value).all(), "an output was not written, or is not finite"
    tolerance = factor * TOLERANCE[c_type]
    assert np.linalg.norm(value - want) <= tolerance * np.linalg.norm(want) + 1e-300
    assert np.abs(value - want).max(initial=0) <= 4 * tolerance * np.abs(want).max(initial=0) + 1e-300
