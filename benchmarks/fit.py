"""Whole jobs on the CPU against other libraries: the time from the cold start of a process.

    python -m benchmarks.fit                                                     all of them, about an hour
    python -m benchmarks.fit --data digits --repeats 1 --libraries gpubackprop,scikit-learn   a quick look

Two jobs: training until a test accuracy is reached, and ten epochs. The time is that of a user who starts a script: the
interpreter, the library's import, the data from a file, the first step, all others, and for the first job a look at the test
rows after each epoch. All have the same network, batch size, optimizer and data; each is run with one thread and with as
many as it takes by itself, and the better one counts. Runs are in random order, in processes of their own, one at a time, after
one of each that does not count (what is cached on the disk is cached then). Writes benchmarks/results/fit.json, of which
`benchmarks/readme.py` makes the table of the README. benchmarks/jobs.py is what runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, available, write
from benchmarks.jobs import LIBRARIES
from gpubackprop.bench.machine import machine
from gpubackprop.bench.subject import Contender
from gpubackprop.data import Standardizer, load, split
from gpubackprop.errors import GpuBackpropError

NEEDS = {"scikit-learn": "sklearn", "skorch": "skorch", "Keras": "keras", "PyTorch": "torch"}
"""The beginning of a library's name -> the module that it cannot do without."""
PACKAGES = ("numpy", "scikit-learn", "torch", "skorch", "keras", "numba", "scipy")
MOST_EPOCHS = 300
"""Without the accuracy by then, a library has failed."""
THREADS = (1, None)
PAUSE = 0.5
"""Seconds between runs."""
SPLIT = 3
"""Seed of the split into training and test rows: one in which the accuracy that is asked for is no matter of luck."""


@dataclass(frozen=True)
class Task:
    """A data set, the network for it, and the test accuracy that is asked for."""

    hidden: tuple[int, ...]
    batch: int
    goal: float
    images: bool = True


TASKS = {
    "digits": Task((128,), 32, 0.97),
    "breast-cancer": Task((32,), 16, 0.95, images=False),
    "fashion-mnist": Task((256, 128), 128, 0.88),
}


def prepare(name: str, folder: Path) -> tuple[Path, list[int]]:
    """Write the data set, split and standardized, to a file that every library reads; its path and the network's widths.

    Raises GpuBackpropError where the data set is not there.
    """
    data = load(name, download=False)
    x, y = data.x.astype(np.float32), data.y
    if data.x_test is None:
        own, held = split(len(x), 0.2, seed=SPLIT, labels=y)
        x, y, x_test, y_test = x[own], y[own], x[held], y[held]
    else:
        x_test, y_test = data.x_test.astype(np.float32), data.y_test
    standardizer = Standardizer(per_feature=not TASKS[name].images).fit(x)
    x, x_test = (standardizer.transform(rows) for rows in (x, x_test))
    path = folder / f"{name}.npz"
    np.savez(path, x=x, y=y.astype(np.int64), x_test=x_test, y_test=y_test.astype(np.int64))
    return path, [x.shape[1], *TASKS[name].hidden, int(y.max()) + 1]


def run(library: str, path: Path, settings: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """One job in a new process: what it printed, and "wall", the seconds until it was done. Raises SystemExit if it failed."""
    command = [sys.executable, str(ROOT / "benchmarks/jobs.py"), library, str(path), json.dumps(settings)]
    environment = {**os.environ, **Contender("cpu", threads=threads).environment(), "PYTHONPATH": str(ROOT)}
    # What pip installs is compiled, and so must this checkout be, from its first run on.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        wall = time.perf_counter() - started
        rest = process.stdout.read()
    if said != "done\n" or process.returncode:
        raise SystemExit(f"{library} failed with exit status {process.returncode}; what it said stands above")
    time.sleep(PAUSE)
    return {"wall": wall, **json.loads(rest)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of wall, CPU, epochs, accuracy and of the parts, and all wall times."""
    found = {key: median(r[key] for r in runs) for key in ("wall", "cpu", "epochs", "accuracy")}
    parts = {part: median(r["parts"][part] for r in runs) for part in runs[0]["parts"]}
    return {**found, "parts": parts, "walls": [r["wall"] for r in runs]}


def measure(path: Path, settings: dict[str, Any], libraries: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """{library: its better summary, with "threads"} of one job."""
    contenders = [(library, threads) for library in libraries for threads in THREADS]
    runs: dict[tuple[str, int | None], list[dict[str, Any]]] = {c: [] for c in contenders}
    for repeat in range(repeats + 1):
        for library, threads in random.sample(contenders, len(contenders)):
            found = run(library, path, {**settings, "seed": repeat}, threads)
            if repeat:
                runs[library, threads].append(found)
    better = {}
    for library in libraries:
        both = [{"threads": threads, **summary(runs[library, threads])} for threads in THREADS]
        better[library] = min(both, key=lambda s: s["wall"])
        reached = [r["accuracy"] for threads in THREADS for r in runs[library, threads]]
        if settings["goal"] is not None and min(reached) < settings["goal"]:
            better[library]["failed"] = f"accuracy {min(reached):.4f} after {MOST_EPOCHS} epochs"
    return better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(TASKS), help="data sets, with commas")
    parser.add_argument("--libraries", default=";".join(LIBRARIES), help="libraries, with semicolons between")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each that count")
    parser.add_argument("--output", type=Path, default=RESULTS / "fit.json")
    options = parser.parse_args()
    names, libraries = options.data.split(","), options.libraries.split(";")
    if not set(names) <= set(TASKS) or not set(libraries) <= set(LIBRARIES) or options.repeats < 1:
        parser.error(f"--data takes {', '.join(TASKS)}; --libraries takes {'; '.join(LIBRARIES)}; --repeats at least 1")
    libraries = available(libraries, NEEDS)
    results: dict[str, Any] = {"machine": machine(PACKAGES), "tasks": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                path, widths = prepare(name, Path(folder))
            except GpuBackpropError as error:
                print(f"{name}: left out: {error}")
                continue
            task = TASKS[name]
            settings = {"widths": widths, "batch": task.batch}
            what = f"{name}, {'-'.join(map(str, widths))}, batch {task.batch}"
            jobs = {
                f"to {task.goal:.0%}": {**settings, "epochs": MOST_EPOCHS, "goal": task.goal},
                "ten epochs": {**settings, "epochs": 10, "goal": None},
            }
            entry = results["tasks"][name] = {"what": what, "jobs": {}}
            for job, chosen in jobs.items():
                print(f"\n{what}: {job}")
                found = entry["jobs"][job] = measure(path, chosen, libraries, options.repeats)
                for library, s in sorted(found.items(), key=lambda item: item[1]["wall"]):
                    if "failed" in s:
                        print(f"   {library:<20} failed: {s['failed']}")
                        continue
                    parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in s["parts"].items())
                    print(
                        f"   {library:<20} {s['wall']:8.2f} s, CPU {s['cpu']:8.2f} s   {s['epochs']:3.0f} epochs, accuracy "
                        f"{s['accuracy']:.4f}   {parts}   threads {s['threads'] or 'its own'}",
                        flush=True,
                    )
                write(options.output, results)


if __name__ == "__main__":
    main()
