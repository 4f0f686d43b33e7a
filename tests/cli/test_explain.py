from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.cli import app


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        app([*arguments])
    return int(stop.value.code or 0)


def test_shows_every_matrix_labelled(capsys):
    assert run("explain", "--x", "0.05,0.1", "--y", "0.01,0.99", "--device", "cpu", "--input-layer", "1") == 0
    shown = capsys.readouterr().out
    for heading in (
        "x  1x2", "W(1)  2x3", "b(1)  1x3", "z(2)  1x3  = x W(1) + b(1)", "a(2)  1x3  = 1 / (1 + exp(-z(2)))",
        "s = dC/da(3)  1x2  = (a(3) - y) / n", "delta(3)  1x2  = s * f'(z(3))", "delta(2)  1x3  = (delta(3) W(2)^T) * f'(z(2))",
        "dC/dW(1)  2x3  = x^T delta(2)", "dC/db(2)  1x2  = column sums of delta(3)", "new W(2)  3x2  = W(2) - 0.5 dC/dW(2)",
    ):  # fmt: skip
        assert heading in shown, heading
    assert "    0.05000  0.10000\n" in shown
    worst = float(shown.split("central differences: ")[-1].split()[0])
    assert worst < 1e-9


def test_wide_matrices_stand_below_each_other(capsys):
    assert (
        run(
            "explain", "--layers", "2,9", "--loss", "cross_entropy", "--y", "7;0", "--x", "1,2;-1,.5", "--device", "cpu"
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "softmax" in shown
    assert "off by" in shown
    assert "…" not in shown


def test_saved_network(tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    net = gb.mlp([3, 2, 1], activation="tanh", loss="mean_absolute_error", seed=5, device="cpu")
    gb.save(path, net)
    assert run("explain", str(path), "--x", "1,2,3", "--y", "0", "--digits", "9", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "sign(a(2) - y)" in shown
    assert f"{net.loss(np.array([[1.0, 2, 3]]), [[0.0]]):.6f}" in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--layers", "2,x"], "--layers is '2,x'"),
        (["--x", "1,b"], "--x is '1,b'"),
        (["--x", "1,2;3"], "rows are of different lengths"),
        (["--x", "1,2,3"], "x must have shape"),
        (["--layers", "400,400"], "at most 1,000 parameters"),
        (["--loss", "cros_entropy"], "did you mean"),
        (["nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_mistakes_are_one_line(arguments, error, capsys):
    assert run("explain", "--device", "cpu", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert error in said
    assert said.count("\n") == 1
