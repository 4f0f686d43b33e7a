"""A result on the disk, as text, as CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gpubackprop.bench.cases import Timing
from gpubackprop.bench.result import Result
from gpubackprop.bench.text import to_text
from gpubackprop.errors import DataError
from tests.bench.samples import result


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


# -- as text -----------------------------------------------------------------------------------------------------------

SIZES = [1, 16, 256]


def sample() -> Result:
    found = result(
        {"cpu": [1e-5, 1.6e-4, 2.56e-3], "cuda:0": [1e-4, 1e-4, 1.1e-4]}, SIZES, transfer={"cuda:0": 5e-5}, phases=True
    )
    broken = found.cases[2].cells["cpu"]
    broken.failed, broken.timings = "wrong result: gradient 0.weight is off by 1.0e+00 of its norm", {}
    return found


def test_text_shows_every_figure_and_no_figure_of_what_failed() -> None:
    shown = to_text(sample().render())
    for figure in ("10.0 us", "160 us", "100 us", "2.33 M", "150 us", "failed", "crossovers"):
        assert figure in shown
    assert "2.56 ms" not in shown
    assert "cpu failed (8-4-2 at 256): wrong result: gradient 0.weight" in " ".join(shown.split())
    assert shown.rstrip().endswith("on.")
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert str(sample()) == shown


def test_markup_in_a_label_is_text() -> None:
    found = result({"[red]cpu[/nothing]": [1.0]}, [1])
    assert "[red]cpu[/nothing]" in to_text(found.render())


def test_shares_are_of_the_ceilings() -> None:
    first = next(sample().rows("8-4-2"))
    assert first.rate("flops") == pytest.approx(200 / 1e-5)
    assert first.share("flops") == pytest.approx(200 / 1e-5 / 1e11)
    assert first.share("bytes") == pytest.approx(100 / 1e-5 / 1e10)
    assert first.rate("samples") == pytest.approx(1e5)
    assert first.fastest


def test_phases_have_a_table_only_if_they_were_timed() -> None:
    assert [t.title for t in sample().tables("8-4-2")] == [
        "a training step",
        "where the time goes",
        "the phases, each run on its own",
        "what is reached",
        "crossovers, and the measured sizes around them",
    ]
    plain = result({"cpu": [1.0]}, [1])
    assert "forward" not in to_text(plain.render())


def test_crossovers_with_and_without_the_copy() -> None:
    table = sample().tables("8-4-2")[-1]
    assert table.columns[1:] == ["with the data on the device", "with each batch copied there"]
    ((batch, lines),) = table.groups
    assert batch is None
    assert [line.texts for line in lines] == [["cuda:0 overtakes cpu", "10 (1..16)", "15 (1..16)"]]


def test_one_reason_is_told_once() -> None:
    found = sample()
    for case in found.cases:
        case.cells["cuda:0"].failed = "not enough memory"
    found.contenders[0].failed = "its process ended"
    told = found.failures()
    assert told[0] == ("cpu failed", "its process ended")
    assert ("cuda:0 failed (8-4-2 at 1, 8-4-2 at 16, 8-4-2 at 256)", "not enough memory") in told


def test_warnings_say_what_to_make_of_it() -> None:
    found = sample()
    assert found.warnings() == []
    found.machine["load"], found.interrupted = 1.5, True
    assert found.warnings() == [
        "Interrupted: this is what had been measured by then.",
        "The machine was busy before this began: load 1.5 on 2 cores.",
    ]
    found.cases[0].cells["cpu"].timings["step"] = Timing.of([1.0])
    assert found.warnings()[2].startswith("Figures of one round have no spread")
    found.cases.clear()
    assert found.warnings()[0] == "Interrupted: nothing had been measured yet."
    assert "nothing had been measured" in to_text(found.render())


def test_csv_has_a_line_for_each_and_plain_numbers() -> None:
    lines = list(csv.DictReader(io.StringIO(sample().to_csv())))
    assert len(lines) == 6
    first, last_cpu = lines[0], lines[4]
    assert float(first["step"]) == 1e-5
    assert float(first["step_low"]) < 1e-5 < float(first["step_high"])
    assert float(first["forward"]) == pytest.approx(2.5e-6)
    assert float(first["samples_per_second"]) == pytest.approx(1e5)
    assert last_cpu["step"] == ""
    assert last_cpu["failed"].startswith("wrong result")
