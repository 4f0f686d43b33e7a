"""Options from a file, and runs that are repeated from their settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import DataError
from gpubackprop.pipeline.config import read_config
from tests.cli.commands import refused, run


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


QUICK = ("--epochs", "3", "--layers", "8", "--device", "cpu")
REPEAT = ("train", "--config", "a/settings.json")


def write_table(shift: float = 0.0) -> None:
    rng = np.random.default_rng(0)
    rows = ["a;b;kind;w;y,z"]
    for i in range(80):
        kind = "NA" if i % 9 == 0 else "xyz"[i % 3]
        rows.append(
            f"{rng.normal() + shift:.3f};{i % 5};{kind};1;{'yes' if rng.random() > 0.4 else 'no'}".replace(".", ",")
        )
    Path("t.csv").write_text("\n".join(rows) + "\n")


def weights(folder: str) -> dict[str, np.ndarray]:
    return gb.load_run(folder, "cpu").network.get_weights()


def same(one: str, other: str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dropout", "0.3", "--validation", "0.2", "--patience", "2", "--class-weight", "balanced", "--seed", "5"),
        ("--drop", "w", "--categorical", "b", "--no-standardize", "--optimizer", "sgd", "--learning-rate", "0.037"),
        (
            "--weight",
            "w",
            "--missing",
            "NA,-",
            "--separator",
            ";",
            "--decimal",
            ",",
            "--test",
            "0.3",
            "--split-by",
            "b",
        ),
    ],
)
def test_settings_repeat_a_run_exactly(options: tuple[str, ...]) -> None:
    write_table()
    run("train", "t.csv", "--target", "y,z", *QUICK, *options, "--out", "a")
    run(*REPEAT, "--out", "b")
    assert same("a", "b")
    one, other = (json.loads(Path(f, "settings.json").read_bytes()) for f in "ab")
    assert one["settings"] == other["settings"]
    assert one["data"] == other["data"]


def test_a_run_from_python_is_repeated_too() -> None:
    columns = gb.ColumnChoices(drop=("w",), numeric=("a",))
    write_table()
    gb.train_run("t.csv", target="y,z", columns=columns, layers=[8, 4], epochs=2, device="cpu", out="a", l2=1e-3)
    run(*REPEAT, "--out", "b")
    assert same("a", "b")


def test_a_network_without_hidden_layers_is_repeated_too() -> None:
    gb.train_run("xor", layers=[], epochs=2, device="cpu", out="a")
    run(*REPEAT, "--out", "b")
    assert same("a", "b")


def test_options_given_win_over_the_file() -> None:
    Path("c.toml").write_text('data = "xor"\nlayers = [4, 3]\nlearning-rate = 0.1\nepochs = 9\nstandardize = false\n')
    run("train", "--config", "c.toml", "--epochs", "2", "--out", "a", "--device", "cpu")
    settings = json.loads(Path("a/settings.json").read_bytes())["settings"]
    assert settings["epochs"] == 2
    assert (settings["layers"], settings["learning_rate"], settings["standardize"]) == ("4,3", 0.1, False)
    run("train", "spirals", "--config", "a/settings.json", "--out", "b")
    assert gb.load_run("b", "cpu").data["name"] == "spirals"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown option in c.toml 'epoch': did you mean 'epochs'"),
        ("resume = 'a'", "unknown option in c.toml 'resume'"),
        ("epochs = 2.5", "epochs"),
        ("epochs = true", "epochs"),
        ("epochs = 0", "epochs"),
        ("standardize = 3", "standardize"),
        ("seed = 2020-01-01", "c.toml: seed must be a word, a number"),
        ("[training]\nepochs = 3", "unknown option in c.toml 'training'"),
        ("epochs =", "c.toml: cannot be read as TOML"),
    ],
)
def test_files_that_are_none(text: str, message: str) -> None:
    Path("c.toml").write_text(f"{text}\n")
    assert message in refused("train", "xor", "--config", "c.toml", "--out", "a", "--device", "cpu")
    assert not Path("a").exists()


def test_a_run_that_no_settings_repeat() -> None:
    run("train", "xor", *QUICK, "--out", "a")
    run("train", "--resume", "a", "--epochs", "2")
    assert "trained further after 3 epochs" in refused(*REPEAT, "--out", "b")
    Path("c.toml").write_text("epochs = 3")
    x = np.random.default_rng(0).normal(size=(40, 2))
    data = gb.data.Dataset("c", x, (x[:, 0] > 0).astype(np.int64), "classification", ("no", "yes"))
    gb.train_run(data, out="a", overwrite=True, epochs=2, device="cpu")
    assert "arrays or standard input" in refused(*REPEAT, "--out", "b")
    assert "keeps its settings: leave out --config" in refused("train", "--resume", "a", "--config", "c.toml")


def test_other_data_than_those_of_the_run_are_refused() -> None:
    write_table()
    run("train", "t.csv", "--target", "y,z", *QUICK, "--out", "a")
    write_table(shift=1)
    assert "they have changed" in refused(*REPEAT, "--out", "b")
    assert not Path("b").exists()


def changed(about: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in about.items() if k != key}


def test_settings_of_another_make() -> None:
    run("train", "xor", *QUICK, "--out", "a")
    path = Path("a/settings.json")
    about = json.loads(path.read_bytes())
    for key in ("data", "settings", "versions"):
        path.write_text(json.dumps(changed(about, key)))
        with pytest.raises(DataError, match=r"not the settings\.json"):
            read_config(path)
    for text in ("[]", "{", "[" * 5000, "null"):
        path.write_text(text)
        with pytest.raises(DataError):
            read_config(path)
    path.write_text(json.dumps({**about, "versions": {**about["versions"], "numpy": "1.0"}}))
    with pytest.warns(RuntimeWarning, match=r"numpy 1\.0, here .*to rounding"):
        read_config(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_config(os.path.join("none", "c.toml"))
