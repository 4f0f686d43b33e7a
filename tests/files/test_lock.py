from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpubackprop.errors import DataError
from gpubackprop.files import lock
from gpubackprop.files.lock import FolderLock


def test_one_at_a_time(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(DataError, match=rf"process {os.getpid()} on .* is writing a run there"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    assert not list(tmp_path.iterdir())
    FolderLock(tmp_path).release()


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from gpubackprop.files.lock import FolderLock\n"
    script += "held = FolderLock(Path(sys.argv[1])); os._exit(9)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    assert done.returncode == 9
    assert (tmp_path / lock.NAME).exists()
    FolderLock(tmp_path).release()


def test_a_file_that_was_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = lock._lock_file, []

    def late(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / lock.NAME).unlink()
        real(descriptor)

    monkeypatch.setattr(lock, "_lock_file", late)
    held = FolderLock(tmp_path)
    assert len(calls) == 2
    with pytest.raises(DataError):
        FolderLock(tmp_path)
    held.release()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock_file", none)
    with pytest.warns(RuntimeWarning, match="has no locks"):
        FolderLock(tmp_path).release()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FolderLock(tmp_path / "none")
