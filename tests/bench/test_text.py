"""Figures as people read them, and tables on a terminal."""

from __future__ import annotations

import pytest

from gpubackprop.bench import text as module


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
    assert module.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(123.0, "123"), (1234.5, "1.23 k"), (9.9999e5, "1.00 M"), (0.5, "0.50")])
def test_quantity(value: float, text: str) -> None:
    assert module.quantity(value) == text


def test_other_units() -> None:
    assert module.quantity(1.5e11, "FLOP/s") == "150 GFLOP/s"
    assert module.quantity(2e6, digits=1) == "2 M"
    assert [module.size(v) for v in (None, 12, 1 << 20, 3 << 29)] == ["-", "12 B", "1.00 MiB", "1.50 GiB"]
    assert [module.percent(v) for v in (None, 0.0123, 0.4567, 12.0)] == ["-", "1.2 %", "46 %", "1200 %"]


@pytest.mark.parametrize(("size", "text"), [(2.83, "3"), (96.4, "96"), (1234.0, "1,200"), (65536.0, "66,000")])
def test_an_interpolated_size_is_a_whole_number_of_two_digits(size: float, text: str) -> None:
    assert module.rounded(size) == text


def test_a_table_names_a_batch_size_once_and_numbers_stand_to_the_right() -> None:
    lines = [module.Line(["cpu", "1.00 ms"]), module.Line(["cuda:0 *", "90.0 us"], marked=True)]
    table = module.FigureTable("times", ["contender", "step"], [(8, lines), (16, lines[:1])])
    assert module.to_text(table.on_terminal("net: ")).splitlines() == [
        "net: times",
        "batch  contender     step",
        "8      cpu        1.00 ms",
        "       cuda:0 *   90.0 us",
        "16     cpu        1.00 ms",
    ]


def test_a_table_without_batch_sizes_may_end_in_words() -> None:
    table = module.FigureTable(
        "", ["contender", "rate", "how"], [(None, [module.Line(["cpu", "1 G", "one word after another"])])], True
    )
    shown = module.to_text(table.on_terminal(), width=30).splitlines()
    assert shown == [
        "contender  rate  how",
        "cpu         1 G  one word",
        "                 after another",
    ]
