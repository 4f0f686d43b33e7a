"""`train`, `evaluate` and `predict` on tables as people have them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError
from gpubackprop.pipeline.preparation import divide
from gpubackprop.pipeline.runs import fit, prepare
from gpubackprop.pipeline.settings import Settings
from tests.cli.commands import refused, run

QUICK = ("--epochs", "5", "--layers", "8", "--device", "cpu", "--out", "run")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def people(n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.integers(18, 90, n).astype(float)
    city = rng.choice(["Rome", "Oslo", "Bonn"], n)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "age": np.where(rng.random(n) < 0.1, np.nan, age),
            "city": city,
            "member": rng.choice(["yes", "no"], n),
            "since": pd.date_range("2020-01-01", periods=n).strftime("%d.%m.%Y"),
            "income": [f"${v:,.0f}" for v in rng.normal(40_000, 9000, n)],
            "buys": np.where((age > 50) ^ (city == "Oslo"), "often", "never"),
        }
    )


def test_a_table_from_file_to_predictions() -> None:
    people().to_csv("people.csv", index=False)
    text = run("train", "people.csv", "--target", "buys", *QUICK)
    for part in (
        "id ",
        "numbers the rows: all different",
        "classes: never ",
        "text read as numbers",
        "of text read as %d.%m.%Y",
        "3 inputs, one for each level",
    ):
        assert part in text
    about = json.loads(Path("run/settings.json").read_text())
    kinds = {c["name"]: c["kind"] for c in about["columns"]}
    assert list(kinds.values()) == ["left out", "number", "category", "boolean", "date", "number"]
    assert about["baseline"]["accuracy"] >= 0.5
    assert run("evaluate", "run") == run("evaluate", "run", "people.csv"), "the rows that were held out"

    other = people().rename(columns={"id": "number"})[["number", "buys", "income", "since", "member", "city", "age"]]
    other.loc[3, "city"] = "Paris"
    other.loc[4, "member"] = None
    other.to_csv("other.csv", index=False)
    text = run("evaluate", "run", "other.csv")
    assert "not used, since training had no such columns: number" in text
    assert "column city: 1 rows with levels that are rare or new" in text
    assert "column member: 1 rows without a value" in text
    other.drop(columns="buys").to_parquet("other.parquet")
    run("predict", "run", "other.parquet", "--out", "p.npy")
    run("predict", "run", "other.csv", "--out", "q.npy")
    np.testing.assert_array_equal(np.load("p.npy"), np.load("q.npy"))
    other[other["buys"] == "often"].to_csv("one.csv", index=False)
    assert "rows of one.csv: accuracy" in run("evaluate", "run", "one.csv")
    assert "no column 'age'" in refused("predict", "run", write("less.csv", "city\nRome\n"), "--out", "r.npy")
    assert "has no column 'buys'" in refused("evaluate", "run", write("no.csv", "city\nRome\n"))


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_a_loaded_run_predicts_the_same_bits() -> None:
    frame = people()
    frame["shop"] = [f"shop {i % 80}" for i in range(len(frame))]
    data = gb.Dataset.from_frame(frame, target="buys")
    done = gb.train_run(data, out="run", epochs=3, layers=[8], device="cpu")
    again = gb.load_run("run", "cpu")
    for rows in (frame, frame.drop(columns="buys").iloc[:7], data):
        np.testing.assert_array_equal(again.predict_proba(rows), done.model.predict_proba(rows))
    assert again.score(data) == done.model.score(data)


def test_standard_input() -> None:
    import io
    import sys

    content = people().to_csv(index=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        gb.train_run("-", target="buys", out="run", epochs=2, layers=[8], device="cpu")
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert len(gb.load_run("run", "cpu").predict("-")) == 200
    assert "trained on standard input" in refused("evaluate", "run")


def test_choices_of_columns() -> None:
    people().to_csv("people.csv", index=False)
    options = ("--drop", "since,age", "--keep", "id", "--categorical", "member", "--split-by", "city")
    text = run("train", "people.csv", "--target", "#-1", *options, *QUICK, "--test", "0.3")
    columns = {c["name"]: c for c in json.loads(Path("run/settings.json").read_text())["columns"]}
    assert (columns["id"]["kind"], columns["member"]["kind"], columns["age"]["becomes"]) == (
        "number",
        "category",
        "dropped, as asked",
    )
    assert "city" not in columns
    assert "held out in whole groups" in text
    assert "held out in whole groups" in run("evaluate", "run")
    line = refused("train", "people.csv", "--target", "buys", "--drop", "agee", *QUICK[:-1], "other")
    assert "--drop agee: has no column 'agee'; did you mean age" in line


def test_several_labels_a_row() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    frame = pd.DataFrame(x, columns=list("abc")).assign(p=(x[:, 0] > 0).astype(int), q=(x[:, 1] > 0).astype(int))
    frame.to_csv("t.csv", index=False)
    text = run("train", "t.csv", "--target", "p,q", "--epochs", "60", "--learning-rate", "0.02", *QUICK[2:])
    assert "labels: p " in text
    assert json.loads(run("evaluate", "run", "--json"))["accuracy"] > 0.9
    run("predict", "run", "t.csv", "--out", "p.csv")
    with open("p.csv") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"p", "q"}
    assert np.mean([(float(row["p"]) > 0.5) == bool(p) for row, p in zip(rows, frame["p"], strict=True)]) > 0.9


def test_how_text_is_written_is_kept_with_the_run() -> None:
    lines = [f"{i % 7}|{i % 5},5|{'NA' if i % 3 else 'B'}" for i in range(60)]
    write("t.txt", "\n".join(["% made by hand", *lines]))
    options = ("--no-header", "--comment", "%", "--separator", "|", "--na", "", "--decimal", ",")
    text = run("train", "t.txt", "--target", "#2", *options, *QUICK)
    assert "classes: B 20, NA 40" in text or "classes: B 16, NA 32" in text
    assert "48 of" not in run("evaluate", "run")
    assert json.loads(run("evaluate", "run", "t.txt", "--json"))["rows"] == 12
    run("predict", "run", "t.txt", "--out", "p.npy")


def test_weights_of_rows_and_classes() -> None:
    """A class that weighs nearly all is answered nearly always; balanced classes are answered more alike."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=400), rng.random(400) < 0.1
    frame = {"x": x, "y": np.where(y, "rare", "usual"), "w": np.where(y, 1000.0, 1.0), "even": np.ones(400)}

    def rare(out: str, **options: Any) -> int:
        data = gb.Dataset.from_frame(
            {k: frame[k] for k in ("x", "y", options.get("weight", "x"))}, target="y", **options
        )
        settings: Any = {"epochs": 20, "device": "cpu", "layers": [4], "class_weight": balance}
        gb.train_run(data, out=out, **settings)
        return int((gb.load_run(out).predict({"x": x}) == "rare").sum())

    balance = None
    plain = rare("plain")
    assert rare("even", weight="even") == plain
    assert rare("heavy", weight="w") > 390 > 100 > plain
    balance = "balanced"
    assert plain < rare("balanced") < 390
    for bad, task in (("balance", "classification"), ("balanced", "regression")):
        goal = "y" if task == "classification" else "w"
        data = gb.Dataset.from_frame({"x": x, goal: frame[goal]}, target=goal, task=task)
        with pytest.raises(ArgumentError, match=r"^class_weight"):
            gb.train_run(data, out="bad", class_weight=bad, epochs=1)
    Path("t.csv").write_text(
        "x,y,w\n" + "\n".join(f"{a},{b},{c}" for a, b, c in zip(x, frame["y"], frame["w"], strict=True))
    )
    run("train", "t.csv", "--target", "y", "--weight", "w", "--class-weight", "balanced", *QUICK)
    assert "w" not in [column["name"] for column in json.loads(Path("run/settings.json").read_text())["columns"]]


CASES = Path(os.environ.get("GPUBACKPROP_CASES", ""), "tables")
needs_cases = pytest.mark.skipif(
    "GPUBACKPROP_CASES" not in os.environ, reason="GPUBACKPROP_CASES does not name a folder of hard tables"
)


def trained(name: str, target: str, *options: str, epochs: int = 30) -> float:
    """The score of a run on one of the cases, by all its rows."""
    run("train", CASES / name, "--target", target, "--epochs", epochs, *options, *QUICK[2:], "--overwrite")
    return float(next(iter(json.loads(run("evaluate", "run", "--json")).values())))


@needs_cases
def test_the_index_of_a_data_frame_is_not_trained_on() -> None:
    trained("noise_train.parquet", "target")
    for name in ("noise_test.parquet", "noise_test_reset.parquet"):
        assert json.loads(run("evaluate", "run", CASES / name, "--json"))["accuracy"] < 0.6
    trained("iris_train.parquet", "target", epochs=200)
    assert 0.4 < json.loads(run("evaluate", "run", CASES / "iris_test.parquet", "--json"))["accuracy"] < 0.85


@needs_cases
@pytest.mark.parametrize(
    "name", ["dollars.csv", "thousands.csv", "thousands_round.csv", "decimal_comma.csv", "decimal_comma_round.csv"]
)
def test_text_that_is_numbers_is_a_regression(name: str) -> None:
    assert trained(name, "price", epochs=60) > 0.5
    assert "values" in json.loads(Path("run/settings.json").read_text())["baseline"]


@needs_cases
@pytest.mark.parametrize(
    ("name", "target", "words"), [("merge.csv", "y", "one number"), ("date.csv", "price", "dates")]
)
def test_what_can_mean_two_things_is_asked(name: str, target: str, words: str) -> None:
    line = refused("train", CASES / name, "--target", target, *QUICK)
    assert words in line
    assert "--task classification" in line
    assert "classes: " in run("train", CASES / name, "--target", target, "--task", "classification", *QUICK)


@needs_cases
@pytest.mark.parametrize(
    ("name", "options", "classes"),
    [
        ("naname.csv", (), {"AS", "EU"}),
        ("naname.csv", ("--na", ""), {"AS", "EU", "NA"}),
        ("codes.csv", (), {"1E2", "2E2", "1E3"}),
        ("big.csv", (), {"9007199254740992", "9007199254740993", "9007199254740994"}),
        ("big39.csv", (), {"0", "1"}),
        ("header_semicolon_commas.csv", (), {"0", "1"}),
        ("space_after.csv", (), {"0", "1"}),
        ("sep_line_semi.csv", (), {"0", "1"}),
        ("trailing_delim.csv", (), {"0", "1"}),
        ("comment.csv", ("--comment", "#"), {"0", "1"}),
        ("nobom16le.csv", (), {"0", "1"}),
    ],
)
def test_classes_of_the_cases(name: str, options: tuple[str, ...], classes: set[str]) -> None:
    text = run("train", CASES / name, "--target", "y", *options, *QUICK)
    assert set(json.loads(Path("run/settings.json").read_text())["baseline"]["classes"]) == classes
    assert ("'NA' taken for a missing value in y (40 rows)" in text) == (name == "naname.csv" and not options)


@needs_cases
def test_the_other_cases() -> None:
    assert trained("titanic_get_dummies.csv", "Survived") > 0.7
    assert "--comment '#'" in refused("train", CASES / "comment.csv", "--target", "y", *QUICK, "--overwrite")
    trained("train.csv", "y")
    text = run("evaluate", "run", CASES / "test_extra_id.csv")
    assert "not used, since training had no such columns: id" in text


TABLES = Path(os.environ.get("GPUBACKPROP_TABLES", ""))
needs_tables = pytest.mark.skipif(
    "GPUBACKPROP_TABLES" not in os.environ, reason="GPUBACKPROP_TABLES does not name a folder of real tables"
)


@needs_tables
def test_real_tables_train() -> None:
    trained, refused = 0, {}
    lines = (TABLES / "README.tsv").read_text().splitlines()
    for name, target, task, _ in (line.split("\t") for line in lines if not line.startswith("#")):
        try:
            data = gb.data.load(TABLES / name, target=target, task=task)
            settings = Settings(epochs=2, layers=[16], device="cpu").completed(data)
            parts = divide(data, test=0.2, validation=0, seed=0)
            model = prepare(data, parts.train, settings, {})
            history = fit(
                gb.Trainer(model.network, settings.make_optimizer(len(parts.train.x))), model, parts, settings, []
            )
        except DataError as error:
            refused[name] = str(error)
            continue
        assert np.isfinite(history["loss"]).all()
        assert np.isfinite(list(model.scores(parts.test.x, parts.test.y).values())).all()
        trained += 1
    # Its first column, named as the target, holds alcohol by volume: no classes.
    assert [*refused] == ["wine.csv"]
    assert "no classes" in refused["wine.csv"]
    assert trained == 61
