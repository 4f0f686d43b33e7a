"""PyTorch, as a `Peer`: eager, compiled, or in a CUDA graph."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.gpu_peers.case import LEARNING_RATE, MOMENTUM, Case


class Torch:
    """how: "eager", "graph" (torch.cuda.graph around the whole step) or "compile" (mode="max-autotune")."""

    def __init__(self, case: Case, how: str = "eager", device: str = "cuda") -> None:
        # "high" is TF32, "highest" is float32: set for this process, which compares nothing else at the same time.
        torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
        self.device, self.case = device, case
        layers: list[nn.Module] = []
        for i, ((d, m), (W, b)) in enumerate(zip(pairwise(case.widths), case.weights(), strict=True)):
            linear = nn.Linear(d, m)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W.T))
                linear.bias.copy_(torch.from_numpy(b))
            layers += [linear] + ([nn.ReLU()] if i < len(case.widths) - 2 else [])
        self.model = nn.Sequential(*layers).to(device)
        x, y = case.data()
        self.x, self.y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        cuda = device == "cuda"
        options: dict[str, Any] = {"fused": True, "capturable": how == "graph"} if cuda else {}
        self.optimizer: torch.optim.Optimizer
        if case.optimizer == "adam":
            self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, **options)
        else:
            options.pop("capturable", None)
            self.optimizer = torch.optim.SGD(self.model.parameters(), LEARNING_RATE, momentum=MOMENTUM, **options)
        self.value = torch.zeros((), device=device)
        self._forward = torch.compile(self._value, mode="max-autotune") if how == "compile" else self._value
        self._run = self._step
        if how == "graph":
            self._run = self._captured()

    def _value(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.case.precision == "bf16"):
            return nn.functional.cross_entropy(self.model(x), y)

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._forward(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        self.value = loss.detach()

    def _captured(self) -> Any:
        """As PyTorch's notes on CUDA graphs do it: some steps on a side stream, then the capture; the weights are put back."""
        saved = {k: v.clone() for k, v in self.model.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()
        self.model.load_state_dict(saved)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        return graph.replay

    def step(self) -> None:
        self._run()

    def loss(self) -> float:
        return float(self.value)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
