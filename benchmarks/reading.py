"""Speed and memory of reading a large CSV file, beside pyarrow's own reader: python -m benchmarks.reading [--mb 200] [FILE]

Without FILE, one is made: numbers, whole numbers, text with quotes, dates, and a target of text. Each reader runs in processes
of its own, in turns; the best time of each counts, with the file in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

GOAL_SPEED, GOAL_MEMORY = 0.8, 3.0
_MEASURE = """
import re, sys, time
import pyarrow, pyarrow.csv, pyarrow.compute
from gpubackprop.data import read_table
def most():
    # Linux: the most memory that this process has had
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before, started = most(), time.perf_counter()
{call}
print(time.perf_counter() - started, most() - before)
"""
CALLS = {
    "pyarrow": "table = pyarrow.csv.read_csv(sys.argv[1])",
    "gpubackprop": "table = read_table(sys.argv[1], text=['y'])",
}


def write(path: Path, megabytes: int) -> None:
    """A file of about that size."""
    rng = np.random.default_rng(0)
    rows = megabytes * 7200
    columns: dict[str, object] = {f"f{i}": rng.standard_normal(rows).round(4) for i in range(12)}
    columns |= {f"i{i}": rng.integers(0, 10_000, rows) for i in range(6)}
    columns["city"] = np.array(["Paris", "Rome", "Berlin, DE", "New York", "Oslo"])[rng.integers(0, 5, rows)]
    columns["day"] = np.datetime64("2020-01-01") + rng.integers(0, 900, rows).astype("timedelta64[D]")
    columns["y"] = np.array(["cat", "dog", "eel"])[rng.integers(0, 3, rows)]
    pyarrow.csv.write_csv(pa.table(columns), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.file or Path(folder, "table.csv")
        if given.file is None:
            write(path, given.mb)
        size = path.stat().st_size
        times: dict[str, list[float]] = {name: [] for name in CALLS}
        memory = dict.fromkeys(CALLS, 0.0)
        for _ in range(given.rounds):
            for name, call in CALLS.items():
                command = [sys.executable, "-c", _MEASURE.format(call=call), str(path)]
                seconds, taken = map(
                    float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                )
                times[name].append(seconds)
                memory[name] = max(memory[name], taken)
    for name in CALLS:
        best = min(times[name])
        print(
            f"{name:<12} {best:.2f} s, {size / best / 1e6:,.0f} MB/s, memory {memory[name] / size:.2f} x the file's size"
        )
    speed = min(times["pyarrow"]) / min(times["gpubackprop"])
    print(
        f"speed {speed:.2f} of pyarrow's (goal {GOAL_SPEED}), memory {memory['gpubackprop'] / size:.2f} (goal {GOAL_MEMORY})"
    )


if __name__ == "__main__":
    main()
