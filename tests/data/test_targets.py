from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.data.targets import read_targets
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
        (np.ones((N, 2)), "regression"),
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
        (np.zeros(4), "auto", "one class"),
        (np.array(["a", "a"]), "auto", "one class"),
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


def test_encode() -> None:
    targets = read_targets(np.array([5, 9, 5, 9]), "auto", "y")
    assert targets.encode(np.array([9.0, 5.0]), "t").tolist() == [1, 0]
    for bad in (np.array([5, 6]), np.array([10]), np.array([5.5]), np.array([np.nan])):
        with pytest.raises(DataError, match="row"):
            targets.encode(bad, "t")
    with pytest.raises(DataError, match=r"expected \(n, 1\)"):
        read_targets(np.array([0.5, 1.5]), "auto", "y").encode(np.ones((3, 2)), "t")
