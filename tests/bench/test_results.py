"""Results on the disk, and the figures of a timing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpubackprop.bench.results import Result, Timing
from gpubackprop.errors import DataError
from tests.bench.samples import result, timing


def test_a_timing_is_the_median_with_the_middle_80_percent() -> None:
    t = Timing.of([float(i) for i in range(11)])
    assert (t.median, t.low, t.high) == (5.0, 1.0, 9.0)
    assert t.spread == pytest.approx(0.8)
    assert Timing.of([2.0]).spread == 0.0


def test_timings_differ_when_their_ranges_have_nothing_in_common() -> None:
    assert timing(1.0, 0.1).differs(timing(1.3, 0.1))
    assert timing(1.3, 0.1).differs(timing(1.0, 0.1))
    assert not timing(1.0, 0.1).differs(timing(1.15, 0.1))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    found = result({"cpu": [1.0, None], "cuda:0:tf32": [0.5, 0.25]}, [1, 4], phases=True)
    found.cases[1].cells["cuda:0:tf32"].failed = "wrong"
    found.interrupted = True
    found.save(tmp_path / "a.json")
    assert Result.load(tmp_path / "a.json") == found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("[1]", "is not what gpubackprop bench"),
        ('{"format": "other"}', "is not what gpubackprop bench"),
        ('{"format": "gpubackprop-benchmark", "version": 99}', "version 99"),
        ('{"format": "gpubackprop-benchmark", "version": 1}', "damaged"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        Result.load(path)


@pytest.mark.parametrize("value", [-1.0, "soon", None, float("nan")])
def test_times_that_cannot_be(tmp_path: Path, value: Any) -> None:
    stored = result({"cpu": [1.0]}, [1]).to_dict()
    stored["cases"][0]["cells"]["cpu"]["timings"]["step"]["low"] = value
    (tmp_path / "x.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="damaged"):
        Result.load(tmp_path / "x.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Result.load(tmp_path / "none.json")
