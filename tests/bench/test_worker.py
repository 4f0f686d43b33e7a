"""A contender's process from the inside: requests in, answers out."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.select import fallback_reason
from gpubackprop.bench import worker
from gpubackprop.bench.contenders import Contender
from gpubackprop.bench.subject import descriptions


def answers(*requests: tuple[str, tuple[Any, ...]]) -> list[tuple[str, Any]]:
    source = io.BytesIO(b"".join(pickle.dumps(r) for r in requests))
    sink = io.BytesIO()
    worker.serve(source, sink)
    sink.seek(0)
    return [pickle.load(sink) for _ in requests]


PREPARE = ("prepare", (descriptions([4, 3, 2])[0], 5, "sgd", 0))


def test_a_whole_conversation() -> None:
    start, prepared, block, released = answers(
        ("start", (Contender("strict", dtype="float64"),)), PREPARE, ("block", (0.001, False)), ("release", ())
    )
    assert start[0] == prepared[0] == block[0] == released[0] == "ok"
    assert start[1]["device"] == "strict"
    assert prepared[1]["tensors"]["outputs"].dtype == np.float64
    assert prepared[1]["work"]["flops"] == 2 * 5 * (2 * 12 + 3 * 6)
    assert block[1]["step"] > 0


@pytest.mark.skipif(fallback_reason() is None, reason="there is a GPU here")
def test_a_device_that_is_not_there() -> None:
    assert answers(("start", (Contender("cuda:0"),)))[0][0] == "device"


def test_what_goes_wrong_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(Exception):
        """What CuPy raises is called this."""

    def raise_it(error: Exception) -> Any:
        def fail(*arguments: Any) -> None:
            raise error

        return fail

    start = ("start", (Contender("cpu"),))
    for error, kind, message in (
        (MemoryError("9 GiB"), "memory", "not enough memory: 9 GiB"),
        (OutOfMemoryError("9 GiB"), "memory", "OutOfMemoryError: 9 GiB"),
        (ZeroDivisionError("no"), "failure", "ZeroDivisionError: no"),
    ):
        monkeypatch.setattr(worker, "Measurement", raise_it(error))
        assert answers(start, PREPARE)[1] == (kind, message)
    monkeypatch.undo()
    bad = ("prepare", (descriptions([4, 3, 2])[0], 5, "no such optimizer", 0))
    assert answers(start, bad)[1][0] == "argument"
