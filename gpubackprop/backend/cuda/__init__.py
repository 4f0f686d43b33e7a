"""NVIDIA GPUs through CuPy. Nothing here needs CuPy, a driver or a GPU to be imported."""

from __future__ import annotations

from gpubackprop.backend.cuda.cupy_backend import CupyBackend, describe_cuda, problem

__all__ = ["CupyBackend", "describe_cuda", "problem"]
