from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.testing import check_layer


@pytest.mark.parametrize("shared", [True, False])
def test_the_contract_of_every_layer(shared: bool) -> None:
    assert check_layer(gb.PReLU(6, shared=shared))


@pytest.mark.parametrize("shared", [True, False])
def test_as_in_pytorch(backend: Backend, torch: Any, shared: bool) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))
    x[2, 3] = 0.0
    slope = rng.normal(size=1 if shared else 5)
    net = gb.Network([gb.PReLU(5, shared=shared)], device=backend, dtype="float64")
    net.set_weights({"0.slope": slope})
    there = torch.tensor(x, requires_grad=True)
    theirs = torch.tensor(slope, requires_grad=True)
    a = torch.nn.functional.prelu(there, theirs)
    (0.5 * ((a - torch.tensor(g)) ** 2).sum() / 7).backward()
    np.testing.assert_allclose(backend.to_host(net.forward(x)), a.detach().numpy(), rtol=1e-14)
    _, gradients = net.loss_and_gradients(x, g)
    np.testing.assert_allclose(gradients["0.slope"], theirs.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(net.input_gradient(x, g), there.grad.numpy(), rtol=1e-12, atol=1e-16)


def test_it_learns_its_slope(backend: Backend) -> None:
    x = np.linspace(-1, 1, 40)[:, None]
    net = gb.Network([gb.PReLU(1)], loss="mean_squared_error", device=backend, dtype="float64")
    optimizer = gb.SGD(1.0)
    for _ in range(100):
        net.train_step(x, np.where(x > 0, x, -0.7 * x), optimizer)
    np.testing.assert_allclose(net.get_weights()["0.slope"], [-0.7], atol=1e-6)


def test_refused_and_made_again() -> None:
    for make, kind in (
        (lambda: gb.PReLU(0), ArgumentError),
        (lambda: gb.PReLU(3, initial=float("nan")), ArgumentError),
        (lambda: gb.PReLU(3, initial="a"), ArgumentTypeError),  # type: ignore[arg-type]
        (lambda: gb.Network([gb.Dense(2, 3), gb.PReLU(4)]), ArgumentError),
    ):
        with pytest.raises(kind):
            make()
    layer = gb.PReLU(4, shared=False, initial=0.1)
    assert gb.PReLU(**layer.settings()).settings() == layer.settings()
    assert layer.initial(np.random.default_rng(0))["slope"].tolist() == [0.1] * 4
