from __future__ import annotations


def test_depth_unwinds_the_spirals_and_every_gradient_is_right(example):
    results = example("any_depth").main(["--device", "cpu", "--epochs", "250"])
    accuracy = {len(r["hidden"]): r["accuracy"] for r in results}
    assert sorted(accuracy) == [0, 1, 2, 3, 5, 8]
    assert max(r["gradient_error"] for r in results) < 1e-8
    assert accuracy[0] < 0.65
    assert accuracy[1] < accuracy[2]
    assert min(accuracy[depth] for depth in (3, 5, 8)) > 0.95


def test_eight_layers_learn_with_another_seed_too(example):
    deep = ",".join(["12"] * 8)
    (result,) = example("any_depth").main(["--device", "cpu", "--hidden", deep, "--epochs", "200", "--seed", "1"])
    assert result["accuracy"] > 0.95


def test_widths_of_ones_own(example):
    (result,) = example("any_depth").main(["--device", "cpu", "--hidden", "5,4,3,6", "--epochs", "1"])
    assert result["net"].widths == [2, 5, 4, 3, 6, 2]
    assert result["gradient_error"] < 1e-8
