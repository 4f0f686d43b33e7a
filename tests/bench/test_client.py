"""A contender's process from the outside."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from gpubackprop.backend.cpu.blas_info import blas_threads
from gpubackprop.backend.select import fallback_reason
from gpubackprop.bench.client import Client, ContenderError
from gpubackprop.bench.contenders import Contender
from gpubackprop.bench.subject import descriptions
from gpubackprop.errors import ArgumentError, DeviceError
from tests.bench.samples import UNCOMPILED

MAIN = "from gpubackprop.bench.worker import main; main()"
PREPARE = (descriptions([4, 3, 2])[0], 5, "sgd", 0)


def python(code: str) -> tuple[str, ...]:
    """The command of a process that does something before it serves, or instead."""
    return (sys.executable, "-c", code)


def test_a_process_of_its_own_with_its_own_threads() -> None:
    with closing(Client(Contender("cpu", threads=1), python(f"{UNCOMPILED}\n{MAIN}"))) as client:
        assert client.start() == {"device": "cpu", "threads": 1}
        assert set(client.ask("prepare", *PREPARE)) == {"tensors", "work", "how"}
        assert client.ask("block", 0.001, False)["step"] > 0
        with pytest.raises(ArgumentError, match="optimizer"):
            client.ask("prepare", *PREPARE[:2], "nonsense", 0)


@pytest.mark.skipif(blas_threads() is None, reason="this BLAS does not say how many threads it uses")
def test_threads_are_set() -> None:
    with closing(Client(Contender("cpu", threads=2))) as client:
        assert client.start()["threads"] == 2


def test_what_others_print_is_no_answer() -> None:
    noisy = "import atexit; from gpubackprop.bench import worker as w; s = w.serve\n"
    noisy += "def serve(a, b):\n    print('hello'); s(a, b)\nw.serve = serve; w.main()"
    with closing(Client(Contender("cpu", threads=1), python(noisy))) as client:
        assert client.start()["device"] == "cpu"


def test_a_process_that_dies_says_why_and_is_started_again() -> None:
    dying = "import sys; sys.stdin.buffer.read(1); sys.exit('the driver is gone')"
    client = Client(Contender("cpu"), python(dying))
    for _ in range(2):
        with pytest.raises(ContenderError, match="exit code 1: the driver is gone"):
            client.ask("prepare", *PREPARE)
    client.close()


def test_a_killed_process() -> None:
    killed = "import os, signal, sys; sys.stdin.buffer.read(1); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(ContenderError, match="memory ran out"):
        Client(Contender("cpu"), python(killed)).ask("ceilings")


@pytest.mark.skipif(fallback_reason() is None, reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with closing(Client(Contender("cuda:0"))) as client, pytest.raises(DeviceError, match="cannot be used"):
        client.start()


def test_closing_twice_is_no_mistake() -> None:
    client = Client(Contender("cpu"))
    client.close()
    client.start()
    client.close()
    client.close()
