from __future__ import annotations

import numpy as np
import pytest


def test_values_and_derivatives_are_the_formulas_and_the_central_differences(example):
    curves = {c.name: c for c in example("loss_functions").main(["--device", "cpu"])}
    assert len(curves) == 6
    assert max(c.error for c in curves.values()) < 1e-8
    z = curves["squared error"].z
    p = 1 / (1 + np.exp(-z))
    q = np.exp(z) / (np.exp(z) + 2)
    expected = {
        "half squared error": (z**2 / 2, z),
        "squared error": (z**2, 2 * z),
        "absolute error": (np.abs(z), np.sign(z)),
        "binary cross-entropy": (-np.log(p), p - 1),
        "categorical cross-entropy": (-np.log(q), q - 1),
        "half squared error of a sigmoid": ((p - 1) ** 2 / 2, (p - 1) * p * (1 - p)),
    }
    for name, (value, derivative) in expected.items():
        assert curves[name].value == pytest.approx(value, abs=1e-12), name
        assert curves[name].derivative == pytest.approx(derivative, abs=1e-12), name


def test_no_zero_has_a_sign(example, capsys):
    example("loss_functions").main(["--device", "cpu"])
    assert "-0.000000" not in capsys.readouterr().out
