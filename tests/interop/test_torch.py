"""Weights from PyTorch and for it: the same outputs in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError
from tests.small import assert_same_bits, make_data


def ours(seed: int = 0) -> gb.Network:
    layers = [
        gb.Dense(5, 6, "relu"), gb.BatchNorm(6), gb.Dropout(0.1), gb.Dense(6, 7), gb.Activation("tanh"), gb.LayerNorm(7),
        gb.PReLU(7, shared=False), gb.RMSNorm(7), gb.Dense(7, 3, bias=False),
    ]  # fmt: skip
    return gb.Network(layers, device="cpu", seed=seed)


def theirs(torch: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 7), nn.Tanh(), nn.LayerNorm(7),
        nn.PReLU(7), nn.RMSNorm(7), nn.Linear(7, 3, bias=False),
    ).to(torch.float32)  # fmt: skip


def trained(net: gb.Network) -> gb.Network:
    x, y = make_data(20, 5, 3)
    for _ in range(5):
        net.train_step(x, y, gb.Adam(0.05))
    return net


def outputs(torch: Any, module: Any, x: np.ndarray) -> np.ndarray:
    module.eval()
    with torch.no_grad():
        return module(torch.as_tensor(x, dtype=torch.float32)).numpy()


def test_from_pytorch(torch: Any) -> None:
    module, net, (x, _) = theirs(torch), ours(), make_data(9, 5, 3)
    module.train()
    with torch.no_grad():
        module(torch.as_tensor(3 * x + 1, dtype=torch.float32))
    names = gb.load_torch(net, module.state_dict())
    assert names["0.weight"] == "0.weight"
    assert names["4.bias"] == "3.bias"
    assert names["2.running_var"] == "1.running_var"
    np.testing.assert_allclose(net.predict(x), outputs(torch, module, x), rtol=1e-5, atol=1e-5)


def test_to_pytorch(torch: Any) -> None:
    module, net, (x, _) = theirs(torch), trained(ours()), make_data(9, 5, 3)
    state = {name: torch.as_tensor(array) for name, array in gb.to_torch_state(net).items()}
    report = module.load_state_dict(state, strict=False)
    assert set(report.missing_keys) <= {"2.num_batches_tracked"}
    assert not report.unexpected_keys
    np.testing.assert_allclose(outputs(torch, module, x), net.predict(x), rtol=1e-5, atol=1e-5)


def test_there_and_back_by_a_file(tmp_path: Path) -> None:
    net, again = trained(ours()), ours(seed=1)
    save_file(gb.to_torch_state(net), tmp_path / "w.safetensors")
    gb.load_torch(again, tmp_path / "w.safetensors")
    assert_same_bits(again.get_weights(), net.get_weights())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("by_load_file", [True, False])
def test_more_than_ten_modules_by_a_file_that_sorts_names_as_text(
    tmp_path: Path, by_load_file: bool, bias: bool
) -> None:
    def made(seed: int) -> gb.Network:
        inner = gb.Residual([gb.Dense(4, 4, "relu", bias=bias) for _ in range(7)])
        layers = [inner, *(gb.Dense(4, 4, "relu", bias=bias) for _ in range(12)), gb.BatchNorm(4)]
        return gb.Network(layers, device="cpu", seed=seed)

    net, again = made(0), made(1)
    state = {**gb.to_torch_state(net), "25.num_batches_tracked": np.array(3)}
    save_file(state, tmp_path / "w.safetensors")
    given = load_file(tmp_path / "w.safetensors") if by_load_file else tmp_path / "w.safetensors"
    gb.load_torch(again, given)
    assert_same_bits(again.get_weights(), net.get_weights())


def test_sorted_words_have_no_order(tmp_path: Path) -> None:
    weights = {
        f"{name}.{kind}": np.ones((4, 4)[: 1 + (kind == "weight")])
        for name in ("inner", "head")
        for kind in ("weight", "bias")
    }
    net = gb.mlp([4, 4, 4], device="cpu")
    gb.load_torch(net, weights)
    save_file(weights, tmp_path / "w.safetensors")
    for given in (tmp_path / "w.safetensors", load_file(tmp_path / "w.safetensors")):
        with pytest.raises(ArgumentError, match="'head' and 'inner' differ in words"):
            gb.load_torch(net, given)
    gb.load_torch(
        net, {"a.weight": np.ones((4, 4)), "b.weight": np.ones((4, 4))} | {"a.bias": np.ones(4), "b.bias": np.ones(4)}
    )


def test_names_of_any_kind(torch: Any) -> None:
    class Net(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 3)})
            self.head = torch.nn.Linear(3, 2)

    net = gb.mlp([4, 3, 2], device="cpu")
    found = gb.load_torch(net, Net().bfloat16().state_dict())
    assert list(found) == ["inner.first.weight", "inner.first.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        ({"0.weight": np.zeros((3, 4)), "0.bias": np.zeros(3)}, ArgumentError, "1 modules with parameters for 2"),
        (
            {"0.weight": np.zeros((3, 5)), "0.bias": np.zeros(3), "1.weight": np.zeros((2, 3)), "1.bias": np.zeros(2)},
            ArgumentError,
            r"0.weight has shape \(3, 5\), and 0.weight here \(4, 3\)",
        ),
        (
            {"0.weight": np.zeros((3, 4)), "1.weight": np.zeros((2, 3)), "1.bias": np.zeros(2)},
            ArgumentError,
            "module '0'",
        ),
        ([1, 2], ArgumentTypeError, "must be a state dict"),
        ("weights.pt", ArgumentError, "only .safetensors"),
        ("missing.safetensors", CheckpointError, "cannot be read"),
    ],
)
def test_what_does_not_fit_changes_nothing(state: Any, kind: type[Exception], message: str) -> None:
    net = gb.mlp([4, 3, 2], device="cpu")
    before = net.get_weights()
    with pytest.raises(kind, match=message):
        gb.load_torch(net, state)
    assert_same_bits(net.get_weights(), before)
