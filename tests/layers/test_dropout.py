from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from tests.small import make_data
from tests.words import random_words


def test_mask_is_the_documented_one_forward_and_backward(backend: Backend) -> None:
    net = gb.Network([gb.Dense(3, 5), gb.Dropout(0.4), gb.Dense(5, 2)], device=backend, dtype="float64", seed=11)
    x, y = make_data(6, 3, 2)
    w, optimizer = net.get_weights(), gb.SGD(1e-300)
    for step in range(3):
        kept = random_words(30, seed=11, step=step, layer=1).reshape(6, 5) < round(0.6 * 2**16)
        mask = kept / 0.6
        a = (x @ w["0.weight"] + w["0.bias"]) * mask
        out = a @ w["2.weight"] + w["2.bias"]
        assert net.loss(x, y, training=True) == pytest.approx(((out - y) ** 2).sum() / 12, rel=1e-12)
        _, gradients = net.loss_and_gradients(x, y, training=True)
        delta = ((out - y) / 6 @ w["2.weight"].T) * mask
        np.testing.assert_allclose(gradients["0.weight"], x.T @ delta, rtol=1e-11, atol=1e-15)
        net.train_step(x, y, optimizer)
    np.testing.assert_array_equal(net.get_weights()["0.weight"], w["0.weight"])


def test_nothing_is_dropped_outside_training(backend: Backend) -> None:
    plain = gb.Network([gb.Dense(3, 5), gb.Dense(5, 2)], device=backend, dtype="float64")
    net = gb.Network([gb.Dense(3, 5), gb.Dropout(0.9), gb.Dense(5, 2)], device=backend, dtype="float64")
    w = plain.get_weights()
    net.set_weights({k.replace("1.", "2."): v for k, v in w.items()})
    x, y = make_data(6, 3, 2)
    np.testing.assert_array_equal(net.predict(x), plain.predict(x))
    assert net.loss(x, y) == plain.loss(x, y)
    np.testing.assert_array_equal(
        net.loss_and_gradients(x, y)[1]["0.weight"], plain.loss_and_gradients(x, y)[1]["0.weight"]
    )


def test_two_layers_draw_two_masks() -> None:
    net = gb.Network([gb.Dropout(0.5), gb.Dropout(0.5), gb.Dense(40, 1)], device="cpu", dtype="float64")
    x = np.ones((50, 40))
    net.set_weights({"2.weight": np.full((40, 1), 1 / 40), "2.bias": np.zeros(1)})
    # Kept by both: a quarter, each times four; by one mask alone it would be a half, each times four.
    assert net.backend.to_host(net.forward(x, training=True)).mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("p", [1, -0.1, 1.5, float("nan")])
def test_refused(p: float) -> None:
    with pytest.raises(ArgumentError, match=r"p must be a number in \[0, 1\)"):
        gb.Dropout(p)


def test_settings_make_it_again() -> None:
    assert repr(gb.Dropout(**gb.Dropout(0.25).settings())) == "Dropout(p=0.25)"


def test_a_share_that_its_bits_cannot_draw_is_refused() -> None:
    for p in (0.0, 1e-9, 0.1, 0.999, 1 - 2**-16):
        gb.Dropout(p)
    for p in (0.9999, 0.99999, 0.9999999):
        with pytest.raises(ArgumentError, match="16 random bits"):
            gb.Dropout(p)
