"""Recording on the CPU: a step's calls are kept, with their arguments, and done again without the Python around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.errors import DeviceError

PART = 128 * 1024
"""Numbers that a call works on at a time, so that its temporaries stay in the L2 cache."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]

_REDUCTIONS = {"sum": np.add.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce}
"""NumPy's functions of these names are Python code around these ufunc methods."""

# NumPy deprecates their output as a third positional argument.
_KEYWORD_OUT = (np.maximum, np.minimum)


def replay(calls: list[Call]) -> Callable[[], None]:
    """A function that makes these calls in order; its `calls` lists them as (function, arguments), where a function with
    keyword arguments is a `functools.partial`.

    It is one straight run of Python: no loop, and arguments by position, which saves small steps a twentieth.
    """
    names: dict[int, str] = {}
    values: dict[str, Any] = {}

    def name(value: object) -> str:
        if id(value) not in names:
            names[id(value)] = f"v{len(names)}"
            values[names[id(value)]] = value
        return names[id(value)]

    lines = []
    for function, arguments in calls:
        given = [name(a) for a in arguments]
        if isinstance(function, partial) and not function.args:
            given += [f"{key}={name(value)}" for key, value in function.keywords.items()]
            function = function.func
        lines.append(f"    {name(function)}({', '.join(given)})")
    # As defaults of the function's arguments they are local variables, the fastest there are.
    source = "def step({}):\n{}".format(", ".join(f"{n}={n}" for n in values), "\n".join(lines) or "    pass")
    exec(compile(source, "<recorded step>", "exec"), values)
    # Out of its own globals, or the function and the arrays would keep each other alive.
    step: Any = values.pop("step")
    step.calls = calls
    return step  # type: ignore[no-any-return]


def moved(calls: list[Call], again: list[Call]) -> str | None:
    """The difference in memory between two recordings of the same step: the name of the first call on an array that lies
    somewhere else the second time; None where there is none.

    Static memory lies where it lay. An array that was made at the recording (by an array expression, or by a `reshape` that had
    to copy) does not, since the first recording keeps its own: a replay would use what that one held then.
    """
    for one, two in zip(calls, again, strict=False):
        for a, b in zip(_arrays(*one), _arrays(*two), strict=False):
            if a.__array_interface__["data"] != b.__array_interface__["data"]:
                function = one[0].func if isinstance(one[0], partial) else one[0]
                return str(getattr(function, "__name__", function))
    return None


def _arrays(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[np.ndarray]:
    """The arrays that a call refers to: its arguments, and whose method it is. Those without dimensions are constants."""
    options = tuple(function.keywords.values()) if isinstance(function, partial) else ()
    values = (*arguments, *options, *getattr(function, "operands", ()), getattr(function, "__self__", None))
    return [value for value in values if isinstance(value, np.ndarray) and value.ndim]


class RecordingNamespace:
    """Looks like `numpy`, but keeps each call for later instead of making it."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function
        # Not through self, which holds this function.
        calls = self._calls

        def keep(*arguments: object, **options: Any) -> None:
            if options.get("out") is None and name not in ("copyto", "put"):
                raise DeviceError(
                    f"xp.{name} without out= makes a new array, which cannot be recorded: write into an array from "
                    "buffers() or be.scratch(), or set recordable = False on the layer"
                )
            calls.append(prepare_reduction(name, arguments, options) or prepare(function, arguments, options))

        setattr(self, name, keep)
        return keep


def prepare(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Call:
    """The call in the form that NumPy replays fastest: numbers become 0-d arrays, arrays of equal size become flat views that
    need no broadcasting, options that only repeat NumPy's default are dropped, and `out` is passed by position."""
    if isinstance(function, np.ufunc):
        out = options.get("out")
        dtype = next((a.dtype for a in (*arguments, out) if isinstance(a, np.ndarray)), None)
        arguments = tuple(_operand(a, dtype) for a in arguments)
        options = {
            k: v
            for k, v in options.items()
            if k != "dtype" or any(getattr(a, "dtype", v) != v for a in (*arguments, out))
        }
        if "where" not in options:
            arguments, options["out"] = _flattened(arguments, out)
        if set(options) == {"out"} and function not in _KEYWORD_OUT:
            return function, (*arguments, options["out"])
    return (partial(function, **options) if options else function), arguments


def prepare_reduction(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Call | None:
    """`xp.sum(a, axis=, dtype=, out=, keepdims=)` as the call of its ufunc's `reduce`, or None for another function."""
    if name not in _REDUCTIONS or len(arguments) != 1:
        return None
    given = dict(options)
    by_position = [given.pop(key, None) for key in ("axis", "dtype", "out")]
    call = (*arguments, *by_position, given.pop("keepdims", False))
    return None if given else (_REDUCTIONS[name], call)


def _operand(value: object, dtype: np.dtype[Any] | None) -> object:
    if isinstance(value, np.generic) and not isinstance(value, float):
        return np.asarray(value)
    if dtype is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    # A number takes on the arrays' type only where that can hold it: 0.5 stays what it is beside integers.
    return np.asarray(value, dtype) if dtype.kind in "fc" or (dtype.kind in "iu" and isinstance(value, int)) else value


def _flattened(arguments: tuple[Any, ...], out: object) -> tuple[tuple[object, ...], object]:
    """The operands as one-dimensional views and 0-d scalars, which NumPy does in one loop without setting up any other;
    as they are where that is not possible."""
    if not isinstance(out, np.ndarray) or not out.flags.c_contiguous or out.size > PART:
        return arguments, out
    flat: list[np.ndarray] = []
    for a in arguments:
        if not isinstance(a, np.ndarray):
            return arguments, out
        if a.size == 1:
            flat.append(a.reshape(()))
        elif a.size == out.size and a.flags.c_contiguous:
            flat.append(a.reshape(-1))
        else:
            return arguments, out
    return tuple(flat), out.reshape(() if out.size == 1 else -1)
