"""Starting processes by MPI, as tests need it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Beside this Python is the one that comes as a package; a machine's own may be of another kind than mpi4py finds.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="MPI is not installed: pip install mpi4py mpich",
)


def mpi(ranks: int, arguments: Sequence[object], cwd: Path, timeout: float = 180) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in so many processes, and how they ended."""
    return subprocess.run(
        command(ranks, arguments),
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def command(ranks: int, arguments: Sequence[object]) -> list[str]:
    """The command line of that."""
    return [str(MPIEXEC), "-n", str(ranks), sys.executable, "-W", "error", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, with a thread for each process and this copy of the library."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
