"""metrics.json and the lines after training: what they hold for each task, and that they are those of the held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.pipeline.report import report

QUICK: dict[str, Any] = {"epochs": 5, "layers": [8], "device": "cpu"}
CLASSES = ["accuracy", "loss", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss"]
NUMBERS = ["r2", "mean_absolute_error", "loss", "root_mean_squared_error"]


def dataset(task: str) -> gb.data.Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    if task == "regression":
        return gb.data.Dataset("numbers", x, 1000 + 50 * x[:, :1], "regression", targets=("price",))
    if task == "multilabel":
        return gb.data.Dataset("labels", x, (x[:, :2] > 0).astype(float), "multilabel", targets=("a", "b"))
    return gb.data.Dataset("classes", x, (x[:, 0] > 0) + 1 * (x[:, 1] > 0), "classification", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("task", "loss", "names"),
    [
        ("classification", None, CLASSES),
        ("classification", "half_squared_error", CLASSES[:-1]),
        ("multilabel", None, ["accuracy", "loss", "roc_auc", "log_loss"]),
        ("regression", None, NUMBERS),
    ],
)
def test_what_suits_the_task(task: str, loss: str | None, names: list[str], tmp_path: Path) -> None:
    data = dataset(task)
    done = gb.train_run(data, out=tmp_path / "run", loss=loss, **QUICK)
    assert list(done.scores) == names
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {k: written[k] for k in names} == done.scores
    assert (written["rows"], written["judged_on"]) == (20, "20 of 100 rows, held out at random")
    if task == "classification":
        assert written["classes"] == ["a", "b", "c"]
        assert np.sum(written["confusion_matrix"]) == 20
        assert np.trace(written["confusion_matrix"]) / 20 == done.scores["accuracy"]
    else:
        assert "confusion_matrix" not in written
    assert done.report is not None
    first, rest = done.report.lines()
    assert first.startswith(f"{names[0]} {done.scores[names[0]]:.4f}, {names[1]} ")
    assert names[-1].replace("_", " ") in rest


def test_errors_are_in_the_unit_of_the_target(tmp_path: Path) -> None:
    data = dataset("regression")
    model = gb.train_run(data, out=tmp_path / "run", **QUICK).model
    found = report(model, data.x, data.y)
    error = model.predict(data.x) - data.y
    assert found.metrics["root_mean_squared_error"] == pytest.approx(float(np.sqrt(np.mean(error**2))))
    assert found.metrics["mean_absolute_error"] == pytest.approx(float(np.abs(error).mean()))
    assert found.counts is None


def test_one_class_alone_has_no_auc(tmp_path: Path) -> None:
    data = dataset("classification")
    model = gb.train_run(data, out=tmp_path / "run", **QUICK).model
    found = report(model, data.x[:5], np.zeros(5, np.int64))
    assert np.isnan(found.metrics["roc_auc"])
    assert "roc auc nan" in found.lines()[1]


def test_answers_that_are_nan_are_of_no_class(tmp_path: Path) -> None:
    data = dataset("classification")
    model = gb.train_run(data, out=tmp_path / "run", **QUICK).model
    model.answers = lambda x, batch_size=None: np.full((len(x), 3), np.nan)  # type: ignore[method-assign]
    found = report(model, data.x, data.y)
    assert list(found.metrics) == CLASSES
    assert [name for name, value in found.metrics.items() if not np.isnan(value)] == ["loss"]
    assert found.counts is None
