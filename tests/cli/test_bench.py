"""`gpubackprop bench` as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpubackprop as gb
from gpubackprop.backend.select import fallback_reason
from gpubackprop.bench import runner
from gpubackprop.bench.result import Result
from tests.bench.samples import result
from tests.cli.commands import run, started

COMMAND = [sys.executable, "-W", "error", "-c", "from gpubackprop.cli import main; main()", "bench"]
ROOT = str(Path(gb.__file__).parent.parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT, "TERM": "xterm", "COLUMNS": "100"}
QUICK = ["--devices", "strict@1,strict:float64", "--repeats", "1", "--seconds", "0.001"]


def bench(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=120, check=False
    )


def test_a_comparison_with_everything_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    gb.save(tmp_path / "model.safetensors", gb.mlp([6, 5, 3], loss="cross_entropy", device="cpu"))
    outputs = ["--json", "a.json", "--csv", "a.csv", "--html", "a.html", "--plot", "a.png"]
    done = bench(".", "--batch-sizes", "2,8", "--phases", *QUICK, *outputs, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6-5-3: a training step" in done.stdout
    assert "6-5-3: the phases" in done.stdout
    assert done.stdout.count("wrote") == 4
    found = Result.load(tmp_path / "a.json")
    assert [c.batch_size for c in found.cases] == [2, 8]
    assert all(cell.failed is None for case in found.cases for cell in case.cells.values())
    assert all(c.ceilings["flops"] > 1e8 and c.ceilings["bytes"] > 1e8 for c in found.contenders)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5
    compared = bench("compare", "a.json", "a.json", folder=tmp_path)
    assert compared.returncode == 0
    assert "B is faster in 0 and slower in 0 of 4 cases" in " ".join(compared.stdout.split())


@pytest.mark.parametrize("option", ["--html", "--plot"])
def test_without_matplotlib_nothing_is_measured_first(option: str, tmp_path: Path) -> None:
    without = "import sys; sys.modules['matplotlib'] = None; from gpubackprop.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "bench", *QUICK, option, "a"],
        capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'pip install "gpubackprop[plot]"' in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends Ctrl-C through a terminal")
def test_ctrl_c_prints_what_there_is(tmp_path: Path) -> None:
    import pty

    terminal, its_end = pty.openpty()
    slow = ["--layers", "6,5,3", "--devices", "strict", "--batch-sizes", "2,8,16", "--seconds", "0.1", "--repeats", "3"]
    options = {"stdout": subprocess.PIPE, "stderr": its_end, "text": True, "cwd": tmp_path, "env": ENVIRONMENT}
    with started(*COMMAND, *slow, "--json", "a.json", start_new_session=True, **options) as process:
        os.close(its_end)
        seen = ""
        while "batch 8, round" not in seen:
            seen += os.read(terminal, 4096).decode(errors="replace")
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 130
    assert "Interrupted: this is what had been measured by then." in said
    assert "6-5-3: a training step" in said
    found = Result.load(tmp_path / "a.json")
    assert found.interrupted
    assert found.cases[0].batch_size == 2
    assert len(found.cases[0].cells["strict"].timings["step"].blocks) >= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layers", "6,x,3"], "--layers must be whole numbers"),
        (["--layers", "6"], "at least the inputs and the outputs"),
        (["--devices", "gpu"], "cannot compare 'gpu'"),
        (["--json", "no/a.json"], "there is no folder no"),
        (["--html", "."], "cannot be written"),
        (["--csv", "a", "--json", "a"], "--json and --csv name the same file"),
        (["somewhere", "--layers", "6,5"], "the network is that of the run: leave out --layers"),
        (["somewhere", "--activation", "gelu", "--loss", "cross_entropy"], "leave out --activation ..., --loss ..."),
        (["--csv", "-"], "--csv -: cannot be written"),
        (["--plot", "-"], "--plot -: cannot be written"),
        (["--html", "-"], "--html -: cannot be written"),
        (["--csv", ""], "cannot be written"),
        (["--layers", ""], "--layers must be whole numbers"),
        (["--widths", ""], "--widths must be whole numbers"),
        (["somewhere", "else"], "takes one run folder"),
        (["compare", "a.json"], "two results"),
        (
            ["compare", "a.json", "a.json", "--html", "x", "--batch-sizes", "4"],
            "leave out --batch-sizes ..., --html ...",
        ),
        (["compare", "a.json", "none.json"], "none.json: cannot be read"),
        (["compare", "a.json", "b.json"], "have no network, batch size and contender in common"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    result({"cpu": [1.0]}, [1]).save(tmp_path / "a.json")
    result({"cpu": [1.0]}, [2]).save(tmp_path / "b.json")
    done = bench(*arguments, folder=tmp_path)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.skipif(fallback_reason() is None, reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    done = bench("--devices", "cpu@1,cuda", "--batch-sizes", "1", folder=tmp_path)
    assert done.returncode == 2
    assert 'device "cuda:0" cannot be used' in done.stderr


def test_comparing_marks_what_is_no_noise(tmp_path: Path) -> None:
    result({"cpu": [1.0, 1.0]}, [1, 2]).save(tmp_path / "a.json")
    result({"cpu": [1.01, 3.0]}, [1, 2]).save(tmp_path / "b.json")
    done = bench("compare", "a.json", "b.json", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count(">> slower") == 1
    assert json.loads((tmp_path / "a.json").read_text())["version"] == 1


def test_a_contender_that_computes_something_else_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "disagreement", lambda *_: "loss is not finite")
    quick = ("--layers", "2,3,2", "--devices", "strict", "--batch-sizes", "4", "--repeats", "1", "--seconds", "0.001")
    assert "failed (2-3-2 at 4): wrong result: loss is not finite" in " ".join(run("bench", *quick, code=1).split())


def test_figures_for_another_program(tmp_path: Path) -> None:
    done = bench("--layers", "4,3", "--batch-sizes", "2", *QUICK, "--json", "-", "--csv", "a.csv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["format"] == "gpubackprop-benchmark"
    assert "wrote a.csv" in done.stderr
    (tmp_path / "a.json").write_text(done.stdout)
    result({"strict@1": [1e9]}, [2], network="4-3").save(tmp_path / "b.json")
    compared = bench("compare", "a.json", "b.json", "--json", "-", folder=tmp_path)
    (case,) = json.loads(compared.stdout)["cases"]
    assert (case["network"], case["batch_size"], case["contender"]) == ("4-3", 2, "strict@1")
    assert case["ratio"] == pytest.approx(case["b"]["seconds"] / case["a"]["seconds"])
    assert case["verdict"] == "slower"
    assert bench("compare", "a.json", "b.json", "--json", "c.json", folder=tmp_path).returncode == 0
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(compared.stdout)
