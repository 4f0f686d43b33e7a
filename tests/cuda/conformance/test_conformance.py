"""The stand-in answers as CuPy does, and the CuPy that is installed where there is a GPU answers as is written down."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gpubackprop.backend.select import fallback_reason
from tests.cuda import fake_cupy
from tests.cuda.conformance.ask import answer, differs, quiet

LINES = [
    line.split("  ->  ")
    for line in (Path(__file__).parent / "expressions.txt").read_text(encoding="utf-8").splitlines()
    if "  ->  " in line
]

_ALLOCATES = "RuntimeError: memory was allocated during a capture outside of the capture's pool"
_WAITS = "AssertionError: a number was read from the device by the way, which waits for it"
STRICTER = {
    "captured(lambda s: a + a)": _ALLOCATES,
    "captured(lambda s: cp.zeros((5,), np.float32))": _ALLOCATES,
    "captured(lambda s: cp.take(a, index, axis=0))": _ALLOCATES,
    "dropped_temporary()": _ALLOCATES,
    "float(a[0, 1])": _WAITS,
    "bool(a[0, 0] == 0)": _WAITS,
    "a[0, 1].item()": _WAITS,
    "a[0].tolist()": _WAITS,
    "[v.shape for v in a[0]]": _WAITS,
    "captured(lambda s: graph.launch())": "AssertionError: a graph was launched on a stream that is being captured",
}
"""On purpose, wherever the library runs on the stand-in: what CuPy allows, and this library must not do. And the properties of a
device are only those that the library uses: another one is a KeyError."""


@pytest.fixture(params=[False, True], ids=["at once", "put off"])
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    cupy = fake_cupy.install(monkeypatch, strict=False, deferred=request.param)
    return cupy, sys.modules["cupyx"]


@pytest.mark.parametrize(("expression", "wanted"), LINES, ids=[e for e, _ in LINES])
def test_the_stand_in(stand_in: Any, expression: str, wanted: str) -> None:
    found = answer(*stand_in, expression)
    assert not differs(found, wanted), f"{expression}\n    stand-in: {found}\n    CuPy:     {wanted}"


@pytest.mark.parametrize("expression", STRICTER)
def test_where_the_stand_in_is_stricter(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    assert expression in dict(LINES)
    cupy = fake_cupy.install(monkeypatch)
    assert answer(cupy, sys.modules["cupyx"], expression) == STRICTER[expression]


@pytest.mark.cuda
@pytest.mark.skipif(fallback_reason() is not None, reason=f"no GPU to test on: {fallback_reason()}")
def test_the_real_one() -> None:
    import cupy
    import cupyx

    found = {}
    for expression, _ in LINES:
        with quiet(cupy):
            found[expression] = answer(cupy, cupyx, expression)
    other = [
        f"{e}\n    CuPy {cupy.__version__}: {found[e]}\n    written:     {w}" for e, w in LINES if differs(found[e], w)
    ]
    assert not other, "\n".join(other)


def test_every_expression_once() -> None:
    assert len(LINES) == len(dict(LINES)) > 250
