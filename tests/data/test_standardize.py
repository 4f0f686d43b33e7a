from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from sklearn.datasets import load_wine

from gpubackprop.data import Standardizer
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError

X = np.random.default_rng(0).normal(3.0, 5.0, (1000, 7))


def test_wine_has_mean_zero_and_variance_one() -> None:
    x = load_wine().data
    z = Standardizer().fit(x).transform(x, np.float64)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e12])
def test_agrees_with_exact_arithmetic_under_an_offset(offset: float) -> None:
    x = np.random.default_rng(1).normal(size=(200, 1)) + offset
    exact = [Fraction(float(v)) for v in x[:, 0]]
    mean = sum(exact) / len(exact)
    variance = float(sum((v - mean) ** 2 for v in exact) / len(exact))
    fitted = Standardizer().fit(x)
    assert abs(Fraction(float(fitted.mean[0])) - mean) <= Fraction(float(np.spacing(offset + 1.0)))
    np.testing.assert_allclose(fitted.scale[0] ** 2, variance, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", "<i8", "f2", ">f4", "f8"])
def test_kinds_of_arrays(dtype: str) -> None:
    x = (np.random.default_rng(0).integers(0, 2, (50, 3)) * (1 if dtype == "?" else 100)).astype(dtype)
    for view in (x, np.asfortranarray(x), x[::-1, ::-1]):
        z = Standardizer().fit(view).transform(view)
        assert z.dtype == np.float32
        assert z.flags.c_contiguous
        double = view.astype(np.float64)
        np.testing.assert_allclose(z, (double - double.mean(0)) / double.std(0), rtol=1e-6)


def test_constant_columns_become_zero() -> None:
    x = np.concatenate([X, np.full((1000, 1), 0.1)], axis=1)
    fitted = Standardizer().fit(x)
    assert fitted.scale[-1] == 1
    assert (fitted.transform(x)[:, -1] == 0).all()
    assert fitted.transform(x + 1)[0, -1] == 1


def test_one_scale_for_all_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 49), dtype=np.uint8)
    fitted = Standardizer(per_feature=False).fit(images)
    np.testing.assert_allclose(fitted.mean, [images.mean()], rtol=1e-14)
    np.testing.assert_allclose(fitted.scale, [images.std()], rtol=1e-14)
    assert fitted.transform(images).shape == (300, 49)


def test_blocks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Standardizer().fit(X)
    monkeypatch.setattr("gpubackprop.data.standardize._BLOCK_ELEMENTS", 30)
    parts = Standardizer().fit(X)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-14)
    np.testing.assert_array_equal(whole.transform(X), Standardizer.from_state(whole.state()).transform(X))


def test_memory_stays_bounded() -> None:
    """In a process of its own: what other tests of this one allocate meanwhile is not the standardiser's."""
    script = """
import tracemalloc
import numpy as np
from gpubackprop.data import Standardizer
x = np.zeros((40_000, 1000), np.uint8)
x[::2] = 1
tracemalloc.start()
Standardizer().fit(x)
print(tracemalloc.get_traced_memory()[1] / x.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1


def test_inverse() -> None:
    fitted = Standardizer().fit(X)
    np.testing.assert_allclose(fitted.inverse(fitted.transform(X, np.float64)), X, rtol=1e-13, atol=1e-13)
    assert fitted.inverse(fitted.transform(X)).dtype == np.float64


@pytest.mark.parametrize("per_feature", [True, False])
def test_state_round_trip(per_feature: bool) -> None:
    fitted = Standardizer(per_feature=per_feature).fit(X)
    again = Standardizer.from_state(fitted.state())
    assert again.per_feature == per_feature
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    with pytest.raises(ArgumentError, match="8 columns"):
        again.transform(np.ones((3, 8)))


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": None},
        {"extra": np.ones(7)},
        {"mean": np.ones(6)},
        {"mean": np.full(7, np.nan)},
        {"scale": np.zeros(7)},
        {"scale": np.ones(7, int)},
        {"scale": np.ones((7, 1))},
        {"width": np.array([8])},
        {"width": np.array([0])},
        {"width": np.array([7.0])},
    ],
)
def test_damaged_state(damage: dict[str, np.ndarray | None]) -> None:
    state = {k: v for k, v in {**Standardizer().fit(X).state(), **damage}.items() if v is not None}
    with pytest.raises(CheckpointError, match="Standardizer"):
        Standardizer.from_state(state)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("row", [0, 5])
def test_values_that_cannot_be_standardised(bad: float, row: int) -> None:
    x = X.copy()
    x[row, 4] = bad
    with pytest.raises(ArgumentError, match="column 4"):
        Standardizer().fit(x)


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="call fit"):
        Standardizer().transform(X)
    for shape in ((3,), (0, 4), (4, 0), (2, 2, 2)):
        with pytest.raises(ArgumentError, match="shape"):
            Standardizer().fit(np.ones(shape))
    for array in (X.astype(complex), X.astype(object), X.astype(str)):
        with pytest.raises(ArgumentTypeError, match="dtype"):
            Standardizer().fit(array)
    with pytest.raises(ArgumentTypeError, match="list"):
        Standardizer().fit([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="float16"):
        Standardizer().fit(X).transform(X, np.float16)


def test_a_column_that_is_constant_to_rounding_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    for base in (0.1, 1e-9, 7.3, 1e12):
        x = np.stack([base * (1 + np.finfo(float).eps * rng.integers(-1, 2, 1000)), rng.normal(size=1000)], axis=1)
        assert x[:, 0].var() > 0
        scaler = Standardizer().fit(x)
        assert scaler.scale[0] == 1
        assert abs(scaler.transform(x)[:, 0]).max() < max(1e-9, 1e-3 * base)
        assert scaler.scale[1] == pytest.approx(x[:, 1].std())
    x = 5.0 + 1e-7 * rng.normal(size=(1000, 1))
    assert Standardizer().fit(x).scale[0] == pytest.approx(1e-7, rel=0.1)
