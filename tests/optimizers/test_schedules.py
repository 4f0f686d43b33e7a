from __future__ import annotations

from itertools import pairwise
from math import nan

import pytest

from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.optimizers.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    Polynomial,
    Schedule,
    Step,
    get_schedule,
)


def factors(schedule: Schedule, steps: int) -> list[float]:
    return [schedule(s) for s in range(steps)]


def test_values() -> None:
    assert factors(Constant(), 3) == [1, 1, 1]
    assert factors(Step(gamma=0.5, every=2), 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert factors(Step(gamma=0.1, total=6), 7) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert factors(Exponential(gamma=0.5), 4) == [1, 0.5, 0.25, 0.125]
    assert factors(Exponential(final=0.01, total=2), 4) == pytest.approx([1, 0.1, 0.01, 0.01])
    assert factors(Cosine(total=4), 6) == pytest.approx([1, 0.8535533905932737, 0.5, 0.14644660940672627, 0, 0])
    assert factors(Cosine(final=0.2, total=2), 3) == pytest.approx([1, 0.6, 0.2])
    assert factors(Polynomial(total=4), 5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert factors(Polynomial(power=2, final=0.5, total=2), 3) == pytest.approx([1, 0.625, 0.5])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warmup_in_front_of_any(name: str) -> None:
    plain, warm = get_schedule(name, total=10), get_schedule(name, total=14, warmup=4)
    assert factors(warm, 4) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors(warm, 15)[4:] == pytest.approx(factors(plain, 11))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_never_grows_and_never_is_negative(name: str) -> None:
    values = factors(get_schedule(name, total=50), 60)
    assert values[0] == 1
    assert all(a >= b >= 0 for a, b in pairwise(values))


def test_over() -> None:
    assert Cosine().over(10) == Cosine(total=10)
    assert Cosine(total=5).over(10) == Cosine(total=5)
    assert Cosine(warmup=8).over(3)(8) == 1
    with pytest.raises(ArgumentError, match="cosine schedule needs total="):
        Cosine()(0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("constant", {"warmup": -1}, "warmup must be at least 0"),
        ("constant", {"warmup": 5, "total": 5}, "total must be more than the 5 warm-up steps"),
        ("cosine", {"final": nan}, "final must be a number in"),
        ("cosine", {"final": 2.0}, "final must be a number in"),
        ("polynomial", {"power": 0}, "power must be a finite number above 0"),
        ("polynomial", {"power": nan}, "power must be"),
        ("polynomial", {"final": -0.1}, "final must be"),
        ("exponential", {"gamma": 0}, r"gamma must be in \(0, 1\]"),
        ("exponential", {"gamma": nan}, "gamma must be"),
        ("exponential", {"final": 2}, "final must be"),
        ("step", {"every": 0}, "every must be at least 1"),
        ("step", {"gamma": 1.5}, "gamma must be"),
    ],
)
def test_out_of_range(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        get_schedule(name, **options)


def test_lookup() -> None:
    assert get_schedule(None) == Constant()
    own = Cosine(total=3)
    assert get_schedule(own) is own
    with pytest.raises(ArgumentError, match="unknown schedule 'cosinus': did you mean 'cosine'"):
        get_schedule("cosinus")
    with pytest.raises(ArgumentError, match="unknown schedule"):
        get_schedule({"name": "cosine"})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"schedule 'cosine'.*gamma"):
        get_schedule("cosine", gamma=0.1)
    with pytest.raises(ArgumentError, match=r"\['total'\] are for a schedule by name"):
        get_schedule(own, total=9)
    with pytest.raises(ArgumentTypeError, match="warmup must be a whole number"):
        Cosine(warmup=0.5)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="must define shape"):
        Schedule()(0)
