from __future__ import annotations

from pathlib import Path

import pytest

from gpubackprop.errors import CheckpointError, DataError
from gpubackprop.files.atomic import replacing


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
