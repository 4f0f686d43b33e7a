from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gpubackprop.errors import CheckpointError, DataError
from gpubackprop.files import atomic
from gpubackprop.files.atomic import exchange, replacing


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [DataError, CheckpointError])
def test_what_the_system_refuses_is_told(tmp_path: Path, error: type[DataError]) -> None:
    with (
        pytest.raises(error, match="missing/file: cannot be written: No such file"),
        replacing(tmp_path / "missing/file", error),
    ):
        pass
    with pytest.raises(error, match="is a folder"), replacing(tmp_path, error):
        pass
    with pytest.raises(error, match="null byte"), replacing(f"{tmp_path}/a\0b", error):
        pass


def fails_for(kind: int, code: int) -> object:
    """os.fsync that answers `code` for descriptors of this kind of file."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) == kind:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    return fsync


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_flushed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", fails_for(stat.S_IFDIR, code))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_that_cannot_be_flushed_is_one_unless_its_system_never_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fails_for(stat.S_IFREG, errno.EIO))
    with pytest.raises(DataError, match="cannot be written"), replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", fails_for(stat.S_IFREG, errno.EINVAL))
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was {name}").touch()
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("code", [0, errno.EINVAL, errno.ENOSYS])
def test_two_folders_change_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """In one step, or in three where the system has none."""

    def refused(a: bytes, b: bytes) -> None:
        raise OSError(code, os.strerror(code))

    if code:
        monkeypatch.setattr(atomic, "_exchange", refused)
    a, b = two(tmp_path)
    exchange(a, b)
    assert [p.name for p in (*a.iterdir(), *b.iterdir())] == ["was b", "was a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_folders_that_cannot_change_their_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        exchange(a, tmp_path / "none")

    def refused(a: bytes, b: bytes) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    real, calls = os.rename, []

    def second_fails(source: object, target: object) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(atomic, "_exchange", refused)
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="busy"):
        exchange(a, b)
    assert [p.name for p in (*a.iterdir(), *b.iterdir())] == ["was a", "was b"]
