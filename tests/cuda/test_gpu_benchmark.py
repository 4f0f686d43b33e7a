"""The GPU benchmark's own code, on the stand-ins: it must not be the first thing that fails on a real GPU."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu as benchmark
from benchmarks.gpu import cases
from benchmarks.peers.base import Config
from benchmarks.peers.ours import kernel_times
from tests.cuda.stand_in import gpu, shim  # noqa: F401

CASE = Config((12, 16, 8, 5), 20, optimizer="adam")


def test_cells():
    every = cases()
    assert len(every) == len(set(every)) == 9 * 2 * 3
    assert len({c.describe() for c in every}) == len(every)
    assert CASE.flops() == 2 * 20 * (3 * (12 * 16 + 16 * 8 + 8 * 5) - 12 * 16)
    assert CASE.parameters == 12 * 16 + 16 + 16 * 8 + 8 + 8 * 5 + 5
    assert CASE.floor(1e9, 1e12) > CASE.flops() / 1e9 * 0.999


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_ours_is_measured_after_parity(gpu, precision):  # noqa: F811
    case = Config(CASE.widths, CASE.batch, precision=precision)
    result = benchmark.measure("ours", case, "cuda", benchmark.reference(case), dry=True)
    assert result["seconds"] > 0
    assert result["host_seconds"] > 0
    assert "CUDA graphs" in result["how"]


def test_a_wrong_library_gets_no_time(gpu):  # noqa: F811
    want = benchmark.reference(CASE)
    result = benchmark.measure("ours", CASE, "cuda", [2 * w for w in want], dry=True)
    assert "the loss is off" in result["failed"]
    assert "seconds" not in result


def test_kernel_times(gpu):  # noqa: F811
    found = kernel_times(CASE, repeats=2)
    names = [name for name, _ in found]
    assert any("RELU_AUX_BIAS" in n for n in names)
    assert any(n.startswith("optimizer_step<Adam") for n in names)
    assert all(ms > 0 for _, ms in found)


def test_dry_run_writes_a_table(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert (
        benchmark.main(
            ["--dry-run", "--peers", "ours,ours without graph", "--only", "32-32-32-32, batch", "--out", str(out)]
        )
        == 0
    )
    report = json.loads(out.read_text())
    assert len(report["cells"]) == 2
    assert all("seconds" in c["peers"]["ours"] for c in report["cells"])
    assert "vs best" in capsys.readouterr().out
