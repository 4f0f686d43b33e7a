from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubackprop.data import split
from gpubackprop.errors import ArgumentError, ArgumentTypeError


@given(n=st.integers(2, 300), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**64 - 1))
def test_parts_are_disjoint_and_whole(n: int, share: float, seed: int) -> None:
    if not 0 < round(n * share) < n:
        with pytest.raises(ArgumentError, match="share"):
            split(n, share, seed=seed)
        return
    train, held_out = split(n, share, seed=seed)
    assert len(held_out) == round(n * share)
    assert train.dtype == held_out.dtype == np.int64
    assert (np.diff(train) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(n))


@given(
    labels=st.lists(st.integers(0, 4), min_size=10, max_size=200), share=st.floats(0.1, 0.9), seed=st.integers(0, 99)
)
def test_stratified_shares(labels: list[int], share: float, seed: int) -> None:
    y = np.array(labels)
    train, held_out = split(len(y), share, seed=seed, labels=y)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(y)))
    for k in np.unique(y):
        assert (y[train] == k).any()
        assert abs((y[held_out] == k).sum() - share * (y == k).sum()) < 1
    if np.bincount(y)[np.unique(y)].min() > 10:
        assert len(held_out) == round(len(y) * share)


def test_same_seed_same_rows_forever() -> None:
    # the values are Philox4x64-10's, key 7: a change here changes everyone's held-out rows
    words = np.random.Philox(key=7).random_raw(10)
    np.testing.assert_array_equal(split(10, 0.3, seed=7)[1], np.sort(np.argsort(words)[:3]))
    assert split(10, 0.3, seed=7)[1].tolist() == split(10, 0.3, seed=7)[1].tolist()
    assert split(1000, 0.3, seed=7)[1].tolist() != split(1000, 0.3, seed=8)[1].tolist()


def test_every_row_is_held_out_equally_often() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        counts[split(10, 0.2, seed=seed)[1]] += 1
    # binomial(2000, 0.2): standard deviation 18
    assert np.abs(counts - 400).max() < 5 * 18


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), 0.001])
def test_bad_share(share: float) -> None:
    with pytest.raises(ArgumentError, match="share"):
        split(10, share, seed=0)


def test_other_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="seed"):
        split(10, 0.5, seed=-1)
    with pytest.raises(ArgumentTypeError, match="seed is a float"):
        split(10, 0.5, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"labels has shape \(9,\)"):
        split(10, 0.5, seed=0, labels=np.zeros(9))
    with pytest.raises(ArgumentError, match="holds out no row"):
        split(4, 0.5, seed=0, labels=[0, 1, 2, 3])
    with pytest.raises(ArgumentError, match="bring more rows"):
        split(0, 0.5, seed=0)


@pytest.mark.parametrize("seed", range(10))
def test_groups_stay_together(seed: int) -> None:
    groups = np.random.default_rng(seed).choice(["a", "b", "c", "d", "e", "f", "g"], 200)
    kept, held = split(200, 0.3, seed=seed, groups=groups)
    assert not {*groups[kept]} & {*groups[held]}
    assert sorted([*kept, *held]) == list(range(200))
    assert abs(len(held) - 60) <= 20
    assert split(200, 0.3, seed=seed, groups=groups)[1].tolist() == held.tolist()


def test_groups_that_cannot_be_parted() -> None:
    with pytest.raises(ArgumentError, match="no group of rows is small enough"):
        split(10, 0.3, seed=0, groups=np.zeros(10))
    with pytest.raises(ArgumentError, match=r"groups has shape \(9,\)"):
        split(10, 0.3, seed=0, groups=np.zeros(9))
