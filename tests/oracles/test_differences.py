"""Every layer, activation and loss against central differences, within 1e-7 + 1e-5 |g|, and the complex step, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.losses import LOSSES
from tests.oracles.random_networks import LOGIT_LOSSES, random_case, targets

LAYERS = {
    "dense": lambda f: [gb.Dense(3, 4, f), gb.Dense(4, 2)],
    "no bias": lambda f: [gb.Dense(3, 4, f, bias=False), gb.Dense(4, 2)],
    "last": lambda f: [gb.Dense(3, 4), gb.Dense(4, 2, f)],
    "activation": lambda f: [gb.Dense(3, 4), gb.Activation(f), gb.Dense(4, 2)],
    "dropout": lambda f: [gb.Dense(3, 4, f), gb.Dropout(0.3), gb.Dense(4, 2)],
    "batch norm": lambda f: [gb.Dense(3, 4), gb.BatchNorm(4), gb.Activation(f), gb.Dense(4, 2)],
    "prelu": lambda f: [gb.Dense(3, 4, f), gb.PReLU(4, shared=False), gb.Dense(4, 2)],
    "rms norm": lambda f: [gb.Dense(3, 4, f), gb.RMSNorm(4), gb.Dense(4, 2)],
    "layer norm": lambda f: [gb.Dense(3, 4, f), gb.LayerNorm(4), gb.Dense(4, 2)],
    "residual": lambda f: [gb.Dense(3, 4), gb.Residual([gb.Dense(4, 3, f), gb.Dense(3, 4, f)]), gb.Dense(4, 2)],
    "norm first": lambda f: [gb.LayerNorm(3), gb.Dense(3, 4, f), gb.BatchNorm(4), gb.Dense(4, 2)],
}


# An activation behind the last layer would stand between the logits and the losses that take them.
PAIRS = [(layers, loss) for layers in LAYERS for loss in LOSSES if layers != "last" or loss not in LOGIT_LOSSES]


@pytest.mark.parametrize("method", ["central", "complex"])
@pytest.mark.parametrize(("layers", "loss"), PAIRS)
def test_every_layer_activation_and_loss(layers: str, loss: str, method: str) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((4, 3)), targets(loss, 4, 2, rng)
    for name in ACTIVATIONS:
        net = gb.Network(LAYERS[layers](name), loss=loss, dtype="float64", device="cpu", seed=1)
        report = gb.gradcheck(net, x, y, method=method)
        assert report, f"{name}: {report}"


@pytest.mark.parametrize("penalty", [{"l1": 0.1}, {"l2": 0.1}, {"l1": 0.03, "l2": 0.02}])
def test_penalties(penalty: dict[str, float]) -> None:
    rng = np.random.default_rng(8)
    net = gb.mlp([3, 4, 2], activation="tanh", dtype="float64", device="cpu", seed=1, **penalty)
    assert gb.gradcheck(net, rng.standard_normal((4, 3)), rng.standard_normal((4, 2)))
    assert gb.gradcheck(net, rng.standard_normal((4, 3)), rng.standard_normal((4, 2)), method="complex")


def test_random_networks_pass_without_a_false_alarm() -> None:
    for seed in range(25):
        case = random_case(seed)
        report = gb.gradcheck(case.network(), case.x, case.y, max_entries=200, seed=seed)
        assert report, f"network {seed}: {report}"
