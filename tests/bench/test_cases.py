"""The figures of a timing, and where contenders change places, from times whose crossover is known."""

from __future__ import annotations

from math import isnan

import pytest

from gpubackprop.bench.cases import Timing, crossover, winners
from gpubackprop.bench.text import rounded
from tests.bench.samples import result, timing

SIZES = [1, 4, 16, 64, 256]


def test_a_timing_is_the_median_with_the_middle_80_percent() -> None:
    t = Timing.of([float(i) for i in range(11)])
    assert (t.median, t.low, t.high) == (5.0, 1.0, 9.0)
    assert t.spread == pytest.approx(0.8)
    assert Timing.of([2.0, 2.0]).spread == 0.0
    assert isnan(Timing.of([2.0]).spread), "of one there is none"


def test_timings_differ_when_their_ranges_have_nothing_in_common() -> None:
    assert timing(1.0, 0.1).differs(timing(1.3, 0.1))
    assert timing(1.3, 0.1).differs(timing(1.0, 0.1))
    assert not timing(1.0, 0.1).differs(timing(1.15, 0.1))


def test_interpolation_is_exact_for_powers() -> None:
    """Times c n^k are straight lines in logarithms: they meet where they meet, not at a measured size."""
    found = result({"cpu": [1e-5 * n for n in SIZES], "cuda:0": [1e-4 * n**0.5 for n in SIZES]}, SIZES)
    (x,) = found.crossovers("8-4-2")
    assert (x.below, x.above, x.between) == ("cpu", "cuda:0", (64, 256))
    assert x.batch_size == pytest.approx(100)


def test_the_copy_moves_the_crossover() -> None:
    times = {"cpu": [1e-5 * n for n in SIZES], "cuda:0": [1e-4] * 5}
    found = result(times, SIZES, transfer={"cuda:0": 4e-4})
    assert found.crossovers("8-4-2")[0].batch_size == pytest.approx(10)
    with_copy = found.crossovers("8-4-2", "step_with_transfer")[0]
    assert with_copy.batch_size == pytest.approx(50)
    assert found.advice() == [
        "8-4-2: cpu is fastest up to a batch of about 10, cuda:0 from about 10 on; if each batch has to be copied to the "
        "device first, cpu is fastest up to a batch of about 50, cuda:0 from about 50 on."
    ]


def test_noise_makes_no_crossover() -> None:
    found = result({"a": [1.0, 1.01, 1.0, 1.01, 1.0], "b": [1.01, 1.0, 1.01, 1.0, 1.01]}, SIZES, spread=0.05)
    assert found.crossovers("8-4-2") == []
    assert found.advice() == ["8-4-2: a and b cannot be told apart at all batch sizes from 1 to 256."]


def test_a_stretch_of_ties_is_bridged() -> None:
    found = result({"a": [1.0, 2.0, 4.0, 8.0, 16.0], "b": [2.0, 2.02, 3.98, 8.1, 8.0]}, SIZES, spread=0.05)
    (x,) = found.crossovers("8-4-2")
    assert x.between == (1, 256)
    assert 4 < x.batch_size < 16


def test_there_and_back_again() -> None:
    found = result({"a": [1.0, 2.0, 1.0], "b": [2.0, 1.0, 2.0]}, [1, 4, 16])
    first, second = crossover(found.of("8-4-2"), "a", "b")
    assert (first.below, second.below) == ("a", "b")
    assert first.batch_size == pytest.approx(2)
    assert second.batch_size == pytest.approx(8)


def test_three_contenders_get_one_sentence() -> None:
    times = {"cpu@1": [1.0, 4.0, 16.0, 64.0, 256.0], "cpu@2": [3.0, 3.0, 9.0, 33.0, 129.0], "cuda:0": [20.0] * 5}
    found = result(times, SIZES)
    spans = winners(found.of("8-4-2"), found.labels)
    assert [label for _, label in spans] == ["cpu@1", "cpu@2", "cuda:0"]
    assert spans[1][0] == pytest.approx(3)
    assert 16 < spans[2][0] < 64
    said = f"up to a batch of about 3, cpu@2 from about 3 on, cuda:0 from about {rounded(spans[2][0])} on."
    assert found.advice() == [f"8-4-2: cpu@1 is fastest {said}"]


def test_the_same_one_is_fastest_everywhere() -> None:
    assert result({"a": [1.0, 2.0], "b": [2.0, 3.0]}, [8, 32]).advice() == [
        "8-4-2: a is fastest at all batch sizes from 8 to 32."
    ]
    tied = result({"a": [1.0, 2.0], "b": [1.0, 3.0]}, [8, 32])
    assert tied.advice() == ["8-4-2: nothing is faster than a at all batch sizes from 8 to 32."]
    assert result({"a": [1.0], "b": [2.0]}, [8]).advice() == ["8-4-2: a is fastest at a batch of 8."]


def test_one_contender_has_no_comparison() -> None:
    assert "nothing to compare" in result({"cpu": [1.0]}, [8]).advice()[0]
    found = result({"cpu": [1.0], "cuda:0": [None]}, [8])
    assert "cuda:0 could not be measured" in found.advice()[0]
    assert result({"cpu": [None]}, [8]).advice() == []


def test_what_cannot_be_told_from_the_fastest_is_as_fast() -> None:
    case = result({"a": [1.0], "b": [1.03], "c": [1.2]}, [8], spread=0.02).cases[0]
    assert case.fastest(["a", "b", "c"]) == ["a", "b"]
