"""Launching by name, and what is kept on disk."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda.launcher import Kernels, _best_architecture
from gpubackprop.errors import ArgumentError, DeviceError
from tests.cuda.stand_in import gpu, shim  # noqa: F401


def test_launch(gpu):  # noqa: F811
    kernels = Kernels(gpu.cupy, 0)
    assert (kernels.arch, kernels.multiprocessors) == ("sm_90", 2)
    z = gpu.cupy.asarray(np.arange(-4, 4, dtype=np.float32))
    for _ in range(2):
        kernels.launch("activation", ("float", "ReLU"), table.flat(8, 4, 2), z, z, 8)
    np.testing.assert_array_equal(z.get(), [0, 0, 0, 0, 0, 1, 2, 3])
    with pytest.raises(ArgumentError, match="takes 3 arguments; got 2"):
        kernels.launch("activation", ("float", "ReLU"), table.flat(8, 4, 2), z, z)


def test_a_kernel_is_compiled_once_a_machine(gpu, monkeypatch):  # noqa: F811
    z = gpu.cupy.asarray(np.ones(4, np.float32))
    arguments = ("activation", ("float", "Tanh"), table.flat(4, 4, 2), z, z, 4)
    Kernels(gpu.cupy, 0).launch(*arguments)
    monkeypatch.setattr("gpubackprop.backend.cuda.compile.compile_cubin", None)
    Kernels(gpu.cupy, 0).launch(*arguments)
    np.testing.assert_allclose(z.get(), np.tanh(np.tanh(1.0)), rtol=1e-6)


def test_architecture(gpu, monkeypatch):  # noqa: F811
    assert [_best_architecture(c) for c in ("70", "75", "86", "90", "100", "103")] == (
        ["sm_70", "sm_70", "sm_80", "sm_90", "sm_100", "sm_100"]
    )
    with pytest.raises(DeviceError, match=r"compute capability 6\.1"):
        _best_architecture("61")
