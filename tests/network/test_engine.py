"""Steps that run out of memory, on a device that says so: the CPU with a ceiling on rows."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import DeviceError
from gpubackprop.network.engine import CALL_BYTES


class Small(StrictBackend):
    """Has memory for layers of so many rows."""

    rows = 10**9
    steps = None
    """Training steps of two layers after which it has room for 20 rows only."""

    def affine(self, x, W, b, f, z, out):
        if self.steps is not None:
            self.rows = 10**9 if self.steps > 0 else 20
            self.steps -= 0.5
        if len(x) > self.rows:
            raise MemoryError(f"no room for {len(x)} rows")
        super().affine(x, W, b, f, z, out)


def network(device, *layers):
    parts = [gb.Dense(5, 8, "tanh"), gb.Dropout(0.3), *layers, gb.Dense(8, 3)]
    return gb.Network(parts, loss="cross_entropy", device=device, seed=4)


def data(n=100):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 5)).astype(np.float32), rng.integers(0, 3, n)


@pytest.mark.parametrize("micro", [None, 70])
def test_parts_are_halved_until_they_fit(micro):
    (x, y), device = data(), Small()
    device.rows = 20
    nets, rules = (network(device), network("cpu")), (gb.Adam(0.01), gb.Adam(0.01))
    with pytest.warns(RuntimeWarning, match="no room for") as told:
        nets[0].train_step(x, y, rules[0], micro_batch_size=micro)
    assert [str(w.message).split(" rows at once")[0].split()[-1] for w in told] == (
        ["100", "50", "25"] if micro is None else ["70", "35"]
    )
    assert nets[0].engine.rows_at_once == (13 if micro is None else 18)
    nets[1].train_step(x, y, rules[1])
    for net, rule in zip(nets, rules, strict=True):
        net.train_step(x, y, rule)
        # The dropout of the attempts that failed is not drawn twice.
        assert (rule.t, int(net.backend.to_host(net.step))) == (2, 2)
    for name, want in nets[1].get_weights().items():
        np.testing.assert_allclose(nets[0].get_weights()[name], want, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("loops", [False, True])
def test_trainer(steps, loops):
    """It runs out at a step of the first epoch; a device that could go on by itself is asked about that first."""
    (x, y), device = data(), Small()
    device.loops = loops
    device.steps = steps
    nets, rules = (network(device), network("cpu")), (gb.Adam(0.01), gb.Adam(0.01))
    with pytest.warns(RuntimeWarning, match="parts of 15 rows"):
        gb.Trainer(nets[0], rules[0]).fit(x, y, epochs=2, batch_size=30)
    gb.Trainer(nets[1], rules[1]).fit(x, y, epochs=2, batch_size=30)
    for net, rule in zip(nets, rules, strict=True):
        assert (rule.t, int(net.backend.to_host(net.step))) == (8, 8)
    for name, want in nets[1].get_weights().items():
        np.testing.assert_allclose(nets[0].get_weights()[name], want, atol=1e-5)


def test_not_even_one_row():
    device = Small()
    device.rows = 0
    with pytest.raises(DeviceError, match="no memory for a step of one row"), pytest.warns(RuntimeWarning):
        network(device).train_step(*data(4), gb.SGD(0.1))


def test_batch_norm_is_not_split_by_itself():
    device = Small()
    device.rows = 20
    with pytest.raises(DeviceError, match="BatchNorm would normalise smaller parts differently"):
        network(device, gb.BatchNorm(8)).train_step(*data(), gb.SGD(0.1))


@pytest.mark.parametrize("most", [2, 5])
def test_recorded_parts_are_bounded_by_what_they_take(most, monkeypatch):
    """The oldest go; the gradient stays that of the whole batch."""
    x, y = data(100)
    whole, parts = network("cpu"), network("cpu")
    parts.train_step(x, y, gb.SGD(0.1), micro_batch_size=50)
    whole.set_weights(parts.get_weights())
    whole.engine.set_count(parts.engine.count())
    held = parts.engine.training.batch(10).programs
    calls = None
    for _ in range(2):
        parts.train_step(x, y, gb.SGD(0.1), micro_batch_size=10)
        if calls is None:
            calls = max(len(program.calls) for program in held.values())
            monkeypatch.setattr("gpubackprop.network.engine.PROGRAM_BYTES", most * calls * CALL_BYTES)
            held.clear()
        whole.train_step(x, y, gb.SGD(0.1))
    assert 1 < len(held) <= most + 1
    for name, want in whole.get_weights().items():
        np.testing.assert_allclose(parts.get_weights()[name], want, atol=1e-5)
