from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cpu, cpu_table, memory, readme
from benchmarks.goals import BEST, EAGER, LIMIT, LOOP, SCAN, goals, ratios
from benchmarks.peers import worker
from benchmarks.peers.base import BATCHES, CONFIGS, Config, Peer
from benchmarks.peers.worker import PEERS, make, steps_for

BLOCKS = {
    "ours": [3.0, 30.0, 3.0],
    "limit": [2.0, 20.0, 2.0],
    "torch eager": [6.0, 60.0, 6.6],
    "torch compile": [5.0, 50.0, 5.0],
    "jax jit": [4.0, 40.0, 4.0],
    "jax scan": [1.5, 15.0, 1.5],
}


def test_ratios_are_ours_over_theirs_within_a_round() -> None:
    found = ratios(BLOCKS)
    assert {name: r["ratio"] for name, r in found.items()} == {EAGER: 0.5, BEST: 0.75, LIMIT: 1.5}
    assert found[LIMIT] == {"ratio": 1.5, "low": 1.5, "high": 1.5}
    assert found[EAGER]["low"] < 0.5 == found[EAGER]["high"]
    with_more = ratios({**BLOCKS, "ours numba": [3.0, 30.0, 3.0], "ours fit": [3.3, 33.0, 3.3]})
    assert with_more[SCAN]["ratio"] == 2.0
    assert with_more[LOOP]["ratio"] == pytest.approx(1.1)
    assert ratios({"ours": [1.0]}) == {}


def test_every_config_has_goals() -> None:
    assert set(goals("c")) == {EAGER, BEST, LIMIT}
    assert set(goals("a")) == {EAGER, BEST, LIMIT, SCAN}
    assert set(goals("d")) == {EAGER, BEST, LIMIT, LOOP}
    assert all(goals(name) for name in CONFIGS)


@pytest.mark.parametrize("config", ["a", "b", "c", "g"])
def test_data_is_what_the_config_says(config: str) -> None:
    c = CONFIGS[config]
    x, y = c.data()
    assert x.shape == (BATCHES * c.batch, c.widths[0])
    assert x.dtype == np.float32
    assert len(y) == len(x)
    first, targets = c.first_batch()
    half = c.batch // 2
    np.testing.assert_array_equal(first[:half], first[half:])
    assert (targets[:half] != targets[half:]).any()
    assert [W.shape for W, _ in c.weights()] == list(zip(c.widths[:-1], c.widths[1:], strict=True))
    assert c.describe().startswith("-".join(map(str, c.widths)))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("config", ["a", "b"])
def test_peers_compute_the_same_gradients(peer: str, config: str) -> None:
    if peer in ("limit", "ours numba", "ours fit", "ours train_step", "torch compile", "jax scan"):
        pytest.skip("has the gradients of another peer, or none")
    for word, module in cpu.NEEDS.items():
        if peer.startswith(word):
            pytest.importorskip(module)
    cpu.check(make("ours", config).gradients(), make(peer, config).gradients(), peer, kinks=False)


def test_another_gradient_is_refused() -> None:
    ours = make("ours", "a").gradients()
    cpu.check(ours, ours, "this one", kinks=False)
    for i, kinks, factor in ((2, False, 1 + 1e-4), (2, True, 1.05), (5, True, 1 + 1e-4)):
        wrong = [g.copy() for g in ours]
        wrong[i] *= factor
        with pytest.raises(SystemExit, match=rf"that one has another gradient: array {i} of 6 is off by [15]\.0e-0"):
            cpu.check(ours, wrong, "that one", kinks)
    wrong = [g * (1 + 1e-3) if i < 4 else g for i, g in enumerate(ours)]
    cpu.check(ours, wrong, "one with kinks", kinks=True)
    with pytest.raises(SystemExit, match="has another gradient"):
        cpu.check(ours, [np.full_like(g, np.nan) for g in ours], "that one", kinks=True)


@pytest.mark.parametrize("peer", ["limit", "ours", "ours train_step", "ours fit"])
def test_our_own_run(peer: str) -> None:
    made = make(peer, "a")
    assert steps_for(made, 1e-3) >= 1
    made.run(3)


def test_the_first_run_of_a_length_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, known = 0.0, set()

    class Compiled(Peer):
        """A step takes 1 ms, and each new number of steps 20 ms more."""

        def __init__(self) -> None:
            return

        def run(self, steps: int) -> None:
            nonlocal now
            now += 1e-3 * steps + (0 if steps in known else 2e-2)
            known.add(steps)

    monkeypatch.setattr(worker, "perf_counter", lambda: now)
    assert steps_for(Compiled(), 1e-2) == 16


def test_the_limit_is_the_products_of_a_step() -> None:
    limit: Any = make("limit", "b")
    # Three products a layer, less the delta that no layer below would take.
    assert len(limit.products) == 3 * 2 - 1
    shapes = sorted(out.shape for _, _, out in limit.products)
    assert shapes == sorted([(32, 128), (32, 10), (128, 10), (32, 128), (64, 128)])


def test_a_whole_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "BLOCK", 0.01)
    output = tmp_path / "cpu.json"
    arguments = ["--configs", "a", "--peers", "limit,ours", "--seconds", "0.05", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["cpu.py", *arguments])
    cpu.main()
    assert "to limit" in capsys.readouterr().out
    results = json.loads(output.read_text())
    timed = results["configs"]["a"]["peers"]
    assert timed["ours"]["blocks"] >= 3
    assert timed["ours"]["low"] <= timed["ours"]["seconds"] <= timed["ours"]["high"]
    assert 1e-6 < timed["ours"]["seconds"] < 1e-2
    assert results["configs"]["a"]["ratios"].keys() == {LIMIT}
    assert results["machine"]["packages"]["numpy"] == np.__version__
    table = cpu_table.table(results)
    assert table.startswith("| network | products alone | gpubackprop |")
    assert "| 2-16-16-1, batch 4, half squared error | 0.0" in table
    assert "| limit |" in cpu_table.met(results)
    assert cpu.kept(output, {**results["machine"], "when": "later", "load_before": 9.0}) == results["configs"]
    assert cpu.kept(output, {**results["machine"], "cpu": "another"}) == {}
    assert cpu.kept(tmp_path / "none.json", results["machine"]) == {}


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--configs", "z"], ["--peers", "ours,nobody"], ["--peers", "limit"]):
        monkeypatch.setattr(sys, "argv", ["cpu.py", *arguments])
        with pytest.raises(SystemExit):
            cpu.main()
        assert "--configs takes a, b" in capsys.readouterr().err


def test_summary_is_of_the_blocks() -> None:
    s = cpu.summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert s == {"seconds": 3.0, "low": 2.0, "high": 4.0, "blocks": 5}


def test_memory_of_a_small_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.CASES, "small", ((16, 8, 4), 64, 32, "adam"))
    result = memory.case("small")
    assert result["measured"] >= 0
    # x, y as int64, weights with their gradients and two moments, and the workspace.
    padded = 16 * 8 + 16 + 8 * 4 + 16
    assert result["expected"] == 64 * 16 * 4 + 64 * 8 + 4 * padded * 4 + result["workspace"]


def test_a_config_is_described_in_words() -> None:
    assert Config("x", (2, 3), 4, activation="tanh", optimizer="adam").describe() == "2-3, batch 4, tanh, adam"


def test_the_readme_has_the_tables_of_the_results() -> None:
    text = (Path(readme.ROOT) / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text) == text
