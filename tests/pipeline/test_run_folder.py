"""The folder of a run: which one it is, and that nothing in it is lost that is not replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpubackprop.errors import DataError
from gpubackprop.pipeline import run_folder
from gpubackprop.pipeline.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def whole_run(out: str, content: str, overwrite: bool = False) -> None:
    with RunFolder.create(out, "data", overwrite) as run:
        run.checkpoints.mkdir()
        (run.checkpoints / "step-0000000001.safetensors").write_text(content)
        run.write("model.safetensors", content.encode())
        run.finish()


def names(folder: str | Path = ".") -> list[str]:
    return sorted(os.listdir(folder))


def test_numbered() -> None:
    for number in (1, 2):
        with RunFolder.create(None, "my data!", False) as run:
            assert run.path == run.work == Path(f"runs/my-data-{number}")
    with RunFolder.create(None, "...", False) as run:
        assert run.path == Path("runs/data-1")
    assert names("runs/data-1") == []


def test_a_run_is_replaced_whole() -> None:
    whole_run("run", "old")
    Path("run/curves.png").write_text("old")
    Path("run/notes.txt").write_text("mine")
    Path("run/mine").mkdir()
    whole_run("run", "new", overwrite=True)
    assert names() == ["run"]
    assert names("run") == ["checkpoints", "mine", "model.safetensors", "notes.txt"]
    assert Path("run/model.safetensors").read_text() == "new"
    assert Path("run/checkpoints/step-0000000001.safetensors").read_text() == "new"


def test_nothing_is_replaced_unasked_or_before_it_is_whole() -> None:
    whole_run("run", "old")
    with pytest.raises(DataError, match="is not empty"):
        RunFolder.create("run", "data", False)
    with RunFolder.create("run", "data", True) as run:
        assert run.work == Path("run.unfinished").resolve()
        run.write("model.safetensors", b"half")
    assert Path("run/model.safetensors").read_text() == "old"
    with RunFolder.reopen("run") as run:
        assert run.work == Path("run.unfinished").resolve()
    with RunFolder.reopen("run.unfinished") as run:
        assert (run.path, run.work) == (Path("run"), Path("run.unfinished").resolve())
        run.finish()
    assert Path("run/model.safetensors").read_text() == "half"
    assert names() == ["run"]
    with RunFolder.reopen("run") as run:
        assert run.work == run.path


def test_leftovers_are_no_hindrance() -> None:
    whole_run("run", "old")
    with RunFolder.create("run", "data", True) as run:
        run.checkpoints.mkdir()
        (run.checkpoints / "step-0000000001.safetensors").touch()
        (run.work / ".model.safetensors.0123abcd.partial").touch()
        (run.work / "mine.txt").touch()
    whole_run("run", "new", overwrite=True)
    assert names("run") == ["checkpoints", "mine.txt", "model.safetensors"]
    assert names() == ["run"]


@pytest.mark.parametrize("then", ["reopened", "replaced"])
def test_killed_after_the_exchange_the_rest_is_cleared_away_later(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_run("run", "old")
    Path("run/notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_discard", lambda self, old: None)
        whole_run("run", "new", overwrite=True)
    assert Path("run.unfinished/notes.txt").exists()
    if then == "reopened":
        RunFolder.reopen("run").close()
        assert names("run") == ["checkpoints", "model.safetensors", "notes.txt"]
    else:
        whole_run("run", "newer", overwrite=True)
        assert names("run") == ["checkpoints", "model.safetensors", "notes.txt"]
        assert Path("run/model.safetensors").read_text() == "newer"
    assert names() == ["run"]


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_in_the_way_is_refused_and_not_emptied(kind: str) -> None:
    whole_run("run", "old")
    Path("precious").mkdir()
    Path("precious/model.safetensors").write_text("precious")
    if kind == "link":
        Path("run.unfinished").symlink_to("precious")
    else:
        Path("run.unfinished").write_text("precious")
    with pytest.raises(DataError, match="in the way"):
        RunFolder.create("run", "data", True)
    assert Path("precious/model.safetensors").read_text() == "precious"
    assert Path("run/model.safetensors").read_text() == "old"


def test_links_inside_are_removed_not_followed() -> None:
    whole_run("run", "old")
    Path("precious").mkdir()
    Path("precious/data").touch()
    with RunFolder.create("run", "data", True) as run:
        run.checkpoints.symlink_to(Path("precious").resolve())
    whole_run("run", "new", overwrite=True)
    assert Path("precious/data").exists()
    assert not Path("run/checkpoints").is_symlink()


def test_a_link_to_a_folder_is_followed() -> None:
    Path("disk").mkdir()
    whole_run("disk/run", "old")
    Path("run").symlink_to("disk/run")
    whole_run("run", "new", overwrite=True)
    assert Path("run").is_symlink()
    assert Path("disk/run/model.safetensors").read_text() == "new"
    assert names("disk") == ["run"]


def test_what_is_no_folder() -> None:
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    with pytest.raises(DataError, match="out=file is a file"):
        RunFolder.create("file", "data", True)
    with pytest.raises(DataError, match="out=dangling is a link to nowhere, which is not there"):
        RunFolder.create("dangling", "data", True)
    with pytest.raises(DataError, match="cannot be written"):
        RunFolder.create("file/run", "data", True)
    for name in ("file", "none"):
        with pytest.raises(DataError, match="no such folder"):
            RunFolder.reopen(name)
    assert names() == ["dangling", "file"]


def test_a_folder_that_cannot_be_replaced_leaves_both(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_run("run", "old")

    def busy(a: Path, b: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(run_folder, "exchange", busy)
    with pytest.raises(DataError, match=r"busy\); the new one is whole in .*run\.unfinished"):
        whole_run("run", "new", overwrite=True)
    assert Path("run/model.safetensors").read_text() == "old"
    assert Path("run.unfinished/model.safetensors").read_text() == "new"


def test_one_writer_at_a_time() -> None:
    with RunFolder.create("run", "data", False):
        for overwrite in (True, False):
            with pytest.raises(DataError, match="is writing a run there"):
                RunFolder.create("run", "data", overwrite)
        with pytest.raises(DataError, match="is writing a run there"):
            RunFolder.reopen("run")
    whole_run("run", "old", overwrite=True)
    with RunFolder.create("run", "data", True) as run:
        with pytest.raises(DataError, match="is writing a run there"):
            RunFolder.create("run", "data", True)
        run.write("model.safetensors", b"new")
        run.finish()
        with pytest.raises(DataError, match="is writing a run there"):
            RunFolder.create("run", "data", True)
    whole_run("run", "newer", overwrite=True)


@pytest.fixture
def _read_only() -> Iterator[None]:
    whole_run("run", "old")
    mode = os.stat("run").st_mode
    os.chmod("run", stat.S_IRUSR | stat.S_IXUSR)
    yield
    os.chmod("run", mode)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("_read_only")
def test_a_folder_that_is_read_only() -> None:
    with pytest.raises(DataError, match="run: cannot be written"):
        RunFolder.create("run", "data", True)
