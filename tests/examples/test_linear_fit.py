from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def result(example):
    return example("linear_fit").main(["--device", "cpu"])


def test_squared_error_ends_at_the_least_squares_answers(result):
    x, y = np.array([1.0, 3.0]), np.array([2.0, 5.0])
    assert result["squared"].path[-1, 0] == pytest.approx((x @ y) / (x @ x), abs=1e-6)
    slope, intercept = np.polyfit(x, y, 1)
    assert result["both"].path[-1] == pytest.approx([slope, intercept], abs=1e-6)
    assert result["least_squares"] == pytest.approx([slope, intercept])
    assert result["squared"].stopped == result["both"].stopped == "gradient nearly 0"


def test_path_is_gradient_descent_from_m_1(result):
    m = [1.0]
    for _ in range(10):
        m.append(m[-1] - 0.1 * ((m[-1] * 1 - 2) * 1 + (m[-1] * 3 - 5) * 3) / 2)
    assert result["squared"].path[:11, 0] == pytest.approx(m)


def test_absolute_error_jumps_over_its_kink_until_the_iterations_are_counted(result):
    absolute = result["absolute"]
    assert absolute.stopped == "iterations counted"
    assert len(absolute.costs) == 61
    late = absolute.path[-20:, 0]
    assert (late < 5 / 3).any()
    assert (late > 5 / 3).any()
    assert absolute.gradient_norm >= 1


def test_cost_curves_are_those_of_the_formulas(example):
    linear_fit = example("linear_fit")
    m = np.array([0.5, 1.0, 2.0])
    off = np.stack([m * 1 - 2, m * 3 - 5])
    assert linear_fit.cost_curve("half_squared_error", "cpu", m) == pytest.approx((0.5 * off**2).mean(axis=0))
    assert linear_fit.cost_curve("mean_absolute_error", "cpu", m) == pytest.approx(np.abs(off).mean(axis=0))
