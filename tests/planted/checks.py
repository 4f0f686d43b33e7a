"""The proofs in a quick form: each function raises AssertionError where the library computes something else than it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import erf, exp, expm1, log1p, pi, sqrt, tanh
from typing import Any

import numpy as np

import gpubackprop as gb
from gpubackprop.activations import ACTIVATIONS
from gpubackprop.losses import LOSSES
from gpubackprop.optimizers.schedules import get_schedule
from gpubackprop.testing import check_layer
from tests.oracles.random_networks import relative, targets
from tests.oracles.test_layerwise_papers import CASES, worst_error
from tests.oracles.test_properties import PROPERTIES
from tests.oracles.test_torch_optimizers import RULES, pytorch, trajectory


def _float64(layers: list[gb.Layer], **options: Any) -> gb.Network:
    return gb.Network(layers, dtype="float64", **{"device": "cpu", "seed": 3, **options})


def gradients() -> None:
    """Gradient checks of small networks. Square weights: a product with the wrong transpose must not fail by its shape."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3))
    for loss in LOSSES:
        for kind in range(2 if loss == "cross_entropy" else 1):
            y = rng.dirichlet(np.ones(3), 4) if kind else targets(loss, 4, 3, rng)
            y = rng.integers(0, 3, 4) if loss == "cross_entropy" and not kind else y
            layers = [gb.Dense(3, 3, "tanh"), gb.Dropout(0.3), gb.Dense(3, 3, "relu"), gb.Dense(3, 3)]
            report = gb.gradcheck(_float64(layers, loss=loss, l1=0.02, l2=0.03), x, y)
            assert report, str(report)
    y = rng.standard_normal((4, 3))
    for f in ACTIVATIONS:
        report = gb.gradcheck(_float64([gb.Dense(3, 3, f), gb.Dense(3, 3), gb.Activation(f)]), x, y)
        assert report, str(report)
    for training in (True, False):
        layers = [gb.Dense(3, 3, "gelu"), gb.BatchNorm(3), gb.Dense(3, 3), gb.LayerNorm(3), gb.Dense(3, 3)]
        report = gb.gradcheck(_float64(layers), x, y, training=training)
        assert report, str(report)


def contract() -> None:
    """The contract of every layer."""
    norms = gb.BatchNorm(4), gb.LayerNorm(4), gb.RMSNorm(4)
    block = gb.Residual([gb.Residual([gb.Dense(4, 4, "tanh")]), gb.Dense(4, 4, "tanh")])
    for layer in (gb.Dense(4, 4, "gelu"), *norms, gb.Dropout(0.3), gb.Activation("silu"), gb.PReLU(4), block):
        check_layer(layer)


def parity() -> None:
    """CPU and strict, small, and large enough for the products that add."""
    rng = np.random.default_rng(1)
    for widths, n in (([5, 6, 4], 7), ([40, 128, 128, 4], 128)):
        net = gb.mlp(widths, activation="gelu", dropout=0.2, dtype="float64", device="cpu", seed=1)
        x, y = rng.standard_normal((n, widths[0])), rng.standard_normal((n, 4))
        for optimizer in (gb.SGD(0.01, momentum=0.9), gb.Adam(0.001, clip_norm=0.1)):
            report = gb.check_parity(net, x, y, ("cpu", "strict"), 3, optimizer=optimizer)
            assert report, str(report)


SIGMOID: Callable[[float], float] = lambda z: 1 / (1 + exp(-z))  # noqa: E731
SCALAR: dict[str, Callable[[float], float]] = {
    "identity": lambda z: z,
    "sigmoid": SIGMOID,
    "tanh": tanh,
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
    "elu": lambda z: z if z > 0 else expm1(z),
    "selu": lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * expm1(z)),
    "celu": lambda z: z if z > 0 else expm1(z),
    "mish": lambda z: z * tanh(log1p(exp(z))),
    "softsign": lambda z: z / (1 + abs(z)),
    "hard_sigmoid": lambda z: min(max(z / 6 + 0.5, 0.0), 1.0),
    "hard_swish": lambda z: z * min(max(z / 6 + 0.5, 0.0), 1.0),
    "gelu": lambda z: z * (1 + erf(z / sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z**3))) / 2,
    "softplus": lambda z: log1p(exp(z)),
    "silu": lambda z: z * SIGMOID(z),
}


def formulas() -> None:
    """Losses and activations as their definitions have them, one number at a time; penalties; running statistics."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((5, 3)) * 2
    eye = np.eye(3)
    for name, f in SCALAR.items():
        net = _float64([gb.Dense(3, 3, name)])
        net.set_weights({"0.weight": eye, "0.bias": np.zeros(3)})
        expected = np.array([[f(v) for v in row] for row in z])
        np.testing.assert_allclose(net.forward(z), expected, rtol=1e-13, atol=1e-15, err_msg=name)
    p = np.array([[SIGMOID(v) for v in row] for row in z])
    softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for loss, y in [
        *((loss, targets(loss, 5, 3, rng)) for loss in LOSSES),
        ("cross_entropy", np.array([0, 2, 1, 1, 2])),
    ]:
        net = _float64([gb.Dense(3, 3)], loss=loss, l1=0.5, l2=0.25)
        bias = np.array([0.3, -0.2, 0.1])
        net.set_weights({"0.weight": eye, "0.bias": bias})
        r = z - y if y.ndim == 2 else z
        expected_loss = {
            "half_squared_error": lambda r=r: 0.5 * (r**2).sum() / 5,
            "mean_squared_error": lambda r=r: (r**2).mean(),
            "mean_absolute_error": lambda r=r: np.abs(r).mean(),
            "huber": lambda r=r: np.where(np.abs(r) <= 1, r**2 / 2, np.abs(r) - 0.5).mean(),
            "poisson": lambda y=y: (np.exp(z) - y * z).mean(),
            "binary_cross_entropy": lambda y=y: -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(),
            "cross_entropy": lambda y=y: -(np.log(softmax) * (eye[y] if y.ndim == 1 else y)).sum() / 5,
        }[loss]()
        penalty = 0.5 * 3 + 0.25 / 2 * 3
        assert abs(net.loss(z - bias, y) - expected_loss - penalty) < 1e-13, loss
    net = _float64([gb.BatchNorm(3)])
    net.loss(z, z, training=True)
    state = net.get_weights()
    np.testing.assert_allclose(state["0.running_mean"], 0.1 * z.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(state["0.running_var"], 0.9 + 0.1 * z.var(axis=0, ddof=1), rtol=1e-13)


def dropout() -> None:
    """Kept units are scaled, each step has a mask of its own, prediction has none, and parts of a batch share one mask."""
    net = _float64([gb.Dense(4, 4, bias=False), gb.Dropout(0.5)])
    net.set_weights({"0.weight": np.eye(4)})
    x = np.ones((50, 4))
    masks, rule = [], gb.SGD(1e-300)
    for _ in range(2):
        masks.append(np.array(net.forward(x, training=True)))
        net.train_step(x, x, rule)
    assert set(np.unique(masks[0])) == {0.0, 2.0}, "kept units are scaled by 1 / (1 - p)"
    assert 0.3 < (masks[0] > 0).mean() < 0.7
    assert not np.array_equal(*masks), "two steps have the same mask"
    np.testing.assert_array_equal(net.predict(x), x)
    whole, parts = (_float64([gb.Dense(4, 4, "tanh"), gb.Dropout(0.5), gb.Dense(4, 2)]) for _ in range(2))
    rng = np.random.default_rng(5)
    a, y = rng.standard_normal((7, 4)), rng.standard_normal((7, 2))
    whole.train_step(a, y, gb.SGD(0.1))
    parts.train_step(a, y, gb.SGD(0.1), micro_batch_size=3)
    others = parts.get_weights()
    assert all(relative(others[k], w) < 1e-13 for k, w in whole.get_weights().items()), "parts drew other masks"


def training() -> None:
    """An epoch is its steps; predictions in chunks are the outputs; networks side by side do not see each other."""
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))

    def net(seed: int = 1) -> gb.Network:
        return gb.mlp([3, 5, 2], activation="tanh", dtype="float64", device="cpu", seed=seed)

    def same(a: gb.Network, b: gb.Network) -> bool:
        others = b.get_weights()
        return all(np.allclose(w, others[k], rtol=1e-13, atol=1e-15) for k, w in a.get_weights().items())

    fitted, stepped, optimizer = net(), net(), gb.SGD(0.1, momentum=0.9)
    history = gb.Trainer(fitted, gb.SGD(0.1, momentum=0.9)).fit(x, y, epochs=1, batch_size=5, shuffle=False)
    losses = [stepped.train_step(x[i : i + 5], y[i : i + 5], optimizer) for i in (0, 5, 10)]
    assert same(fitted, stepped), "an epoch of batches is not its steps"
    mean = sum(float(v) * n for v, n in zip(losses, (5, 5, 2), strict=True)) / 12
    assert abs(history["loss"][0] - mean) < 1e-13, "the epoch's loss is not the mean over its rows"
    first = net().loss(x[:5], y[:5])
    assert abs(float(losses[0]) - first) < 1e-13, "a loss that was handed out has changed"
    np.testing.assert_allclose(fitted.predict(x, batch_size=5), np.array(fitted.forward(x)), rtol=1e-13)

    shuffled = net()
    gb.Trainer(shuffled, gb.SGD(0.02)).fit(x, x[:, :2], epochs=300, batch_size=4)
    assert shuffled.loss(x, x[:, :2]) < 0.05, "shuffled rows lost their targets"

    a, b, alone = net(1), net(2), net(1)
    rules = [gb.SGD(0.1, momentum=0.9) for _ in range(3)]
    for _ in range(3):
        a.train_step(x, y, rules[0])
        b.train_step(y @ np.ones((2, 3)), x[:, :2], rules[1])
        alone.train_step(x, y, rules[2])
    assert same(a, alone), "a network was changed by training another"

    moving, by_hand = net(), net()
    optimizer, velocity = gb.SGD(0.1, momentum=0.9), {k: np.zeros_like(w) for k, w in by_hand.get_weights().items()}
    for _ in range(3):
        moving.train_step(x, y, optimizer)
        _, gradient = by_hand.loss_and_gradients(x, y)
        velocity = {k: 0.9 * v + gradient[k] for k, v in velocity.items()}
        by_hand.set_weights({k: w - 0.1 * velocity[k] for k, w in by_hand.get_weights().items()})
    assert same(moving, by_hand), "the momentum is off"

    scheduled, by_hand = net(), net()
    optimizer = gb.SGD(0.1, schedule=get_schedule("step", every=2, gamma=0.5))
    for t in range(4):
        scheduled.train_step(x, y, optimizer)
        by_hand.train_step(x, y, gb.SGD(0.1 * 0.5 ** (t // 2)))
    assert same(scheduled, by_hand), "the schedule is off"


def optimizer(name: str, torch: Any) -> None:
    """15 steps beside PyTorch."""
    assert trajectory(torch, RULES[name][0](), pytorch(torch, name), steps=15) <= 1e-12


def clipping(torch: Any) -> None:
    """15 clipped steps beside PyTorch, with gradients that are shorter and longer than the bound."""
    for bound in (0.05, 1e3):
        off = trajectory(
            torch,
            gb.SGD(0.1, clip_norm=bound),
            lambda p: torch.optim.SGD(p, lr=0.1),
            clip=lambda p, bound=bound: torch.nn.utils.clip_grad_norm_(p, bound),
            steps=15,
        )
        assert off <= 1e-12


def paper(name: str) -> None:
    """LARS or LAMB against the paper's formula."""
    make, rule = CASES[name]
    assert worst_error(make(), rule) <= 1e-12


CHECKS: dict[str, Callable[[], None]] = {
    **{f.__name__: f for f in (gradients, contract, parity, formulas, dropout, training)},
    **{f"paper: {name}": partial(paper, name) for name in CASES},
    **{f"property: {name.replace('_', ' ')}": check for name, check in PROPERTIES.items()},
}
WITH_TORCH: dict[str, Callable[..., None]] = {
    "clipping": clipping,
    **{f"pytorch: {name}": partial(optimizer, name) for name in RULES},
}
