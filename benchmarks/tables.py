"""Scores on real tables, beside gradient boosting: python -m benchmarks.tables [FOLDER] [--seeds 0,1,2]

FOLDER (by default what GPUBACKPROP_TABLES names) holds the files and README.tsv, which gives a file, its target and its task
a line, between tabs. Writes benchmarks/results/tables.json.

Of each file a quarter of the rows is held out, once for each seed. The network is what `gpubackprop train` makes by default.
The baseline is scikit-learn's HistGradientBoosting with its own defaults on the same rows and the same columns: those that the
encoder keeps, numbers as numbers (missing ones as NaN), categories as categories. Scores are accuracy, or R^2.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

import gpubackprop as gb
from benchmarks.common import RESULTS, write
from gpubackprop.bench.machine import machine
from gpubackprop.data import Table, cells, load
from gpubackprop.errors import DataError
from gpubackprop.metrics import r2
from gpubackprop.pipeline.encoder import Column, Encoder
from gpubackprop.pipeline.preparation import Parts, divide
from gpubackprop.pipeline.runs import fit, prepare
from gpubackprop.pipeline.settings import Settings

MARGIN = 0.08
GOAL = 50
"""On so many files the network's score must not be lower than the baseline's less MARGIN."""
MOST_LEVELS = 255
"""HistGradientBoosting takes so many levels; of those of a column that has more, the place in the alphabet."""


def network(data: gb.Dataset, seed: int) -> tuple[float, Parts, Encoder]:
    """The network's score on the rows held out, the parts that the data were divided into, and the columns' encoder."""
    settings = Settings(device="cpu", test=0.25, seed=seed).completed(data)
    parts = divide(data, test=settings.test, validation=settings.validation or 0.0, seed=seed)
    model = prepare(data, parts.train, settings, {"source": None, "target": None, "folder": None})
    fit(gb.Trainer(model.network, settings.make_optimizer(len(parts.train.x))), model, parts, settings, [])
    scores = model.scores(parts.test.x, parts.test.y)
    assert isinstance(model.inputs, Encoder)
    return scores["accuracy" if data.classes else "r2"], parts, model.inputs


def boosting(data: gb.Dataset, parts: Parts, encoder: Encoder, seed: int) -> float:
    """The baseline's score on the same rows."""
    kept = [column for column in encoder.columns if column.inputs]
    learnt = [(parts.train.x, parts.train.y)]
    if parts.validation is not None:
        learnt.append((parts.validation.x, parts.validation.y))
    x = pd.concat([frame(table, kept) for table, _ in learnt], ignore_index=True)
    y = np.concatenate([y for _, y in learnt])
    held = frame(parts.test.x, kept)
    for name in [column.name for column in kept if column.kind == "category"]:
        levels = sorted(x[name].dropna().unique())
        kind = pd.CategoricalDtype(levels)
        x[name], held[name] = x[name].astype(kind), held[name].astype(kind)
        if len(levels) > MOST_LEVELS:
            x[name], held[name] = x[name].cat.codes, held[name].cat.codes
    if data.classes:
        model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed).fit(x, y)
        return float(np.mean(model.predict(held) == parts.test.y))
    model = HistGradientBoostingRegressor(categorical_features="from_dtype", random_state=seed).fit(x, y[:, 0])
    return r2(model.predict(held)[:, None], parts.test.y)


def frame(table: Any, columns: list[Column]) -> pd.DataFrame:
    """The columns as they are, for a library that takes data frames."""
    assert isinstance(table, Table)
    values: dict[str, Any] = {}
    for column in columns:
        cell, s = table.column(column.name), column.settings
        if column.kind == "category":
            codes, names = cells.levels(cell)
            values[column.name] = pd.Series(np.array([*names, None], object)[codes], dtype=object)
        elif column.kind == "date":
            values[column.name] = cells.numbers(cells.times(cell, s["format"]))
        else:
            values[column.name] = (
                cells.yes_or_no(cell) if column.kind == "boolean" else cells.numbers(cell, s["decimal"])
            )
    return pd.DataFrame(values)


def measure(path: Path, target: str, task: str, seeds: list[int]) -> dict[str, Any]:
    """The mean scores of both on one file."""
    try:
        data = load(path, target=target, task=task)
    except DataError as error:
        return {"refused": str(error).replace(str(path.parent), "").strip("/")}
    started = time.perf_counter()
    ours, theirs = [], []
    for seed in seeds:
        score, parts, encoder = network(data, seed)
        ours.append(score)
        theirs.append(boosting(data, parts, encoder, seed))
    return {
        "score": "accuracy" if data.classes else "r2",
        "rows": len(data.x),
        "columns": data.x.shape[1],
        "inputs": len(encoder.inputs),
        "network": round(float(np.mean(ours)), 4),
        "boosting": round(float(np.mean(theirs)), 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def good(found: dict[str, Any]) -> bool:
    """Whether the network is as good as was asked for."""
    return "network" in found and found["network"] >= found["boosting"] - MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("GPUBACKPROP_TABLES"), type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", help="names of files, with commas between; nothing is written")
    given = parser.parse_args()
    if given.folder is None:
        parser.error("name the folder of the tables, or set GPUBACKPROP_TABLES")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    files: dict[str, Any] = {}
    for line in (Path(given.folder) / "README.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or (given.only and line.split("\t")[0] not in given.only.split(",")):
            continue
        name, target, task, *_ = line.split("\t")
        files[name] = found = measure(Path(given.folder) / name, target, task, seeds)
        mark = "refused" if "refused" in found else "" if good(found) else "worse"
        print(f"{name:<32} {found.get('network', ''):>8} {found.get('boosting', ''):>8}  {mark}", flush=True)
    count = sum(map(good, files.values()))
    print(f"{count} of {len(files)} not lower than the baseline less {MARGIN} (goal: {GOAL})")
    if not given.only:
        write(RESULTS / "tables.json", {"machine": machine(), "seeds": seeds, "good": count, "files": files})


if __name__ == "__main__":
    main()
