"""Damaged files of every kind that is read: refused in one line by an error of this library, in little time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.files.hostile import KINDS

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc"),
]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("count", "kinds"), [(150, tuple(KINDS)), *(pytest.param(20_000, (k,), marks=pytest.mark.nightly) for k in KINDS)]
)
def test_damaged_files_are_refused(count: int, kinds: tuple[str, ...]) -> None:
    pytest.importorskip("pyarrow")
    done = subprocess.run(
        [sys.executable, "-m", "tests.files.hostile", str(count), str(count), *kinds],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
