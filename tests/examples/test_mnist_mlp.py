from __future__ import annotations

import pytest


def test_modern_settings_beat_the_classic_on_the_digits(example):
    pytest.importorskip("sklearn")
    result = example("mnist_mlp").main(["--device", "cpu", "--data", "digits", "--epochs", "15"])
    classic, modern = (r["accuracies"] for r in result["results"].values())
    assert len(classic) == len(modern) == 15
    assert modern[-1] > 0.93
    assert modern[-1] > classic[-1] > 0.5
    confusion = result["confusion"]
    assert confusion.shape == (10, 10)
    assert confusion.sum() == len(result["data"].x_test)
    assert confusion.trace() / confusion.sum() == pytest.approx(modern[-1])
