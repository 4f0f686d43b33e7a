"""Data sets that need no file: scikit-learn's small ones and two made by formula."""

from __future__ import annotations

import numpy as np

from gpubackprop.data.arrays import features
from gpubackprop.data.dataset import Dataset
from gpubackprop.errors import ArgumentError, MissingExtraError

SCIKIT_LEARN = {
    "digits": ("load_digits", "digit"),
    "iris": ("load_iris", "species"),
    "wine": ("load_wine", "cultivar"),
    "breast-cancer": ("load_breast_cancer", "diagnosis"),
    "diabetes": ("load_diabetes", "progression"),
}
"""Name: the function of sklearn.datasets, and what the target is called."""


def load_scikit_learn(name: str) -> Dataset:
    """One of the data sets that come with scikit-learn; MissingExtraError where that is not installed."""
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingExtraError(f"the data set {name!r}", "data") from None
    function, target = SCIKIT_LEARN[name]
    bunch = getattr(datasets, function)()
    x = features(np.asarray(bunch.data), name)
    names = tuple(map(str, bunch.feature_names))
    if name == "diabetes":
        y = np.asarray(bunch.target, dtype=np.float64).reshape(-1, 1)
        return Dataset(name, x, y, "regression", features=names, targets=(target,))
    classes = tuple(map(str, bunch.target_names))
    y = np.asarray(bunch.target, dtype=np.int64)
    return Dataset(name, x, y, "classification", classes, names, targets=(target,), image=name == "digits")


def xor() -> Dataset:
    """Exclusive or: the four rows that no linear network separates (Minsky and Papert, "Perceptrons", 1969)."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
    return Dataset(
        "xor", x, np.array([0, 1, 1, 0], dtype=np.int64), "classification", ("0", "1"), ("a", "b"), targets=("a xor b",)
    )


def spirals(rows: int = 1000, *, arms: int = 2, noise: float = 0.02, seed: int = 0) -> Dataset:
    """Interleaved spirals in the unit disc, one class an arm.

    After Lang and Witbrock, "Learning to tell two spirals apart" (1988).

    Row i belongs to arm i mod `arms`. On each arm, radii are evenly spaced from 0.05 to 1 and the angle grows by 3.5 pi
    in proportion; Gaussian noise of standard deviation `noise` is added to both coordinates, drawn from `seed`.

    Raises ArgumentError for fewer than two arms, fewer than two rows an arm, a negative seed, or noise that is negative
    or not finite.
    """
    if arms < 2 or rows < 2 * arms:
        raise ArgumentError(
            f"arms is {arms} and rows is {rows}; expected two arms or more and two rows or more for each"
        )
    if seed < 0:
        raise ArgumentError(f"seed is {seed}, expected an integer >= 0")
    if not 0 <= noise < np.inf:
        raise ArgumentError(f"noise is {noise}; expected a finite standard deviation >= 0")
    labels = np.arange(rows, dtype=np.int64) % arms
    step = np.arange(rows) // arms / ((rows - 1) // arms)
    radius = 0.05 + 0.95 * step
    angle = 3.5 * np.pi * step + 2 * np.pi * labels / arms
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x += noise * np.random.default_rng(seed).standard_normal((rows, 2))
    names = tuple(f"arm {k}" for k in range(arms))
    return Dataset("spirals", x.astype(np.float32), labels, "classification", names, ("x", "y"), targets=("arm",))
