from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from gpubackprop.data import Dataset, Table, TextFormat, load
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DataError

FRAME = {"a": [1, 2, 3, 4], "who": ["x", "y", "x", "y"], "y": ["no", "yes", None, "no"], "w": [1.0, 2.0, 0.0, 1.0]}


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, dict])
def test_from_frame(make) -> None:
    data = Dataset.from_frame(make(FRAME), target="y", weight="w", group="who", name="people")
    assert (data.name, data.task, data.classes, data.features) == ("people", "classification", ("no", "yes"), ("a",))
    assert data.y.tolist() == [0, 1, 0]
    assert isinstance(data.x, Table)
    assert data.x.column("a").to_pylist() == [1, 2, 4]
    assert data.weights is not None
    assert data.groups is not None
    assert (data.weights.tolist(), data.groups.tolist()) == ([1, 2, 1], [0, 1, 1])
    assert data.notes == ("1 of 4 rows have no y and are left out",)
    assert repr(data) == "Dataset('people': classification, table x (3, 1), 2 classes)"


def test_weights_are_read_by_the_decimal_mark() -> None:
    frame = {"a": [1.0, 2, 3], "w": ["1,500", "2", "1"], "y": ["u", "v", "u"]}
    for decimal, first in ((",", 1.5), (".", 1500)):
        weights = Dataset.from_frame(frame, "y", weight="w", format=TextFormat(decimal=decimal)).weights
        assert weights is not None
        assert weights.tolist() == [first, 2, 1]
    with pytest.raises(DataError, match="column w: '1,500' can be read"):
        Dataset.from_frame(frame, "y", weight="w")


def test_targets_by_name_and_place() -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5, 3], "b": [2.5, 3, 4], "c, d": [3, 4, 5.5]})
    for target, names in (
        ("a", ("a",)),
        ("#-1", ("c, d",)),
        ("c, d", ("c, d",)),
        ("a,b", ("a", "b")),
        (["b", "#0"], ("b", "a")),
    ):
        data = Dataset.from_frame(frame, target)
        assert data.targets == names
        np.testing.assert_array_equal(data.y, frame[list(names)])


def test_one_hot_columns_name_their_classes() -> None:
    data = Dataset.from_frame({"x": [1, 2, 3], "cat": [1, 0, 0], "dog": [0, 1, 1]}, "cat,dog")
    assert (data.task, data.classes, data.y.tolist()) == ("classification", ("cat", "dog"), [0, 1, 1])


def test_a_one_hot_column_without_a_row_gives_its_name_to_no_other() -> None:
    data = Dataset.from_frame({"x": [1, 2, 3], "cat": [1, 0, 0], "dog": [0, 0, 0], "eel": [0, 1, 1]}, "cat,dog,eel")
    assert (data.classes, data.y.tolist()) == (("cat", "eel"), [0, 1, 1])


def test_bad_targets() -> None:
    frame = pd.DataFrame({"a": [1.5, 2], "b": [2.5, 3], "n": [None, None]})
    for target, message in (
        (None, "say which column to predict"),
        ("c", "has no column 'c'"),
        ("a,a", "twice"),
        ("a,b,n", "no column is left"),
        ("n", "no row has a value"),
    ):
        with pytest.raises(DataError, match=message):
            Dataset.from_frame(frame, target)
    with pytest.raises(ArgumentError, match="weights must be"):
        Dataset.from_frame({"a": [1.5, 2], "b": [2.5, 3], "w": [-1, 2]}, "a", weight="w")
    with pytest.raises(DataError, match="has no column 'v'"):
        Dataset.from_frame(frame, "a", weight="v")


@pytest.mark.parametrize("target", [3, [3], ("a", 3)])
def test_names_are_text(target) -> None:
    with pytest.raises(ArgumentTypeError, match=r"target is .* expected the name of a column"):
        Dataset.from_frame(pd.DataFrame({"a": [1.5, 2], 3: [2.5, 3]}), target)


def test_rows_without_a_group_are_one_group_and_told_of() -> None:
    data = Dataset.from_frame({"a": [1, 2, 3], "who": ["x", None, None], "y": [1.5, 2, 4]}, "y", group="who")
    assert data.notes == ("2 rows have no who: they are one group, which no split parts",)


def test_a_file_gives_what_its_frame_gives(tmp_path) -> None:
    pd.DataFrame(FRAME).to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv", target="y", weight="w", group="who")
    assert (data.name, data.classes, data.y.tolist()) == ("t", ("no", "yes"), [0, 1, 0])
    assert data.weights is not None
    assert data.weights.tolist() == [1, 2, 1]
