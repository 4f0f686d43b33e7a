from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def result(example):
    return example("two_three_two").main(["--device", "cpu"])


def test_library_hand_and_central_differences_agree(result):
    assert result["against_hand"] < 1e-14
    assert result["library"].worst_error < 1e-9


def test_dimensions(result):
    shapes = {
        "x": "1x2",
        "z(2)": "1x3",
        "a(3)": "1x2",
        "delta(3)": "1x2",
        "delta(2)": "1x3",
        "dC/dW(1)": "2x3",
        "dC/dW(2)": "3x2",
    }
    assert {name: result["library"][name].dimensions for name in shapes} == shapes


def test_step_goes_down_as_far_as_the_gradient_says(result):
    squared = sum((result["hand"][f"dC/d{p}"] ** 2).sum() for p in ("W(1)", "b(1)", "W(2)", "b(2)"))
    assert result["before"] - result["after"] == pytest.approx(0.5 * squared, rel=0.05)
    assert np.all(result["hand"]["new W(2)"] != result["hand"]["dC/dW(2)"])


def test_table_shows_every_matrix(example, capsys):
    example("two_three_two").main(["--device", "cpu"])
    shown = capsys.readouterr().out
    for name in (
        "z(2)",
        "a(2)",
        "z(3)",
        "a(3)",
        "s = dC/da(3)",
        "delta(3)",
        "delta(2)",
        "dC/dW(1)",
        "dC/dW(2)",
        "dC/db(1)",
    ):
        assert name in shown
