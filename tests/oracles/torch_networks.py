"""The same networks in PyTorch, differentiated by its autograd."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.oracles.random_networks import Case


def activation(torch: Any, name: str, z: Any) -> Any:
    F = torch.nn.functional
    functions = {
        "identity": lambda z: z,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": F.relu,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "selu": F.selu,
        "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
        "silu": F.silu,
        "celu": F.celu,
        "mish": F.mish,
        "softsign": F.softsign,
        # torch.nn.functional.hardsigmoid rounds 1/6 to float32 in its derivative.
        "hard_sigmoid": lambda z: F.relu6(z + 3) / 6,
        "hard_swish": F.hardswish,
    }
    return functions[name](z)


def loss(torch: Any, name: str, a: Any, y: Any) -> Any:
    F = torch.nn.functional
    functions = {
        "half_squared_error": lambda a, y: 0.5 * ((a - y) ** 2).sum() / len(a),
        "mean_squared_error": F.mse_loss,
        "mean_absolute_error": F.l1_loss,
        "huber": F.huber_loss,
        "poisson": F.poisson_nll_loss,
        "binary_cross_entropy": F.binary_cross_entropy_with_logits,
        "cross_entropy": F.cross_entropy,
    }
    return functions[name](a, y)


def autograd(torch: Any, case: Case, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{"loss", "outputs", "x", "0.weight", ..., "delta 0", ...} from PyTorch."""
    parameters = {k: torch.tensor(w, requires_grad=True) for k, w in weights.items()}
    x = torch.tensor(case.x, requires_grad=True)
    a, z = x, []
    for i, name in enumerate(case.activations):
        z.append(a @ parameters[f"{i}.weight"] + parameters[f"{i}.bias"])
        z[-1].retain_grad()
        a = activation(torch, name, z[-1])
    value = loss(torch, case.loss, a, torch.tensor(case.y))
    value.backward()
    return {
        "loss": value.detach().numpy(),
        "outputs": a.detach().numpy(),
        "x": x.grad.numpy(),
        **{k: p.grad.numpy() for k, p in parameters.items()},
        **{f"delta {i}": zi.grad.numpy() for i, zi in enumerate(z)},
    }
