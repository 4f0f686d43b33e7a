from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.data import Dataset, Standardizer
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import get_loss
from gpubackprop.pipeline.preparation import divide, encode, fingerprint, fit_inputs, outputs_for


def dataset(n: int, task: str = "classification", official: bool = False) -> Dataset:
    """Row i holds the single number i, so that rows can be told apart."""
    x = np.arange(n, dtype=np.float32)[:, None]
    y = np.arange(n) % 2 if task == "classification" else x.astype(np.float64) ** 2
    test = (x[:5] + 1000, y[:5]) if official else (None, None)
    return Dataset("numbers", x, y, task, ("a", "b") if task == "classification" else (), (), *test)  # type: ignore[arg-type]


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


def test_columns_with_one_unit_share_their_scale() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 17, (50, 6)).astype(np.float32)
    pixels[0] = 16
    pixels[:, 5] = 0
    pixels[1, 5] = 1
    assert not fit_inputs(pixels).per_feature
    assert not fit_inputs(pixels.astype(np.uint8)).per_feature
    assert fit_inputs(pixels + 0.5).per_feature
    assert fit_inputs(pixels - 1).per_feature
    assert fit_inputs(pixels * [1, 2, 3, 4, 5, 6]).per_feature


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
