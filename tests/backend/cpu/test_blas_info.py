from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from gpubackprop.backend.cpu.blas_info import blas_name, blas_threads


def test_name() -> None:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    assert blas["name"] in blas_name()


@pytest.mark.skipif(blas_threads() is None, reason="this BLAS does not tell its number of threads")
def test_threads_follow_the_environment() -> None:
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")
    code = "from gpubackprop.backend.cpu.blas_info import blas_threads; print(blas_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"1"
