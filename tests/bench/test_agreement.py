"""Who computes the same, and what is said of who does not."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.bench.agreement import disagreement, has_kinks
from gpubackprop.bench.subject import descriptions

RNG = np.random.default_rng(0)
REFERENCE = {
    "outputs": RNG.standard_normal((8, 3)),
    "loss": np.asarray(1.5),
    "gradient 0.weight": RNG.standard_normal((5, 3)),
    "gradient 0.bias": RNG.standard_normal(3) * 1e-9,
}


def off(name: str, share: float) -> dict[str, np.ndarray]:
    """The reference with one tensor off by a share of its norm."""
    return {k: v * (1 + share) if k == name else v for k, v in REFERENCE.items()}


@pytest.mark.parametrize("name", ["outputs", "loss", "gradient 0.weight"])
@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [("float64", "native", 1e-12), ("float32", "native", 1e-5), ("float32", "tf32", 2e-3), ("float32", "bf16", 2e-2)],
)
def test_each_type_has_its_tolerance(name: str, dtype: str, precision: str, tolerance: float) -> None:
    assert disagreement(off(name, 0.5 * tolerance), REFERENCE, dtype, precision, kinks=False) is None
    said = disagreement(off(name, 2 * tolerance), REFERENCE, dtype, precision, kinks=False)
    assert said is not None
    assert said.startswith(name)


def test_kinks_widen_what_gradients_may_be_off_by_and_nothing_else() -> None:
    assert disagreement(off("gradient 0.weight", 1e-3), REFERENCE, "float32", "native", kinks=True) is None
    assert disagreement(off("gradient 0.weight", 1e-2), REFERENCE, "float32", "native", kinks=True)
    assert disagreement(off("outputs", 1e-3), REFERENCE, "float32", "native", kinks=True)


def test_a_gradient_that_is_nothing_but_rounding_is_no_disagreement() -> None:
    assert disagreement(off("gradient 0.bias", 0.5), REFERENCE, "float32", "native", kinks=False) is None
    wrong = {**REFERENCE, "gradient 0.bias": np.full(3, 0.1)}
    assert disagreement(wrong, REFERENCE, "float32", "native", kinks=False)


def test_the_first_wrong_tensor_is_named() -> None:
    both = {**off("outputs", 0.1), "loss": np.asarray(9.0)}
    assert str(disagreement(both, REFERENCE, "float32", "native", kinks=False)).startswith("outputs")
    nan = {**REFERENCE, "loss": np.asarray(np.nan)}
    assert disagreement(nan, REFERENCE, "float32", "native", kinks=False) == "loss is not finite"
    shape = {**REFERENCE, "outputs": np.zeros((3, 8))}
    assert "shape (3, 8) instead of (8, 3)" in str(disagreement(shape, REFERENCE, "float32", "native", kinks=False))


def test_which_networks_have_kinks() -> None:
    assert has_kinks(descriptions([3, 4, 2], activation="relu")[0])
    assert not has_kinks(descriptions([3, 4, 2], activation="tanh")[0])
