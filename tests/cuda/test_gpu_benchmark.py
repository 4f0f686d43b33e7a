"""The GPU benchmark's own code, on the stand-ins: it must not be the first thing that fails on a real GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu as benchmark
from benchmarks import gpu_all
from benchmarks.gpu import Bench, cases
from benchmarks.peers.base import Config
from benchmarks.peers.ours import kernel_times
from gpubackprop.bench.process import Worker, WorkerError
from tests.cuda.stand_in import gpu, shim  # noqa: F401

ROOT = Path(__file__).parents[2]
CASE = Config((12, 16, 8, 5), 20, optimizer="adam")


class Here:
    """A worker's face on an object in this process."""

    def __init__(self, served: Any) -> None:
        self.served = served
        self.closed = False

    def ask(self, name: str, *arguments: Any, limit: float | None = None) -> Any:
        assert limit is not None
        assert limit > 0
        return getattr(self.served, name)(*arguments)

    def close(self) -> None:
        self.closed = True


def measure(case: Config, want: list[float] | None, served: Any = None) -> dict[str, Any]:
    return benchmark.measure(Here(served or Bench("ours", "cuda")), case, want, limit=60, quick=True)


def test_cells():
    every = cases()
    assert len(every) == len(set(every)) == 9 * 2 * 3
    assert len({c.describe() for c in every}) == len(every)
    assert {c.optimizer for c in every[:27]} == {"adam"}, "the more telling half first"
    assert CASE.flops() == 2 * 20 * (3 * (12 * 16 + 16 * 8 + 8 * 5) - 12 * 16)
    assert CASE.parameters == 12 * 16 + 16 + 16 * 8 + 8 + 8 * 5 + 5
    assert CASE.floor(1e9, 1e12) > CASE.flops() / 1e9 * 0.999


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_ours_is_measured_after_parity(gpu, precision):  # noqa: F811
    case = Config(CASE.widths, CASE.batch, precision=precision)
    result = measure(case, benchmark.reference(case))
    assert result["seconds"] > 0
    assert result["host_seconds"] > 0
    assert "CUDA graphs" in result["how"]


def test_a_wrong_library_gets_no_time(gpu):  # noqa: F811
    result = measure(CASE, [2 * w for w in benchmark.reference(CASE)])
    assert "the loss is off" in result["failed"]
    assert "seconds" not in result


def test_a_library_that_fails_or_hangs_has_its_process_ended():
    class Hangs:
        def losses(self, case):
            raise WorkerError("it took more than 90.0 s")

    worker = Here(Hangs())
    result = benchmark.measure(worker, CASE, None, limit=60, quick=True)
    assert result == {"failed": "it took more than 90.0 s"}
    assert worker.closed


def test_large_cells_are_held_to_each_other():
    def peer(*losses: float) -> dict[str, Any]:
        return {"losses": list(losses), "seconds": 1.0, "error": None}

    peers = {"a": peer(2.0, 1.0), "b": peer(2.00001, 1.0), "c": peer(2.0, 1.1), "d": {"failed": "missing"}}
    benchmark.hold_to_each_other(CASE, peers)
    assert [name for name, p in peers.items() if "seconds" in p] == ["a", "b"]
    assert "held to the others'" in peers["c"]["failed"]
    # Those that come later are held to the same.
    peers["e"] = peer(2.0, 1.2)
    benchmark.hold_to_each_other(CASE, peers)
    assert [name for name, p in peers.items() if "seconds" in p] == ["a", "b"]
    alone = {"a": peer(1.0, 1.0)}
    benchmark.hold_to_each_other(CASE, alone)
    assert alone == {"a": peer(1.0, 1.0)}
    assert benchmark.reference(Config((4096,) * 9, 16384)) is None


@pytest.mark.nightly
@pytest.mark.parametrize("peer", benchmark.SLOW)
def test_compiled_steps_are_the_same_steps(peer):
    """On the CPU; minutes of compilation, in a process of its own as it changes settings of PyTorch's."""
    pytest.importorskip("torch")
    with closing(Worker("benchmarks.gpu:Bench", peer, "cpu")) as worker:
        found = worker.ask("losses", CASE, limit=600)
    assert benchmark.off(found, benchmark.reference(CASE)) < benchmark.TOLERANCE["fp32"]


def test_kernel_times(gpu):  # noqa: F811
    found = kernel_times(CASE, repeats=2)
    names = [name for name, _ in found]
    assert any("RELU_AUX_BIAS" in n for n in names)
    assert any(n.startswith("optimizer_step<Adam") for n in names)
    assert all(ms > 0 for _, ms in found)


def test_what_is_left_out_is_told_and_done_at_the_next_call(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    cell = "32-32-32-10, batch 64, adam"
    arguments = ["--dry-run", "--peers", "ours,ours without graph", "--only", cell, "--out", str(out)]
    assert benchmark.main([*arguments, "--budget", "0"]) == 0
    assert "left out for want of time, 6 of them; call this again:" in capsys.readouterr().out
    assert benchmark.main(arguments) == 0
    first = json.loads(out.read_text())
    assert len(first["cells"]) == 3
    assert all("seconds" in c["peers"]["ours"] for c in first["cells"])
    assert "vs best" in capsys.readouterr().out
    started = time.perf_counter()
    assert benchmark.main(arguments) == 0
    assert time.perf_counter() - started < 5, "nothing was measured again"
    assert json.loads(out.read_text())["cells"] == first["cells"]


def test_data_is_made_once_for_all_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBACKPROP_BENCHMARK_DATA", str(tmp_path))
    made = CASE.first_batch(), CASE.weights()
    files = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert len(files) == 2
    again = CASE.first_batch(), CASE.weights()
    assert {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == files
    monkeypatch.delenv("GPUBACKPROP_BENCHMARK_DATA")
    for found in (again, (CASE.first_batch(), CASE.weights())):
        np.testing.assert_array_equal(found[0][0], made[0][0])
        np.testing.assert_array_equal(found[0][1], made[0][1])
        for (W, b), (W2, b2) in zip(found[1], made[1], strict=True):
            np.testing.assert_array_equal(W, W2)
            np.testing.assert_array_equal(b, b2)


# -- the parts of gpu_all ---------------------------------------------------------------------------------------------


def test_a_part_writes_down_what_it_has_and_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_all, "LAST_BEGINNING", 0.5)
    part = gpu_all.Part("doctor", tmp_path, dry=True, seconds=0.6)
    for item in part.while_there_is_time([1, 2, 3], str):
        part.attempt(str(item), lambda item=item: (time.sleep(0.2), item != 2))
        assert str(item) in json.loads(part.file.read_text())
    report = json.loads(part.file.read_text())
    assert (report["failed"], report["left_out"]) == (["2"], ["3"])
    part.attempt("broken", lambda: 1 / 0)
    assert json.loads(part.file.read_text())["broken"]["result"] == {"error": "ZeroDivisionError: division by zero"}
    said = gpu_all._outcome(part.file, 1)
    assert said == "FAILED (1); not as it should be: 2, broken; left out: 3"
    assert gpu_all._outcome(part.file, None).startswith("ended: out of time")
    assert gpu_all._outcome(tmp_path / "none.json", 1) == "FAILED (1), without a report"


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started():
    child = "import os, subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    code, output = gpu_all.limited([sys.executable, "-c", child], 3)
    assert code is None
    for _ in range(50):  # until the system has taken note of its end
        try:
            os.kill(int(output), 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("what it started goes on")
    assert gpu_all.limited([sys.executable, "-c", "print(1); exit(3)"], 30) == (3, "1\n")


def test_two_calls_fit_into_a_quarter_of_an_hour():
    calls = [c.split(" --only ")[1].split() for c in gpu_all.__doc__.splitlines() if " --only " in c][:2]
    parts = [parts.split(",") for (parts,) in calls]
    assert [*parts[0], *parts[1]] == list(gpu_all.PARTS) == list(gpu_all.SHARES)
    # A machine has to be had, and files to travel, before and after each.
    assert 2 * (gpu_all.SECONDS + 60) <= 15 * 60
    assert [sum(gpu_all.SHARES[part] for part in own) for own in parts] == [gpu_all.SECONDS] * 2


def test_what_a_part_leaves_goes_to_those_after_it():
    assert gpu_all.share(["doctor", "parity"], 140) == 75
    assert gpu_all.share(["parity"], 100) == 100


def test_a_call_ends_when_its_seconds_are_over(tmp_path, capsys):
    started = time.monotonic()
    failures = gpu_all.main(["--dry-run", "--out", str(tmp_path), "--only", "doctor,parity", "--seconds", "2"])
    assert failures == 2
    assert time.monotonic() - started < 10
    said = capsys.readouterr().out
    assert said.count("without a report") + said.count("out of time") == 2


@pytest.mark.parametrize(
    "parts",
    ["environment,conformance,doctor", pytest.param(",".join(gpu_all.PARTS), marks=pytest.mark.nightly)],
)
def test_dry_run(tmp_path, parts):
    command = [sys.executable, "-m", "benchmarks.gpu_all", "--dry-run", "--out", str(tmp_path), "--only", parts]
    command += ["--seconds", "1200"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1220)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in parts.split(","):
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert (report["failed"], report["left_out"]) == ([], []), name
