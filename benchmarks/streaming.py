"""Training from a file that is larger than the memory it may take, against the same batches in memory.

    python -m benchmarks.streaming            about five minutes

Writes rows to .npy, .parquet and .csv files and trains on them by `gb.open_stream`, epochs in memory and from the file in turn;
the fastest epoch of each counts, since what else a machine does only makes them slower. BLAS has one thread, so that on two cores
reading has one of its own. The .npy file lies in the system's
cache: what is measured is reading, checking and shuffling beside the training, not the disk. The limit is the process's own, by
resource.setrlimit, in a child that trains from the file; what it takes above its libraries is written down. Writes
benchmarks/results/streaming.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

import gpubackprop as gb
from benchmarks.common import RESULTS, write
from gpubackprop.bench.machine import machine

D, CLASSES = 256, 10
BUDGET = 96 << 20
WINDOW = 32768
CASES = {
    "small network": ((64,), 256),
    "medium network": ((512, 256), 256),
    "large network": ((1024, 1024), 512),
}

_CHILD = """
import json, resource, sys
import numpy as np
import gpubackprop as gb
path, hidden, size, budget = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
trainer = gb.Trainer(gb.mlp([256, *hidden, 10], loss="cross_entropy", device="cpu"))
trainer.fit(np.zeros((size, 256), np.float32), np.zeros(size, int), epochs=1, batch_size=size)
def data():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData")) * 1024
before = data()
resource.setrlimit(resource.RLIMIT_DATA, (before + budget,) * 2)
class Most(gb.Callback):
    every_steps, most = 20, 0
    def on_progress(self, trainer, progress):
        self.most = max(self.most, data() - before)
look = Most()
trainer.callbacks.append(look)
history = trainer.fit(gb.open_stream(path, window=32768), epochs=2, batch_size=size)
print(json.dumps({"bytes": look.most, "samples_per_second": history["samples_per_second"]}))
"""


def make_files(folder: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The same rows as .npy, .parquet and .csv (the first tenth), and in memory."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, D)).astype(np.float32), rng.integers(0, CLASSES, rows)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    table = pa.table({**{f"c{i}": x[:, i] for i in range(D)}, "y": y})
    pa.parquet.write_table(table, folder / "data.parquet", row_group_size=1 << 14)
    pa.csv.write_csv(table.slice(0, rows // 10), folder / "data.csv")
    return x, y


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "streaming.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, y = make_files(folder, options.rows)
        sources = {
            ".npy": gb.open_stream(folder / "x.npy", window=WINDOW),
            ".parquet": gb.open_stream(folder / "data.parquet", "y", window=WINDOW),
            ".csv, a tenth of the rows": gb.open_stream(folder / "data.csv", "y", window=WINDOW),
        }
        for case, (hidden, size) in CASES.items():
            trainers = {
                kind: gb.Trainer(gb.mlp([D, *hidden, CLASSES], loss="cross_entropy", device="cpu"))
                for kind in ("in memory", *sources)
            }
            speeds: dict[str, list[float]] = {kind: [] for kind in trainers}
            for _ in range(options.repeats):
                for kind, trainer in trainers.items():
                    data = (x, y) if kind == "in memory" else (sources[kind],)
                    speeds[kind].append(trainer.fit(*data, epochs=1, batch_size=size)["samples_per_second"][0])
            found = {kind: max(values) for kind, values in speeds.items()}
            given = [sys.executable, "-c", _CHILD, str(folder / "x.npy"), json.dumps(hidden), str(size), str(BUDGET)]
            limited = json.loads(subprocess.run(given, capture_output=True, text=True, check=True).stdout)
            results[case] = {
                "load_average": os.getloadavg()[0],
                "hidden": hidden,
                "batch_size": size,
                "samples_per_second": {k: round(v) for k, v in found.items()},
                "share_of_in_memory": {k: round(v / found["in memory"], 3) for k, v in found.items() if k in sources},
                "bytes_above_libraries": limited["bytes"],
                "samples_per_second_under_limit": [round(v) for v in limited["samples_per_second"]],
            }
            print(case, json.dumps(results[case], indent=1), flush=True)
            whole = {
                "machine": machine(("numpy", "pyarrow")),
                "file_bytes": options.rows * D * 4,
                "budget_bytes": BUDGET,
                "window": WINDOW,
            }
            write(options.out, whole | {"results": results})


if __name__ == "__main__":
    main()
