from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

import gpubackprop as gb
from gpubackprop.terminal import say
from gpubackprop.training.display import Display, duration


def shown(epochs: int, *, terminal: bool) -> str:
    """What a short fit writes to a terminal, or to a file."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 4)), rng.integers(0, 3, 400)
    net = gb.mlp([4, 8, 3], loss="cross_entropy", device="cpu")
    out = io.StringIO()
    display = Display(Console(file=out, force_terminal=terminal, width=100))
    trainer = gb.Trainer(net, gb.SGD(0.1), callbacks=[display])
    trainer.fit(x, y, epochs=epochs, batch_size=10, validation_data=(x, y))
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    text = shown(3, terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    for word in ("loss", "val_accuracy", "samples/s", "left"):
        assert word in lines[0]


def test_a_long_run_gets_few_lines() -> None:
    lines = shown(200, terminal=False).splitlines()
    assert 15 < len(lines) < 30
    assert lines[0].split()[1] == "1/200"
    assert lines[-1].split()[1] == "200/200"


def test_a_live_bar_on_a_terminal() -> None:
    text = shown(3, terminal=True)
    assert "\x1b[" in text
    assert "epoch 3/3" in text
    assert "━" in text


def test_a_terminal_of_80_columns_splits_no_word() -> None:
    text = "AdamW(0.003, " + "weight_decay=0.3, " * 12
    for terminal in (True, False):
        out = io.StringIO()
        say(Console(file=out, force_terminal=terminal, width=80), text)
        lines = out.getvalue().splitlines()
        assert [word for line in lines for word in line.split()] == text.split()
        assert (max(map(len, lines)) <= 80) is terminal


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (7, "7 s"), (59.6, "1:00"), (125, "2:05"), (3603, "1:00:03")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
