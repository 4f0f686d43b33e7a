from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu.numpy_backend import PART, NumpyBackend, describe_cpu
from gpubackprop.errors import DeviceError
from tests.small import OPTIMIZERS, assert_same_bits, make_data, make_optimizer


def test_precisions_of_a_gpu_are_refused() -> None:
    with pytest.raises(DeviceError, match='precision="tf32" needs an NVIDIA GPU'):
        NumpyBackend("tf32")


def test_the_machine_is_described() -> None:
    info = describe_cpu()
    assert info.name == "cpu"
    assert info.working
    assert f"NumPy {np.__version__}" in info.description
    assert "cores" in info.description
    assert NumpyBackend().describe().startswith("steps recorded and replayed")


@pytest.mark.parametrize("key", [k for k in OPTIMIZERS if k not in ("lars", "lamb")])
def test_blocks_are_the_whole(key: str) -> None:
    """An update in blocks that fit the cache is bit by bit the update of all at once."""

    class Whole(NumpyBackend):
        def update(self, optimizer: Any, P: Any, G: Any, state: Any, h: Any) -> None:
            optimizer.rule(self, P, G, state, h)

    x, y = make_data(3, 400, 350)
    results = []
    for backend in (NumpyBackend(), Whole()):
        net = gb.mlp([400, 350], device=backend)
        assert net.parameter_count > PART
        optimizer = make_optimizer(key, weight_decay=0.1, clip_norm=0.5)
        for _ in range(3):
            net.train_step(x, y, optimizer)
        results.append(net.get_weights())
    assert_same_bits(*results)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"momentum": 0.9, "clip_norm": 0.5},
        {"momentum": 0.9, "clip_value": 0.001},
        {"momentum": 0.9, "schedule": gb.schedules.Exponential(gamma=0.5)},
    ],
    ids=str,
)
@pytest.mark.parametrize("penalty", [0.0, 0.01])
@pytest.mark.parametrize("capture", [True, False])
def test_products_that_add_give_what_two_passes_give(options: dict[str, Any], penalty: float, capture: bool) -> None:
    x, y = make_data(130, 130, 140, "cross_entropy")
    results = []
    for direct in (True, False):
        net = gb.Network(
            [gb.Dense(130, 150, "relu"), gb.Dropout(0.1), gb.Dense(150, 140, "tanh", bias=False), gb.Dense(140, 140)],
            loss="cross_entropy",
            device=NumpyBackend(direct=direct),
            dtype="float64",
            l2=penalty,
            capture=capture,
        )
        optimizer = gb.SGD(0.3, **options)
        for n in (130, 130, 20, 1, 130):
            net.train_step(x[:n], y[:n], optimizer)
        net.train_step(x, y, optimizer, micro_batch_size=60)
        net.train_step(x, y, optimizer)
        _, gradients = net.loss_and_gradients(x, y)
        results.append({**net.get_weights(), **{f"d{k}": v for k, v in gradients.items()}, **optimizer.get_state()})
    for name, expected in results[1].items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(results[0][name], expected, rtol=1e-9, atol=1e-11 * scale, err_msg=name)


def test_a_step_that_fails_while_recorded_leaves_the_backend_as_it_was() -> None:
    be = NumpyBackend()
    out = np.zeros(3)

    def step() -> None:
        be.xp.add(out, 1.0, out=out)
        raise KeyError("half-way")

    with pytest.raises(KeyError):
        be.record(step)
    assert be.xp is np
    assert not out.any()
    be.dot(np.ones(3), np.ones((3, 3)), out)
    np.testing.assert_array_equal(out, [3, 3, 3])


def test_recording_does_nothing_yet_and_a_fill_is_recorded_too() -> None:
    be = NumpyBackend()
    out = np.zeros(3)
    program = be.record(lambda: be.fill(out, 4.0))
    assert not out.any()
    program()
    assert (out == 4.0).all()
