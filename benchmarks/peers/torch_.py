"""PyTorch: eager, compiled, or in a CUDA graph."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers.base import DROPOUT, LEARNING_RATE, MOMENTUM, Config, Peer

_ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
_NORMS: dict[str, Any] = {"batch_norm": nn.BatchNorm1d, "layer_norm": nn.LayerNorm}


def half_squared_error(a: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(1/n) sum_i 1/2 |a_i - y_i|^2."""
    return 0.5 * (a - y).square().sum() / len(a)


class Eager(Peer):
    """torch.nn.Sequential, a loss, `backward()` and `torch.optim`, as a tutorial writes it."""

    capturable = False

    def __init__(self, config: Config, device: str = "cpu") -> None:
        # "high" is TF32, "highest" is float32: set for this process, which compares nothing else at the same time.
        torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
        self.device = device
        self.linear = []
        modules: list[nn.Module] = []
        for W, b in config.weights():
            layer = nn.Linear(*W.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(W.T.copy()))
                layer.bias.copy_(torch.from_numpy(b))
            self.linear.append(layer)
            modules.append(layer)
            if len(self.linear) == len(config.widths) - 1:
                break
            if config.between in _NORMS:
                modules.append(_NORMS[config.between](W.shape[1]))
            modules.append(_ACTIVATIONS[config.activation]())
            if config.between == "dropout":
                modules.append(nn.Dropout(DROPOUT))
        self.model = nn.Sequential(*modules).to(device)
        cross_entropy = config.loss == "cross_entropy"
        loss: Any = nn.functional.cross_entropy if cross_entropy else half_squared_error
        self.x, self.y = (torch.from_numpy(array).to(device) for array in config.first_batch())
        self.cost = lambda: loss(self.model(self.x), self.y)
        if config.precision == "bf16":
            self.cost = torch.autocast(device, torch.bfloat16)(self.cost)
        options: dict[str, Any] = {"fused": True} if device == "cuda" else {}
        if config.optimizer == "adam":
            options |= {"capturable": True} if self.capturable else {}
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, **options)
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE, momentum=MOMENTUM, **options)
        self.update: Any = self.optimizer.step
        self.value = torch.zeros((), device=device)

    def gradients(self) -> list[np.ndarray]:
        self.optimizer.zero_grad()
        self.cost().backward()
        grads = [(layer.weight.grad, layer.bias.grad) for layer in self.linear]
        return [array for W, b in grads for array in (W.cpu().numpy().T, b.cpu().numpy())]

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = self.cost()
        loss.backward()
        self.update()
        self.value = loss

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def loss(self) -> float:
        return float(self.value.detach())

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "threads": str(torch.get_num_threads())}


class Compiled(Eager):
    """The same through `torch.compile`: on a CPU forward, loss, backward and update, on a GPU what "max-autotune" takes."""

    def __init__(self, config: Config, device: str = "cpu") -> None:
        super().__init__(config, device)
        self.cost = torch.compile(self.cost, mode="max-autotune" if device == "cuda" else None)
        if device == "cpu":
            self.update = torch.compile(self.optimizer.step)


class CompiledStep(Eager):
    """`torch.compile` of the whole step: forward, loss, backward and update in one function, with compiled autograd."""

    capturable = True

    def __init__(self, config: Config, device: str = "cpu") -> None:
        super().__init__(config, device)
        torch._dynamo.config.compiled_autograd = True
        whole: Any = super().step
        self.whole = torch.compile(whole, mode="max-autotune" if device == "cuda" else None)

    def step(self) -> None:
        self.whole()


class Graph(Eager):
    """torch.cuda.graph around the whole step. Its first steps, on a side stream, leave no trace in weights and state."""

    capturable = True

    def __init__(self, config: Config, device: str = "cuda") -> None:
        super().__init__(config, device)
        saved = {k: v.clone() for k, v in self.model.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                super().step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            super().step()
        self.model.load_state_dict(saved)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        self.replay = graph.replay

    def step(self) -> None:
        self.replay()
