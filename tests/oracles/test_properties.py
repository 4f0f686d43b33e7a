"""What must hold of any network on any batch, whatever the numbers: hypothesis draws both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.losses import LOSSES
from tests.oracles.random_networks import LOGIT_LOSSES, Case, relative, targets

TOLERANCE = 1e-12


def run(check: Callable[..., None], strategies: dict[str, Any], examples: int, shrink: bool = True) -> None:
    """Try a property on so many examples, the same ones each time."""
    chosen = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    chosen(given(**strategies)(check))()


PROPERTIES: dict[str, Callable[[], None]] = {}
"""Each property by its test's name, on 25 examples: what the planted bugs are held to."""


def holds(**strategies: Any) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """A property as a test of 200 examples, and of 2,000 in the nightly run."""

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [200, pytest.param(2000, marks=pytest.mark.nightly)])
        def test(examples: int) -> None:
            run(check, strategies, examples)

        test.__doc__ = check.__doc__
        PROPERTIES[check.__name__.removeprefix("test_")] = partial(run, check, strategies, 25, shrink=False)
        return test

    return decorate


@st.composite
def cases(
    draw: st.DrawFn,
    losses: list[str] = list(LOSSES),  # noqa: B006
    activations: list[str] = list(ACTIVATIONS),  # noqa: B006
    least_depth: int = 1,
    least_rows: int = 1,
) -> Case:
    """A network of depth 1-3 and widths 1-8 and a batch of up to 12 rows."""
    widths = draw(st.lists(st.integers(1, 8), min_size=least_depth + 1, max_size=4))
    loss = draw(st.sampled_from(losses))
    names = [draw(st.sampled_from(activations)) for _ in widths[1:]]
    if loss in LOGIT_LOSSES:
        names[-1] = "identity"
    if loss == "cross_entropy":
        widths[-1] = max(widths[-1], 2)
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(least_rows, 12))
    rng = np.random.default_rng(seed)
    return Case(widths, names, loss, rng.standard_normal((n, widths[0])), targets(loss, n, widths[-1], rng), seed)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], scale: float = 1.0) -> None:
    """Equal to the tolerance of the largest array: a gradient that is zero but for rounding is held to the others."""
    largest = max(float(np.linalg.norm(array)) for array in expected.values()) * scale
    for name, array in expected.items():
        off = float(np.linalg.norm(found[name] - scale * array))
        assert off <= TOLERANCE * max(largest, 1e-300), f"{name} is off by {off:.2e} of {largest:.2e}"


@holds(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_permuting_the_batch_changes_nothing(case: Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(case.x))
    net = case.network()
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    dx = net.input_gradient(case.x, case.y)
    permuted, others = net.loss_and_gradients(case.x[order], case.y[order])
    assert permuted == pytest.approx(loss, rel=TOLERANCE, abs=1e-15)
    assert_same(others, gradients)
    assert_same({"x": net.input_gradient(case.x[order], case.y[order])}, {"x": dx[order]})


@holds(case=cases(least_rows=2), size=st.integers(1, 11))
def test_micro_batches_add_up_to_the_batch(case: Case, size: int) -> None:
    whole, parts = case.network(), case.network()
    before = whole.get_weights()
    loss = float(whole.train_step(case.x, case.y, gb.SGD(1.0)))
    micro = float(parts.train_step(case.x, case.y, gb.SGD(1.0), micro_batch_size=size))
    assert micro == pytest.approx(loss, rel=TOLERANCE, abs=1e-15)
    after = whole.get_weights()
    assert_same(parts.get_weights(), after)
    assert any(not np.array_equal(after[k], w) for k, w in before.items()) or loss == 0 or _no_gradient(case)


def _no_gradient(case: Case) -> bool:
    return all(not np.any(g) for g in case.network().loss_and_gradients(case.x, case.y)[1].values())


@holds(case=cases(least_rows=2), row=st.integers(0, 11))
def test_a_row_alone_is_the_row_in_its_batch(case: Case, row: int) -> None:
    row %= len(case.x)
    net = case.network()
    together = np.array(net.forward(case.x))
    assert_same({"a": np.array(net.forward(case.x[row : row + 1]))[0]}, {"a": together[row]})
    dx = net.input_gradient(case.x, case.y)[row] * len(case.x)
    alone = net.input_gradient(case.x[row : row + 1], case.y[row : row + 1])[0]
    assert_same({"x": alone}, {"x": dx})


@holds(case=cases(least_depth=2), seed=st.integers(0, 2**32 - 1))
def test_hidden_units_have_no_order(case: Case, seed: int) -> None:
    net, permuted = case.network(), case.network()
    order = np.random.default_rng(seed).permutation(case.widths[1])

    def permute(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            **arrays,
            "0.weight": arrays["0.weight"][:, order],
            "0.bias": arrays["0.bias"][order],
            "1.weight": arrays["1.weight"][order],
        }

    permuted.set_weights(permute(net.get_weights()))
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    other, others = permuted.loss_and_gradients(case.x, case.y)
    assert other == pytest.approx(loss, rel=TOLERANCE, abs=1e-15)
    assert_same(others, permute(gradients))


@holds(case=cases(least_depth=2, activations=["relu", "leaky_relu", "identity"]), power=st.integers(-6, 6))
def test_rescaled_relu_layers_give_the_same_bits(case: Case, power: int) -> None:
    """f(c z) = c f(z) for c > 0; a power of two rounds nothing."""
    c = 2.0**power
    net, scaled = case.network(), case.network()
    w = net.get_weights()
    scaled.set_weights({**w, "0.weight": c * w["0.weight"], "0.bias": c * w["0.bias"], "1.weight": w["1.weight"] / c})
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    other, others = scaled.loss_and_gradients(case.x, case.y)
    assert other == loss
    factor = {"0.weight": 1 / c, "0.bias": 1 / c, "1.weight": c}
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(others[name], factor.get(name, 1.0) * gradient)


@holds(case=cases(losses=["cross_entropy"]), c=st.floats(-1000, 1000))
def test_shifted_logits_are_the_same_distribution(case: Case, c: float) -> None:
    net, shifted = case.network(), case.network()
    last = f"{len(case.activations) - 1}.bias"
    weights = net.get_weights()
    shifted.set_weights({**weights, last: weights[last] + c})
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    other, others = shifted.loss_and_gradients(case.x, case.y)
    # A logit near 1000 has lost three digits to the shift before anything is computed.
    assert other == pytest.approx(loss, rel=1e-11, abs=1e-11)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(others[name], gradient, rtol=0, atol=1e-11 * (1 + np.abs(gradient).max()))
    np.testing.assert_allclose(shifted.predict(case.x), net.predict(case.x), rtol=0, atol=1e-11)


@holds(case=cases(losses=["half_squared_error", "mean_squared_error"], activations=["identity"]), k=st.floats(0.1, 10))
def test_scaled_loss_scales_the_gradient(case: Case, k: float) -> None:
    """Outputs and targets times k: the squared error times k^2. The last layer carries the factor."""
    net, scaled = case.network(), case.network()
    last = len(case.activations) - 1
    w = net.get_weights()
    scaled.set_weights({n: a * k if n.startswith(f"{last}.") else a for n, a in w.items()})
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    other, others = scaled.loss_and_gradients(case.x, k * case.y)
    assert other == pytest.approx(k * k * loss, rel=1e-11, abs=1e-15)
    expected = {n: g * (k if n.startswith(f"{last}.") else k * k) for n, g in gradients.items()}
    assert_same(others, expected)


class Times(gb.Layer):
    """a = k x: behind the last layer it scales what an absolute error measures, and its gradient."""

    recordable = True

    def __init__(self, k: float) -> None:
        self.k = k

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, self.k, out=v.a)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.multiply(v.delta, self.k, out=dx)


@holds(case=cases(losses=["mean_absolute_error"]), power=st.integers(-4, 4))
def test_scaled_residuals_scale_the_absolute_error(case: Case, power: int) -> None:
    k = 2.0**power
    net = case.network()
    layers = [gb.Dense(d, m, f) for d, m, f in zip(case.widths[:-1], case.widths[1:], case.activations, strict=True)]
    scaled = gb.Network([*layers, Times(k)], loss=case.loss, dtype="float64", device="cpu")
    scaled.set_weights(net.get_weights())
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    other, others = scaled.loss_and_gradients(case.x, k * case.y)
    assert other == pytest.approx(k * loss, rel=TOLERANCE)
    assert_same(others, gradients, scale=k)


@holds(case=cases(), copies=st.integers(2, 4))
def test_duplicated_data_has_the_same_mean(case: Case, copies: int) -> None:
    net = case.network()
    loss, gradients = net.loss_and_gradients(case.x, case.y)
    x, y = (np.concatenate([a] * copies) for a in (case.x, case.y))
    other, others = net.loss_and_gradients(x, y)
    assert other == pytest.approx(loss, rel=TOLERANCE, abs=1e-15)
    assert_same(others, gradients)


@holds(
    seed=st.integers(0, 2**32 - 1),
    d=st.integers(1, 4),
    m=st.integers(1, 3),
    rows=st.integers(12, 20),
    loss=st.sampled_from(["half_squared_error", "mean_squared_error"]),
)
def test_a_linear_network_reaches_least_squares(seed: int, d: int, m: int, rows: int, loss: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, d)), rng.standard_normal((rows, m))
    net = gb.Network([gb.Dense(d, m)], loss=loss, dtype="float64", device="cpu", seed=seed)
    design = np.column_stack([x, np.ones(rows)])
    expected = np.linalg.lstsq(design, y, rcond=None)[0]
    # The step size that contracts fastest, from the curvature's extreme eigenvalues: (kappa - 1) / (kappa + 1) a step.
    curvature = np.linalg.eigvalsh(design.T @ design / rows) * (1.0 if loss == "half_squared_error" else 2.0 / m)
    steps = int(12 * curvature[-1] / curvature[0]) + 20
    if steps > 2000:
        return
    optimizer = gb.SGD(2 / (curvature[0] + curvature[-1]))
    for _ in range(steps):
        net.train_step(x, y, optimizer)
    weights = net.get_weights()
    np.testing.assert_allclose(weights["0.weight"], expected[:-1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(weights["0.bias"], expected[-1], rtol=0, atol=1e-8)


@holds(case=cases(), dtype=st.sampled_from(["float32", "float64"]), step=st.booleans())
def test_save_and_load_is_exact(case: Case, dtype: str, step: bool) -> None:
    net = case.network(dtype=dtype)
    optimizer = gb.Adam(0.01)
    if step:
        net.train_step(case.x, case.y, optimizer)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        gb.save(path, net)
        other = gb.load(path, device="cpu")
    expected = net.get_weights()
    for name, weight in other.get_weights().items():
        assert weight.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(weight, expected[name])
    assert other.loss_and_gradients(case.x, case.y)[0] == net.loss_and_gradients(case.x, case.y)[0]
    np.testing.assert_array_equal(other.predict(case.x), net.predict(case.x))


def test_relative_error_of_nothing_is_its_norm() -> None:
    assert relative(np.array([3.0, 4.0]), np.zeros(2)) == 5.0
