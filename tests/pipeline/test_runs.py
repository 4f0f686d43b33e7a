"""`gb.train_run`: what the command `train` does, from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.data import TextFormat
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError
from gpubackprop.pipeline.preparation import divide
from gpubackprop.pipeline.run_folder import CHECKPOINTS, FILES
from gpubackprop.pipeline.runs import RunInterruptedError

pytest.importorskip("sklearn", reason="the data extra is not installed")
pytest.importorskip("matplotlib", reason="the plot extra is not installed")

QUICK: dict[str, Any] = {"epochs": 3, "layers": [8], "device": "cpu"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_from_python_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.cli.commands import run

    run("train", "wine", "--epochs", "3", "--layers", "8", "--device", "cpu", "--out", "command")
    capsys.readouterr()
    done = gb.train_run("wine", out="python", **QUICK)
    assert capsys.readouterr() == ("", "")
    assert (done.path, len(done.history)) == (Path("python"), 3)
    assert sorted(p.name for p in done.path.iterdir()) == sorted([*FILES, CHECKPOINTS, "curves.png", "confusion.png"])
    command, python = (Path(p, "model.safetensors").read_bytes() for p in ("command", "python"))
    assert command == python
    assert json.loads(Path("command/settings.json").read_text())["result"]["test"] == done.scores


def test_from_arrays() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    data = gb.data.Dataset("mine", x, (x[:, 0] > 0).astype(np.int64), "classification", ("below", "above"))
    lines: list[str] = []
    done = gb.train_run(data, say=lines.append, **QUICK)
    assert done.path == Path("runs/mine-1")
    assert done.judged_on == "12 of 60 rows, held out at random"
    assert "training on 48 rows" in lines[-2]
    assert "gradient noise scale at the end: " in lines[-1]
    assert gb.load_run(done.path, "cpu").predict(x[:2]).dtype.kind == "U"


def test_parts_of_batches_add_up() -> None:
    weights = []
    for rows in (None, 5):
        done = gb.train_run("wine", out=f"run{rows}", batch_size=32, micro_batch_size=rows, **QUICK)
        weights.append(gb.load(done.path / "model.safetensors", device="cpu").get_weights()["0.weight"])
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    assert (weights[1] != weights[0]).any()
    with pytest.raises(ArgumentError, match=r"^micro_batch_size must be"):
        gb.train_run("wine", out="none", micro_batch_size=0, **QUICK)


class Interrupt(gb.Callback):
    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise KeyboardInterrupt


def test_an_interrupt_keeps_what_was_reached_and_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        gb.train_run("iris", out="run", callbacks=[Interrupt()], **QUICK)
    assert isinstance(caught.value, RunInterruptedError)
    assert len(caught.value.run.history) == 2
    assert gb.load_run("run", "cpu").score("iris")["accuracy"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch': did you mean 'epochs'"),
        ({"layers": [8, 0]}, "layers must be widths"),
        ({"layers": 8}, "layers must be widths"),
        ({"test": 2}, "^test must be a share"),
        ({"momentum": 0.5}, "^momentum is for sgd"),
        ({"learning_rate": -1.0}, "^learning_rate must be"),
        ({"epochs": 0}, "^epochs must be at least 1"),
        ({"layers": [4.9]}, "^layers must be widths"),
        ({"layers": [True]}, "^layers must be widths"),
        ({"columns": gb.ColumnChoices(drop=("petal length (cm)",))}, "^drop is for the columns of a table"),
        ({"columns": gb.ColumnChoices(scale=False)}, "^scale is for the columns of a table"),
        ({"columns": gb.ColumnChoices(categorical=("a",))}, "^categorical is for the columns"),
        ({"format": TextFormat(decimal=",")}, "^decimal is for tables, not for 'iris'"),
        ({"loss": "cross_entropy", "task": "regression"}, "^task is 'regression'"),
    ],
)
def test_errors_name_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        gb.train_run("iris", **arguments)
    assert "--" not in str(caught.value)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "settings", [{"epochs": 2.5}, {"epochs": True}, {"batch_size": 2.9}, {"batch_size": True}, {"patience": 1.5}]
)
def test_numbers_of_another_kind_are_not_cut(settings: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{next(iter(settings))} must be a whole number"):
        gb.train_run("iris", **{**QUICK, **settings})
    assert not list(Path().iterdir())


@pytest.mark.parametrize("option", ["target", "task", "folder", "weight", "group"])
def test_what_a_dataset_already_says_cannot_be_asked_of_it(option: str) -> None:
    data = gb.data.load("iris")
    with pytest.raises(ArgumentError, match=f"^{option} is for a name or a file"):
        gb.train_run(data, **{option: "regression", **QUICK})


def test_columns_of_a_table_that_keep_their_scale() -> None:
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{i * 100 + 3},{i * i},{i * 1.7:.2f}\n" for i in range(60)))
    run = gb.train_run("t.csv", target="y", columns=gb.ColumnChoices(scale=False), **QUICK)
    np.testing.assert_allclose(run.model.prepare(run.model.read("t.csv"))[:, 0], np.arange(60) * 100 + 3)
    assert run.model.targets is not None, "the target is standardised still"


def test_the_error_after_each_epoch_is_in_the_unit_of_the_target() -> None:
    x = np.random.default_rng(0).normal(size=(100, 3))
    table = {"u": x[:, 0], "v": x[:, 1], "a": 1e5 * x[:, 0], "b": x[:, 2]}
    options: dict[str, Any] = {**QUICK, "validation": 0.2}
    data = gb.Dataset.from_frame(table, "a")
    run = gb.train_run(data, out="run", **options)
    watched = divide(data, test=0.2, validation=0.2, seed=0).validation
    assert watched is not None
    right = run.model.scores(watched.x, watched.y)["mean_absolute_error"]
    assert run.history["val_mean_absolute_error"][-1] == pytest.approx(right, rel=1e-5)
    further = gb.resume_run("run", data=data, more_epochs=1).history["val_mean_absolute_error"]
    assert further[:3] == run.history["val_mean_absolute_error"]
    assert further[3] > 1e4
    run = gb.train_run(gb.Dataset.from_frame(table, "a,b"), **options)
    assert [name for name in run.history.records[-1] if name.startswith("val_")] == ["val_loss", "val_r2"]


def test_the_score_after_each_epoch_is_of_rows_from_everywhere() -> None:
    table = {"u": np.random.default_rng(0).normal(size=3000), "y": np.arange(3000) // 1500}
    run = gb.train_run(gb.Dataset.from_frame(table, "y"), **QUICK)
    assert 0.4 < run.history["accuracy"][-1] < 0.6


def test_a_folder_that_is_taken() -> None:
    gb.train_run("iris", out="run", **QUICK)
    with pytest.raises(DataError, match=r"^out=run is not empty; .* say overwrite=True"):
        gb.train_run("iris", out="run", **QUICK)
    gb.train_run("iris", out="run", overwrite=True, **QUICK)
    with pytest.raises(ArgumentTypeError, match="data must be"):
        gb.train_run(3)  # type: ignore[arg-type]


def test_columns_are_scaled_one_by_one_unless_they_are_pixels() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 1001, 100), rng.integers(0, 1001, 100), rng.integers(0, 2, 100)], axis=1)
    y = (x[:, 2] > 0).astype(np.int64)
    for kind in (np.float32, np.uint16, np.uint8):
        data = gb.Dataset("flags", x.astype(kind), y, "classification", ("no", "yes"))
        model = gb.train_run(data, out=f"run-{kind.__name__}", **QUICK).model
        np.testing.assert_allclose(model.prepare(data.x).std(axis=0), 1, rtol=0.2)
    digits = gb.train_run("digits", out="digits", **QUICK).model
    assert digits.inputs.mean.shape == (1,)
