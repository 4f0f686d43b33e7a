from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DataError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 2, 40)


def fit(log: gb.Callback, *others: gb.Callback, epochs: int = 3) -> gb.History:
    net = gb.mlp([3, 4, 2], loss="cross_entropy", device="cpu", seed=1)
    return gb.Trainer(net, "adam", callbacks=[log, *others]).fit(X, Y, epochs=epochs, validation_data=(X, Y))


def read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else list(csv.DictReader(lines))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_line_for_each_epoch_as_soon_as_it_is_done(tmp_path: Path, suffix: str) -> None:
    path, seen = tmp_path / f"log{suffix}", []

    class Look(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: Any) -> None:
            seen.append(len(read(path)))

    history = fit(gb.LogFile(path), Look())
    assert seen == [1, 2, 3]
    for line, record in zip(read(path), history.records, strict=True):
        assert set(line) == set(record) >= {"epoch", "loss", "val_accuracy"}
        assert {k: float(v) for k, v in line.items()} == record


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_fit_that_goes_on_has_all_epochs_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"

    class Halt(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: Any) -> None:
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(gb.LogFile(path), gb.Checkpoints(tmp_path / "kept", "1 epoch"), Halt(), epochs=4)
    assert len(read(path)) == 2
    trainer = gb.Trainer.resume(tmp_path / "kept", device="cpu", callbacks=[gb.LogFile(path)])
    trainer.continue_fit(X, Y, (X, Y))
    assert [int(line["epoch"]) for line in read(path)] == [1, 2, 3, 4]


def test_a_column_that_comes_later(tmp_path: Path) -> None:
    class Add(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: Any) -> None:
            if record["epoch"] > 1:
                record["late, and quoted"] = record["epoch"] * 10

    path = tmp_path / "log.csv"
    net = gb.mlp([3, 4, 2], loss="cross_entropy", device="cpu")
    gb.Trainer(net, "adam", callbacks=[Add(), gb.LogFile(path)]).fit(X, Y, epochs=3)
    assert [line["late, and quoted"] for line in read(path)] == ["", "20", "30"]


def test_no_file_is_destroyed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("mine\n")
    with pytest.raises(ArgumentError, match="is there already"):
        fit(gb.LogFile(path))
    assert path.read_text() == "mine\n"
    fit(gb.LogFile(path, overwrite=True))
    assert len(read(path)) == 3
    with pytest.raises(ArgumentError, match=r"must end in \.csv or \.jsonl"):
        gb.LogFile(tmp_path / "log.txt")
    with pytest.raises(DataError):
        fit(gb.LogFile(tmp_path / "nowhere" / "log.csv"))
