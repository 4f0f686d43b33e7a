"""The cache: where it is, and that nothing in it is believed which another user could have written."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpubackprop.files import cache

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to other users")
SOMEBODY = 12345


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, without a temporary folder from a test before."""
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_made", [])
    yield tmp_path / "cache"
    for made in cache._made:
        shutil.rmtree(made, ignore_errors=True)


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GPUBACKPROP_CACHE")
    assert cache.cache_folder() == tmp_path / "xdg" / "gpubackprop"
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache.cache_folder() == tmp_path / ".cache" / "gpubackprop"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GPUBACKPROP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.warns(RuntimeWarning, match="no home folder") as lines:
        cache.store("a", b"1")
    assert cache.load("a") == b"1"
    assert len(lines) == 1


def test_what_is_stored_comes_back(folder: Path) -> None:
    assert cache.load("a") is None
    cache.store("a", b"content")
    cache.store("a", b"other content")
    assert cache.load("a") == b"other content"
    assert cache.file_with("k", b"\0\1").read_bytes() == b"\0\1"
    assert cache.file_with("k", b"\2").read_bytes() == b"\2"
    assert sorted(p.name for p in (folder / "code").iterdir()) == ["a", "k"]


def test_it_is_for_this_user_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        cache.store("a", b"content")
        cache.folder_for("images")
    finally:
        os.umask(before)
    for made in (folder, folder / "code", folder / "images"):
        assert made.stat().st_mode & 0o777 == 0o700
    (folder / "code").chmod(0o755)
    (folder / "code" / "a").chmod(0o600)
    assert cache.load("a") == b"content"
    assert (folder / "code").stat().st_mode & 0o777 == 0o700


def test_every_flipped_bit_and_every_missing_byte_is_seen(folder: Path) -> None:
    cache.store("a", b"code")
    path = folder / "code" / "a"
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i])
        assert cache.load("a") is None
        for bit in range(8):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << bit)]) + whole[i + 1 :])
            assert cache.load("a") is None
    cache.store("a", b"code")
    assert cache.load("a") == b"code"


@pytest.mark.parametrize("opened", ["code", ".", ".."])
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_code_in_a_folder_that_others_can_write_is_not_taken(folder: Path, opened: str, mode: int) -> None:
    cache.store("a", b"whoever wrote it")
    (folder / opened).resolve().chmod(mode)
    with pytest.warns(RuntimeWarning, match="can be written by others"):
        assert cache.load("a") is None
    cache.store("a", b"mine")
    assert cache.load("a") == b"mine"
    assert not any(str(folder) in str(p) for p in cache._made)
    assert cache._made[0].stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_can_write_is_not_taken(folder: Path) -> None:
    cache.store("a", b"whoever wrote it")
    (folder / "code" / "a").chmod(0o666)
    assert cache.load("a") is None
    assert cache.file_with("a", b"mine").read_bytes() == b"mine"


def test_a_sticky_folder_above_is_no_harm(folder: Path) -> None:
    cache.store("a", b"mine")
    folder.chmod(0o1777)
    assert cache.load("a") == b"mine"


@root_only
def test_what_another_user_wrote_is_not_taken(folder: Path) -> None:
    cache.store("a", b"theirs")
    os.chown(folder / "code" / "a", SOMEBODY, SOMEBODY)
    assert cache.load("a") is None
    cache.store("a", b"mine")
    assert cache.load("a") == b"mine"
    os.chown(folder / "code", SOMEBODY, SOMEBODY)
    with pytest.warns(RuntimeWarning, match="belongs to user 12345"):
        assert cache.load("a") is None


@root_only
def test_a_temporary_folder_that_another_user_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("in the way")
    planted = tmp_path / f"gpubackprop-{os.getuid()}"
    planted.mkdir(mode=0o777)
    os.chown(planted, SOMEBODY, SOMEBODY)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="temporary folder"):
        path = cache.file_with("k", b"mine")
    assert path.parent != planted
    assert path.parent.stat().st_uid == os.getuid()


def test_a_link_is_followed_only_to_where_it_is_safe(folder: Path, tmp_path: Path) -> None:
    cache.store("a", b"planted")
    os.rename(folder / "code", tmp_path / "elsewhere")
    (folder / "code").symlink_to(tmp_path / "elsewhere")
    assert cache.load("a") == b"planted"
    (tmp_path / "elsewhere").chmod(0o777)
    with pytest.warns(RuntimeWarning, match="written by others"):
        assert cache.load("a") is None


def test_a_file_that_is_a_link_or_a_pipe_is_not_read(folder: Path) -> None:
    cache.store("a", b"1")
    (folder / "code" / "b").symlink_to("a")
    os.mkfifo(folder / "code" / "c", 0o600)
    assert cache.load("b") is None
    assert cache.load("c") is None


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="temporary folder until this process ends") as lines:
        cache.store("a", b"1")
    assert len(lines) == 1
    cache.store("b", b"2")
    assert (cache.load("a"), cache.load("b"), cache.load("c")) == (b"1", b"2", None)
    assert cache.folder_for("images").is_dir()


def test_without_room_anywhere_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    cache.store("a", b"1")
    assert cache.load("a") is None
    with pytest.raises(OSError, match="cannot be written"):
        cache.file_with("k", b"1")


def test_the_temporary_folder_goes_with_the_process(tmp_path: Path) -> None:
    script = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from gpubackprop.files import cache; cache.store('a', b'1'); print(cache._made[0])"
    )
    (tmp_path / "file").write_text("in the way")
    environment = {**os.environ, "GPUBACKPROP_CACHE": str(tmp_path / "file" / "x"), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()


def test_reading_an_empty_cache_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.load("a") is None
