from __future__ import annotations


def test_steps_steadiness_and_noise(example):
    runs = example("descent_variants").main(["--device", "cpu", "--epochs", "40"])
    one, mini, full = (runs[name] for name in ("one sample", "mini-batch of 32", "full batch"))
    assert (one.steps, mini.steps, full.steps) == (40 * 512, 40 * 16, 40)
    assert one.losses[-1] < mini.losses[-1] < full.losses[-1] < full.losses[0]
    assert full.rises == 0 < one.rises
    assert full.noise < 1e-6
    # 1 / sqrt(batch size), with the correction for drawing without replacement
    expected = (32 * 511 / (512 - 32)) ** 0.5
    assert 0.6 * expected < one.noise / mini.noise < 1.6 * expected
    assert all((r.seconds[1:] > r.seconds[:-1]).all() for r in runs.values())
