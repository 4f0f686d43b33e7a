"""A result as text, as CSV and as figures that people read."""

from __future__ import annotations

import csv
import io

import pytest

from gpubackprop.bench import units
from gpubackprop.bench.columns import crossing, failures, tables
from gpubackprop.bench.results import Result
from gpubackprop.bench.rows import rows, to_csv
from gpubackprop.bench.table import to_text, warnings
from tests.bench.samples import result

SIZES = [1, 16, 256]


def sample() -> Result:
    found = result(
        {"cpu": [1e-5, 1.6e-4, 2.56e-3], "cuda:0": [1e-4, 1e-4, 1.1e-4]}, SIZES, transfer={"cuda:0": 5e-5}, phases=True
    )
    broken = found.cases[2].cells["cpu"]
    broken.failed, broken.timings = "wrong result: gradient 0.weight is off by 1.0e+00 of its norm", {}
    return found


def test_text_shows_every_figure_and_no_figure_of_what_failed() -> None:
    shown = to_text(sample())
    for figure in ("10.0 us", "160 us", "100 us", "2.33 M", "150 us", "failed", "crossovers"):
        assert figure in shown
    assert "2.56 ms" not in shown
    assert "cpu failed (8-4-2 at 256): wrong result: gradient 0.weight" in " ".join(shown.split())
    assert shown.rstrip().endswith("on.")
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert str(sample()) == shown


def test_markup_in_a_label_is_text() -> None:
    found = result({"[red]cpu[/nothing]": [1.0]}, [1])
    assert "[red]cpu[/nothing]" in to_text(found)


def test_shares_are_of_the_ceilings() -> None:
    first = next(iter(rows(sample(), "8-4-2")))
    assert first.flops == pytest.approx(200 / 1e-5)
    assert first.share("flops") == pytest.approx(200 / 1e-5 / 1e11)
    assert first.share("bytes") == pytest.approx(100 / 1e-5 / 1e10)
    assert first.samples == pytest.approx(1e5)
    assert first.fastest


def test_phases_have_a_table_only_if_they_were_timed() -> None:
    assert [t.title for t in tables(sample(), "8-4-2")] == [
        "a training step",
        "where the time goes",
        "the phases, each run on its own",
        "what is reached",
    ]
    plain = result({"cpu": [1.0]}, [1])
    assert "forward" not in to_text(plain)


def test_crossovers_with_and_without_the_copy() -> None:
    names, lines = crossing(sample(), "8-4-2")
    assert names[1:] == ["with the data on the device", "with each batch copied there"]
    assert lines == [["cuda:0 overtakes cpu", "10 (1..16)", "15 (1..16)"]]


def test_one_reason_is_told_once() -> None:
    found = sample()
    for case in found.cases:
        case.cells["cuda:0"].failed = "not enough memory"
    found.contenders[0].failed = "its process ended"
    told = failures(found)
    assert told[0] == ("cpu failed", "its process ended")
    assert ("cuda:0 failed (8-4-2 at 1, 8-4-2 at 16, 8-4-2 at 256)", "not enough memory") in told


def test_warnings_say_what_to_make_of_it() -> None:
    found = sample()
    assert warnings(found) == []
    found.machine["load"], found.interrupted = 1.5, True
    assert warnings(found) == [
        "Interrupted: this is what had been measured by then.",
        "The machine was busy before this began: load 1.5 on 2 cores.",
    ]
    found.cases.clear()
    assert warnings(found)[0] == "Interrupted: nothing had been measured yet."
    assert "nothing had been measured" in to_text(found)


def test_csv_has_a_line_for_each_and_plain_numbers() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(sample()))))
    assert len(lines) == 6
    first, last_cpu = lines[0], lines[4]
    assert float(first["step"]) == 1e-5
    assert float(first["step_low"]) < 1e-5 < float(first["step_high"])
    assert float(first["forward"]) == pytest.approx(2.5e-6)
    assert float(first["samples_per_second"]) == pytest.approx(1e5)
    assert last_cpu["step"] == ""
    assert last_cpu["failed"].startswith("wrong result")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234, "1.23 s"),
        (0.0123, "12.3 ms"),
        (1.26e-4, "126 us"),
        (9.9996e-4, "1.00 ms"),
        (5e-10, "0.50 ns"),
        (None, "-"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(123.0, "123"), (1234.5, "1.23 k"), (9.9999e5, "1.00 M"), (0.5, "0.50")])
def test_quantity(value: float, text: str) -> None:
    assert units.quantity(value) == text


def test_other_units() -> None:
    assert units.quantity(1.5e11, "FLOP/s") == "150 GFLOP/s"
    assert units.quantity(2e6, digits=1) == "2 M"
    assert [units.size(v) for v in (None, 12, 1 << 20, 3 << 29)] == ["-", "12 B", "1.00 MiB", "1.50 GiB"]
    assert [units.percent(v) for v in (None, 0.0123, 0.4567, 12.0)] == ["-", "1.2 %", "46 %", "1200 %"]
