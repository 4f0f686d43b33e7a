"""`gb.load_run`: a trained model that takes rows as they come and answers in the terms of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError

QUICK: dict[str, Any] = {"epochs": 30, "layers": [8], "device": "cpu"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with named classes, and beside it the run that was trained on it."""
    folder = tmp_path_factory.mktemp("colours")
    rows = [f"{i % 3 + 0.001 * i},{-(i % 3)},{['red', 'green', 'blue'][i % 3]}" for i in range(60)]
    (folder / "rows.csv").write_text("\n".join(["a,b,colour", *rows]) + "\n")
    gb.train_run(folder / "rows.csv", target="colour", out=folder / "run", learning_rate=0.05, **QUICK)
    return folder


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on arrays: its target is a number."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2)) * [1, 100]
    y = 50 + 3 * x[:, :1] - 0.2 * x[:, 1:]
    data = gb.data.Dataset("prices", x, y, "regression", targets=("price",))
    folder = tmp_path_factory.mktemp("prices") / "run"
    gb.train_run(
        data, out=folder, **{**QUICK, "layers": "none", "epochs": 100, "learning_rate": 0.05, "weight_decay": 0.0}
    )
    return folder


def test_classes_are_answered_by_name(colours: Path) -> None:
    model = gb.load_run(colours / "run", "cpu")
    assert (model.classes, model.features) == (["blue", "green", "red"], ["a", "b"])
    assert isinstance(model.network, gb.Network)
    rows = [[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]
    assert model.predict(rows).tolist() == ["red", "green", "blue"]
    probabilities = model.predict_proba(rows)
    assert probabilities.shape == (3, 3)
    assert probabilities.argmax(axis=1).tolist() == [2, 1, 0]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert model.score(rows, ["red", "green", "blue"])["accuracy"] == 1
    assert model.score(rows, np.array(["red", "red", "red"]))["accuracy"] == pytest.approx(1 / 3)


def test_files_and_data_sets_are_rows_too(colours: Path) -> None:
    model = gb.load_run(colours / "run", "cpu")
    data = gb.data.load(colours / "rows.csv", target="colour")
    answers = model.predict(data.x)
    np.testing.assert_array_equal(model.predict(colours / "rows.csv"), answers)
    np.testing.assert_array_equal(model.predict(data), answers)
    (colours / "other.csv").write_text("extra,b,a\n7,0,0\n7,-2,2\n")
    assert model.predict(colours / "other.csv").tolist() == ["red", "blue"]
    assert (
        model.score(data) == model.score(colours / "rows.csv") == model.score(data.x, [data.classes[k] for k in data.y])
    )
    model.data["max_bytes"] = 10
    for read in (model.predict, model.score):
        with pytest.raises(DataError, match="takes more than 10 bytes"):
            read(colours / "other.csv")


def test_values_come_in_the_unit_of_the_target(prices: Path) -> None:
    model = gb.load_run(prices, "cpu")
    values = model.predict([[0, 0], [1, 0]])
    assert values.shape == (2, 1)
    np.testing.assert_allclose(values[:, 0], [50, 53], rtol=0.1)
    assert model.classes == []
    for y in ([50, 53], [[50], [53]]):
        assert model.score([[0, 0], [1, 0]], y)["r2"] > 0
    with pytest.raises(ArgumentError, match="call predict"):
        model.predict_proba([[0, 0]])


def test_a_loaded_run_answers_as_before_saving(prices: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 4))
    data = gb.data.Dataset("rows", rows, np.arange(50) % 2, "classification", ("no", "yes"))
    run = gb.train_run(data, out=tmp_path / "run", **QUICK)
    loaded = gb.load_run(tmp_path / "run", "cpu")
    np.testing.assert_array_equal(loaded.predict_proba(rows), run.model.predict_proba(rows))
    np.testing.assert_array_equal(loaded.predict(rows), run.model.predict(rows))
    assert loaded.scores(rows, data.y) == run.model.scores(rows, data.y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": "w"},
        {"group": "who"},
        {"memory": 1000},
        {"columns": gb.ColumnChoices(categorical=("zip", "zip2"))},
    ],
    ids=["plain", "weight", "group", "stream", "categorical"],
)
def test_of_the_training_data_the_rows_held_out_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("gpubackprop.pipeline.runs.SAMPLED", 200)
    rng = np.random.default_rng(0)
    lines = [
        f"{a:.4f},{i % 80},{1 + i % 3},0{i % 9},0{i % 9},{'no' if a > 0 else 'yes'}"
        for i, a in enumerate(rng.normal(size=400))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,who,w,zip,zip2,y", *lines]) + "\n")
    (tmp_path / "other.csv").write_text(
        "\n".join(["a,who,w,zip,zip2,y", *(row.replace(",2,", ",-2,") for row in lines[:50])]) + "\n"
    )
    (tmp_path / "few.csv").write_text("\n".join(["a,zip,y", *(f"1,0{i},no" for i in range(9))]) + "\n")
    gb.train_run(tmp_path / "t.csv", target="y", out=tmp_path / "run", **{**QUICK, "epochs": 1}, **options)
    model = gb.load_run(tmp_path / "run", "cpu")
    held = model.rows_to_judge()
    assert "held out" in held.what
    for target in (None, "y"):
        again = model.rows_to_judge(str(tmp_path / "t.csv"), target)
        assert again.what == held.what
        np.testing.assert_array_equal(model.prepare(again.x), model.prepare(held.x))
    assert model.rows_to_judge(str(tmp_path / "other.csv")).what.startswith("50 rows of ")
    if "w" not in model.inputs.names:  # type: ignore[union-attr]
        assert model.score(str(tmp_path / "other.csv"))["loss"] > 0
    if not {"who", "w"} & {*model.inputs.names}:  # type: ignore[union-attr]
        assert model.rows_to_judge(str(tmp_path / "few.csv")).what.startswith("9 rows of ")
    gb.resume_run(tmp_path / "run", more_epochs=1)


def test_a_frame_of_old_pandas_is_read_by_name(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd = pytest.importorskip("pandas")
    monkeypatch.delattr(pd.DataFrame, "__arrow_c_stream__", raising=False)
    frame = pd.read_csv(colours / "rows.csv")
    model = gb.load_run(colours / "run", "cpu")
    np.testing.assert_array_equal(model.predict(frame[["b", "a"]]), model.predict(frame[["a", "b"]]))


def test_numbers_of_a_table_are_read_by_its_decimal_mark(prices: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1,500;2\n3,250;4\n")
    model = gb.load_run(prices, "cpu")
    with pytest.raises(DataError, match="column a: '1,500' can be read"):
        model.predict(tmp_path / "t.csv")
    table = gb.data.read_table(tmp_path / "t.csv", format=gb.data.TextFormat(decimal=","))
    np.testing.assert_array_equal(model.predict(table), model.predict([[1.5, 2], [3.25, 4]]))


def test_what_does_not_fit_is_refused(colours: Path, prices: Path, tmp_path: Path) -> None:
    model = gb.load_run(colours / "run", "cpu")
    with pytest.raises(DataError, match="3 columns, and the network was trained on 2"):
        model.predict(np.zeros((1, 3)))
    for rows in ([1.0, 2.0], [["a", "b"]], None):
        with pytest.raises(ArgumentTypeError, match="rows must be numbers"):
            model.predict(rows)
    with pytest.raises(ArgumentTypeError, match="y is missing"):
        model.score([[0, 0]])
    with pytest.raises(DataError, match="no class 'pink'"):
        model.score([[0, 0]], ["pink"])
    with pytest.raises(DataError, match="no class '0'"):
        model.score([[0, 0]], [0])
    with pytest.raises(DataError, match="target is a number"):
        model.score(gb.data.Dataset("n", np.zeros((2, 2)), np.zeros((2, 1)), "regression"))
    with pytest.raises(ArgumentTypeError, match="y must be numbers"):
        gb.load_run(prices, "cpu").score([[0, 0]], ["fifty"])
    with pytest.raises(DataError, match="trained on arrays"):
        gb.load_run(prices, "cpu").rows_to_judge()
    with pytest.raises(CheckpointError, match="holds no model"):
        gb.load_run(tmp_path)
    gb.save(tmp_path / "bare.safetensors", model.network)
    with pytest.raises(CheckpointError, match="says nothing of its data"):
        gb.load_run(tmp_path / "bare.safetensors")


def test_later_rows_are_read_as_those_of_the_data_set_were(tmp_path: Path) -> None:
    """A word that the data set did not take for a missing value is none in later rows either."""
    rng = np.random.default_rng(0)
    colour = rng.choice(["red", "NA", "none"], 200)
    table = {"colour": colour, "size": rng.normal(size=200), "y": np.where(colour == "NA", "yes", "no")}
    data = gb.Dataset.from_frame(table, target="y", format=gb.data.TextFormat(missing=["", "none"]))
    model = gb.train_run(data, out=tmp_path / "run", epochs=3, layers=[8], device="cpu").model
    known, none, nothing = model.predict_proba({"colour": ["NA", "none", None], "size": [0.0, 0.0, 0.0]})
    assert (none == nothing).all()
    assert (known != nothing).all()


def test_targets_are_matched_by_name(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(100, 2))
    frame = pd.DataFrame({"u": x[:, 0], "v": x[:, 1], "a": x[:, 0], "b": 50 - 9 * x[:, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = [gb.Dataset.from_frame(frame, names) for names in ("a,b", "b,a")]
    model = gb.train_run(data[0], out=tmp_path / "run", **QUICK).model
    right = pytest.approx(model.score(data[0]))
    assert model.score(data[1]) == right
    for y in (frame[["b", "a"]], frame[["a", "b"]].to_numpy()):
        assert model.score(frame, y) == right
    judged = model.rows_to_judge(str(tmp_path / "t.csv"), "b,a")
    assert model.scores(judged.x, judged.y) == right


def test_rows_with_other_classes_are_not_the_training_data(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=100)
    table = {"u": x, "y": np.where(x > 0, "dog", "cat")}
    model = gb.train_run(gb.Dataset.from_frame(table, "y"), out=tmp_path / "run", **QUICK).model
    lines = [f"{u!r},{'eel' if u > 0 else 'dog'}" for u in x.tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["u,y", *lines]))
    with pytest.raises(DataError, match="knows no class 'eel'"):
        model.rows_to_judge(str(tmp_path / "t.csv"))


def test_the_weight_of_training_rows_is_no_column_that_training_had_not(tmp_path: Path) -> None:
    lines = [f"{0.1 * i},1,{i % 5},{'no' if i % 2 else 'yes'}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["u,w,who,y", *lines]))
    model = gb.train_run(
        tmp_path / "t.csv", target="y", weight="w", group="who", out=tmp_path / "run", **{**QUICK, "epochs": 1}
    ).model
    assert model.remarks(model.read(tmp_path / "t.csv")) == []


def test_a_row_whose_answer_is_nan_is_of_no_class(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = gb.load_run(colours / "run", "cpu"), [[0.0, 0.0], [1.0, -1.0]]
    answers = model.answers(model.read(rows))
    answers[1] = np.nan
    monkeypatch.setattr(model, "answers", lambda *arguments: answers)
    with pytest.raises(DataError, match="row 2: the network's answer is NaN"):
        model.predict(rows)
