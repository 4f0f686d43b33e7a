from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS, get_activation
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError
from gpubackprop.initializers import INITIALIZERS, get_initializer, glorot_uniform, he_uniform, lecun_normal

FAN_IN, FAN_OUT = 300, 200
VARIANCE = {"he": 2 / FAN_IN, "glorot": 2 / (FAN_IN + FAN_OUT), "lecun": 1 / FAN_IN}


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"zeros"}))
def test_distribution(name: str) -> None:
    family, shape = name.split("_")
    W = INITIALIZERS[name](np.random.default_rng(0), FAN_IN, FAN_OUT)
    assert W.shape == (FAN_IN, FAN_OUT)
    assert W.dtype == np.float64
    sigma = sqrt(VARIANCE[family])
    # 60,000 draws: five standard errors of the mean, and of the variance.
    assert abs(W.mean()) < 5 * sigma / sqrt(W.size)
    kurtosis = 3.0 if shape == "normal" else 1.8
    assert abs(W.var() / sigma**2 - 1) < 5 * sqrt((kurtosis - 1) / W.size)
    assert np.mean((W / sigma) ** 4) == pytest.approx(kurtosis, rel=0.1)
    if shape == "uniform":
        assert np.abs(W).max() <= sqrt(3) * sigma


def test_zeros() -> None:
    assert not INITIALIZERS["zeros"](np.random.default_rng(0), 3, 2).any()


def test_the_activation_says_which() -> None:
    chosen = {name: get_initializer(None, get_activation(name)) for name in ACTIVATIONS}
    assert chosen["relu"] is chosen["gelu"] is chosen["silu"] is chosen["leaky_relu"] is he_uniform
    assert chosen["selu"] is lecun_normal
    assert chosen["tanh"] is chosen["sigmoid"] is chosen["identity"] is glorot_uniform


def test_lookup() -> None:
    relu = get_activation("relu")
    assert get_initializer("lecun_normal", relu) is lecun_normal
    assert get_initializer(lecun_normal, relu) is lecun_normal
    with pytest.raises(ArgumentError, match="unknown initializer 'he_unifrom': did you mean 'he_uniform'"):
        get_initializer("he_unifrom", relu)
    with pytest.raises(ArgumentError, match="unknown initializer"):
        get_initializer(["he_uniform"], relu)  # type: ignore[arg-type]


def test_one_of_ones_own() -> None:
    net = gb.Network([gb.Dense(3, 2, initializer=lambda rng, d, m: np.full((d, m), 0.5))], device="cpu")
    assert (net.get_weights()["0.weight"] == 0.5).all()
    with pytest.raises(ArgumentError, match=r"initializer's weight must have shape \(3, 2\); got \(2, 3\)"):
        gb.Network([gb.Dense(3, 2, initializer=lambda rng, d, m: np.zeros((m, d)))], device="cpu")
    with pytest.raises(ArgumentError, match="not finite"):
        gb.Network([gb.Dense(3, 2, initializer=lambda rng, d, m: np.full((d, m), np.nan))], device="cpu")


def test_same_on_every_device_and_other_for_each_layer_and_seed(backend: Backend) -> None:
    weights = gb.mlp([8, 8, 8], device=backend, seed=3).get_weights()
    host = gb.mlp([8, 8, 8], device="cpu", seed=3).get_weights()
    for name in host:
        np.testing.assert_array_equal(weights[name], host[name])
    scale = {k: v / v.std() for k, v in host.items() if "weight" in k}
    assert not np.allclose(scale["0.weight"], scale["1.weight"])
    other = gb.mlp([8, 8, 8], device="cpu", seed=4).get_weights()
    assert not np.allclose(other["0.weight"], host["0.weight"])
    assert not host["0.bias"].any()
