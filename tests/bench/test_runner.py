"""The comparison as a whole: contenders in their processes, taking turns."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu import numpy_backend
from gpubackprop.backend.select import fallback_reason
from gpubackprop.bench import runner
from gpubackprop.bench.process import COMMAND, Worker
from gpubackprop.bench.result import Result
from gpubackprop.bench.runner import Progress, benchmark, run
from gpubackprop.bench.subject import Contender, contenders, descriptions
from gpubackprop.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    DeviceError,
    GpuBackpropError,
    MissingExtraError,
)

PLAN: dict[str, Any] = {
    "optimizer": "sgd",
    "repeats": 2,
    "seconds": 0.001,
    "phases": False,
    "compile": False,
    "seed": 0,
}

WRONG = """
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.bench.process import main
right = StrictBackend.affine_gradients
def wrong(self, x, delta, dW, db, beta):
    right(self, x, delta, dW, db, beta)
    self.xp.multiply(dW, 1.01, out=dW)
StrictBackend.affine_gradients = wrong
main()
"""


class QuickWorker(Worker):
    """With ceilings that take no time to measure."""

    def __init__(self, contender: Contender, command: tuple[str, ...] = COMMAND) -> None:
        self.contender = contender
        place = "gpubackprop.bench.measure:Bench"
        super().__init__(place, contender, environment=contender.environment(), command=command)

    def ask(self, name: str, *arguments: Any) -> Any:
        if name == "ceilings":
            return {"flops": 1e12, "bytes": 1e11}
        return super().ask(name, *arguments)


def compare(
    devices: str,
    sizes: list[int],
    connect: Callable[[Contender], Worker] = QuickWorker,
    on_progress: Callable[[Progress], None] | None = None,
    layers: tuple[int, ...] = (6, 5, 3),
    repeats: int = 2,
) -> Result:
    plan = {**PLAN, "batch_sizes": sizes, "repeats": repeats}
    return run(descriptions(list(layers)), contenders(devices), plan, on_progress, connect)


def test_contenders_are_measured_on_the_same_networks() -> None:
    seen: list[Progress] = []
    found = compare("cpu@1,strict", [2, 8], on_progress=seen.append)
    assert found.labels == ["cpu@1", "strict"]
    assert [(c.network, c.batch_size) for c in found.cases] == [("6-5-3", 2), ("6-5-3", 8)]
    for case in found.cases:
        for label in found.labels:
            cell = case.cells[label]
            assert cell.failed is None
            assert len(cell.timings["step"].blocks) == PLAN["repeats"]
            assert cell.work["parameters"] == 53
            assert cell.memory is not None
            assert cell.memory > 4 * 53
    assert found.contenders[0].threads == 1
    assert not found.interrupted
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total - 1


def test_turns_are_taken_in_rounds() -> None:
    """Each contender has its n-th turn before any has the next one: what slows the machine down slows all of them."""
    turns: list[str] = []

    class Listening(QuickWorker):
        def ask(self, name: str, *arguments: Any) -> Any:
            if name == "block":
                turns.append(self.contender.label)
            return super().ask(name, *arguments)

    compare("cpu@1,strict,cpu@1:float64", [2], Listening)
    assert len(turns) == 6
    assert set(turns[:3]) == set(turns[3:]) == {"cpu@1", "strict", "cpu@1:float64"}


def test_batch_sizes_are_gone_through_several_times() -> None:
    """What slows the machine down for a while must not become the figure of one batch size."""
    seen: list[str] = []
    found = compare("strict", [2, 8], on_progress=lambda p: seen.append(p.text), repeats=4)
    assert [text.split(": ")[0] for text in seen if ", round " in text] == [
        f"6-5-3, batch {n}, round {k} of 4" for rounds in ((1,), (2,), (3, 4)) for n in (2, 8) for k in rounds
    ]
    assert [len(c.cells["strict"].timings["step"].blocks) for c in found.cases] == [4, 4]
    assert [c.batch_size for c in found.cases] == [2, 8]


def test_each_pass_has_new_processes() -> None:
    started: list[str] = []

    class Counting(QuickWorker):
        def _start(self) -> None:
            started.append(self.contender.label)
            super()._start()

    compare("strict", [2, 8], Counting, repeats=3)
    # One to begin with, one for each pass.
    assert started == ["strict"] * 4


def test_one_that_fails_later_on_keeps_no_figures() -> None:
    class Failing(QuickWorker):
        prepared = 0

        def ask(self, name: str, *arguments: Any) -> Any:
            if name == "prepare":
                self.prepared += 1
                if self.prepared == 3:
                    raise DeviceError("gone")
            return super().ask(name, *arguments)

    found = compare("strict,cpu@1", [2, 8], Failing)
    first, second = found.cases
    assert {cell.failed for cell in first.cells.values()} == {"gone"}
    assert all(not cell.timings for cell in first.cells.values())
    assert all(len(cell.timings["step"].blocks) == 2 for cell in second.cells.values())


def test_who_computes_something_else_gets_no_figures() -> None:
    def connect(contender: Contender) -> Worker:
        wrong = (sys.executable, "-c", WRONG)
        return QuickWorker(contender, wrong if contender.device == "strict" else COMMAND)

    found = compare("cpu@1,strict", [4], connect)
    (case,) = found.cases
    assert case.cells["cpu@1"].timings
    cell = case.cells["strict"]
    assert cell.timings == {}
    assert cell.failed is not None
    assert cell.failed.startswith("wrong result: gradient 0.weight is off by")
    assert "strict failed (6-5-3 at 4): wrong result" in " ".join(str(found).split())


def test_a_wrong_update_is_found_by_the_losses_of_training() -> None:
    wrong = "from gpubackprop.backend.strict import StrictBackend as S; right = S.update\n"
    wrong += "S.update = lambda self, o, P, *a: (right(self, o, P, *a), self.xp.multiply(P, 0.9999, out=P))\n"
    wrong += "from gpubackprop.bench.process import main; main()"
    found = compare("strict", [4], lambda c: QuickWorker(c, (sys.executable, "-c", wrong)))
    said = found.cases[0].cells["strict"].failed
    assert said is not None
    assert said.startswith("wrong result: losses of training")


def test_one_that_dies_does_not_stop_the_others() -> None:
    dying = "from gpubackprop.bench import measure, process\n"
    dying += "measure.Bench.block = lambda *a: __import__('os')._exit(3); process.main()"

    def connect(contender: Contender) -> Worker:
        return QuickWorker(contender, (sys.executable, "-c", dying) if contender.device == "strict" else COMMAND)

    found = compare("strict,cpu@1", [2, 4], connect)
    for case in found.cases:
        assert case.cells["strict"].failed == "its process ended with exit code 3"
        assert case.cells["cpu@1"].timings


def test_interrupted_it_gives_back_what_it_has() -> None:
    def stop(progress: Progress) -> None:
        if "batch 8, round 2" in progress.text:
            raise KeyboardInterrupt

    found = compare("cpu@1", [2, 8], on_progress=stop)
    assert found.interrupted
    assert [len(c.cells["cpu@1"].timings["step"].blocks) for c in found.cases] == [2, 1]
    assert "Interrupted" in str(found)


def test_interrupted_at_once_it_has_nothing() -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    found = compare("cpu@1", [2], on_progress=stop)
    assert found.interrupted
    assert found.cases == []


def test_no_process_is_left() -> None:
    before = threading.active_count()
    workers: list[Worker] = []

    def connect(contender: Contender) -> Worker:
        workers.append(QuickWorker(contender))
        return workers[-1]

    compare("cpu@1", [2], connect)
    assert [c._process for c in workers] == [None]
    assert threading.active_count() == before


def test_the_public_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner.run, "__defaults__", (None, QuickWorker))
    net = gb.mlp([4, 3, 1], loss="half_squared_error", activation="tanh", device="cpu")
    found = benchmark(
        net, devices=["cpu@1"], batch_sizes=[3, 3], repeats=1, seconds=0.001, phases=True, optimizer="adam"
    )
    assert [c.batch_size for c in found.cases] == [3]
    assert "backward" in found.cases[0].cells["cpu@1"].timings
    assert found.settings["loss"] == "half_squared_error"
    assert found.settings["activation"] == "as built"
    assert found.machine["gpubackprop"] == gb.__version__
    found.save(tmp_path / "x.json")
    assert Result.load(tmp_path / "x.json") == found
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch_sizes": []}, ArgumentError, "batch_sizes is empty"),
        ({"batch_sizes": [0]}, ArgumentError, "batch_sizes must be at least 1"),
        ({"batch_sizes": "16"}, ArgumentTypeError, "list of whole numbers"),
        ({"repeats": 0}, ArgumentError, "repeats"),
        ({"seconds": -1}, ArgumentError, "seconds"),
        ({"optimizer": "sdg"}, ArgumentError, "sdg"),
        ({"loss": "crossentropy"}, ArgumentError, "crossentropy"),
        ({"devices": "gpu"}, ArgumentError, "gpu"),
        ({"network": "/nowhere"}, CheckpointError, "nowhere"),
    ],
)
def test_settings_are_looked_at_first(
    options: dict[str, Any], error: type[GpuBackpropError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("nothing may be started")

    monkeypatch.setattr(Worker, "ask", never)
    with pytest.raises(error, match=said):
        benchmark(**{"network": [4, 3, 2], "devices": "cpu@1", **options})


def test_machine_code_is_measured_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Noting(QuickWorker):
        def ask(self, name: str, *arguments: Any) -> Any:
            if name == "prepare":
                asked.append(arguments[4:])
            return super().ask(name, *arguments)

    assert compare("cpu", [2], Noting).settings["compile"] is False
    assert asked[-1] == (False,)
    monkeypatch.setattr(numpy_backend, "installed", lambda: False)
    with pytest.raises(MissingExtraError, match="numba"):
        benchmark([4, 3, 2], devices="cpu", compile=True)


@pytest.mark.skipif(fallback_reason() is None, reason="there is a GPU here")
def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match="cannot be used"):
        benchmark([4, 3, 2], devices="cuda", batch_sizes=[2])
