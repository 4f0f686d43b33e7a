"""Two results side by side: what is a difference and what is noise."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gpubackprop.bench.compare import circumstances, differences, render_comparison
from gpubackprop.bench.result import Result
from gpubackprop.errors import ArgumentError
from tests.bench.samples import result


def text(a: Result, b: Result) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_comparison(a, b, ("old.json", "new.json")))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_only_what_is_larger_than_the_noise_is_marked() -> None:
    a = result({"cpu": [1.0, 1.0, 1.0, 1.0]}, [1, 2, 4, 8], spread=0.01)
    b = result({"cpu": [0.5, 2.0, 1.015, 1.025]}, [1, 2, 4, 8], spread=0.005)
    found = differences(a, b)
    assert [d.verdict for d in found] == ["faster", "slower", "", ""]
    assert [d.ratio for d in found] == pytest.approx([0.5, 2.0, 1.015, 1.025])
    shown = text(a, b)
    assert shown.count("<< faster") == 1
    assert shown.count(">> slower") == 1
    assert "B is faster in 1 and slower in 1 of 4 cases; the other 2" in shown
    assert "old.json" in shown


def test_wide_spreads_hide_a_difference() -> None:
    a, b = result({"cpu": [1.0]}, [1], spread=0.3), result({"cpu": [1.5]}, [1], spread=0.3)
    assert differences(a, b)[0].verdict == ""


def test_what_only_one_measured_is_left_out() -> None:
    a = result({"cpu": [1.0, 1.0], "strict": [2.0, None]}, [1, 2])
    b = result({"strict": [2.0, 2.0], "cpu": [1.0, 1.0]}, [1, 4])
    assert [(d.label, d.batch_size) for d in differences(a, b)] == [("cpu", 1), ("strict", 1)]
    with pytest.raises(ArgumentError, match="8-4-2 at 1, 2 on cpu, strict; and 9-2 at 1 on cpu"):
        differences(a, result({"cpu": [1.0]}, [1], network="9-2"))


def test_what_else_is_different_is_told() -> None:
    a, b = result({"cpu": [1.0]}, [1]), result({"cpu": [1.0]}, [1])
    assert circumstances(a, b) == []
    b.machine["system"], b.machine["load"], b.settings["repeats"] = "Other", 7.0, 3
    assert circumstances(a, b) == [("system", "Linux", "Other"), ("repeats", "7", "3")]
    shown = text(a, b)
    assert "system: Linux | Other" in shown
    assert "B: the machine was busy" in shown
