"""Whole jobs, small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fit, readme
from benchmarks.jobs import LIBRARIES, Job


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that a line tells apart."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    path = tmp_path_factory.mktemp("data") / "line.npz"
    np.savez(path, x=x[:150], y=y[:150], x_test=x[150:], y_test=y[150:])
    return path


SETTINGS = {"widths": [4, 8, 2], "batch": 5, "epochs": 60, "seed": 0}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_stops_at_the_accuracy(library: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fit.available([library], fit.NEEDS):
        pytest.skip("not installed")
    monkeypatch.setattr(fit, "PAUSE", 0.0)
    found = fit.run(library, data, {**SETTINGS, "goal": 0.9}, threads=1)
    assert 0.9 <= found["accuracy"] <= 1
    assert 1 <= found["epochs"] < SETTINGS["epochs"]
    assert sum(found["parts"].values()) < found["wall"]
    assert found["cpu"] > 0


def test_a_job_without_a_goal_is_all_of_its_epochs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "PAUSE", 0.0)
    found = fit.run("gpubackprop", data, {**SETTINGS, "epochs": 3, "goal": None}, threads=None)
    assert found["epochs"] == 3
    assert found["parts"].keys() == {"import", "data", "fit"}


def test_the_goal_counts_epochs(data: Path) -> None:
    job = Job(str(data), {**SETTINGS, "epochs": 3, "goal": 1.0})
    right = False
    job.load(lambda rows: job.y_test if right else 1 - job.y_test)
    assert not job.reached()
    assert job.accuracy == 0.0
    right = True
    assert job.reached()
    assert (job.done, job.accuracy) == (2, 1.0)
    right = False
    assert job.reached(), "there are no more epochs"


def test_one_that_fails_is_no_figure(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="gpubackprop failed with exit status 1"):
        fit.run("gpubackprop", data, {**SETTINGS, "widths": [5, 2], "goal": None}, threads=1)
    assert "ArgumentError" in capfd.readouterr().err


def test_a_whole_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(fit, "PAUSE", 0.0)
    monkeypatch.setattr(fit, "THREADS", (1,))
    monkeypatch.setattr(fit, "TASKS", {"digits": fit.Task((16,), 32, 0.8)})
    output = tmp_path / "fit.json"
    arguments = ["--data", "digits", "--libraries", "gpubackprop", "--repeats", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["fit.py", *arguments])
    fit.main()
    said = capsys.readouterr().out
    assert "digits, 64-16-10, batch 32: to 80%" in said
    assert "digits, 64-16-10, batch 32: ten epochs" in said
    results = json.loads(output.read_text())
    assert results["machine"]["packages"]["numpy"] == np.__version__
    assert readme.fit(results).startswith("| job | gpubackprop |")


def test_who_does_not_reach_it_has_no_figure(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(library: str, path: Path, settings: object, threads: int | None) -> dict[str, object]:
        accuracy = 0.5 if library == "slow" and threads == 1 else 0.95
        return {"wall": 1.0, "cpu": 1.0, "epochs": 9, "accuracy": accuracy, "parts": {"fit": 1.0}}

    monkeypatch.setattr(fit, "run", runs)
    found = fit.measure(data, {**SETTINGS, "goal": 0.9}, ["quick", "slow"], 2)
    assert "failed" not in found["quick"]
    assert found["slow"]["failed"] == "accuracy 0.5000 after 300 epochs"
    monkeypatch.setattr(sys, "argv", ["fit.py", "--data", "mnist"])
    with pytest.raises(SystemExit):
        fit.main()
