"""`gpubackprop gradcheck` and `gpubackprop parity`, on new networks and on a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.cli import app
from tests.cli.commands import run as run_command


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        app([*arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def table(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    path = tmp_path / "table.csv"
    lines = [",".join(f"{v:.6f}" for v in row) + f",{'yes' if row.sum() > 0 else 'no'}" for row in x]
    path.write_text("\n".join(["a,b,c,d,answer", *lines]) + "\n")
    return str(path)


def test_gradcheck_of_a_new_network(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gradcheck", table, "--target", "answer", "--layers", "5", "--dropout", "0.2", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "gradcheck passed" in shown
    assert "training mode" in shown
    assert run("gradcheck", table, "--target", "answer", "--layers", "5", "--method", "complex", "--inference") == 0
    assert "complex step (eps 1e-30), inference mode" in capsys.readouterr().out


def test_gradcheck_says_1_where_a_gradient_is_wrong(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: Any, be: Any, saved: Any, delta: Any) -> None:
        be.xp.multiply(delta, 0.5, out=delta)

    monkeypatch.setattr(gb.activations.Tanh, "times_derivative", wrong)
    arguments = ("gradcheck", table, "--target", "answer", "--layers", "5", "--activation", "tanh", "--device", "cpu")
    assert run(*arguments) == 1
    shown = capsys.readouterr().out
    assert "gradcheck FAILED" in shown
    assert "0.weight" in shown


def test_parity_of_a_new_network(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("parity", table, "--target", "answer", "--layers", "6,5", "--devices", "cpu,strict", "--steps", "4") == 0
    shown = capsys.readouterr().out
    assert "parity passed: cpu float32 and strict float32, 4 steps" in shown
    assert "TF32" in shown
    pair = "cpu/float64, cpu/float32"
    assert run("parity", table, "--target", "answer", "--layers", "5", "--devices", pair, "--optimizer", "adam") == 0
    assert "cpu float64 and cpu float32, 10 steps, tolerance 1e-05" in capsys.readouterr().out


def test_parity_says_1_and_where(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    pair = "cpu/float64,cpu/float32"
    assert run("parity", table, "--target", "answer", "--devices", pair, "--tolerance", "1e-15", "--steps", "2") == 1
    shown = capsys.readouterr().out
    assert "parity FAILED" in shown
    assert "step 1: relative error" in shown


def test_both_take_a_run_folder(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "run")
    train = ("train", table, "--target", "answer", "--layers", "5", "--epochs", "2", "--device", "cpu", "--out", folder)
    assert run(*train) == 0
    capsys.readouterr()
    assert run("gradcheck", folder, "--device", "cpu") == 0
    assert "4 -> Dense 5 relu" in capsys.readouterr().out
    assert run("parity", folder, "--devices", "cpu,strict", "--steps", "2") == 0
    assert "4 -> Dense 5 relu" in capsys.readouterr().out
    for words in (
        ("gradcheck", "--layers", "9"),
        ("parity", "--dropout", "0.5"),
        ("explain", "--loss", "cross_entropy"),
    ):
        assert run(words[0], folder, *words[1:]) == 2
        assert f"the network is that of the run: leave out {words[1]} ..." in capsys.readouterr().err
    assert run("gradcheck", f"{folder}/model.safetensors", "--task", "regression") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gradcheck", "--method", "forward"), "method must be"),
        (("parity", "--devices", "cpu"), "devices must be two"),
        (("parity", "--devices", "cpu,cpu/float8"), "float8"),
        (("parity", "--devices", "cpu,strict", "--learning-rate", "0"), "--learning-rate must be"),
    ],
)
def test_errors_are_one_line(
    table: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    assert run(command, table, "--target", "answer", "--layers", "3", *rest) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


def test_reports_as_json(tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = run_command("train", "xor", "--epochs", "2", "--layers", "4", "--dropout", "0", "--out", out, "--json")
    trained = json.loads(told.splitlines()[-1])
    assert trained["test"]["accuracy"] >= 0
    assert json.loads(run_command("summary", out, "--json"))["history"][1]["epoch"] == 2
    assert json.loads(run_command("gradcheck", out, "--device", "cpu", "--json"))["passed"] is True
    found = json.loads(run_command("parity", out, "--devices", "cpu,strict", "--steps", "2", "--json"))
    assert found["passed"] is True
    assert len(found["losses"]) == 2
    steps = json.loads(run_command("explain", out, "--device", "cpu", "--json"))
    assert steps["worst_error"] < 1e-6
    assert steps["quantities"][0]["name"] == "x"
    assert any(d["name"] == "cpu" and d["working"] for d in json.loads(run_command("devices", "--json"))["devices"])
