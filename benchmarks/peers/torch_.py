"""PyTorch on the CPU, eager and compiled."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.peers.base import LEARNING_RATE, MOMENTUM, Config, Peer

_ACTIVATIONS = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid}


def half_squared_error(a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(1/n) sum_i 1/2 |a_i - y_i|^2."""
    return 0.5 * (a - y).square().sum() / len(a)


class Eager(Peer):
    """torch.nn.Sequential, a loss, `backward()` and `torch.optim`, as a tutorial writes it."""

    def __init__(self, config: Config) -> None:
        self.linear = []
        modules: list[torch.nn.Module] = []
        for W, b in config.weights():
            layer = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(W.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
            self.linear.append(layer)
            modules += [layer, _ACTIVATIONS[config.activation]()]
        model = torch.nn.Sequential(*modules[:-1])
        loss = torch.nn.functional.cross_entropy if config.loss == "cross_entropy" else half_squared_error
        x, y = config.first_batch()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        parameters = model.parameters()
        if config.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
        else:
            self.optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=MOMENTUM)
        self.cost = lambda: loss(model(self.x), self.y)
        self.update = self.optimizer.step

    def gradients(self) -> list[np.ndarray]:
        self.optimizer.zero_grad()
        self.cost().backward()
        return [g for layer in self.linear for g in (layer.weight.grad.numpy().T, layer.bias.grad.numpy())]

    def run(self, steps: int) -> None:
        cost, update, zero = self.cost, self.update, self.optimizer.zero_grad
        for _ in range(steps):
            zero()
            cost().backward()
            update()

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "threads": str(torch.get_num_threads())}


class Compiled(Eager):
    """The same with forward, loss, backward and update through `torch.compile`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.cost = torch.compile(self.cost)
        self.update = torch.compile(self.optimizer.step)
