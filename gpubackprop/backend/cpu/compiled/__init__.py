"""The `numba` extra: the recorded step of a small network as machine code, whole epochs without returning to Python."""

from __future__ import annotations

from gpubackprop.backend.cpu.compiled.program import EpochProgram, MachineCode, installed

__all__ = ["EpochProgram", "MachineCode", "installed"]
