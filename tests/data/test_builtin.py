from __future__ import annotations

import sys

import numpy as np
import pytest

from gpubackprop.data import load, spirals
from gpubackprop.errors import ArgumentError, MissingExtraError


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1797, 64), 10),
        ("iris", (150, 4), 3),
        ("wine", (178, 13), 3),
        ("breast-cancer", (569, 30), 2),
        ("diabetes", (442, 10), 0),
        ("xor", (4, 2), 2),
        ("spirals", (1000, 2), 2),
    ],
)
def test_shapes_and_types(name: str, shape: tuple[int, int], classes: int) -> None:
    data = load(name)
    assert data.name == name
    assert data.x.shape == shape
    assert data.x.dtype == np.float32
    assert data.x.flags.c_contiguous
    assert len(data.features) == shape[1]
    assert len(data.targets) == 1
    assert len(data.classes) == classes
    assert all(type(text) is str for text in data.classes + data.features)
    if classes:
        assert data.y.dtype == np.int64
        np.testing.assert_array_equal(np.unique(data.y), np.arange(classes))
    else:
        assert (data.task, data.y.shape, data.y.dtype) == ("regression", (442, 1), np.float64)
    assert repr(shape) in repr(data)


def test_scikit_learn_is_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"'iris'.*gpubackprop\[data\]"):
        load("iris")


def test_xor_is_the_exclusive_or() -> None:
    data = load("xor")
    np.testing.assert_array_equal(data.y, data.x[:, 0] != data.x[:, 1])


@pytest.mark.parametrize("arms", [2, 3])
def test_spirals_interleave(arms: int) -> None:
    data = spirals(900, arms=arms, noise=0.0)
    assert np.bincount(data.y).tolist() == [900 // arms] * arms
    radius = np.hypot(data.x[:, 0], data.x[:, 1])
    np.testing.assert_allclose([radius.min(), radius.max()], [0.05, 1.0], rtol=1e-6)
    # turning one arm by a full circle over the number of arms gives the next one
    turn = 2 * np.pi / arms
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(data.x[data.y == 0] @ rotation, data.x[data.y == 1], atol=1e-6)
    # no straight line does better than a little over chance, the nearest neighbour is nearly always right
    line = np.linalg.lstsq(np.c_[data.x, np.ones(900)], np.eye(arms)[data.y], rcond=None)[0]
    assert ((np.c_[data.x, np.ones(900)] @ line).argmax(1) == data.y).mean() < 0.7
    distance = np.linalg.norm(data.x[:, None] - data.x[None], axis=2) + 9 * np.eye(900)
    assert (data.y[distance.argmin(1)] == data.y).mean() > 0.99


def test_spirals_are_drawn_from_the_seed() -> None:
    np.testing.assert_array_equal(spirals(seed=3).x, spirals(seed=3).x)
    assert (spirals(seed=3).x != spirals(seed=4).x).any()


@pytest.mark.parametrize("bad", [{"arms": 1}, {"rows": 3}, {"noise": -1.0}, {"seed": -1}, {"noise": float("nan")}])
def test_bad_spirals(bad: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="expected"):
        spirals(**bad)  # type: ignore[arg-type]
