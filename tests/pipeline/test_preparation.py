from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpubackprop.data import Dataset, Standardizer
from gpubackprop.data.tables import table_from
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import get_loss
from gpubackprop.pipeline.preparation import baseline, divide, encode, fingerprint, outputs_for, told


def dataset(n: int, task: str = "classification", official: bool = False) -> Dataset:
    """Row i holds the single number i, so that rows can be told apart."""
    x = np.arange(n, dtype=np.float32)[:, None]
    y = np.arange(n) % 2 if task == "classification" else x.astype(np.float64) ** 2
    test = (x[:5] + 1000, y[:5]) if official else (None, None)
    return Dataset("numbers", x, y, task, ("a", "b") if task == "classification" else (), (), *test)  # type: ignore[arg-type]


def test_combinations_of_labels_that_occur_once_are_held_out_too() -> None:
    y = np.array([[n >> k & 1 for k in range(7)] for n in range(100)], np.float64)
    y[:40] = 0
    data = Dataset("labels", np.arange(100.0)[:, None], y, "multilabel", targets=tuple("abcdefg"))
    test = divide(data, test=0.2, validation=0.0, seed=0).test
    assert (len(test.x), (test.x >= 40).sum()) == (20, 12)
    # As older versions divided, whose runs are judged by the rows that they held out.
    test = divide(data, test=0.2, validation=0.0, seed=0, rare_together=False).test
    assert (len(test.x), (test.x >= 40).sum()) == (8, 0)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_is_in_one_part(task: str, seed: int) -> None:
    data = dataset(100, task)
    parts = divide(data, test=0.2, validation=0.25, seed=seed)
    assert parts.validation is not None
    held = [p.x[:, 0] for p in (parts.train, parts.validation, parts.test)]
    assert [len(rows) for rows in held] == [60, 20, 20]
    assert sorted(np.concatenate(held)) == list(range(100))
    for part in (parts.train, parts.validation, parts.test):
        np.testing.assert_array_equal(part.y, data.y[part.x[:, 0].astype(int)])
    if task == "classification":
        assert parts.test.y.mean() == 0.5
    else:
        assert sorted(parts.test.x[:, 0] // 10) == [k for k in range(10) for _ in range(2)]
    again = divide(data, test=0.2, validation=0.25, seed=seed)
    np.testing.assert_array_equal(again.test.x, parts.test.x)


def test_other_seeds_hold_out_other_rows() -> None:
    a, b = (divide(dataset(100), test=0.2, validation=0, seed=s).test.x for s in (0, 1))
    assert not np.array_equal(a, b)


def test_an_official_test_part_is_taken_as_it_is() -> None:
    parts = divide(dataset(100, official=True), test=0.2, validation=0, seed=0)
    assert parts.test.x.min() == 1000
    assert len(parts.train.x) == 100
    assert parts.test.what == "the official test part, 5 rows"


@pytest.mark.parametrize(("n", "test"), [(19, 0.2), (100, 0.0)])
def test_where_nothing_is_held_out_it_says_so(n: int, test: float) -> None:
    parts = divide(dataset(n), test=test, validation=0, seed=0)
    np.testing.assert_array_equal(parts.test.x, parts.train.x)
    assert "none were held out" in parts.test.what


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(ArgumentError, match="validation"):
        divide(dataset(100), test=0.2, validation=share, seed=0)


def test_the_fingerprint_sees_every_array() -> None:
    data = dataset(30, official=True)
    first = fingerprint(data)
    assert first == fingerprint(dataset(30, official=True))
    assert first != fingerprint(dataset(30))
    data.y[3] = 1 - data.y[3]
    assert fingerprint(data) != first


def test_groups_and_weights_go_with_their_rows() -> None:
    data = replace(dataset(100), groups=np.arange(100) // 10, weights=np.arange(100) * 2.0)
    parts = divide(data, test=0.3, validation=0.25, seed=3)
    assert parts.validation is not None
    seen = [set(part.x[:, 0] // 10) for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, seen)) == 10
    assert len(parts.test.x) == 30
    for part in (parts.train, parts.validation, parts.test):
        np.testing.assert_array_equal(part.weights, part.x[:, 0] * 2)


def test_a_table_is_divided_as_an_array_is() -> None:
    data = dataset(100)
    table = replace(data, x=table_from({"number": data.x[:, 0]}))
    a, b = (divide(d, test=0.2, validation=0.25, seed=1) for d in (data, table))
    for one, other in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)):
        np.testing.assert_array_equal(one.x[:, 0], other.x.column("number"))
        np.testing.assert_array_equal(one.y, other.y)
    assert fingerprint(table) == fingerprint(replace(data, x=table_from({"number": data.x[:, 0].astype(float)})))
    assert fingerprint(table) != fingerprint(replace(data, x=table_from({"number": data.x[:, 0] + 1})))


def test_the_baseline() -> None:
    data = dataset(10)
    found = baseline(data, divide(data, test=0, validation=0, seed=0).train)
    assert found == {"classes": {"a": 5, "b": 5}, "accuracy": 0.5}
    assert told(found) == ["classes: a 5, b 5; always the most frequent: accuracy 0.5000"]
    data = dataset(3, "regression")
    found = baseline(data, divide(data, test=0, validation=0, seed=0).train)
    assert found["values"]["y0"] == {"mean": 5 / 3, "least": 0, "most": 4, "mean_absolute_error": pytest.approx(14 / 9)}
    several = Dataset("s", data.x, np.array([[1, 0], [1, 1], [0, 0.0]]), "multilabel", targets=("p", "q"))
    found = baseline(several, divide(several, test=0, validation=0, seed=0).train)
    assert found == {"labels": {"p": 2, "q": 1}, "accuracy": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("loss", "classes", "outputs", "expected"),
    [
        ("cross_entropy", 3, 3, [0, 2]),
        ("cross_entropy", 2, 2, [0, 1]),
        ("binary_cross_entropy", 2, 1, [[0], [1]]),
        ("binary_cross_entropy", 3, 3, [[1, 0, 0], [0, 0, 1]]),
        ("half_squared_error", 3, 3, [[1, 0, 0], [0, 0, 1]]),
    ],
)
def test_targets_for_each_loss(loss: str, classes: int, outputs: int, expected: list[object]) -> None:
    y = np.array([0, classes - 1])
    assert outputs_for("classification", classes, 1, get_loss(loss)) == outputs
    encoded = encode(y, outputs, get_loss(loss), None, np.float32)
    assert encoded.tolist() == expected


def test_regression_targets_are_standardised() -> None:
    y = np.array([[1.0], [3.0]])
    loss = get_loss("mean_squared_error")
    assert encode(y, 1, loss, Standardizer().fit(y), np.float32).tolist() == [[-1], [1]]
    assert encode(y, 1, loss, None, np.float64).tolist() == [[1], [3]]
    with pytest.raises(ArgumentError, match="task=classification"):
        outputs_for("regression", 0, 1, get_loss("cross_entropy"))


def test_several_labels_a_row_need_a_sigmoid() -> None:
    assert outputs_for("multilabel", 0, 3, get_loss("binary_cross_entropy")) == 3
    with pytest.raises(ArgumentError, match="several labels"):
        outputs_for("multilabel", 0, 3, get_loss("cross_entropy"))
