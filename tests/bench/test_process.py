"""An object in a process of its own, from both ends of the pipe."""

from __future__ import annotations

import io
import os
import pickle
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.select import fallback_reason
from gpubackprop.bench import measure
from gpubackprop.bench.process import Worker, WorkerError, serve
from gpubackprop.bench.runner import in_process
from gpubackprop.bench.subject import Contender, descriptions
from gpubackprop.errors import ArgumentError, DeviceError

MAIN = "from gpubackprop.bench.process import main; main()"
PREPARE = (descriptions([4, 3, 2])[0], 5, "sgd", 0)
BENCH = "gpubackprop.bench.measure:Bench"


def python(code: str) -> tuple[str, ...]:
    """The command of a process that does something before it serves, or instead."""
    return (sys.executable, "-c", code)


def test_a_process_of_its_own_with_its_own_threads() -> None:
    contender = Contender("cpu", threads=1)
    environment = contender.environment()
    with closing(Worker(BENCH, contender, environment=environment, command=python(MAIN))) as worker:
        assert worker.ask("describe") == {"device": "cpu", "threads": 1}
        assert set(worker.ask("prepare", *PREPARE)) == {"tensors", "work", "how"}
        assert worker.ask("block", 0.001, False)["step"] > 0
        with pytest.raises(ArgumentError, match="optimizer"):
            worker.ask("prepare", *PREPARE[:2], "nonsense", 0)


@pytest.mark.skipif(blas_threads() is None, reason="this BLAS does not say how many threads it uses")
def test_threads_are_set() -> None:
    with closing(in_process(Contender("cpu", threads=2))) as worker:
        assert worker.ask("describe")["threads"] == 2


def test_what_others_print_is_no_answer() -> None:
    noisy = "import atexit; from gpubackprop.bench import process as p; s = p.serve\n"
    noisy += "def serve(a, b):\n    print('hello'); s(a, b)\np.serve = serve; p.main()"
    with closing(Worker("fractions:Fraction", 3, 4, command=python(noisy))) as worker:
        assert worker.ask("limit_denominator", 2) == 1


def test_a_process_that_dies_says_why_and_is_started_again() -> None:
    dying = "import sys; sys.stdin.buffer.read(1); sys.exit('the driver is gone')"
    worker = Worker(BENCH, Contender("cpu"), command=python(dying))
    for _ in range(2):
        with pytest.raises(WorkerError, match="exit code 1: the driver is gone"):
            worker.ask("prepare", *PREPARE)
    worker.close()


def test_a_killed_process() -> None:
    killed = "import os, signal, sys; sys.stdin.buffer.read(1); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(WorkerError, match="memory ran out"):
        Worker(BENCH, Contender("cpu"), command=python(killed)).ask("ceilings")


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes here")
def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    sleeper = f"import subprocess; p = subprocess.Popen(['sleep', '60']); open({str(child)!r}, 'w').write(str(p.pid)); p.wait()"
    worker = Worker("fractions:Fraction", 1, 2, command=python(sleeper))
    with pytest.raises(WorkerError, match=r"it took more than 2\.0 s"):
        worker.ask("limit_denominator", limit=2.0)
    assert _is_gone(int(child.read_text()))


def _is_gone(process: int) -> bool:
    for _ in range(50):  # until the system has taken note of its end
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_an_object_that_cannot_be_made_is_tried_again() -> None:
    with closing(Worker("fractions:Fraction", 1, 0)) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match="ZeroDivisionError"):
                worker.ask("limit_denominator")


@pytest.mark.skipif(fallback_reason() is None, reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with closing(in_process(Contender("cuda:0"))) as worker, pytest.raises(DeviceError, match="cannot be used"):
        worker.ask("describe")


def test_closing_twice_is_no_mistake() -> None:
    worker = in_process(Contender("cpu"))
    worker.close()
    worker.ask("describe")
    worker.close()
    worker.close()


# -- the inner end --------------------------------------------------------------------------------------------------------


def answers(*requests: tuple[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    source = io.BytesIO(b"".join(pickle.dumps(r) for r in requests))
    sink = io.BytesIO()
    serve(source, sink)
    sink.seek(0)
    return [pickle.load(sink) for _ in requests]


def test_a_whole_conversation() -> None:
    started, described, prepared, block, released = answers(
        (BENCH, (Contender("strict", dtype="float64"),)),
        ("describe", ()),
        ("prepare", PREPARE),
        ("block", (0.001, False)),
        ("release", ()),
    )
    assert started == released == ("ok", None)
    assert described[1]["device"] == "strict"
    assert prepared[1]["tensors"]["outputs"].dtype == np.float64
    assert prepared[1]["work"]["flops"] == 2 * 5 * (2 * 12 + 3 * 6)
    assert block[1]["step"] > 0


def test_what_goes_wrong_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(Exception):
        """What CuPy raises is called this."""

    def raise_it(error: Exception) -> Any:
        def fail(*arguments: Any) -> None:
            raise error

        return fail

    start, prepare = (BENCH, (Contender("cpu"),)), ("prepare", PREPARE)
    for error, message in (
        (MemoryError("9 GiB"), "not enough memory: 9 GiB"),
        (OutOfMemoryError("9 GiB"), "OutOfMemoryError: 9 GiB"),
        (ZeroDivisionError("no"), "ZeroDivisionError: no"),
    ):
        monkeypatch.setattr(measure, "Measurement", raise_it(error))
        assert answers(start, prepare)[1] == ("failure", message)
    monkeypatch.undo()
    bad = ("prepare", (*PREPARE[:2], "no such optimizer", 0))
    assert answers(start, bad)[1][0] == "argument"
    if fallback_reason() is not None:
        assert answers((BENCH, (Contender("cuda:0"),)), ("describe", ()))[1][0] == "device"
