from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import Sigmoid
from gpubackprop.errors import ArgumentError
from gpubackprop.losses import LOSSES
from gpubackprop.proofs.explain import STEPS, explain, matrix_text

X = np.array([[0.3, -0.7], [1.1, 0.4], [-0.2, 0.9]])


def targets(loss: str, m: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(m, size=len(X)) if loss == "cross_entropy" else rng.random((len(X), m))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softplus", "gelu", "silu"])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_derivative_agrees_with_central_differences(backend, loss, activation):
    net = gb.mlp(
        [2, 4, 3, 3], activation=activation, loss=loss, device=backend, dtype="float64", seed=2, l2=0.1, l1=0.01
    )
    found = explain(net, X, targets(loss))
    assert found.worst_error < 1e-8
    compared = {q.name for q in found if q.numeric is not None}
    expected = {f"{kind}({i})" for kind in ("delta", "dC/dW", "dC/db") for i in (1, 2, 3)} | {
        f"f'(z({i}))" for i in (1, 2, 3)
    }
    assert compared == expected | {"s = dC/da(3)"}


def test_quantities_are_the_mathematics_by_hand():
    net = gb.mlp([2, 3, 2], activation="tanh", loss="mean_squared_error", device="cpu", dtype="float64", seed=4)
    w, y, eta = net.get_weights(), targets("mean_squared_error", 2), 0.3
    found = explain(net, X, y, learning_rate=eta)
    z1 = X @ w["0.weight"] + w["0.bias"]
    a1 = np.tanh(z1)
    z2 = a1 @ w["1.weight"] + w["1.bias"]
    delta2 = 2 * (z2 - y) / y.size
    delta1 = (delta2 @ w["1.weight"].T) * (1 - a1**2)
    by_hand = {
        "x": X, "z(1)": z1, "a(1)": a1, "z(2)": z2, "a(2)": z2, "y": y, "s = dC/da(2)": delta2, "f'(z(1))": 1 - a1**2,
        "f'(z(2))": np.ones_like(z2), "delta(2)": delta2, "delta(1)": delta1, "dC/dW(1)": X.T @ delta1,
        "dC/db(2)": delta2.sum(axis=0, keepdims=True), "new W(2)": w["1.weight"] - eta * a1.T @ delta2,
        "new b(1)": (w["0.bias"] - eta * delta1.sum(axis=0)).reshape(1, -1), "C": [[((z2 - y) ** 2).mean()]],
    }  # fmt: skip
    for name, value in by_hand.items():
        assert found[name].value == pytest.approx(np.asarray(value), rel=1e-12, abs=1e-15), name
    assert found["new C"].value < found["C"].value
    assert found["delta(1)"].dimensions == "3x3"
    assert [q.step for q in found] == sorted((q.step for q in found), key=STEPS.index)


def test_wrong_derivative_shows():
    class WrongSigmoid(Sigmoid):
        def times_derivative(self, be, saved, delta):
            be.xp.multiply(delta, saved, out=delta)
            be.xp.multiply(delta, saved, out=delta)

    net = gb.Network([gb.Dense(2, 3, WrongSigmoid()), gb.Dense(3, 1)], device="cpu", seed=0)
    found = explain(net, X, targets("", 1))
    assert found["delta(2)"].error < 1e-9
    for name in ("f'(z(1))", "delta(1)", "dC/dW(1)", "dC/db(1)"):
        assert found[name].error > 1e-3, name


def test_network_is_left_as_it_was():
    net = gb.mlp([2, 3, 2], device="cpu", seed=0)
    before = net.get_weights()
    explain(net, X, targets("", 2), learning_rate=3.0)
    assert all((net.get_weights()[name] == value).all() for name, value in before.items())


def test_numbering_of_textbooks():
    net = gb.mlp([2, 3, 2], activation="sigmoid", device="cpu", seed=0)
    ours, theirs = (explain(net, X, targets("", 2), input_layer=first) for first in (0, 1))
    assert (ours["z(1)"].value == theirs["z(2)"].value).all()
    assert theirs["delta(2)"].formula == "(delta(3) W(2)^T) * f'(z(2))"
    assert theirs["dC/dW(1)"].formula == "x^T delta(2)"
    with pytest.raises(ArgumentError, match="input_layer"):
        explain(net, X, targets("", 2), input_layer=2)


def test_layers_without_bias_and_labels_as_targets():
    net = gb.Network([gb.Dense(2, 3, bias=False)], loss="cross_entropy", device="cpu", seed=0)
    found = explain(net, X, [0, 2, 1])
    assert found["y"].value.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert found["p"].value.sum(axis=1) == pytest.approx(1)
    assert found["delta(1)"].value == pytest.approx((found["p"].value - found["y"].value) / 3)
    assert not [q.name for q in found if "b(" in q.name]


@pytest.mark.parametrize(
    ("settings", "y", "shown"),
    [
        ({"label_smoothing": 0.2}, [0, 2, 1], [0, 2, 1]),
        ({"class_weights": [1.0, 5.0, 1.0]}, [0, 2, 1], [0, 2, 1]),
        ({"ignore_index": -1}, [0, 2, -1], [0, 2]),
        ({"ignore_index": -100}, [0, 2, -100], [0, 2]),
        ({"ignore_index": 1}, [0, 2, 1], [0, 2]),
    ],
)
def test_a_loss_with_settings_has_not_the_formulas_of_that_without(settings, y, shown):
    loss = gb.losses.CrossEntropy(**settings)
    found = explain(gb.Network([gb.Dense(2, 3)], loss=loss, device="cpu", seed=0), X, y)
    ((name, value),) = settings.items()
    assert found["C"].formula == f"cross_entropy(a(1), y, {name}={value!r})"
    assert found["s = dC/da(1)"].formula == ""
    assert found["y"].value.tolist() == [*np.eye(3)[shown].tolist(), *[[0, 0, 0]] * (3 - len(shown))]
    assert found.worst_error < 1e-8


def test_what_cannot_be_explained():
    with pytest.raises(ArgumentError, match="layer 1 is Dropout"):
        explain(gb.mlp([2, 3, 1], dropout=0.5, device="cpu"), X, targets("", 1))
    with pytest.raises(ArgumentError, match="90,300"):
        explain(gb.mlp([300, 300], device="cpu"), np.zeros((1, 300)), np.zeros((1, 300)))
    with pytest.raises(ArgumentError, match="x must have shape"):
        explain(gb.mlp([3, 1], device="cpu"), X, targets("", 1))
    with pytest.raises(ArgumentError, match=r"did you mean 'z\("):
        explain(gb.mlp([2, 1], device="cpu"), X, targets("", 1))["z(9)"]


def test_text_of_a_matrix():
    assert matrix_text(np.array([[1.0, -2.25], [10.0, 0.0]]), 2) == " 1.00  -2.25\n10.00   0.00"


def test_a_layer_that_stays_as_it_is_is_refused() -> None:
    """Its update would be shown, and does not take place."""
    net = gb.mlp([2, 3, 1], dtype="float64", device="cpu")
    net.layers[0].trainable = False
    with pytest.raises(ArgumentError, match="layer 0 is not trainable"):
        explain(net, np.ones((1, 2)), np.ones((1, 1)))
