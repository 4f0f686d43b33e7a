"""What all tests share: every device that is there, and the libraries that results are held to."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.backend.select import fallback_reason, get_backend

# Processes that tests start import this checkout, wherever they run, and not another one that may be installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))


def _poisoned(self: Backend, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """New memory in which what nobody wrote cannot look like a result."""
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind in "fc" else 77)
    return array


NumpyBackend.empty = _poisoned  # type: ignore[method-assign, assignment]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many of scikit-learn's own checks of estimators passed."""
    passed = [r for r in terminalreporter.stats.get("passed", []) if "test_every_check_of_scikit_learn" in r.nodeid]
    if passed:
        terminalreporter.write_line(f"estimator checks of the installed scikit-learn: {len(passed)} passed")


@pytest.fixture(params=["cpu", "strict", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """A new backend of each device; "cuda" is skipped, with the reason, where no GPU works."""
    if request.param == "cuda" and (reason := fallback_reason()):
        pytest.skip(f"no GPU to test on: {reason}")
    return get_backend(request.param)


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch on one thread, as the oracle; skipped where it is not installed."""
    try:
        module = importlib.import_module("torch")
    except ImportError as error:
        pytest.skip(f"PyTorch, which these results are held to, is not installed: {error}")
    module.set_num_threads(1)
    return module
