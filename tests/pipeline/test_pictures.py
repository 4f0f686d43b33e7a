"""The pictures of a run: drawn last, and never a reason to lose it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.pipeline import runs
from gpubackprop.pipeline.pictures import draw_confusion, draw_predictions
from gpubackprop.training.figures import png
from gpubackprop.training.history import curves

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

QUICK: dict[str, Any] = {"epochs": 2, "layers": [4], "device": "cpu"}
NASTY = ("$", "$\\frac{1$", "a_b^{", "漢字", "", "x" * 300, "<b>[red]", "\x07")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def history() -> gb.History:
    found = gb.History()
    for epoch in (1, 2):
        found.append({"epoch": epoch, "loss": 1 / epoch, "val_loss": 2 / epoch, "val_accuracy": 0.5})
    return found


@pytest.mark.parametrize("name", NASTY)
def test_titles_and_names_are_no_markup(name: str) -> None:
    for picture in (
        png(curves({"": history()}, name)),
        draw_confusion(np.array([[3, 0], [1, 2]]), [name, "b"], name),
        draw_predictions(np.zeros((5, 1)), np.arange(5.0)[:, None], [name], name),
    ):
        assert picture.startswith(b"\x89PNG")


def test_large_and_small_ones() -> None:
    for m in (2, 31, 200):
        assert draw_confusion(np.eye(m, dtype=int), [str(i) for i in range(m)], "title").startswith(b"\x89PNG")
    many = np.random.default_rng(0).normal(size=(20_000, 6))
    assert len(draw_predictions(many, many, [], "title")) < 1_000_000
    assert draw_predictions(many[:1], many[:1], ["a"], "title").startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "QtAgg", "nonsense"])
def test_whatever_backend_is_asked_for(backend: str) -> None:
    script = "import gpubackprop as gb; gb.train_run('xor', out='run', epochs=2, device='cpu')"
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("run/model.safetensors").exists()
    assert Path("run/curves.png").exists() or "could not be drawn" in done.stderr


@pytest.mark.parametrize("name", ["curves", "draw_confusion"])
def test_a_picture_that_fails_is_told_and_the_run_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gb.train_run("xor", out="run", **QUICK)

    def broken(*arguments: Any) -> bytes:
        assert json.loads(Path("run/settings.json").read_text())["settings"]["seed"] == 1, "the new run is in its place"
        raise RuntimeError("no fonts")

    monkeypatch.setattr(runs, name, broken)
    said: list[str] = []
    done = gb.train_run("xor", out="run", overwrite=True, say=said.append, **QUICK, seed=1)
    assert done.scores
    assert [line for line in said if "could not be drawn (RuntimeError: no fonts)" in line]
    assert gb.load_run("run", "cpu").predict([[0, 1]]).shape == (1,)
    assert sorted(p.suffix for p in Path("run").iterdir()) == ["", ".json", ".json", ".jsonl", ".png", ".safetensors"]


def test_which_pictures_there_are() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    classes = gb.data.Dataset("c", x, (x[:, 0] > 0).astype(np.int64), "classification", ("$no$", "yes"))
    numbers = gb.data.Dataset("n", x, x[:, :1], "regression", targets=("y",))
    gb.train_run(classes, out="c", **QUICK)
    gb.train_run(numbers, out="n", **QUICK)
    assert {p.name for p in Path("c").glob("*.png")} == {"curves.png", "confusion.png"}
    assert {p.name for p in Path("n").glob("*.png")} == {"curves.png", "predicted.png"}
