"""The comparison of steps on the CPU, small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cpu, layers, readme
from benchmarks.cpu import BEST, BY_HAND, EAGER, GOALS, LIMIT, LOOP, SCAN, ratios
from benchmarks.peers import turns
from benchmarks.peers.base import CONFIGS

BLOCKS = {
    "ours": [3.0, 30.0, 3.0],
    "limit": [2.0, 20.0, 2.0],
    "torch eager": [6.0, 60.0, 6.6],
    "torch compile": [5.0, 50.0, 5.0],
    "jax jit": [4.0, 40.0, 4.0],
    "jax scan": [1.5, 15.0, 1.5],
}


def run(monkeypatch: pytest.MonkeyPatch, module: object, *arguments: str) -> None:
    monkeypatch.setattr(turns, "BLOCK", 0.01)
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    module.main()  # type: ignore[attr-defined]


def test_ratios_are_ours_over_theirs_within_a_round() -> None:
    found = ratios(BLOCKS)
    assert {name: r["ratio"] for name, r in found.items()} == {EAGER: 0.5, BEST: 0.75, LIMIT: 1.5}
    assert found[LIMIT] == {"ratio": 1.5, "low": 1.5, "high": 1.5}
    assert found[EAGER]["low"] < 0.5 == found[EAGER]["high"]
    more = {"ours numba": [3.0, 30.0, 3.0], "ours fit": [3.3, 33.0, 3.3], "ours train_step": [6.0, 60.0, 6.0]}
    with_more = ratios({**BLOCKS, **more})
    assert with_more[SCAN]["ratio"] == 2.0
    assert with_more[LOOP]["ratio"] == pytest.approx(1.1)
    assert with_more[BY_HAND]["ratio"] == 2.0
    assert ratios({"ours": [1.0]}) == {}


def test_every_config_has_goals() -> None:
    assert GOALS.keys() == CONFIGS.keys()
    assert all({EAGER, BEST, LIMIT, BY_HAND} <= goals.keys() for goals in GOALS.values())


def test_a_whole_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "cpu.json"
    arguments = [
        "--configs",
        "a",
        "--peers",
        "limit,ours,ours train_step",
        "--seconds",
        "0.05",
        "--output",
        str(output),
    ]
    run(monkeypatch, cpu, *arguments)
    said = capsys.readouterr().out
    assert "to limit" in said
    assert "to bare steps, of train_step" in said
    results = json.loads(output.read_text())
    timed = results["configs"]["a"]["peers"]
    assert timed["ours"]["blocks"] >= 3
    assert timed["ours"]["low"] <= timed["ours"]["seconds"] <= timed["ours"]["high"]
    assert 1e-6 < timed["ours"]["seconds"] < 1e-2
    assert results["configs"]["a"]["ratios"].keys() == {LIMIT, BY_HAND}
    assert results["machine"]["packages"]["numpy"] == np.__version__
    table = readme.cpu(results)
    assert table.startswith("| network | products alone | gpubackprop |")
    assert "| 2-16-16-1, batch 4, half squared error | 0.0" in table
    assert cpu.kept(output, {**results["machine"], "when": "later", "load": 9.0}) == results["configs"]
    assert cpu.kept(output, {**results["machine"], "cores": 1000}) == {}
    assert cpu.kept(tmp_path / "none.json", results["machine"]) == {}
    run(monkeypatch, cpu, "--show", "--output", str(output))
    assert capsys.readouterr().out == said


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--configs", "z"], ["--peers", "ours,nobody"], ["--peers", "limit"]):
        with pytest.raises(SystemExit):
            run(monkeypatch, cpu, *arguments)
        assert "--configs takes a, b" in capsys.readouterr().err


def test_a_layer_is_measured_against_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(layers, "WIDTHS", ((6, 5, 3), (7, 4, 4, 2)))
    output = tmp_path / "layers.json"
    run(monkeypatch, layers, "--only", "tanh", "--batches", "8", "--seconds", "0.01", "--output", str(output))
    assert capsys.readouterr().out.count("PyTorch") == 4
    results = json.loads(output.read_text())
    assert results["layers"].keys() == {"gelu_tanh", "tanh"}
    table = readme.layers(results)
    assert table.startswith("| layer \\ network, batch | 6-5-3, 8 | 7-4-4-2, 8 |")
    assert "| gelu tanh | " in table


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_pages_have_the_tables_of_the_results(page: str) -> None:
    text = (Path(readme.ROOT) / page).read_text(encoding="utf-8")
    assert readme.filled(text) == text
