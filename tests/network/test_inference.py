from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS, Activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.layers import layer_from
from gpubackprop.losses import LOSSES, get_loss
from gpubackprop.network.inference import IN_PLACE, to_prediction
from tests import exact
from tests.small import make_data


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_predict_is_the_outputs_through_the_losss_function(backend: Backend, loss: str) -> None:
    net = gb.mlp([3, 6, 4], activation="gelu", loss=loss, device=backend, dtype="float64")
    x, _ = make_data(10, 3, 4)
    z = backend.to_host(net.forward(x))
    functions = {"cross_entropy": softmax, "binary_cross_entropy": lambda z: 1 / (1 + np.exp(-z)), "poisson": np.exp}
    expected = functions.get(loss, lambda z: z)
    p = net.predict(x)
    assert type(p) is np.ndarray
    np.testing.assert_allclose(p, expected(z), rtol=1e-13)


@pytest.mark.parametrize("size", [1, 3, 10, 11, None])
def test_chunks_of_any_size(backend: Backend, size: int | None) -> None:
    net = gb.Network(
        [
            gb.Dense(3, 5, "silu"),
            gb.BatchNorm(5),
            gb.Dropout(0.5),
            gb.Dense(5, 4, "tanh"),
            gb.LayerNorm(4),
            gb.Dense(4, 2),
        ],
        device=backend,
        dtype="float64",
    )
    x, y = make_data(10, 3, 2)
    net.train_step(x, y, gb.SGD(0.1))
    np.testing.assert_allclose(net.predict(x, size), backend.to_host(net.forward(x)), rtol=1e-13, atol=1e-15)


class Own(Activation):
    """x^3, by a class that says that it can be recorded, which is tried out on other rows before the first run."""

    name, recordable, saves = "own", True, "z"

    def forward(self, be: Any, z: Any, a: Any) -> None:
        t = be.scratch(z)
        be.xp.multiply(z, z, out=t)
        be.xp.multiply(t, z, out=a)


@pytest.mark.parametrize("rows", [10, IN_PLACE, 2 * IN_PLACE])
def test_the_first_prediction_is_right_where_recordings_are_tried_out(rows: int) -> None:
    x, _ = make_data(rows, 3, 4)
    nets = [
        gb.mlp([3, 5, 4], activation=Own(), device="cpu", dtype="float64", seed=1, capture=capture)
        for capture in (True, False)
    ]
    first, expected = (net.predict(x) for net in nets)
    np.testing.assert_allclose(first, expected, rtol=1e-13)


def test_many_rows_through_a_block_that_comes_first(backend: Backend) -> None:
    """The layers inside of it have their input from the buffers, whatever the block itself reads."""
    layers = [gb.Residual([gb.Dense(3, 5, "tanh"), gb.Dense(5, 3)]), gb.Dense(3, 2)]
    net, (x, _) = gb.Network(layers, device=backend, dtype="float64"), make_data(2 * IN_PLACE, 3, 2)
    np.testing.assert_allclose(net.predict(x), backend.to_host(net.forward(x)), rtol=1e-12)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_prediction_and_forward_agree_for_each_activation(backend: Backend, name: str) -> None:
    layers = [gb.Dense(3, 4, name), gb.Activation(name), gb.Dense(4, 4, name), gb.Dense(4, 2, name)]
    net = gb.Network(layers, device=backend, dtype="float64")
    x, _ = make_data(7, 3, 2)
    np.testing.assert_array_equal(net.predict(x), backend.to_host(net.forward(x)))


def test_an_activation_of_ones_own_may_count_on_z_being_apart(backend: Backend) -> None:
    class Hermite(Activation):
        """f(z) = z exp(-z), whose first line overwrites a before z is used again."""

        name = "hermite"
        saves = "z"

        def forward(self, be: Backend, z: Any, a: Any) -> None:
            be.xp.negative(z, out=a)
            be.xp.exp(a, out=a)
            be.xp.multiply(z, a, out=a)

        def times_derivative(self, be: Backend, saved: Any, delta: Any) -> None:
            raise AssertionError("not needed here")

    net = gb.Network([gb.Dense(3, 2, Hermite()), gb.Dense(2, 2, Hermite())], device=backend, dtype="float64")
    x, _ = make_data(5, 3, 2)
    w = net.get_weights()
    a = x
    for i in range(2):
        z = a @ w[f"{i}.weight"] + w[f"{i}.bias"]
        a = z * np.exp(-z)
    np.testing.assert_allclose(net.predict(x), a, rtol=1e-12)
    np.testing.assert_allclose(backend.to_host(net.forward(x)), a, rtol=1e-12)


def test_prediction_changes_nothing(backend: Backend) -> None:
    results = []
    for look in (False, True):
        net = gb.Network([gb.Dense(3, 4), gb.BatchNorm(4), gb.Dropout(0.5), gb.Dense(4, 2)], device=backend)
        x, y = make_data(10, 3, 2)
        optimizer = gb.Adam()
        for _ in range(3):
            net.train_step(x, y, optimizer)
            if look:
                net.predict(x, 4)
        results.append(net.get_weights())
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array)


@pytest.mark.parametrize(
    "first", [gb.Dense(3, 3, "gelu"), gb.BatchNorm(3), gb.LayerNorm(3), gb.Dropout(), gb.Activation("selu")]
)
def test_many_rows_are_read_where_they_are_and_stay_as_they_are(backend: Backend, first: gb.Layer) -> None:
    layer = layer_from(type(first).__name__, first.settings())
    net = gb.Network([layer, gb.Dense(3, 4, "relu"), gb.Dense(4, 2)], device=backend, dtype="float64")
    x, _ = make_data(700, 3, 2)
    x.flags.writeable = False
    one_by_one = np.concatenate([net.predict(x[i : i + 100]) for i in range(0, 700, 100)])
    for rows in (x, x[::-1], x.copy(), np.asfortranarray(x)):
        before = rows.copy()
        expected = one_by_one if rows[0, 0] == x[0, 0] else one_by_one[::-1]
        for size in (None, 300, 100):
            np.testing.assert_allclose(net.predict(rows, size), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(rows, before)
        np.testing.assert_allclose(net.predict(backend.asarray(rows)), expected, rtol=1e-12, atol=1e-14)


def test_extreme_logits() -> None:
    z = np.array([[1e4, -1e4, 0.0], [-1e38, -1e38, -1e38]], np.float32)
    np.testing.assert_allclose(to_prediction(z.copy(), get_loss("cross_entropy")), [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(to_prediction(z.copy(), get_loss("binary_cross_entropy")), [[1, 0, 0.5], [0, 0, 0]])


def test_bad_input() -> None:
    net = gb.mlp([3, 2], device="cpu")
    x = np.zeros((4, 3))
    with pytest.raises(ArgumentError, match="batch_size must be at least 1; got 0"):
        net.predict(x, 0)
    for size in (2.0, True, "2"):
        with pytest.raises(ArgumentTypeError, match="batch_size must be a whole number"):
            net.predict(x, size)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="x has no rows"):
        net.predict(x[:0])
    x[3, 2] = np.nan
    with pytest.raises(ArgumentError, match=r"x\[3, 2\] is nan"):
        net.predict(x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_have_all_their_digits(dtype: str) -> None:
    """However small they are, so that log(p) is what `loss` says; against fifty digits."""
    z = exact.points(dtype)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    p = to_prediction(z[:, None].copy(), get_loss("binary_cross_entropy"))[:, 0]
    want = np.array([float(exact.sigmoid(mpf(float(v)))) for v in z])
    assert (np.abs(p - want) <= 4 * eps * want + tiny).all()
    small = z[np.abs(z) < 1e5]
    p = to_prediction(np.stack([small, np.zeros_like(small), -small], axis=1), get_loss("cross_entropy"))
    for v, row in zip(small, p, strict=True):
        terms = [mp.exp(mpf(float(t))) for t in (v, 0, -v)]
        want = np.array([float(t / sum(terms)) for t in terms])
        # Twice |v| is rounded in the exponent, which float32 has digits to spare for.
        units = 4 if dtype == "float32" else 4 + 2 * abs(v)
        assert (np.abs(row - want) <= units * eps * want + tiny).all()


def test_logits_as_far_apart_as_the_type_reaches() -> None:
    for dtype in ("float32", "float64"):
        largest = np.finfo(dtype).max
        z = np.array([[largest, -largest]], dtype)
        np.testing.assert_array_equal(to_prediction(z.copy(), get_loss("cross_entropy")), [[1, 0]])
        np.testing.assert_array_equal(to_prediction(z.copy(), get_loss("binary_cross_entropy")), [[1, 0]])
