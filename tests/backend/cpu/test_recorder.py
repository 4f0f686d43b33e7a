from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.errors import DeviceError

X = np.arange(12.0).reshape(3, 4) - 5
I = np.arange(12).reshape(3, 4)  # noqa: E741 - the integers

X32, POSITIVE, SMALL, INDEX = X.astype(np.float32), X > 0, X < 99, np.array([2, 0])

# What a layer may write: (the shape and type of the result, the call). Each must give when recorded what NumPy gives.
CALLS: dict[str, tuple[tuple[int, ...], Any, Callable[[Any, Any], None]]] = {
    "a number on the left": ((3, 4), np.float64, lambda xp, out: xp.subtract(1.0, X, out=out)),
    "a number on the right": ((3, 4), np.float32, lambda xp, out: xp.multiply(X32, 0.1, out=out)),
    "a whole number beside reals": ((3, 4), np.float64, lambda xp, out: xp.multiply(X, 3, out=out)),
    "a fraction beside integers": ((3, 4), np.float64, lambda xp, out: xp.multiply(I, 0.5, out=out)),
    "a whole number beside integers": ((3, 4), np.int64, lambda xp, out: xp.multiply(I, 3, out=out)),
    "a number beside bools": ((3, 4), np.float64, lambda xp, out: xp.multiply(POSITIVE, 2.5, out=out)),
    "a row": ((3, 4), np.float64, lambda xp, out: xp.add(X, X[0], out=out)),
    "a column": ((3, 4), np.float64, lambda xp, out: xp.multiply(X, X[:, :1], out=out)),
    "a row and a column": ((3, 4), np.float64, lambda xp, out: xp.add(X[:1], X[:, :1], out=out)),
    "one element": ((3, 4), np.float64, lambda xp, out: xp.add(X, X[:1, :1], out=out)),
    "a transpose": ((4, 3), np.float64, lambda xp, out: xp.add(X.T, X.T, out=out)),
    "a part": ((3, 2), np.float64, lambda xp, out: xp.negative(X[:, ::2], out=out)),
    "maximum": ((3, 4), np.float64, lambda xp, out: xp.maximum(X, 0.0, out=out)),
    "a type to compute in": ((3, 4), np.float64, lambda xp, out: xp.subtract(X, I, out=out, dtype=np.float64)),
    "comparison into numbers": ((3, 4), np.float32, lambda xp, out: xp.greater(X, 0, out=out, casting="unsafe")),
    "comparison into bools": ((3, 4), bool, lambda xp, out: xp.greater(X, 0, out=out)),
    "where=": ((3, 4), np.float64, lambda xp, out: xp.divide(X, 2.0, out=out, where=SMALL)),
    "sum of all": ((), np.float64, lambda xp, out: xp.sum(X, out=out)),
    "sum in another type": ((), np.float64, lambda xp, out: xp.sum(X32, dtype=np.float64, out=out)),
    "sum of columns": ((4,), np.float64, lambda xp, out: xp.sum(X, axis=0, out=out)),
    "sum along rows": ((3, 1), np.float64, lambda xp, out: xp.sum(X, axis=1, out=out, keepdims=True)),
    "sum, axis by position": ((4,), np.float64, lambda xp, out: xp.sum(X, 0, out=out)),
    "max": ((3,), np.float64, lambda xp, out: xp.max(X, axis=1, out=out)),
    "max of all": ((), np.float64, lambda xp, out: xp.max(X, out=out)),
    "min": ((1, 4), np.float64, lambda xp, out: xp.min(X, axis=0, out=out, keepdims=True)),
    "mean": ((4,), np.float64, lambda xp, out: xp.mean(X, axis=0, out=out)),
    "clip": ((3, 4), np.float64, lambda xp, out: xp.clip(X, -1.0, 2.0, out=out)),
    "cumsum": ((3, 4), np.float64, lambda xp, out: xp.cumsum(X, axis=1, out=out)),
    "copy": ((3, 4), np.float64, lambda xp, out: xp.copyto(out, X)),
    "copy of a number": ((3, 4), np.float64, lambda xp, out: xp.copyto(out, 3.5)),
    "take": ((2, 4), np.float64, lambda xp, out: xp.take(X, INDEX, axis=0, out=out)),
    "dot": ((3, 3), np.float64, lambda xp, out: xp.dot(X, X.T, out=out)),
    "matmul": ((3, 3), np.float64, lambda xp, out: xp.matmul(X, X.T, out=out)),
}


@pytest.mark.parametrize("name", CALLS)
def test_recorded_is_what_numpy_does(name: str) -> None:
    shape, dtype, call = CALLS[name]
    be = NumpyBackend()
    expected, out = np.zeros(shape, dtype), np.zeros(shape, dtype)
    call(np, expected)
    program = be.record(lambda: call(be.xp, out))
    assert not out.any()
    for _ in range(2):
        out[...] = 1
        program()
        np.testing.assert_array_equal(out, expected)
    assert expected.any()


def test_calls_of_one_program_come_in_order_and_see_each_other() -> None:
    be, out = NumpyBackend(), np.zeros(3)

    def step() -> None:
        be.xp.add(out, 1.0, out=out)
        be.xp.multiply(out, out, out=out)
        be.xp.subtract(out, 2.0, out=out)

    program = be.record(step)
    for expected in (-1.0, -2.0, -1.0):
        program()
        assert (out == expected).all()


def test_an_empty_program() -> None:
    NumpyBackend().record(lambda: None)()


def test_a_new_array_cannot_be_recorded() -> None:
    be = NumpyBackend()
    for call in (lambda: be.xp.exp(X), lambda: be.xp.zeros(3), lambda: be.xp.sum(X, axis=0)):
        with pytest.raises(DeviceError, match=r"without out= makes a new array.*recordable = False"):
            be.record(call)


def test_constants_and_types_are_numpys_own() -> None:
    be = NumpyBackend()
    seen: list[Any] = []
    be.record(lambda: seen.extend([be.xp.pi, be.xp.float32, be.xp.inf]))
    assert seen[:3] == [np.pi, np.float32, np.inf]


# -- what only a recording holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temporary", "call"),
    [
        ("an array expression", lambda be, out: be.xp.add(X - 1, 1.0, out=out)),
        ("a reshape that copies", lambda be, out: be.xp.exp(X.T.reshape(3, 4), out=out)),
        ("a view of a copy", lambda be, out: be.xp.add(X.astype(np.float64)[:, ::-1], 1.0, out=out)),
        ("a constant made on the way", lambda be, out: be.xp.add(X, np.ones(4), out=out)),
        ("the array whose method it is", lambda be, out: be.dot((X + 1)[:, :3], X[:, :3].T @ X, out)),
        ("an index", lambda be, out: be.gather_rows(X, np.array([0, 1, 2]), out)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_made_at_the_recording_is_refused(temporary: str, call: Callable[[Any, Any], None]) -> None:
    be, out = NumpyBackend(), np.zeros((3, 4))
    with pytest.raises(DeviceError, match="on an array that is made anew whenever the step is recorded"):
        be.record(lambda: call(be, out))


def test_views_that_are_made_anew_of_memory_that_stays_are_taken() -> None:
    be, flat, out = NumpyBackend(), np.arange(12.0), np.zeros((3, 4))
    program = be.record(lambda: be.xp.add(flat.reshape(3, 4), flat[4:8], out=out))
    flat += 1
    program()
    np.testing.assert_array_equal(out, flat.reshape(3, 4) + flat[4:8])


def test_scratch_that_grows_during_the_first_recording_is_taken() -> None:
    be, out = NumpyBackend(), np.zeros(2000)

    def step() -> None:
        small = be.scratch(out[:10])
        be.xp.add(out[:10], 1.0, out=small)
        be.xp.copyto(out[:10], small)
        be.xp.copyto(be.scratch(out), out)

    program = be.record(step)
    program()
    assert out[:10].sum() == 10
