"""The `numba` extra: the recorded step of a small network as machine code, whole epochs without returning to Python, and
elementwise functions of many operations, and normalisations, in one pass."""

from __future__ import annotations

from gpubackprop.backend.cpu.compiled.elementwise import Fused, fused
from gpubackprop.backend.cpu.compiled.program import EpochProgram, MachineCode, installed, usable

__all__ = [
    "EpochProgram",
    "Fused",
    "MachineCode",
    "fused",
    "installed",
    "usable",
]
