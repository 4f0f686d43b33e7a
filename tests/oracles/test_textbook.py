"""The textbook itself: its gradients by differences, its optimizers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles import textbook

ALL = [
    ("Dense", {"activation": "tanh"}),
    ("BatchNorm", {"eps": 1e-5, "momentum": 0.1}),
    ("Activation", {"activation": "silu"}),
    ("Dropout", {"p": 0.3}),
    ("Dense", {"activation": "softplus"}),
    ("LayerNorm", {"eps": 1e-5}),
    ("Dense", {}),
]


def network(layers=ALL, loss="half_squared_error", **penalties):
    rng = np.random.default_rng(0)
    weights = {}
    for i, (kind, _) in enumerate(layers):
        if kind == "Dense":
            weights |= {f"{i}.weight": rng.normal(size=(3, 3)), f"{i}.bias": rng.normal(size=3)}
        elif kind.endswith("Norm"):
            weights |= {f"{i}.gamma": rng.normal(size=3), f"{i}.beta": rng.normal(size=3)}
        if kind == "BatchNorm":
            weights |= {f"{i}.running_mean": rng.normal(size=3), f"{i}.running_var": 1 + rng.random(3)}
    return textbook.Network(layers, loss, weights, **penalties)


def targets(loss):
    rng = np.random.default_rng(1)
    return rng.dirichlet(np.ones(3), 5) if "entropy" in loss else rng.normal(size=(5, 3))


def assert_gradients(net, y, training):
    """Each element of each gradient is the central difference of the loss."""
    x, start, h = np.random.default_rng(2).normal(size=(5, 3)), dict(net.weights), 1e-6
    _, gradients = net.loss_and_gradients(x, y, training)
    for name, g in gradients.items():
        for place in np.ndindex(g.shape):
            losses = []
            for step in (h, -h):
                net.weights = {k: w.copy() for k, w in start.items()}
                net.weights[name][place] += step
                losses.append(net.loss_and_gradients(x, y, training)[0])
            assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(g[place], rel=1e-6, abs=1e-8), (name, place)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_every_layer(training):
    assert_gradients(network(l1=0.01, l2=0.1), targets("half_squared_error"), training)


@pytest.mark.parametrize("loss", textbook.LOSSES)
def test_gradients_of_every_loss(loss):
    assert_gradients(network([("Dense", {})], loss), targets(loss), False)


@pytest.mark.parametrize("f", textbook.ACTIVATIONS)
def test_gradients_of_every_activation(f):
    assert_gradients(network([("Dense", {"activation": f})]), targets(""), False)


@pytest.mark.parametrize(
    ("rule", "settings", "by_hand"),
    [
        ("sgd", {}, [0.8, 0.7]),
        ("sgd", {"decay": 0.5}, [0.75, 0.6125]),
        ("sgd", {"clip_value": 1.5}, [0.85, 0.75]),
        ("sgd", {"momentum": 0.5}, [0.8, 0.6]),
        ("sgd", {"momentum": 0.5, "nesterov": True}, [0.7, 0.5]),
        ("adam", {"betas": (0.5, 0.5), "eps": 1e-12}, [0.9, 0.9 - 0.1 * (4 / 3) / 2**0.5]),
        ("adamw", {"betas": (0.0, 0.0), "eps": 1e-12, "decay": 1.0}, [0.8, 0.62]),
        ("rmsprop", {"alpha": 0.75, "eps": 1e-12}, [0.8, 0.8 - 0.1 / (0.75 + 0.25) ** 0.5]),
    ],
)
def test_two_steps_by_hand(rule, settings, by_hand):
    """p = 1, gradients 2 and then 1, eta = 0.1."""
    optimizer, weights = textbook.Optimizer(rule, 0.1, ("constant", 0, None), **settings), {"p": np.array([1.0])}
    for g, p in zip((2.0, 1.0), by_hand, strict=True):
        optimizer.step(weights, {"p": np.array([g])})
        assert weights["p"][0] == pytest.approx(p, rel=1e-9)


def test_norms_are_clipped_together():
    optimizer, weights = textbook.Optimizer("sgd", 1.0, ("constant", 0, None), clip_norm=1.0), {"a": np.zeros(1)}
    weights["b"] = np.zeros(1)
    assert optimizer.step(weights, {"a": np.array([3.0]), "b": np.array([4.0])}) == 5.0
    assert weights["a"][0] == pytest.approx(-0.6, rel=1e-6)


def test_schedules():
    cosine = textbook.Optimizer("sgd", 2.0, ("cosine", 1, 5))
    assert [round(cosine.rate(t), 6) for t in (1, 2, 4, 6, 9)] == [1.0, 2.0, 1.0, 0.0, 0.0]
    step = textbook.Optimizer("sgd", 1.0, ("step", 0, None))
    step.fit = (10, 3)
    assert [step.rate(t) for t in (11, 12, 13)] == pytest.approx([1.0, 0.1, 0.01])
    with pytest.raises(textbook.RefusedError):
        step.rate(14)
