from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gpubackprop.data import Table, read_table, tables
from gpubackprop.data.tables import table_from
from gpubackprop.errors import ArgumentError, CheckpointError, DataError
from gpubackprop.pipeline import encoder as module
from gpubackprop.pipeline.encoder import Column, ColumnChoices, Encoder

N = 60
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, 1))


def table(**columns: Any) -> Table:
    return table_from(pd.DataFrame(columns))


def fitted(column: Any, y: np.ndarray = Y, classes: int = 0, **choices: Any) -> tuple[Encoder, np.ndarray, Column]:
    """An encoder for the column c, its inputs, and what became of it; another column is there so that one is left."""
    rows = table(c=column, other=np.arange(N) ** 1.5)
    encoder = Encoder.fit(rows, y, classes, ColumnChoices(**choices))
    width = len(encoder.columns[0].inputs)
    return encoder, encoder.transform(rows, np.float64)[:, :width], encoder.columns[0]


def test_numbers_are_scaled() -> None:
    values = RNG.standard_normal(N) * 50 + 1e6
    _, x, column = fitted(values)
    assert column.kind == "number"
    np.testing.assert_allclose(x[:, 0], (values - values.mean()) / values.std(), rtol=1e-9)
    np.testing.assert_array_equal(fitted(values, scale=False)[1][:, 0], values)


@pytest.mark.parametrize(
    "texts", [lambda v: f"${v:,.2f}", lambda v: f"{v:.2f}".replace(".", ","), lambda v: f"{v:.2f} %"]
)
def test_numbers_in_text_are_numbers(texts) -> None:
    values = np.round(RNG.random(N) * 1e4, 2) + 1000.01
    _, x, column = fitted([texts(v) for v in values])
    np.testing.assert_allclose(x, fitted(values)[1], rtol=1e-9)
    assert "text read as numbers" in column.becomes


def test_missing_numbers_are_the_median_and_said() -> None:
    values = np.arange(N, dtype=float) ** 2
    values[[3, 7]] = np.nan
    encoder, x, column = fitted(values)
    assert (column.missing, column.inputs) == (2, ["c", "c missing"])
    assert x[:, 1].tolist() == [float(i in (3, 7)) for i in range(N)]
    median = np.median(values[~np.isnan(values)])
    row = encoder.transform(table(c=[median, np.nan], other=[1.0, 2.0]), np.float64)
    assert row[0, 0] == row[1, 0] == x[3, 0]


def test_what_is_new_in_later_rows_is_told() -> None:
    rows = table(n=np.arange(N) ** 2, kind=["a", "b"] * (N // 2), f=["yes", "no"] * (N // 2))
    encoder = Encoder.fit(rows, Y)
    later = table(f=["y", None], kind=["c", "a"], more=[1, 2], n=["x", "4"])
    told = encoder.remarks(later)
    assert np.isfinite(encoder.transform(later)).all()
    assert len(told) == 4
    assert "column kind: 1 rows with levels that are rare or new" in told
    assert any("column n: 1 cells that are no number" in line for line in told)
    assert any("column f: 1 rows without a value" in line for line in told)
    assert not encoder.remarks(rows)


def test_columns_may_come_in_another_order_and_type() -> None:
    rows = table(n=np.arange(N), kind=["1", "2", "x"] * (N // 3), flag=[True, False] * (N // 2))
    encoder = Encoder.fit(rows, Y, choices=ColumnChoices(categorical=("kind",)))
    x = encoder.transform(rows)
    assert encoder.text == ["kind"]
    frame = rows.columns.to_pandas()
    frame["n"], frame["flag"] = frame["n"].astype(str), frame["flag"].map({True: "Yes", False: "No"})
    np.testing.assert_array_equal(encoder.transform(table_from(frame[["flag", "kind", "n"]])), x)
    some = frame[frame["kind"] != "x"].astype({"kind": float})
    np.testing.assert_array_equal(encoder.transform(table_from(some)), x[frame["kind"] != "x"])
    with pytest.raises(DataError, match="no column 'kind'"):
        encoder.transform(rows.without(["kind"]))


def test_categories_have_an_input_for_each_level() -> None:
    values = np.array(["a", "b", None] * (N // 3), object)
    values[:2] = "rare"
    encoder, x, column = fitted(values)
    assert column.inputs == ["c=a", "c=b", "c=other", "c=missing"]
    np.testing.assert_array_equal(x, np.stack([values == v for v in ("a", "b", "rare", None)], axis=1))
    new = encoder.transform(table(c=["new", "a"], other=[1.0, 2.0]))[:, :4]
    assert new.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_yes_and_no() -> None:
    for values in (["Yes", "no", "YES"] * 20, [True, False, True] * 20, ["t", "f", "t"] * 20):
        _, x, column = fitted(values)
        assert column.kind == "boolean"
        assert x[:3].tolist() == [[1], [0], [1]]


def levels_of(n: int, repeated: int) -> list[str]:
    return [f"level {i % n}" for i in range(n * repeated)]


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_many_levels_become_mean_targets_out_of_fold(classes: int) -> None:
    values = levels_of(100, 4)
    y = RNG.integers(0, classes, 400) if classes else RNG.standard_normal((400, 1))
    rows = table(c=values)
    encoder = Encoder.fit(rows, y, classes, ColumnChoices(scale=False))
    assert len(encoder.inputs) == {0: 1, 2: 1, 3: 3}[classes]
    numbers = np.eye(3)[y] if classes == 3 else (y == 1)[:, None] if classes else (y - y.mean()) / y.std()
    mine = np.array(values) == "level 7"
    expected = (numbers[mine].sum(axis=0) + 10 * numbers.mean(axis=0)) / (mine.sum() + 10)
    np.testing.assert_allclose(encoder.transform(rows, np.float64)[mine], [expected] * 4, rtol=1e-12)
    # A row's own target is nowhere in what it is told of it.
    own = encoder.transform_training(rows, y, classes, np.float64)
    other = y.copy()
    row = int(np.flatnonzero(mine)[0])
    other[row] = (y[row] + 1) % classes if classes else y[row] + 100
    if classes:
        np.testing.assert_array_equal(encoder.transform_training(rows, other, classes, np.float64)[row], own[row])
    assert not np.array_equal(own, encoder.transform(rows, np.float64))


def test_dates() -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=20 * i) for i in range(N)]
    _, x, column = fitted(days)
    assert column.kind == "date"
    names = ["elapsed", "year", "month sin", "month cos", "day_of_week sin", "day_of_week cos"]
    assert column.inputs == [f"c {name}" for name in names]
    month = np.array([day.month for day in days])
    np.testing.assert_allclose(np.corrcoef(x[:, 2], np.sin(2 * np.pi * month / 12))[0, 1], 1)
    np.testing.assert_allclose(np.corrcoef(x[:, 0], np.arange(N))[0, 1], 1)
    texts = [f"{day.month}/{day.day}/{day.year}" for day in days]
    np.testing.assert_allclose(fitted(texts)[1], x)
    _, hours, _ = fitted([datetime.time(i % 24, i) for i in range(N)])
    assert hours.shape == (N, 3)


def test_dates_of_a_file_are_read_in_text_too() -> None:
    days = pd.date_range("2020-01-01", periods=N, freq="17h")
    for column, written in ((days, "%Y-%m-%d %H:%M:%S"), (list(days.time), "%H:%M")):
        encoder, x, _ = fitted(column)
        texts = [day.strftime(written) for day in days]
        rows = table(c=["n.d.", *texts[1:]], other=np.arange(N) ** 1.5)
        np.testing.assert_array_equal(encoder.transform(rows, np.float64)[1:, : x.shape[1]], x[1:])
        assert "1 cells that are no date" in encoder.remarks(rows)[-1]


def test_a_run_of_before_that_took_99_for_the_year_goes_on() -> None:
    encoder, _, column = fitted([f"{1 + i % 12}/{1 + i % 28}/{1960 + i}" for i in range(N)])
    short = [f"{1 + i % 12}/{1 + i % 28}/{60 + i if i < 40 else i - 40:02}" for i in range(N)]
    rows = table(c=short, other=np.arange(N) ** 1.5)
    assert "60 cells that are no date" in encoder.remarks(rows)[-1]
    column.settings["median"] -= 1900 * 365.2425 * 86400
    assert encoder.remarks(rows) == []


def test_numbers_with_a_decimal_comma_stay_so(tmp_path: Path) -> None:
    """Cells that alone look like numbers with a point are read as those of training."""
    texts = [f"{1 + i}.{100 + i}" + ".000" * (i % 2) for i in range(N)]
    (tmp_path / "t.csv").write_text("c;d\n" + "".join(f"{c};{i % 7}\n" for i, c in enumerate(texts)))
    (tmp_path / "new.csv").write_text("c;d\n" + "".join(f"{c};1\n" for c in texts[::2]))
    encoder = Encoder.fit(read_table(tmp_path / "t.csv"), Y)
    assert encoder.text == ["c"]
    new = encoder.transform(read_table(tmp_path / "new.csv", text=encoder.text), np.float64)
    np.testing.assert_array_equal(new[:, 0], encoder.transform(read_table(tmp_path / "t.csv"), np.float64)[::2, 0])


def test_numbers_that_are_asked_for_are_read_by_the_mark_that_fits_more() -> None:
    _, _, column = fitted(["1,234", "0,750", "2,5", "k.A.", "?!"] * (N // 5), numeric=("c",))
    assert (column.settings["decimal"], column.settings["median"], column.missing) == (",", 1.234, 24)
    assert "with decimal ','" in column.becomes


def test_a_level_is_the_same_with_a_point_and_without() -> None:
    for known, later in ((["1.0", "2.0", "x"], ["1", "2", "3"]), (["1", "2", "x"], ["1.0", "2.", "3.0"])):
        encoder, x, _ = fitted(known * (N // 3), categorical=("c",))
        rows = table(c=later, other=[0.0, 1.0, 2.0])
        np.testing.assert_array_equal(encoder.transform(rows, np.float64)[:2, : x.shape[1]], x[:2])
        assert "1 rows with levels that are rare or new" in encoder.remarks(rows)[0]
    _, x, column = fitted(["1.0", "1", "x"] * (N // 3), categorical=("c",))
    assert len(column.settings["levels"]) == len(np.unique(x, axis=0)) == 3


def test_columns_known_by_their_places_must_all_be_there() -> None:
    rows = table_from({f"#{i}": RNG.standard_normal(N) for i in range(1, 5)})
    encoder = Encoder.fit(rows, Y, choices=ColumnChoices(drop=("#4",)))
    with pytest.raises(DataError, match=r"no column '#4', which training had; .* known by their places"):
        encoder.transform(rows.without(["#4"]))
    named = Encoder.fit(table(a=range(N), b=RNG.random(N)), Y, choices=ColumnChoices(drop=("a",)))
    assert named.transform(table(b=[1.0])).shape == (1, 1)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([7] * N, "constant: '7' in every row"),
        ([None] * N, "it has no values"),
        ([f"name {i}" for i in range(N)], "names or prose"),
        (np.arange(N) ** 1.5, "a copy of other"),
        (Y[:, 0], "a copy of the target"),
        ([[1, 2]] * N, "values of type list"),
        ([["a", "b"]] * N, "values of type list"),
        ([{"a": "b"}] * N, "values of type struct"),
    ],
)
def test_columns_that_carry_nothing_are_left_out_and_listed(column: Any, reason: str) -> None:
    rows = table(other=np.arange(N) ** 1.5, c=column)
    encoder = Encoder.fit(rows, Y)
    assert encoder.names == ["other"]
    assert encoder.columns[1].kind == "left out"
    assert reason in encoder.columns[1].becomes


def test_numbers_of_rows_are_left_out_by_their_name() -> None:
    for name, out in (("id", True), ("Serial No.", True), ("Unnamed: 0", True), ("income", False), ("width", False)):
        encoder = Encoder.fit(table_from({name: np.arange(N), "x": Y[:, 0] ** 3}), Y)
        assert (encoder.columns[0].kind == "left out") == out, name


def test_a_copy_of_the_classes_is_left_out() -> None:
    y = RNG.integers(0, 3, N)
    rows = table(c=np.array(["no", "yes", "maybe"])[y], codes=np.array([5, 7, 9])[y], x=Y[:, 0])
    encoder = Encoder.fit(rows, y, 3)
    assert encoder.names == ["x"]
    assert Encoder.fit(rows, y, 3, ColumnChoices(keep=("c",))).names == ["c", "x"]


def test_a_network_that_has_only_that_is_refused() -> None:
    with pytest.raises(DataError, match=r"no column is left.*c: a copy of the target.*keep=NAME"):
        Encoder.fit(table(c=Y[:, 0]), Y)


def test_choices() -> None:
    rows = table(
        id=np.arange(N), name=[f"n{i}" for i in range(N)], code=[1, 2, 3] * (N // 3), text=["1", "2", "x"] * (N // 3)
    )
    kinds = {c.name: c.kind for c in Encoder.fit(rows, Y).columns}
    assert kinds == {"id": "left out", "name": "left out", "code": "number", "text": "category"}
    encoder = Encoder.fit(
        rows, Y, choices=ColumnChoices(keep=("id",), categorical=("code",), numeric=("text",), drop=("name",))
    )
    assert [c.kind for c in encoder.columns] == ["number", "left out", "category", "number"]
    assert encoder.columns[1].becomes == "dropped, as asked"
    assert encoder.text == []
    assert "20 cells that are no finite numbers taken as missing" in encoder.columns[3].becomes
    assert Encoder.fit(rows, Y, choices=ColumnChoices(only=("text, #0",))).names == ["id", "text"]
    assert ColumnChoices(drop="name") == ColumnChoices(drop=("name",))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="drop=nam: has no column 'nam'; did you mean name"):
        Encoder.fit(rows, Y, choices=ColumnChoices(drop=("nam",)))


def test_numbers_with_heavy_tails_have_a_logarithm_too() -> None:
    values = np.exp(RNG.standard_normal(N) * 4)
    _, x, column = fitted(values)
    assert "logarithm" in column.becomes
    assert column.inputs == ["c", "c log"]
    assert np.abs(x[:, 1]).max() < 4 < np.abs(x[:, 0]).max()
    assert (np.argsort(x[:, 1]) == np.argsort(values)).all()
    assert fitted(np.arange(N) * 3)[2].inputs == ["c"]
    assert fitted(np.arange(N) * 3, log=("c",))[2].inputs == ["c", "c log"]


def test_constant_to_rounding_is_not_blown_up() -> None:
    _, x, _ = fitted(np.where(np.arange(N) % 2, 0.1 + 0.2, 0.3))
    assert np.abs(x).max() < 1e-9


def test_numbers_too_large_to_square_are_refused() -> None:
    with pytest.raises(DataError, match="column c: holds values too large"):
        fitted(np.linspace(-1e300, 1e300, N))


def test_a_value_far_from_all_that_was_seen_stays_finite() -> None:
    encoder, _, _ = fitted(np.arange(N))
    later = encoder.transform(table(c=[1e300, -1e300, 3], other=[1.0, 2, 3]))
    assert later[:, 0].tolist()[:2] == [1e6, -1e6]


def test_only_training_rows_are_known() -> None:
    rows = table(n=np.arange(N) ** 2.0, kind=[f"k{i // 10}" for i in range(N)])
    train = np.arange(0, N // 2)
    encoder = Encoder.fit(rows[train], Y[train])
    changed = rows.columns.to_pandas()
    changed.loc[N // 2 :, "n"] = 1e9
    changed.loc[N // 2 :, "kind"] = "other"
    assert Encoder.fit(table_from(changed)[train], Y[train]).state() == encoder.state()


def everything() -> tuple[Table, np.ndarray]:
    rows = table(
        n=np.where(np.arange(300) % 7, RNG.standard_normal(300), np.nan),
        money=[f"${i * 1234:,}" for i in range(300)],
        flag=["yes", "no", None] * 100,
        kind=["a", "b", "c", None] * 75,
        many=levels_of(100, 3),
        day=pd.date_range("2020-01-01", periods=300, freq="17h"),
        text=[f"{1 + i % 28}.{1 + i % 12}.20{10 + i % 10}" for i in range(300)],
        time=[datetime.time(i % 24, i % 60) for i in range(300)],
        same=[1] * 300,
    )
    return rows, RNG.integers(0, 3, 300)


def test_the_state_is_plain_and_gives_the_same_bits() -> None:
    rows, y = everything()
    encoder = Encoder.fit(rows, y, 3)
    assert sorted({c.kind for c in encoder.columns}) == ["boolean", "category", "date", "left out", "number"]
    again = Encoder.from_state(json.loads(json.dumps(encoder.state(), allow_nan=False)))
    assert again.columns == encoder.columns
    np.testing.assert_array_equal(again.transform(rows), encoder.transform(rows))
    assert len(encoder.inputs) == encoder.transform(rows).shape[1]
    assert np.isfinite(encoder.transform(rows)).all()


def test_a_damaged_state_is_refused() -> None:
    rows, y = everything()
    state = Encoder.fit(rows, y, 3).state()
    for i, column in enumerate(state["columns"]):
        for key in [*column, *(f"settings.{k}" for k in column["settings"])]:
            broken = json.loads(json.dumps(state))
            target = broken["columns"][i]["settings"] if "." in key else broken["columns"][i]
            del target[key.split(".")[-1]]
            if key in ("settings.mean", "settings.text"):
                continue  # not scaled, or not from a file: a state that could be one
            with pytest.raises(CheckpointError, match="damaged"):
                Encoder.from_state(broken)
    for nonsense in ({}, {"columns": 3}, {"columns": [3]}, {"columns": [{"name": "a"}]}):
        with pytest.raises(CheckpointError, match="damaged"):
            Encoder.from_state(nonsense)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, y = everything()
    encoder = Encoder.fit(rows, y, 3)
    x = encoder.transform(rows)
    monkeypatch.setattr(module, "_ROWS", 7)
    np.testing.assert_array_equal(encoder.transform(rows), x)


def test_wide_tables_are_not_searched_column_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of names is made once, and looked through a few times, however many columns there are: 20,000 took minutes."""
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.normal(size=30) for i in range(300)}
    table, y = table_from(columns), rng.integers(0, 2, 30)
    asked, find_name = [], tables.find_name
    monkeypatch.setattr(tables, "find_name", lambda *arguments: asked.append(1) or find_name(*arguments))
    encoder = Encoder.fit(table, y, 2)
    encoder.transform(table)
    encoder.remarks(table)
    assert all(table.find(name, "the table") == name for name in table.names)
    assert len(asked) < 10


def test_what_is_handed_out_is_a_copy() -> None:
    table, y = table_from({"a": [1.0, 2.0, 3.0, 4.0], "b": ["x", "y", "x", "y"]}), np.array([0, 1, 1, 0])
    table.names.append("c")
    assert table.names == ["a", "b"]
    encoder = Encoder.fit(table, y, 2, ColumnChoices(categorical=("b",)))
    before = json.dumps(encoder.state())
    for column in encoder.state()["columns"]:
        column["settings"]["median"] = 1e9
        column["inputs"].append("c")
    assert json.dumps(encoder.state()) == before
