from __future__ import annotations

import numpy as np
import pytest


def test_each_rate_does_what_theory_says(example):
    module = example("learning_rates")
    result = module.main(["--device", "cpu"])
    verdicts = {r.rate: r.verdict for r in result["runs"]}
    assert verdicts[1e-6] == verdicts[1e-5] == verdicts[1e-4] == "too small"
    assert verdicts[0.01] == verdicts[0.1] == "good"
    assert verdicts[0.5] == "good, overshooting"
    assert verdicts[1.0] == "diverges"
    for run in result["runs"]:
        assert (run.theory == "diverges") == (run.verdict == "diverges")
        assert (run.theory == "overshoots") == ("overshooting" in run.verdict)
    ends = {
        word: [r.losses[-1] for r in result["runs"] if r.verdict.startswith(word)] for word in ("good", "slow", "too")
    }
    assert max(ends["good"]) < min(ends["slow"]) <= max(ends["slow"]) < min(ends["too"]), "a better word, a lower loss"


def test_losses_are_those_of_gradient_descent(example):
    module = example("learning_rates")
    x, y, curvature = module.problem()
    assert curvature == pytest.approx(np.linalg.norm(x, 2) ** 2 / len(x))
    w, losses = np.zeros((2, 1)), []
    for _ in range(20):
        losses.append(float(((x @ w - y) ** 2).mean() / 2))
        w = w - 0.1 * x.T @ (x @ w - y) / len(x)
    assert module.descend(x, y, 0.1, 20, "cpu")[0] == pytest.approx(losses)
