"""The division of rows into a training part and a held-out part."""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpubackprop.errors import ArgumentError, ArgumentTypeError


def split(
    n: int, share: float, *, seed: int, labels: ArrayLike | None = None, groups: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training rows and of the held-out rows, each ascending; together 0..n-1, none twice.

    n: number of rows. share: the held-out share, 0 < share < 1; round(n * share) rows are held out. seed: 0 <= seed
    < 2**64; the same n, share, seed and labels give the same rows on every machine and NumPy version. labels: (n,)
    class of each row; every class then gives its share (largest remainders first), and a class never loses its last
    training row, so that fewer rows may be held out where there are classes of one row. groups: (n,) rows of one value stay
    together, in either part; then groups are held out one by one for as long as that brings their rows nearer to the share,
    and labels do not count.

    Raises ArgumentError for values out of range and when either part would be empty, ArgumentTypeError for an n or
    seed that is no integer.
    """
    n = _integer("n", n)
    seed = _integer("seed", seed)
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed is {seed}, expected 0 <= seed < 2**64")
    if not 0 < share < 1:
        raise ArgumentError(f"share is {share}, expected a number between 0 and 1, for instance 0.2")
    held = round(n * share)
    if not 0 < held < n:
        raise ArgumentError(
            f"a share of {share} of {n} rows leaves {max(n - held, 0)} to train on and {max(held, 0)} held out: "
            "choose another share or bring more rows"
        )
    # raw Philox words, not Generator.permutation: NumPy keeps the former bit for bit across versions, not the latter
    words: NDArray[np.uint64] = np.random.Philox(key=seed).random_raw(n)
    order = np.argsort(words, kind="stable")
    if groups is not None:
        chosen = _by_group(words, held, np.asarray(groups))
    elif labels is None:
        chosen = order[:held]
    else:
        chosen = _stratified(order, held, share, np.asarray(labels))
    held_out = np.zeros(n, bool)
    held_out[chosen] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def _stratified(order: NDArray[np.int64], held: int, share: float, labels: NDArray[np.generic]) -> NDArray[np.int64]:
    if labels.shape != order.shape:
        raise ArgumentError(f"labels has shape {labels.shape}, expected ({order.size},): one class for each row")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota = counts * share
    take = np.floor(quota).astype(np.int64)
    spare = counts - 1 - take
    for k in np.argsort(take - quota, kind="stable"):
        if take.sum() >= held:
            break
        take[k] += spare[k] > 0 and quota[k] > take[k]
    if take.sum() == 0:
        raise ArgumentError(f"a share of {share} holds out no row: every class has too few; choose a larger share")
    by_class = order[np.argsort(classes[order], kind="stable")]
    place_in_class = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen: NDArray[np.int64] = by_class[place_in_class < np.repeat(take, counts)]
    return chosen


def _by_group(words: NDArray[np.uint64], held: int, groups: NDArray[np.generic]) -> NDArray[np.int64]:
    if groups.shape != words.shape:
        raise ArgumentError(f"groups has shape {groups.shape}, expected ({words.size},): one group for each row")
    _, first, codes, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    taken = np.zeros(len(sizes), bool)
    for k in np.argsort(words[first], kind="stable"):
        total = int(sizes[taken].sum())
        taken[k] = abs(total + sizes[k] - held) < abs(total - held) and total + sizes[k] < len(words)
    if not taken.any():
        raise ArgumentError(f"no group of rows is small enough to hold out about {held} of {len(words)} rows")
    return np.flatnonzero(taken[codes]).astype(np.int64)


def _integer(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentTypeError(f"{name} is a {type(value).__name__}, expected an integer") from None
