"""The libraries that are compared do the same work, or are turned away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.layers import configs
from benchmarks.peers import turns
from benchmarks.peers.base import BATCHES, CONFIGS, Config
from benchmarks.peers.turns import PEERS, Turns, check, make, measure, reference
from gpubackprop.bench import measure as clocks

SMALL = {
    "relu": Config((6, 5, 4, 3), 16),
    **{
        name: Config((6, 5, 4, 3), 16, activation=name)
        for name in ("gelu", "gelu_tanh", "silu", "tanh", "elu", "softplus")
    },
    "batch_norm": Config((6, 5, 4, 3), 16, between="batch_norm"),
    "layer_norm": Config((6, 5, 4, 3), 16, between="layer_norm", activation="tanh"),
}


def skip_unless_installed(peer: str) -> None:
    if not turns.available([peer]):
        pytest.skip("not installed")


@pytest.mark.parametrize("config", ["a", "b", "c", "g"])
def test_data_is_what_the_config_says(config: str) -> None:
    c = CONFIGS[config]
    x, y = c.data()
    assert x.shape == (BATCHES * c.batch, c.widths[0])
    assert x.dtype == np.float32
    assert len(y) == len(x)
    first, targets = c.first_batch()
    assert len(first) == len(targets) == c.batch
    half = c.batch // 2
    np.testing.assert_array_equal(first[:half], first[half:])
    assert (targets[:half] != targets[half:]).any()
    assert [W.shape for W, _ in c.weights()] == list(zip(c.widths[:-1], c.widths[1:], strict=True))
    assert c.describe().startswith("-".join(map(str, c.widths)))


def test_a_config_is_described_in_words() -> None:
    assert Config((2, 3), 4, activation="tanh", optimizer="adam").describe() == "2-3, batch 4, tanh, adam"
    assert Config((2, 3), 4, between="layer_norm", precision="tf32").describe() == "2-3, batch 4, layer norm, tf32"


@pytest.mark.parametrize("peer", ["ours", "ours without graph", "torch eager", "jax jit", "scikit-learn", "thinc"])
@pytest.mark.parametrize("config", ["a", "b"])
def test_peers_compute_the_same_gradients(peer: str, config: str) -> None:
    skip_unless_installed(peer)
    c = CONFIGS[config]
    check(make(peer, c).gradients(), reference(c), peer, kinks=False)


@pytest.mark.parametrize("name", SMALL)
def test_layers_and_activations_are_the_same_in_pytorch(name: str) -> None:
    skip_unless_installed("torch")
    c = SMALL[name]
    for peer in ("ours train_step", "torch eager"):
        check(make(peer, c).gradients(), reference(c), peer, kinks=False)


def test_every_layer_and_activation_is_compared() -> None:
    found = configs([32])
    assert len(found) == 8 + 3
    assert all(c.activation == name or c.between == name for name, rows in found.items() for c in rows)
    dropout = make("ours", Config((6, 5, 4, 3), 16, between="dropout"))
    assert "Dropout" in repr(dropout.net.layers)


def test_losses_go_the_same_way_for_three_steps() -> None:
    """What the gradients do not show: the update."""
    for optimizer in ("sgd", "adam"):
        c = Config((6, 5, 3), 16, optimizer=optimizer)
        found = {}
        for peer in ("ours", "ours without graph", "torch eager", "jax jit"):
            skip_unless_installed(peer)
            made = make(peer, c)
            found[peer] = []
            for _ in range(3):
                made.step()
                found[peer].append(made.loss())
        for losses in found.values():
            assert losses == pytest.approx(found["ours"], rel=1e-5)


def test_another_gradient_is_refused() -> None:
    ours = make("ours", CONFIGS["a"]).gradients()
    check(ours, ours, "this one", kinks=False)
    for i, kinks, factor in ((2, False, 1 + 1e-3), (2, True, 1.5)):
        wrong = [g.copy() for g in ours]
        wrong[i] *= factor
        with pytest.raises(SystemExit, match="that one has another gradient: gradient 2 is off by"):
            check(wrong, ours, "that one", kinks)
    with pytest.raises(SystemExit, match="is not finite"):
        check([np.full_like(g, np.nan) for g in ours], ours, "that one", kinks=True)


@pytest.mark.parametrize("peer", ["limit", "ours", "ours without graph", "ours train_step", "ours fit"])
def test_our_own_run(peer: str) -> None:
    turn = Turns(peer, CONFIGS["a"])
    turn.peer.measurement = 1e-3
    assert 1e-7 < turn.block(2e-3) < 1e-2
    steps = turn.steps
    assert steps >= 1
    turn.block(1e-3)
    assert turn.steps == steps


def test_the_limit_is_the_products_of_a_step() -> None:
    limit: Any = make("limit", CONFIGS["b"])
    # Three products a layer, less the delta that no layer below would take.
    assert len(limit.products) == 3 * 2 - 1
    shapes = sorted(out.shape for _, _, out in limit.products)
    assert shapes == sorted([(32, 128), (32, 10), (128, 10), (32, 128), (64, 128)])


def test_peers_take_turns_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BLOCK", 0.01)
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    found = measure(CONFIGS["a"], ["limit", "ours"], 0.05)
    assert found.keys() == {"limit", "ours"}
    assert len(found["ours"]) == len(found["limit"]) >= 3
    assert all(1e-7 < s < 1e-2 for s in found["ours"])


def test_summary_and_ratio_are_of_the_blocks() -> None:
    s = turns.summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert s == {"seconds": 3.0, "low": 2.0, "high": 4.0, "blocks": 5}
    assert turns.ratio([1.0, 10.0, 3.0], [2.0, 20.0, 3.0]) == {"ratio": 0.5, "low": 0.5, "high": 0.75}


@pytest.mark.parametrize("peer", [p for p in PEERS if "compile" not in p and p not in ("torch graph", "ours numba")])
def test_every_name_leads_to_a_library(peer: str) -> None:
    skip_unless_installed(peer)
    assert callable(make(peer, CONFIGS["b"]).run)


def test_a_loop_is_known_by_the_number_that_lasts_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing takes 1 ms, and each new number of things 20 ms more: the first time of a number does not count."""
    now, known = [0.0], set[int]()

    def group(count: int) -> None:
        now[0] += 1e-3 * count + (0 if count in known else 2e-2)
        known.add(count)

    monkeypatch.setattr(clocks, "perf_counter", lambda: now[0])
    assert turns.calls_for(group, 1e-2) == 16
    assert clocks.seconds_each(group, 16, 0.1) == pytest.approx(1e-3)
