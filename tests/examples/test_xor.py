from __future__ import annotations

import time

import numpy as np
import pytest


def test_two_units_get_stuck_and_eight_do_not(example):
    xor = example("xor")
    result = xor.main(["--device", "cpu", "--epochs", "15000", "--seeds", "12"])
    assert not result["solved"]
    assert result["loss"] == pytest.approx(np.log(2) / 2, abs=0.03)
    i, j = result["pair"]
    assert xor.Y[i] != xor.Y[j]
    assert result["after"][[i, j], 0] == pytest.approx(0.5, abs=0.05)
    assert np.abs(result["hidden"][i] - result["hidden"][j]).max() < 0.05
    assert abs(result["deltas"][i, 0] + result["deltas"][j, 0]) < 0.1 * abs(result["deltas"][i, 0])
    assert result["lowest_nearby"] > 0.9 * np.log(2) / 2
    solved = {name: sum(outcome) for name, outcome in result["outcomes"].items()}
    assert solved["2 units, SGD (the classic)"] < 12
    assert solved["2 units, Adam"] < 12
    for cure in ("2 units, lines in place, SGD", "8 units, SGD", "8 units, Adam"):
        assert solved[cure] == 12, cure


def test_hidden_activations_are_those_of_the_first_layer(example):
    xor = example("xor")
    net = xor.with_lines_in_place(type("Given", (), {"device": "cpu"}), 5)
    weights = net.get_weights()
    z = xor.X @ weights["0.weight"] + weights["0.bias"]
    assert xor.hidden_activations(net) == pytest.approx(1 / (1 + np.exp(-z)), rel=1e-5)


@pytest.mark.nightly
def test_classic_in_full(example):
    start = time.process_time()
    result = example("xor").main(["--device", "cpu"])
    # 350,000 steps, in the processor's time: by the clock they take as long as whatever else runs there lets them.
    assert time.process_time() - start < 60
    assert {name: sum(o) for name, o in result["outcomes"].items() if "8" in name or "place" in name} == {
        "2 units, lines in place, SGD": 20, "8 units, SGD": 20, "8 units, Adam": 20,
    }  # fmt: skip
