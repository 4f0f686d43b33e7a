"""Recording on the CPU: a step's calls are kept, with their arguments, and done again without the Python around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.errors import DeviceError

Call = tuple[Callable[..., Any], tuple[Any, ...]]

# The module-level functions are Python around these.
_DIRECT: dict[str, Callable[..., Any]] = {"sum": np.add.reduce, "max": np.maximum.reduce, "min": np.minimum.reduce}
# NumPy deprecates their output as a third positional argument.
_KEYWORD_OUT = (np.maximum, np.minimum)


class Replay:
    """A recorded step: calling it makes the recorded calls, in order.

    `calls` lists them as (function, arguments); functions with keyword arguments are `functools.partial` objects.
    """

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    def __call__(self) -> None:
        for function, arguments in self.calls:
            function(*arguments)

    def __len__(self) -> int:
        return len(self.calls)


class RecordingNamespace:
    """Looks like `numpy`, but keeps each call for later instead of making it."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type):
            return function

        def keep(*arguments: Any, **options: Any) -> None:
            if options.get("out") is None and name not in ("copyto", "put"):
                raise DeviceError(
                    f"xp.{name} without out= makes a new array, which cannot be recorded: write into an array from "
                    "buffers() or be.scratch(), or set recordable = False on the layer"
                )
            if name in _DIRECT and len(arguments) == 1:
                options.setdefault("axis", None)
            self._calls.append(prepare(_DIRECT.get(name, function), arguments, options))

        setattr(self, name, keep)
        return keep


def prepare(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Call:
    """A call with as little work left for each replay as can be: numbers as 0-d arrays, `out` by position."""
    if isinstance(function, np.ufunc):
        dtype = next((a.dtype for a in (*arguments, options.get("out")) if isinstance(a, np.ndarray)), None)
        # A number takes on the array's type only where that can hold it: 0.5 stays what it is beside integers.
        if dtype is not None and dtype.kind in "fc":
            arguments = tuple(
                np.asarray(a, dtype) if isinstance(a, (int, float)) and not isinstance(a, bool) else a
                for a in arguments
            )
        if set(options) == {"out"} and function not in _KEYWORD_OUT:
            return function, (*arguments, options["out"])
    return (partial(function, **options) if options else function), arguments
