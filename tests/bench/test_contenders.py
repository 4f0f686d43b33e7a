"""What can be compared, in words and back."""

from __future__ import annotations

import pytest

from gpubackprop.backend.base import DeviceInfo
from gpubackprop.bench import subject as module
from gpubackprop.bench.subject import Contender, contenders
from gpubackprop.errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu", Contender("cpu")),
        ("cpu@2", Contender("cpu", threads=2)),
        ("cpu:float32", Contender("cpu")),
        ("cpu@1:float64", Contender("cpu", dtype="float64", threads=1)),
        (" strict ", Contender("strict")),
        ("cuda", Contender("cuda:0")),
        ("cuda:1", Contender("cuda:1")),
        ("cuda:tf32", Contender("cuda:0", precision="tf32")),
        ("cuda:1:bf16", Contender("cuda:1", precision="bf16")),
        ("cuda:0:float64", Contender("cuda:0", dtype="float64")),
    ],
)
def test_text_and_back(text: str, expected: Contender) -> None:
    parsed = Contender.parse(text)
    assert parsed == expected
    assert Contender.parse(parsed.label) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu", "expected something like"),
        ("cpu@", "expected something like"),
        ("cpu@0", "at least one thread"),
        ("cuda@2", "no number of threads"),
        ("cpu:tf32", "need an NVIDIA GPU"),
        ("auto", "expected something like"),
        ("cpu,cpu:float32", "twice"),
        ("", "expected something like"),
    ],
)
def test_what_cannot_be_compared(text: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        contenders(text)


def test_wrong_kinds() -> None:
    with pytest.raises(ArgumentTypeError, match="must be text"):
        contenders([1])  # type: ignore[list-item]
    with pytest.raises(ArgumentTypeError, match="list of texts"):
        contenders(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="empty"):
        contenders([])


def test_all_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, broken = DeviceInfo("cuda:0", "a GPU"), DeviceInfo("cuda:1", "a GPU", working=False)
    monkeypatch.setattr(module, "devices", lambda: [DeviceInfo("cpu", ""), gpu, broken, DeviceInfo("strict", "")])
    assert [c.label for c in contenders(None)] == ["cpu", "cuda:0"]
    monkeypatch.setattr(module, "devices", lambda: [DeviceInfo("cpu", ""), DeviceInfo("cuda", "", working=False)])
    monkeypatch.setattr(module, "available_cores", lambda: 6)
    assert [c.label for c in contenders(None)] == ["cpu@1", "cpu@6"]
    monkeypatch.setattr(module, "available_cores", lambda: 1)
    assert [c.label for c in contenders(None)] == ["cpu@1"]


def test_threads_are_told_to_every_library() -> None:
    environment = Contender("cpu", threads=3).environment()
    assert set(environment.values()) == {"3"}
    assert {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"} <= environment.keys()
    assert Contender("cpu").environment() == {}
