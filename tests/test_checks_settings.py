from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from gpubackprop.checks import fraction, not_negative, positive, share, whole_number
from gpubackprop.errors import ArgumentError, ArgumentTypeError


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (positive, [1e-30, 3, np.float32(0.5), np.array(2.0)], [0, -1, nan, inf]),
        (not_negative, [0, 0.0, 7], [-1e-30, nan, inf]),
        (share, [0, 0.999], [1, -0.1, nan]),
        (fraction, [0, 0.5, 1], [1.001, -0.1, nan]),
    ],
)
def test_numbers(check: Callable[[str, Any], float], good: list[Any], bad: list[Any]) -> None:
    for value in good:
        number = check("rate", value)
        assert type(number) is float
        assert number == float(value)
    for value in bad:
        with pytest.raises(ArgumentError, match="rate must be a "):
            check("rate", value)
    for value in ("0.5", None, True, np.True_, [0.5], 1j, b"1", 10**400, np.zeros(2)):
        with pytest.raises(ArgumentTypeError, match=r"rate must be a .* got .* of type"):
            check("rate", value)


def test_whole_number() -> None:
    number = whole_number("size", np.int64(3))
    assert number == 3
    assert type(number) is int
    assert whole_number("size", 0, least=0) == 0
    with pytest.raises(ArgumentError, match="size must be at least 1; got 0"):
        whole_number("size", 0)
    for value in (2.0, "2", True, np.True_, None, [2]):
        with pytest.raises(ArgumentTypeError, match="size must be a whole number; got"):
            whole_number("size", value)
