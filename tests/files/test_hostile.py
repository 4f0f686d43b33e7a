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


@pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused(kind: str, count: int) -> None:
    pytest.importorskip("pyarrow")
    done = subprocess.run(
        [sys.executable, "-m", "tests.files.hostile", kind, str(count), str(count)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
