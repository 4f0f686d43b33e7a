"""Terminals that lack characters, have no width, or go away; names that are no text."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpubackprop.cli.output import Output
from gpubackprop.terminal import printable
from tests.cli.commands import refused, run

QUICK = ("--epochs", "2", "--layers", "4", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(name: str | bytes = "rows.csv", classes: tuple[str, str] = ("no", "yes")) -> None:
    rows = "".join(f"{i},{i * i % 7},{classes[i % 2]}\n" for i in range(40))
    Path(os.fsdecode(name)).write_text(f"a,b,c\n{rows}", encoding="utf-8")


def command(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gpubackprop", *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_commands_to_a_terminal_are_shown_as_escapes() -> None:
    assert printable("a\x1b[2Jb\tc\nd\x07é€漢\u3000") == "a\\x1b[2Jb\tc\nd\\x07é€漢\u3000"
    Path("rows.csv").write_text("a,b\x1b[31m,c\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(40)))
    text = run("train", "rows.csv", "--target", "c", *QUICK, "--out", "run")
    assert "\x1b" not in text
    Path("rows.csv").write_text("a,b,c\n" + "".join(f"{i},{i % 3},c{i % 2}\x1b[2J\x9b\n" for i in range(40)))
    run("train", "rows.csv", "--target", "c", *QUICK, "--out", "classes")
    record = json.loads(Path("classes/history.jsonl").read_text().splitlines()[-1])
    Path("classes/history.jsonl").write_text(json.dumps({**record, "\x1b[2J": 1.0}) + "\n")
    for show in ("evaluate", "summary"):
        assert not {"\x1b", "\x9b"} & set(run(show, "classes", "--device", "cpu"))
    assert "c0\\x1b[2J\\x9b" in run("evaluate", "classes", "--device", "cpu")
    assert "\x1b" not in refused("train", "x\x1b[2J.csv", "--target", "c")


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_what_is_closed_is_written_to_nowhere() -> None:
    def closed(number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = shlex.join([sys.executable, "-m", "gpubackprop", *arguments])
        return subprocess.run(["sh", "-c", f"{words} {number}>&-"], capture_output=True, text=True, check=False)

    done = closed(1, "train", "xor", *QUICK, "--out", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("run/model.safetensors").exists()
    assert closed(1, "--version").returncode == 0
    failed = closed(2, "evaluate", "nothing-there")
    assert (failed.returncode, failed.stdout) == (2, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_text_that_the_output_lacks_is_replaced(encoding: str) -> None:
    table(classes=("漢字", "é[bold]"))
    trained = command("train", "rows.csv", "--target", "c", *QUICK, "--out", "run", PYTHONIOENCODING=encoding)
    assert (trained.returncode, trained.stderr) == (0, b"")
    done = command("evaluate", "run", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert ("漢字" in shown) == (encoding == "utf-8")
    assert "[bold]" in shown
    failed = command("evaluate", "漢字", PYTHONIOENCODING=encoding)
    assert failed.returncode == 2
    assert failed.stderr.startswith(b"error: ")


def test_paths_that_are_no_text() -> None:
    table(b"\xff.csv")
    trained = command("train", b"\xff.csv", "--target", "c", *QUICK, "--out", b"run\xfe")
    assert (trained.returncode, trained.stderr) == (0, b"")
    about = json.loads(Path(os.fsdecode(b"run\xfe"), "settings.json").read_bytes())
    assert os.fsencode(about["command"]).count(b"\xff") == 1
    done = command("evaluate", b"run\xfe", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["rows"] == 8
    assert command("train", "--resume", b"run\xfe", "--epochs", "1").returncode == 0


@pytest.mark.parametrize("columns", ["0", "", "-3", "many"])
def test_a_terminal_without_a_width(columns: str) -> None:
    table()
    done = command("train", "rows.csv", "--target", "c", *QUICK, "--out", "run", COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = command("evaluate", "run", COLUMNS=columns)
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"recall" in shown.stdout


def test_a_reader_that_goes_away_ends_no_training() -> None:
    table()
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "gpubackprop", "train", "rows.csv", "--target", "c", *QUICK, "--out", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        errors = child.stderr.read()
    assert (child.returncode, errors) == (0, b"")
    assert Path("run/model.safetensors").exists()


class Broken(io.StringIO):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def fileno(self) -> int:
        return os.dup(2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_output_that_fails_is_told_once_at_the_end(code: int) -> None:
    out = Output(Broken(code))
    assert out.write("text") == 4
    assert out.failure is not None
    assert out.failure.errno == code
    out.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_finds_no_room_is_an_error() -> None:
    table()
    run("train", "rows.csv", "--target", "c", *QUICK, "--out", "run")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpubackprop", "evaluate", "run", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == b"error: the output could not be written: No space left on device\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/rows.csv", "is a URL, and only files are read"),
        ("s3://bucket/rows.parquet", "is a URL"),
        ("dangling.csv", "is a link to nowhere.csv, which is not there"),
    ],
)
def test_what_is_no_file_is_named(source: str, message: str) -> None:
    Path("dangling.csv").symlink_to("nowhere.csv")
    assert message in refused("train", source, "--target", "c")


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    table()
    (tmp_path / "file").touch()
    nowhere: dict[str, Any] = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": "", "GPUBACKPROP_CACHE": ""}
    done = command("train", "rows.csv", "--target", "c", *QUICK, "--out", "run", **nowhere)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
