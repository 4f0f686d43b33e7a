"""What the environment says of other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gpubackprop as gb
from gpubackprop.distributed import launch, mpi, sockets
from gpubackprop.distributed.communicator import Communicator
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError, MissingExtraError
from tests.distributed.launching import environment, needs_mpi

STEP = {"SLURM_JOB_ID": "10042", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What communicators are asked for, without making one."""
    asked: list[Any] = []
    monkeypatch.setattr(mpi, "MpiCommunicator", lambda: asked.append("MPI") or SimpleNamespace(size=2))
    monkeypatch.setattr(sockets, "SocketCommunicator", lambda *arguments: asked.append(arguments))
    return asked


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, []),
        ({"OMP_NUM_THREADS": "4"}, []),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, []),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, ["MPI"]),
        ({"OMPI_COMM_WORLD_SIZE": "2", **STEP}, ["MPI"]),
        ({"OMPI_COMM_WORLD_SIZE": "8", "PMI_SIZE": "2"}, ["MPI"]),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}, []),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "4000"},
            [(5, 8, 1, "a", 4001)],
        ),
        # A script of a job, and a step of it.
        ({"SLURM_JOB_ID": "10042", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, []),
        ({**STEP, "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-09,12],x1"}, [(3, 4, 1, "gpu07", 20044)]),
        ({**STEP, "SLURM_STEP_NODELIST": "alone"}, [(3, 4, 0, "alone", 20044)]),
        ({**STEP, "MASTER_ADDR": "b", "MASTER_PORT": "9", "SLURM_STEP_NODELIST": "alone"}, [(3, 4, 0, "b", 10)]),
    ],
)
def test_who_started_this_process(environment: dict[str, str], wanted: list[Any], made: list[Any]) -> None:
    launch.communicator(environment)
    assert made == wanted


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_a_launcher_of_another_mpi(name: str, made: list[Any]) -> None:
    with pytest.raises(DeviceError, match=f"the launcher says {name}=4, but mpi4py knows of 2"):
        launch.communicator({name: "4"})


@needs_mpi
def test_processes_that_would_each_train_alone_are_refused(tmp_path: Path) -> None:
    # What Open MPI's launcher sets, or MPICH's: the one that mpi4py is not of is one that it knows nothing of.
    alone = {**environment(), "OMPI_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_SIZE": "2"}
    words = [sys.executable, "-m", "gpubackprop", "train", "xor", "--out", "run"]
    done = subprocess.run(words, env=alone, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "but mpi4py knows of 1" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_variable_that_holds_no_number() -> None:
    with pytest.raises(ArgumentError, match="PMI_SIZE must be a whole number; it is 'two'"):
        launch.communicator({"PMI_SIZE": "two"})


def test_what_distributed_may_be() -> None:
    net = gb.mlp([2, 1], device="cpu")
    assert gb.Trainer(net).ranks is None
    assert gb.Trainer(net).leads
    with pytest.raises(ArgumentError, match="distributed must be \"auto\", None or a communicator; got 'mpi'"):
        gb.Trainer(net, distributed="mpi")
    with pytest.raises(ArgumentTypeError, match=r"distributed must be .*; got 4"):
        gb.Trainer(net, distributed=4)  # type: ignore[arg-type]


def test_mpi4py_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mpi4py", None)
    with pytest.raises(MissingExtraError, match=r"several processes needs .* pip install \"gpubackprop\[mpi\]\""):
        launch.communicator({"PMI_SIZE": "2"})


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_row_of_a_batch_is_one_rank_s(size: int) -> None:
    class Alone(Communicator):
        """As far as rows go."""

    Alone.__abstractmethods__ = frozenset()
    for n in range(12):
        parts = [Alone(rank, size, 0).rows(n) for rank in range(size)]  # type: ignore[abstract]
        assert [row for part in parts for row in part] == list(range(n))
        assert {len(part) for part in parts} == Alone(0, size, 0).counts(n)  # type: ignore[abstract]
        assert bool(parts[0]) is bool(n)
