"""Loss, outputs, deltas and every gradient against PyTorch's autograd: 300 random networks in float64, to 1e-12."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.base import Backend
from tests.oracles.random_networks import Case, random_case, relative
from tests.oracles.torch_networks import autograd

TOLERANCE = 1e-12


def differences(torch: Any, case: Case, device: str | Backend = "cpu") -> dict[str, float]:
    """The relative error of everything that PyTorch can say about the case."""
    net = case.network(device=device)
    expected = autograd(torch, case, net.get_weights())
    value, gradients = net.loss_and_gradients(case.x, case.y)
    found = {
        "loss": np.asarray(value),
        "outputs": net.backend.to_host(net.forward(case.x)),
        "x": net.input_gradient(case.x, case.y),
        **gradients,
        **{f"delta {i}": delta for i, delta in enumerate(net.deltas(case.x, case.y))},
    }
    assert set(found) == set(expected)
    return {name: relative(array, expected[name]) for name, array in found.items()}


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_300_random_networks_agree_with_autograd(torch: Any, first: int) -> None:
    for seed in range(first, first + 30):
        off = {k: e for k, e in differences(torch, random_case(seed)).items() if not e <= TOLERANCE}
        assert not off, f"network {seed}: {random_case(seed)}: {off}"


def test_every_device_agrees_with_autograd(torch: Any, backend: Backend) -> None:
    for seed in range(1000, 1015):
        off = {k: e for k, e in differences(torch, random_case(seed), backend).items() if not e <= TOLERANCE}
        assert not off, f"network {seed}: {random_case(seed)}: {off}"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["BatchNorm", "LayerNorm"])
def test_normalisations_agree_with_autograd(torch: Any, backend: Backend, kind: str, training: bool) -> None:
    import gpubackprop as gb

    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((7, 5))
    norm = getattr(gb, kind)(5)
    net = gb.Network([gb.Dense(4, 5), norm, gb.Activation("tanh")], dtype="float64", device=backend, seed=2)
    weights = {k: w + 0.3 * rng.random(w.shape) for k, w in net.get_weights().items()}
    net.set_weights(weights)
    W, b = (torch.tensor(weights[f"0.{k}"], requires_grad=True) for k in ("weight", "bias"))
    other = torch.nn.BatchNorm1d(5) if kind == "BatchNorm" else torch.nn.LayerNorm(5)
    other.double().train(training)
    with torch.no_grad():
        other.weight.copy_(torch.tensor(weights["1.gamma"]))
        other.bias.copy_(torch.tensor(weights["1.beta"]))
        if kind == "BatchNorm":
            other.running_mean.copy_(torch.tensor(weights["1.running_mean"]))
            other.running_var.copy_(torch.tensor(weights["1.running_var"]))
    tx = torch.tensor(x, requires_grad=True)
    value = 0.5 * ((torch.tanh(other(tx @ W + b)) - torch.tensor(y)) ** 2).sum() / 7
    value.backward()
    loss, gradients = net.loss_and_gradients(x, y, training=training)
    state = net.get_weights()
    assert loss == pytest.approx(value.item(), rel=TOLERANCE)
    expected = {"0.weight": W.grad, "0.bias": b.grad, "1.gamma": other.weight.grad, "1.beta": other.bias.grad}
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=0, atol=TOLERANCE * largest, err_msg=name)
    if kind == "BatchNorm":
        np.testing.assert_allclose(state["1.running_mean"], other.running_mean.numpy(), rtol=TOLERANCE)
        np.testing.assert_allclose(state["1.running_var"], other.running_var.numpy(), rtol=TOLERANCE)
    dx = net.input_gradient(x, y, training=training)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=0, atol=TOLERANCE * largest)
