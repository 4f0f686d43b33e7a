"""Runs that are killed, interrupted, or find no room: nothing that was saved is lost, and they go on to the same bits."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, CheckpointError, DataError
from gpubackprop.files import atomic
from gpubackprop.pipeline import runs
from gpubackprop.pipeline.runs import RunInterruptedError
from gpubackprop.training import checkpoints, trainer
from tests.cli.commands import refused, run, started

pytest.importorskip("sklearn", reason="the data extra is not installed")

SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "layers": [8],
    "dropout": 0.2,
    "validation": 0.2,
    "epochs": 5,
    "seed": 2,
    "batch_size": 16,
}
STEPS = 6


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """Whatever started the tests may ignore signals (nohup, a job in the background), and its children would too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_of(folder: str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize(
    ("mode", "count"),
    [
        ("calls", 5),
        ("moments", 5),
        pytest.param("calls", 1000, marks=pytest.mark.nightly),
        pytest.param("moments", 300, marks=pytest.mark.nightly),
    ],
)
def test_killed_the_old_or_the_new_run_is_there_and_goes_on(mode: str, count: int, tmp_path: Path) -> None:
    """At calls that change files, all of them at night, and at random moments."""
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "tests.pipeline.killed", mode, str(count), "7"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path / "runs", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert result["kills"] > result["over"]


# -- interrupted ------------------------------------------------------------------------------------------------------


class Kick(gb.Callback):
    """Sends a signal to this process after a step, or at the end of an epoch (step 0)."""

    every_steps = 1

    def __init__(self, epoch: int, step: int, number: int = signal.SIGTERM, times: int = 1) -> None:
        self.place, self.number, self.times = (epoch, step), number, times

    def on_progress(self, trainer: gb.Trainer, progress: Any) -> None:
        if (progress.epoch, progress.step) == self.place:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        if (record["epoch"], 0) == self.place:
            os.kill(os.getpid(), self.number)


def kicking(module: Any, name: str, patch: pytest.MonkeyPatch, at: int = 1) -> None:
    """Let the `at`-th call of a function send SIGTERM to this process."""
    real, calls = getattr(module, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    patch.setattr(module, name, call)


@pytest.fixture
def whole() -> bytes:
    """The model of a run that was never interrupted."""
    gb.train_run("iris", out="whole", **SETTINGS)
    return model_of("whole")


def assert_goes_on(interrupted: Callable[[], Any], whole: bytes) -> RunInterruptedError:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunInterruptedError) as caught:
        interrupted()
    assert signal.getsignal(signal.SIGTERM) == before
    assert gb.load_run("run", "cpu").score("iris")["accuracy"] > 0
    gb.resume_run("run")
    assert model_of("run") == whole
    return caught.value


@pytest.mark.parametrize("place", [(1, 2), (2, 5), (2, 0), (5, 0)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_batch(place: tuple[int, int], number: int, whole: bytes) -> None:
    error = assert_goes_on(lambda: gb.train_run("iris", out="run", callbacks=[Kick(*place, number)], **SETTINGS), whole)
    assert error.signal == number
    assert error.run.history.stopped == "interrupted" or place == (5, 0)


def test_a_signal_that_is_asked_for(whole: bytes) -> None:
    callbacks = [Kick(2, 2, signal.SIGUSR1)]
    options = {"callbacks": callbacks, "stop_on": [signal.SIGUSR1], **SETTINGS}
    assert assert_goes_on(lambda: gb.train_run("iris", out="run", **options), whole).signal == signal.SIGUSR1


@pytest.mark.parametrize(
    ("module", "name", "at"),
    [
        (trainer, "evaluate", 3),
        (checkpoints, "write", 2),
        (runs, "report", 1),
        (runs, "curves", 1),
        (atomic.os, "fsync", 9),
    ],
    ids=["validation", "a checkpoint", "the score", "a plot", "a file"],
)
def test_a_signal_during_something_else(
    module: Any, name: str, at: int, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        with monkeypatch.context() as patch:
            kicking(module, name, patch, at)
            gb.train_run("iris", out="run", checkpoint_every="4 steps", **SETTINGS)

    assert_goes_on(interrupted, whole)


def test_an_interrupt_in_the_first_epoch_does_not_replace_a_run(whole: bytes) -> None:
    shutil.copytree("whole", "run")
    other = {**SETTINGS, "seed": 3}
    with pytest.raises(RunInterruptedError, match="after 0 epochs") as caught:
        gb.train_run("iris", out="run", overwrite=True, callbacks=[Kick(1, 3)], **other)
    assert caught.value.run.path == Path("run.unfinished").resolve()
    assert model_of("run") == whole
    gb.train_run("iris", out="other", **other)
    gb.resume_run("run")
    assert model_of("run") == model_of("other")
    assert not Path("run.unfinished").exists()


def test_a_second_signal_ends_at_once_and_loses_nothing(whole: bytes) -> None:
    class Saved(Kick):
        def on_progress(self, trainer: gb.Trainer, progress: Any) -> None:
            trainer.callbacks[-1].flush()
            super().on_progress(trainer, progress)

    with pytest.raises(SystemExit) as caught:
        gb.train_run("iris", out="run", callbacks=[Saved(3, 2, times=2)], checkpoint_every="1 step", **SETTINGS)
    assert caught.value.code == 143
    assert not Path("run/model.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"go on with it by resume_run\('run'\)"):
        gb.load_run("run")
    gb.resume_run("run")
    assert model_of("run") == whole


# -- the command ------------------------------------------------------------------------------------------------------

LONG = ("train", "digits", "--device", "cpu", "--layers", "16", "--validation", "0.1", "--out", "run")


def interrupted_command(*numbers: int, after: str = "epoch   2", options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """The command in a process of its own, sent signals once a line begins with `after`: status, output and errors."""
    command = [sys.executable, "-u", "-m", "gpubackprop", *LONG, "--epochs", "100", *options]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if line.startswith(after):
                break
        for number in numbers:
            child.send_signal(number)
        out, errors = child.communicate(timeout=120)
    return child.returncode, "".join(lines) + out, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_saves_on_a_signal_and_goes_on(number: int) -> None:
    status, text, errors = interrupted_command(number, after="epoch   1")
    assert (status, errors) == (128 + number, "")
    assert "gpubackprop train --resume run" in text
    epochs = len(Path("run/history.jsonl").read_text().splitlines())
    assert 1 <= epochs < 100
    about = json.loads(Path("run/settings.json").read_text())
    assert about["result"]["stopped"] == "interrupted"


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_the_terminal_is_left_in_order(numbers: tuple[int, ...]) -> None:
    """The bar hides the cursor: it is shown again, after a second signal too."""
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "gpubackprop", *LONG, "--epochs", "1000"]
    text = b""
    with started(*command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the end of a terminal
            while more := os.read(mine, 4096):
                if b"epoch    1" in text and numbers:
                    for number in numbers:
                        child.send_signal(number)
                    numbers = ()
                text += more
        assert child.wait(60) in (143, 130)
    os.close(mine)
    assert text.rfind(b"\x1b[?25h") > text.rfind(b"\x1b[?25l") >= 0


def test_resume_from_the_command() -> None:
    quick = ("train", "iris", "--device", "cpu", "--layers", "8", "--batch-size", "16", "--seed", "2")
    run(*quick, "--epochs", "4", "--schedule", "constant", "--out", "short")
    text = run("train", "--resume", "short", "--epochs", "3")
    assert "going on after 4 whole epochs of 7" in text
    assert "epoch 7/7" in text
    run(*quick, "--epochs", "7", "--schedule", "constant", "--out", "long")
    a, b = (gb.load(f"{name}/model.safetensors", "cpu").get_weights() for name in ("short", "long"))
    for name, array in b.items():
        np.testing.assert_array_equal(a[name], array)
    assert len(Path("short/history.jsonl").read_text().splitlines()) == 7
    assert json.loads(Path("short/settings.json").read_text())["settings"]["epochs"] == 7
    assert "done after 7 epochs" in run("train", "--resume", "short")
    assert json.loads(run("train", "--resume", "short", "--json").splitlines()[-1])["epochs"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "none"), "no such folder"),
        (("--resume", "empty"), "holds no checkpoint"),
        (("--resume", "run", "--layers", "4", "--seed", "1"), "leave out --layers ..., --seed ..."),
        (("--resume", "run", "--overwrite"), "leave out --overwrite"),
        (("wine", "--resume", "run"), "not the data that the run was trained on"),
        (("--resume", "run", "--device", "gpu"), "unknown device"),
        (("iris", "--checkpoint-every", "often"), "--checkpoint-every must be"),
        (("iris", "--stop-on", "SIGUSR7"), "unknown signal 'sigusr7': did you mean 'sigusr2' or 'sigusr1'"),
        (("iris", "--stop-on", "kill"), "SIGKILL cannot be caught"),
        ((), "Missing argument DATA"),
    ],
)
def test_the_command_refuses(arguments: tuple[str, ...], message: str) -> None:
    run("train", "iris", "--device", "cpu", "--layers", "none", "--epochs", "1", "--out", "run")
    Path("empty").mkdir()
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert message in refused("train", *arguments)
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in Path().iterdir()) == ["empty", "run"]


# -- the data ---------------------------------------------------------------------------------------------------------


def test_a_run_on_arrays_goes_on_with_the_same_arrays() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = (x[:, 0] > 0).astype(np.int64)
    data = gb.data.Dataset("mine", x, y, "classification", ("no", "yes"))
    gb.train_run(data, out="whole", **SETTINGS)
    with pytest.raises(RunInterruptedError):
        gb.train_run(data, out="run", callbacks=[Kick(2, 1)], **SETTINGS)
    with pytest.raises(DataError, match="data="):
        gb.resume_run("run")
    with pytest.raises(DataError, match="not the data"):
        gb.resume_run("run", data=gb.data.Dataset("other", x + 1, y, "classification", ("no", "yes")))
    with pytest.raises(DataError, match="not the data"):
        gb.resume_run("run", data=gb.data.Dataset("other", x, y, "classification", ("yes", "no")))
    gb.resume_run("run", data=data)
    assert model_of("run") == model_of("whole")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunInterruptedError):
        gb.train_run("iris", out="run", callbacks=[Kick(2, 1)], **SETTINGS)
    x, y = np.zeros((20, 2)), np.zeros(20, np.int64)
    net = gb.mlp([2, 2], loss="cross_entropy", device="cpu")
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    gb.Trainer(net, callbacks=[gb.Checkpoints("run/checkpoints")]).fit(x, y, epochs=1)
    with pytest.raises(CheckpointError, match="not the checkpoints of a run"):
        gb.resume_run("run")


# -- the disk ---------------------------------------------------------------------------------------------------------


class FullDisk(gb.Callback):
    """From one epoch's end to another's nothing can be written."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.patch = pytest.MonkeyPatch()

    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        import builtins

        real = open

        def full(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if set(mode) & set("wax"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, mode, *arguments, **options)

        if record["epoch"] == self.first:
            self.patch.setattr(builtins, "open", full)
            self.patch.setattr(io, "open", full)  # of pathlib
        if record["epoch"] == self.last:
            self.patch.undo()


def test_a_disk_that_is_full_for_a_while(whole: bytes) -> None:
    disk, said = FullDisk(2, 4), []
    gb.train_run("iris", out="run", callbacks=[disk], checkpoint_every="1 epoch", say=said.append, **SETTINGS)
    assert model_of("run") == whole
    assert len(Path("run/history.jsonl").read_text().splitlines()) == 5
    troubles = [line for line in said if "No space left" in line]
    assert 1 <= len(troubles) <= 2, "once for the history, once for checkpoints"
    assert all("training goes on" in line for line in troubles)
    assert any("the history can be written again" in line for line in said)


def test_a_disk_that_stays_full(whole: bytes) -> None:
    class Flushed(gb.Callback):
        def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
            trainer.callbacks[-1].flush()

    disk = FullDisk(3, 99)
    try:
        with pytest.raises((CheckpointError, DataError), match="No space left on device"):
            gb.train_run(
                "iris", out="run", callbacks=[Flushed(), disk], checkpoint_every="1 epoch", say=print, **SETTINGS
            )
    finally:
        disk.patch.undo()
    assert not Path("run/model.safetensors").exists()
    gb.resume_run("run")
    assert model_of("run") == whole


def test_a_folder_that_goes_away(whole: bytes) -> None:
    """Training goes on in memory, and says so; in the end there is one error, and what came away with the folder is whole."""

    class Away(gb.Callback):
        def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
            trainer.callbacks[-1].flush()
            if record["epoch"] == 3:
                os.rename("run", "elsewhere")

    said: list[str] = []
    with pytest.raises(CheckpointError, match="cannot be written: No such file"):
        gb.train_run("iris", out="run", callbacks=[Away()], checkpoint_every="1 epoch", say=said.append, **SETTINGS)
    assert len([line for line in said if "cannot be written" in line and "training goes on" in line]) == 2
    gb.resume_run("elsewhere")
    assert model_of("elsewhere") == whole


def test_what_overflows_in_the_last_step_is_not_saved() -> None:
    class Overflow(gb.Callback):
        def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
            if record["epoch"] == 5:
                trainer.net.engine.write({k: v * np.float32(np.inf) for k, v in trainer.net.get_weights().items()})

    said: list[str] = []
    with np.errstate(all="ignore"), pytest.raises(ArgumentError, match="weights are not saved"):
        gb.train_run("iris", out="run", callbacks=[Overflow()], say=said.append, **SETTINGS)
    assert not Path("run/model.safetensors").exists()
    assert any("is not finite" in line for line in said)


def test_settings_hold_no_bare_nan() -> None:
    from gpubackprop.files.plain import as_json

    text = as_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}})
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
    }


# -- two at a time ----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_at_once(whole: bytes) -> None:
    script = "import gpubackprop as gb; gb.train_run('iris', out='run', overwrite=True)"
    messages = []

    class Another(gb.Callback):
        def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
            for attempt in (script, "import gpubackprop as gb; gb.resume_run('run')"):
                environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
                done = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, env=environment)
                assert done.returncode == 1
                messages.append(done.stderr.splitlines()[-1])

    gb.train_run("iris", out="run", callbacks=[Another()], **{**SETTINGS, "epochs": 1})
    assert all(f"process {os.getpid()} on " in m and "is writing a run there" in m for m in messages)
    gb.train_run("iris", out="run", overwrite=True, callbacks=[Another()], **{**SETTINGS, "epochs": 1})
    assert all("is writing a run there" in m for m in messages)
    gb.train_run("iris", out="run", overwrite=True, **SETTINGS)
    assert model_of("run") == whole
