"""Numbers that come in as settings: looked at once, with an error that names the setting."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from gpubackprop.errors import ArgumentError, ArgumentTypeError


def positive(name: str, value: Any) -> float:
    """`value` as a float; ArgumentError unless it is a finite number above 0."""
    return _number(name, value, lambda v: v > 0, "a finite number above 0")


def not_negative(name: str, value: Any) -> float:
    """`value` as a float; ArgumentError unless it is a finite number, 0 or more."""
    return _number(name, value, lambda v: v >= 0, "a finite number, 0 or more")


def share(name: str, value: Any) -> float:
    """`value` as a float; ArgumentError unless it is in [0, 1)."""
    return _number(name, value, lambda v: 0 <= v < 1, "a number in [0, 1)")


def fraction(name: str, value: Any) -> float:
    """`value` as a float; ArgumentError unless it is in [0, 1]."""
    return _number(name, value, lambda v: 0 <= v <= 1, "a number in [0, 1]")


def positive_fraction(name: str, value: Any) -> float:
    """`value` as a float; ArgumentError unless it is in (0, 1]."""
    return _number(name, value, lambda v: 0 < v <= 1, "in (0, 1]")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; ArgumentTypeError unless it is one (of Python or NumPy), ArgumentError if it is below `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}")
    if value < least:
        raise ArgumentError(f"{name} must be at least {least}; got {value}")
    return int(value)


def _number(name: str, value: Any, allowed: Callable[[float], bool], expected: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise ArgumentTypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}") from None
    if not isfinite(number) or not allowed(number):
        raise ArgumentError(f"{name} must be {expected}; got {value!r}")
    return number
