from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest

from gpubackprop.data.targets import read_target_columns, read_targets
from gpubackprop.errors import ArgumentError, DataError

N = 3000


@pytest.mark.parametrize(
    ("raw", "task"),
    [
        (np.array(["b", "a", "b"]), "classification"),
        (np.array([True, False, True]), "classification"),
        (np.arange(N) % 20, "classification"),
        (np.arange(N) % 21 + 1, "regression"),
        (np.arange(N) % 100, "classification"),
        (np.arange(N) % 1001, "regression"),
        (np.arange(N) % 2 * 2.0 - 1, "classification"),
        (np.arange(N) % 2 + 0.5, "regression"),
        (np.array([3, 1, 2]), "regression"),
        (np.eye(4)[np.arange(N) % 4], "classification"),
        (np.ones((N, 2)), "multilabel"),
        (np.full((N, 2), 2), "regression"),
        (np.arange(N)[:, None] % 3, "classification"),
    ],
)
def test_auto(raw: np.ndarray, task: str) -> None:
    targets = read_targets(raw, "auto", "y")
    assert targets.task == task
    assert targets.values.dtype == (np.int64 if task == "classification" else np.float64)
    assert targets.values.ndim == (1 if task == "classification" else 2)


def test_labels_are_numbered_in_sorted_order() -> None:
    targets = read_targets(np.array([7.0, -2.0, 7.0, 30.0, -2.0, 30.0]), "auto", "y")
    assert targets.values.tolist() == [1, 0, 1, 2, 0, 2]
    assert targets.classes == ("-2", "7", "30")
    text = read_targets(np.array(["no", "yes", "no"]), "auto", "y")
    assert (text.values.tolist(), text.classes) == ([0, 1, 0], ("no", "yes"))
    assert read_targets(np.array([True, False]), "auto", "y").classes == ("False", "True")
    assert read_targets(np.eye(3)[[2, 0, 1, 2]], "auto", "y").values.tolist() == [2, 0, 1, 2]


def test_task_overrides() -> None:
    labels = np.arange(N) % 3
    assert read_targets(labels, "regression", "y").values.shape == (N, 1)
    assert read_targets(np.arange(N), "classification", "y").classes[-1] == str(N - 1)
    assert read_targets(np.eye(3)[labels], "regression", "y").values.shape == (N, 3)


@pytest.mark.parametrize(
    ("raw", "task", "message"),
    [
        (np.array(["a", "b"]), "regression", "holds text"),
        (np.array([1.0, 2.5]), "classification", "holds 2.5, which is no class"),
        (np.ones((4, 2)), "classification", "not one-hot"),
        (np.zeros((4, 2)) + 0.5, "multilabel", "columns of 0 and 1"),
        (np.array(["a", "b"]), "multilabel", "columns of 0 and 1"),
        (np.array([0.5, np.nan]), "auto", "row 1 holds NaN"),
        (np.array([0.5, np.inf]), "regression", "row 1 holds NaN or infinity"),
    ],
)
def test_impossible(raw: np.ndarray, task: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_targets(raw, task, "y")


def test_unknown_task() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'regression'"):
        read_targets(np.arange(4), "regresion", "y")


# -- columns of tables ---------------------------------------------------------------------------------------------


def column(*values: object, times: int = 1) -> pa.Array:
    return pa.array(list(values) * times)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (("b", "a"), ("a", "b")),
        (("10", "9", "1"), ("1", "9", "10")),
        (("1E2", "2E2", "1E3"), ("1E2", "2E2", "1E3")),
        (("9007199254740992", "9007199254740993"), ("9007199254740992", "9007199254740993")),
        ((True, False), ("False", "True")),
        ((3, 1), ("1", "3")),
        ((3.0, 1.0), ("1", "3")),
        (("0", "unknown", "none"), ("0", "none", "unknown")),
    ],
)
def test_classes_of_a_column(values: tuple[object, ...], classes: tuple[str, ...]) -> None:
    targets = read_target_columns([column(*values, times=10)], "auto", "y")
    assert targets.classes == classes
    names = [str(int(v)) if isinstance(v, float) else str(v) for v in values]
    assert [targets.classes[k] for k in targets.values[: len(values)]] == names


@pytest.mark.parametrize(
    ("values", "numbers", "note"),
    [
        (("1.5", "2"), (1.5, 2), False),
        (("$117,800", "$1,000"), (117800, 1000), True),
        (("1,5", "160,0"), (1.5, 160), True),
        (("41%", "3.5%"), (41, 3.5), True),
        (("1.234,5", "7"), (1234.5, 7), True),
        ((1.5, 2.5), (1.5, 2.5), False),
    ],
)
def test_numbers_of_a_column(values: tuple[object, ...], numbers: tuple[float, ...], note: bool) -> None:
    targets = read_target_columns([column(*values, times=10)], "auto", "y")
    assert targets.task == "regression"
    assert targets.values[: len(values), 0].tolist() == list(numbers)
    assert bool(targets.notes) == note


def test_a_decimal_comma_that_is_said_holds_for_points_too() -> None:
    for task in ("auto", "regression"):
        found = read_target_columns([pa.array(["1.234", "2.500"])], task, "t", ",")
        assert found.values.tolist() == [[1234], [2500]]
    assert read_target_columns([pa.array(["1.0", "2.0"] * 9)], "auto", "t", ",").classes == ("1.0", "2.0")


def test_thousands_or_decimals_is_asked() -> None:
    values = column("200,000", "100,000", times=10)
    with pytest.raises(DataError, match=r"decimal=\."):
        read_target_columns([values], "auto", "y")
    assert read_target_columns([values], "auto", "y", ".").values[0, 0] == 200_000
    assert read_target_columns([values], "auto", "y", ",").values[0, 0] == 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (column("1E2", "100", "200", times=10), "'1E2' and '100' are one number written in two ways"),
        (column(*["1.5"] * 19, "abc"), "'abc' among numbers"),
        (column("1", "2", "3", "x", times=10), "'x' among numbers"),
        (column("2024-01-09", "2024-01-10", times=50), "holds dates"),
        (column(datetime.date(2024, 1, 9), times=50), "holds dates"),
        (column(*(f"name {i}" for i in range(50))), "50 different texts in 50 rows"),
    ],
)
def test_what_is_asked(values: pa.Array, message: str) -> None:
    with pytest.raises(DataError, match=rf"{message}.*task=classification"):
        read_target_columns([values], "auto", "y")
    if "datetime" not in str(values[0]) and "date" not in str(values.type):
        assert read_target_columns([values], "classification", "y").task == "classification"


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_large_whole_numbers_are_classes_like_small_ones(task: str) -> None:
    targets = read_target_columns([pa.array([1.0, 1e16, 1e16, 1.0])], task, "t")
    assert (targets.classes, targets.values.tolist()) == (("1", "10000000000000000"), [0, 1, 1, 0])


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.5, float("nan")], [1.0, float("inf")]])
def test_a_cell_without_a_class_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"row 2 holds (nan|inf), which is no target"):
        read_target_columns([pa.array(values)], "classification", "t")


def test_several_columns() -> None:
    x, y = column("1,5", "2,5", "3"), column(1, 2, 3)
    assert read_target_columns([x, y], "auto", "y").values.tolist() == [[1.5, 1], [2.5, 2], [3, 3]]
    flags = [column("yes", "no", "yes"), column("1", "1", "0")]
    assert read_target_columns(flags, "multilabel", "y").values.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert read_target_columns([column(1, 0, 1), column(1, 0, 0)], "auto", "y").task == "multilabel"
    with pytest.raises(DataError, match="holds text"):
        read_target_columns([column("a", "b"), y], "auto", "y")


def test_true_and_false_in_text_are_the_targets_that_they_are_otherwise() -> None:
    flags = [column("True", "False", "True"), column("false", "true", "false")]
    one_hot = read_target_columns(flags, "auto", "y")
    assert (one_hot.task, one_hot.values.tolist()) == ("classification", [0, 1, 0])
    assert read_target_columns(flags[:1], "regression", "y").values.tolist() == [[1], [0], [1]]
    with pytest.raises(DataError, match="holds text"):
        read_target_columns([column("yes", "no")], "regression", "y")


def test_regression_on_text_is_refused() -> None:
    with pytest.raises(DataError, match="holds text"):
        read_target_columns([column("a", "b")], "regression", "y")
    with pytest.raises(DataError, match="no classes"):
        read_target_columns([column("14.23", "13.2")], "classification", "y")
    with pytest.raises(DataError, match="row 2 holds inf"):
        read_target_columns([column(1.0, np.inf)], "auto", "y")
