"""`mpiexec -n 2 gpubackprop train`: one run, one voice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.distributed.launching import mpi, needs_mpi

pytestmark = needs_mpi


def _table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 3))
    rows = [",".join([*(f"{v:.6f}" for v in r), "big" if r[0] + r[1] > 0 else "small"]) for r in x]
    (folder / "table.csv").write_text("\n".join(["a,b,c,size", *rows]))


def test_the_command_trains_in_several_processes_and_speaks_once(tmp_path: Path) -> None:
    _table(tmp_path)
    command = ["-m", "gpubackprop", "train", "table.csv", "--target", "size", "--epochs", "4", "--validation", "0.2"]
    found = {}
    for ranks in (1, 2):
        done = mpi(ranks, command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 4/4") == 1
        assert done.stdout.count("run folder: runs/table-") == 1
        found[ranks] = [
            json.loads(line) for line in (tmp_path / f"runs/table-{ranks}/history.jsonl").read_text().splitlines()
        ]
    assert [p.name for p in sorted((tmp_path / "runs").iterdir())] == ["table-1", "table-2"]
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose([r[name] for r in found[2]], [r[name] for r in found[1]], rtol=1e-4)

    done = mpi(2, ["-m", "gpubackprop", "train", "--resume", "runs/table-2", "--epochs", "2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 6/6") == 1


def assert_alike(folder: Path, command: list[str], said: str) -> None:
    """One process and two train the streamed table to the same losses, and say this once."""
    found = {}
    for ranks in (1, 2):
        done = mpi(ranks, [*command, "--out", f"run{ranks}"], folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(said) == 1
        lines = (folder / f"run{ranks}/history.jsonl").read_text().splitlines()
        found[ranks] = [json.loads(line)["loss"] for line in lines]
        assert not (folder / f"run{ranks}/rows").exists()
    np.testing.assert_allclose(found[2], found[1], rtol=1e-4)


def test_a_table_that_is_streamed(tmp_path: Path) -> None:
    _table(tmp_path)
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    counted = [f"{i % 3},{row}" for i, row in enumerate(rows)]
    (tmp_path / "table.csv").write_text("\n".join([f"count,{header}", *counted]))
    command = ["-m", "gpubackprop", "train", "table.csv", "--target", "size", "--weight", "count", "--memory", "1000"]
    assert_alike(tmp_path, [*command, "--epochs", "3"], "trained on as a stream")
    done = mpi(2, ["-m", "gpubackprop", "train", "--resume", "run2", "--epochs", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 4/4") == 1


def test_groups_of_a_table_that_is_streamed(tmp_path: Path) -> None:
    _table(tmp_path)
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text(
        "\n".join([f"who,{header}", *(f"{i // 3},{row}" for i, row in enumerate(rows))])
    )
    command = ["-m", "gpubackprop", "train", "table.csv", "--target", "size", "--split-by", "who", "--memory", "1000"]
    said = "training on 72 rows, as a stream (18 are of groups that are held out)"
    assert_alike(tmp_path, [*command, "--epochs", "2"], said)
    for command in (["train", "--resume", "run2", "--epochs", "1"], ["evaluate", "run2"]):
        done = mpi(2 if "train" in command else 1, ["-m", "gpubackprop", *command], tmp_path)
        assert done.returncode == 0, done.stderr
    assert "18 of 90 rows, held out in whole groups" in done.stdout
