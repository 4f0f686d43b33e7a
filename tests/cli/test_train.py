"""`gpubackprop train`: what it reaches, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubackprop as gb
from gpubackprop.cli import app
from gpubackprop.data.images import SYSTEM_FOLDER
from gpubackprop.pipeline import runs
from gpubackprop.pipeline.model import load_run
from gpubackprop.pipeline.preparation import divide
from gpubackprop.pipeline.run_folder import CHECKPOINTS, FILES
from gpubackprop.pipeline.runs import fit, prepare
from gpubackprop.pipeline.settings import Settings
from tests.cli.commands import refused, run, started

pytest.importorskip("sklearn", reason="the data extra is not installed")
pytest.importorskip("matplotlib", reason="the plot extra is not installed")

QUICK = ("--epochs", "3", "--layers", "8", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def result_of(folder: str) -> dict[str, float]:
    scores: dict[str, float] = json.loads(Path(folder, "settings.json").read_text())["result"]["test"]
    return scores


# -- what it reaches ----------------------------------------------------------------------------------------------


def test_digits_with_defaults() -> None:
    run("train", "digits", "--device", "cpu", "--out", "run")
    scores = json.loads(run("evaluate", "run", "--json"))
    assert scores["rows"] == 359
    assert scores["accuracy"] >= 0.97


def test_diabetes_with_defaults() -> None:
    run("train", "diabetes", "--device", "cpu", "--out", "run")
    assert json.loads(run("evaluate", "run", "--json"))["r2"] >= 0.33


@pytest.mark.parametrize("seed", range(20))
def test_xor_with_defaults(seed: int) -> None:
    data = gb.data.load("xor")
    settings = Settings(seed=seed, device="cpu").completed(data)
    parts = divide(data, test=settings.test, validation=settings.validation or 0.0, seed=seed)
    model = prepare(data, parts.train, settings, {})
    trainer = gb.Trainer(model.network, settings.make_optimizer(len(parts.train.x)))
    fit(trainer, model, parts, settings, [])
    assert model.answers(data.x).argmax(axis=1).tolist() == [0, 1, 1, 0]


needs_fashion = pytest.mark.skipif(
    not (SYSTEM_FOLDER / "fashion-mnist").is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


@needs_fashion
def test_fashion_mnist_learns_in_two_epochs() -> None:
    run("train", "fashion-mnist", "--layers", "64", "--batch-size", "256", "--epochs", "2", "--out", "run")
    scores = json.loads(run("evaluate", "run", "--json"))
    assert scores["rows"] == 10_000
    assert scores["accuracy"] >= 0.83


@needs_fashion
@pytest.mark.nightly
def test_fashion_mnist() -> None:
    run("train", "fashion-mnist", "--layers", "512,256", "--batch-size", "1024", "--epochs", "20", "--out", "run")
    assert json.loads(run("evaluate", "run", "--json"))["accuracy"] >= 0.885


# -- what it leaves behind ----------------------------------------------------------------------------------------


def test_the_run_folder() -> None:
    text = run("train", "wine", *QUICK, "--validation", "0.2")
    assert "run folder: runs/wine-1" in text
    assert sorted(p.name for p in Path("runs/wine-1").iterdir()) == sorted(
        [*FILES, CHECKPOINTS, "curves.png", "confusion.png"]
    )
    about = json.loads(Path("runs/wine-1/settings.json").read_text())
    assert about["settings"]["epochs"] == 3
    assert about["rows"]["test"] == "36 of 178 rows, held out at random"
    assert about["result"]["stopped"] == "epochs"
    records = [json.loads(line) for line in Path("runs/wine-1/history.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert {"loss", "val_loss", "val_accuracy", "samples_per_second"} <= records[0].keys()
    assert Path("runs/wine-1/curves.png").read_bytes().startswith(b"\x89PNG")
    assert isinstance(gb.load("runs/wine-1/model.safetensors", "cpu"), gb.Network)
    run("train", "wine", *QUICK)
    assert Path("runs/wine-2").is_dir()


def test_a_batch_size_that_is_measured_is_recorded_and_the_run_is_that_of_the_number() -> None:
    text = run("train", "wine", *QUICK, "--batch-size", "auto", "--out", "auto")
    about = json.loads(Path("auto/settings.json").read_text())
    size, found = about["settings"]["batch_size"], about["batch_sizes"]
    assert size == found["fastest"]
    assert str(size) in found["speeds"]
    assert f"batch size {size}, the fastest (rows a second by batch size: 16: " in text
    run("train", "wine", *QUICK, "--batch-size", str(size), "--out", "number")
    gave = [gb.load(f"{name}/model.safetensors", "cpu").get_weights() for name in ("auto", "number")]
    for name, w in gave[0].items():
        np.testing.assert_array_equal(w, gave[1][name])


def test_a_learning_rate_for_base_batches() -> None:
    scaled = ("--batch-size", "128", "--scale-learning-rate", "linear", "--base-batch-size", "32", "--warmup", "1")
    run("train", "wine", *QUICK, *scaled, "--learning-rate", "1e-3", "--schedule", "constant", "--out", "scaled")
    rates = [json.loads(line)["learning_rate"] for line in Path("scaled/history.jsonl").read_text().splitlines()]
    assert rates[-1] == pytest.approx(4e-3)
    noise = json.loads(Path("scaled/settings.json").read_text())["result"]["gradient_noise_scale"]
    assert noise is None or noise > 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run("train", "iris", *QUICK, "--seed", seed, "--out", name)
    a, b, c = (Path(name, "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_standardisation_knows_the_training_rows_only() -> None:
    run("train", "diabetes", *QUICK, "--validation", "0.25", "--seed", "5", "--out", "run")
    model, data = load_run("run", "cpu"), gb.data.load("diabetes")
    train = divide(data, test=0.2, validation=0.25, seed=5).train
    assert len(train.x) < 300
    assert model.inputs is not None
    assert model.targets is not None
    np.testing.assert_allclose(model.inputs.mean, train.x.astype(np.float64).mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.targets.scale, train.y.std(axis=0))


def test_without_standardisation() -> None:
    run("train", "iris", *QUICK, "--no-standardize", "--out", "run")
    assert load_run("run", "cpu").inputs is None


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "half_squared_error", "mean_absolute_error", "cross_entropy"])
@pytest.mark.parametrize("name", ["breast-cancer", "iris"])
def test_every_loss_for_classes(loss: str, name: str) -> None:
    options = ("--epochs", "40", "--layers", "64", "--batch-size", "8", "--device", "cpu", "--loss", loss)
    run("train", name, *options, "--out", "run")
    assert result_of("run")["accuracy"] > 0.8
    answers = load_run("run", "cpu").answers(gb.data.load(name).x)
    assert answers.shape[1] == (2 if name == "breast-cancer" else 3)


def test_classes_from_a_table_keep_their_names() -> None:
    rows = [f"{i % 3 + 0.01 * i},{-i},{['red', 'green', 'blue'][i % 3]}" for i in range(60)]
    Path("table.csv").write_text("\n".join(["a,b,colour", *rows]) + "\n")
    run("train", "table.csv", "--target", "colour", *QUICK, "--out", "run")
    model = load_run("run", "cpu")
    assert model.classes == ["blue", "green", "red"]
    assert model.data["features"] == ["a", "b"]
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    assert "accuracy" in run("evaluate", "../run")


def test_early_stopping_keeps_the_best() -> None:
    options = ("--epochs", "400", "--learning-rate", "0.1", "--optimizer", "sgd", "--schedule", "constant")
    run("train", "iris", *options, "--patience", "3", "--validation", "0.3", "--out", "run")
    about = json.loads(Path("run/settings.json").read_text())["result"]
    losses = [json.loads(line)["val_loss"] for line in Path("run/history.jsonl").read_text().splitlines()]
    assert about["stopped"] == "patience"
    assert about["best_epoch"] == int(np.argmin(losses)) + 1 == len(losses) - 3


def test_without_matplotlib_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = run("train", "iris", *QUICK, "--out", "run")
    assert 'pip install "gpubackprop[plot]"' in text
    assert not Path("run/curves.png").exists()
    assert Path("run/model.safetensors").exists()


# -- nothing is lost ----------------------------------------------------------------------------------------------


def contents(folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}


def test_a_run_is_replaced_only_when_asked_and_only_by_a_whole_one() -> None:
    run("train", "iris", *QUICK, "--out", "run")
    Path("run/notes.txt").write_text("mine")
    before = contents("run")
    assert "--overwrite" in refused("train", "iris", *QUICK, "--out", "run")
    assert contents("run") == before
    diverging = ("--optimizer", "sgd", "--learning-rate", "1e30", "--loss", "mean_squared_error")
    assert "diverged" in refused("train", "diabetes", *QUICK, *diverging, "--out", "run", "--overwrite")
    assert contents("run") == before
    assert list(Path("run.unfinished/checkpoints").iterdir()) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpubackprop.pipeline.runs.save", Mock(side_effect=MemoryError))
        run("train", "wine", *QUICK, "--out", "run", "--overwrite", code=1)
    assert contents("run") == before
    run("train", "iris", *QUICK, "--seed", "1", "--out", "run", "--overwrite")
    after = contents("run")
    assert after.keys() == before.keys()
    assert after["notes.txt"] == b"mine"
    assert after["model.safetensors"] != before["model.safetensors"]
    assert [p.name for p in Path().iterdir()] == ["run"]


def test_a_run_that_diverges_says_so() -> None:
    line = refused("train", "diabetes", *QUICK, "--optimizer", "sgd", "--learning-rate", "1e30", "--out", "run")
    assert "training diverged: the loss is nan in epoch 1, between its steps" in line
    assert "largest activations by layer" in line
    assert "--learning-rate" in line
    assert "--on-nan restore" in line
    assert not Path("run/model.safetensors").exists()
    assert json.loads(Path("run/history.jsonl").read_text())["loss"] is None


def test_ctrl_c_keeps_what_was_reached() -> None:
    command = [sys.executable, "-u", "-m", "gpubackprop", "train", "digits", "--epochs", "100000", "--device", "cpu"]
    with started(*command, "--out", "run", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("epoch"):
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == ""
    assert "interrupted after" in out
    epochs = len(Path("run/history.jsonl").read_text().splitlines())
    assert epochs >= 1
    about = json.loads(Path("run/settings.json").read_text())
    assert about["result"]["stopped"] == "interrupted"
    assert about["result"]["epochs"] == epochs
    assert json.loads(run("evaluate", "run", "--json"))["accuracy"] == about["result"]["test"]["accuracy"]


def test_ctrl_c_before_training_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "load", Mock(side_effect=KeyboardInterrupt))
    run("train", "iris", code=130)
    assert not list(Path().iterdir())


# -- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit",), "did you mean 'digits'"),
        (("missing.csv", "--target", "y"), "no such file"),
        (("empty.npz",), "empty"),
        (("digits", "--activation", "rellu"), "did you mean 'relu'"),
        (("digits", "--loss", "cross_entrop"), "did you mean 'cross_entropy'"),
        (("digits", "--optimizer", "adm"), "did you mean 'adam'"),
        (("digits", "--schedule", "cosin"), "did you mean 'cosine'"),
        (("digits", "--task", "regress"), "unknown task"),
        (("digits", "--task", "regression"), "classification"),
        (("diabetes", "--loss", "cross_entropy"), "for classes"),
        (("digits", "--learning-rate", "0"), "--learning-rate must"),
        (("digits", "--learning-rate", "nan"), "--learning-rate must"),
        (("digits", "--learning-rate", "fast"), "--learning-rate"),
        (("digits", "--momentum", "0.9"), "--momentum is for sgd"),
        (("digits", "--weight-decay", "-1"), "--weight-decay"),
        (("digits", "--clip-norm", "0"), "--clip-norm must"),
        (("digits", "--dropout", "1"), "must be a number in [0, 1)"),
        (("digits", "--l2", "-1"), "l2"),
        (("digits", "--warmup", "-1"), "--warmup"),
        (("digits", "--batch-size", "0"), "--batch-size"),
        (("digits", "--batch-size", "largest"), '--batch-size must be a number of rows, or "auto"'),
        (("digits", "--scale-learning-rate", "liner"), "did you mean 'linear'"),
        (("digits", "--base-batch-size", "0"), "--base-batch-size"),
        (("digits", "--epochs", "0"), "--epochs"),
        (("digits", "--patience", "0"), "--patience"),
        (("digits", "--seed", "-1"), "--seed"),
        (("digits", "--layers", "128,x"), "--layers"),
        (("digits", "--layers", "0"), "--layers"),
        (("digits", "--validation", "1"), "--validation"),
        (("digits", "--test", "-0.1"), "--test"),
        (("digits", "--device", "cuda:99"), "cuda:99"),
        (("digits", "--device", "gpu"), "unknown device"),
        (("digits", "--device", "cpu", "--precision", "tf32"), "tf32"),
        (("digits", "--precision", "fp8"), "precision must be one of"),
        (("digits", "--target", "y"), "target is for tables"),
        (("digits", "--folder", "x"), "folder is for"),
        (("digits", "--out", "empty.npz"), "is a file"),
        (("digits", "--colour", "red"), "No such option"),
        ((), "Missing argument"),
    ],
)
def test_bad_requests_get_one_line_and_leave_nothing(arguments: tuple[str, ...], message: str) -> None:
    Path("empty.npz").touch()
    assert message in refused("train", *arguments)
    assert [p.name for p in Path().iterdir()] == ["empty.npz"]


def test_what_nobody_expects_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "load", Mock(side_effect=RuntimeError("a bug")))
    result = CliRunner().invoke(app, ["train", "iris"])
    assert isinstance(result.exception, RuntimeError)
