"""evaluate, predict, summary, devices and doctor, on run folders that train wrote."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.select import fallback_reason
from gpubackprop.cli import doctor
from tests.cli.commands import refused, run

pytest.importorskip("sklearn", reason="the data extra is not installed")


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "iris"
    run("train", "iris", "--epochs", "20", "--layers", "16", "--device", "cpu", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A regression table and the run trained on it: columns in an order that matters."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) * [1, 100]
    y = 50 + 3 * x[:, 0] - 0.2 * x[:, 1]
    with open(folder / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "price"], *np.column_stack([x, y]).tolist()])
    options = (
        "--target",
        "price",
        "--layers",
        "none",
        "--epochs",
        "60",
        "--learning-rate",
        "0.05",
        "--weight-decay",
        "0",
        "--device",
        "cpu",
    )
    run("train", folder / "rows.csv", *options, "--out", folder / "run")
    return folder, x, y


def test_evaluate_scores_the_rows_that_were_held_out(iris):
    scores = json.loads(run("evaluate", iris, "--json"))
    assert scores["rows"] == 30
    assert scores["accuracy"] == json.loads((iris / "settings.json").read_text())["result"]["test"]["accuracy"]
    text = run("evaluate", iris)
    assert f"accuracy {scores['accuracy']:.4f}" in text
    assert "setosa" in text


def test_evaluate_on_other_data_finds_columns_by_name(table):
    folder, x, y = table
    with open(folder / "other.csv", "w", newline="") as file:
        csv.writer(file).writerows([["price", "b", "a"], *np.column_stack([y, x[:, 1], x[:, 0]]).tolist()])
    scores = json.loads(run("evaluate", folder / "run", folder / "other.csv", "--json"))
    assert scores["rows"] == 200
    assert scores["r2"] > 0.99


def test_evaluate_refuses_a_file_that_changed_since_training(table):
    folder, _, _ = table
    original = (folder / "rows.csv").read_text()
    try:
        (folder / "rows.csv").write_text(original + "1,2,3\n")
        assert "not what the network was trained on" in refused("evaluate", folder / "run")
    finally:
        (folder / "rows.csv").write_text(original)


def test_predict_values_come_in_the_targets_unit(table):
    folder, x, y = table
    out = folder / "p.npy"
    with open(folder / "inputs.csv", "w", newline="") as file:
        csv.writer(file).writerows([["b", "a"], *x[:, ::-1].tolist()])
    run("predict", folder / "run", folder / "inputs.csv", "--out", out)
    values = np.load(out)
    assert values.shape == (200, 1)
    assert np.abs(values[:, 0] - y).mean() < 0.1 * y.std()
    run("predict", folder / "run", folder / "rows.csv", "--out", folder / "p.csv")
    with open(folder / "p.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["price"]
    np.testing.assert_allclose([float(r[0]) for r in rows[1:]], values[:, 0], rtol=1e-6)


def test_predict_names_the_class_and_the_probabilities(iris, tmp_path):
    out = tmp_path / "p.csv"
    run("predict", iris, "iris", "--out", out)
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150
    probabilities = {k: float(v) for k, v in rows[0].items() if k != "prediction"}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert max(probabilities, key=probabilities.get) == f"p({rows[0]['prediction']})"


def test_predict_takes_bare_arrays(iris, tmp_path):
    rows = gb.data.load("iris").x
    np.save(tmp_path / "rows.npy", rows)
    np.savez(tmp_path / "rows.npz", x=rows)
    answers = []
    for name in ("rows.npy", "rows.npz"):
        run("predict", iris, tmp_path / name, "--out", tmp_path / f"{name}.out.npy")
        answers.append(np.load(tmp_path / f"{name}.out.npy"))
    np.testing.assert_array_equal(*answers)
    assert answers[0].shape == (150, 3)


def test_predict_never_replaces_a_file_unasked(iris, tmp_path):
    out = tmp_path / "p.npy"
    out.write_bytes(b"precious")
    assert "exists" in refused("predict", iris, "iris", "--out", out)
    assert out.read_bytes() == b"precious"
    run("predict", iris, "iris", "--out", out, "--overwrite")
    assert np.load(out).shape == (150, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "no-such-run"), "no-such-run"),
        (("summary", "no-such-run"), "no-such-run"),
        (("predict", "RUN", "iris", "--out", "p.txt"), ".csv or .npy"),
        (("predict", "RUN", "irs", "--out", "p.csv"), "did you mean"),
        (("predict", "RUN", "missing.csv", "--out", "p.csv"), "missing.csv"),
        (("predict", "RUN", "digits", "--out", "p.csv"), "64 columns"),
        (("evaluate", "RUN", "digits"), "missing"),
        (("evaluate", "RUN", "--device", "gpu"), "did you mean"),
        (("evaluate", "RUN", "--batch-size", "0"), "batch-size"),
    ],
)
def test_bad_requests_get_one_line(iris, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*(str(iris) if a == "RUN" else a for a in arguments))
    assert list(tmp_path.iterdir()) == []


def test_predict_says_which_column_is_missing(table, tmp_path):
    folder, _, _ = table
    (tmp_path / "rows.csv").write_text("a,bb\n1,2\n")
    line = refused("predict", folder / "run", tmp_path / "rows.csv", "--out", tmp_path / "p.csv")
    assert "no column 'b', which training had; there is 'bb'" in line


def test_a_damaged_model_is_refused(iris, tmp_path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    whole = (iris / "model.safetensors").read_bytes()
    (run_folder / "model.safetensors").write_bytes(whole[:-1])
    refused("evaluate", run_folder)


def test_summary_shows_network_settings_history_and_result(iris):
    text = run("summary", iris)
    for part in ("Dense(inputs=4, outputs=16, activation='relu')", "epoch", "stopped by epochs after 20", "accuracy"):
        assert part in text


def test_devices_and_doctor_say_what_is_there():
    assert "strict" in run("devices")
    text = run("doctor", "--device", "cpu")
    assert 'device="auto" takes' in text
    assert "20 training steps on cpu" in text
    assert "works" in text
    if fallback_reason():
        assert fallback_reason() in text


def test_doctor_ends_with_1_where_a_device_does_not_train(monkeypatch):
    monkeypatch.setattr(doctor, "SGD", lambda rate: gb.SGD(1e-30))
    assert "DOES NOT WORK" in run("doctor", "--device", "cpu", code=1)


def test_classes_cannot_command_a_terminal_or_a_spreadsheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    names = np.where(x > 0, "=2+5", "\x1b[2Jred")
    with open("rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *zip(x, names, strict=True)])
    run("train", "rows.csv", "--target", "y", "--epochs", "40", "--layers", "4", "--device", "cpu", "--out", "run")
    found = {}
    for options in ((), ("--no-formulas",)):
        run("predict", "run", "rows.csv", "--out", "p.csv", "--overwrite", *options)
        content = (tmp_path / "p.csv").read_bytes()
        assert b"\x1b" not in content
        found[options] = {row["prediction"] for row in csv.DictReader(content.decode().splitlines())}
    assert found[()] == {"=2+5", "\\x1b[2Jred"}
    assert found[("--no-formulas",)] == {"'=2+5", "\\x1b[2Jred"}
