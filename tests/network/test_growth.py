"""What must not grow: memory, descriptors, threads and temporary files of a process that trains and predicts for a long time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LONG = """
import gc, os, sys, tempfile, threading
import numpy as np
import gpubackprop as gb

rounds = int(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.normal(size=(2000, 20)).astype(np.float32), rng.integers(0, 4, 2000)
kept = gb.mlp([20, 64, 32, 4], loss="cross_entropy", dropout=0.2, device="cpu")
rule = gb.Adam()

def work(n):
    for i in range(n):
        net = gb.mlp([20, 64, 4], loss="cross_entropy", dropout=0.1, device="cpu", seed=i)
        gb.Trainer(net, "adam").fit(x[:200], y[:200], epochs=2, validation_data=(x[200:260], y[200:260]), patience=1)
        for _ in range(50):
            rows = int(rng.integers(64, 2000))
            kept.train_step(x[:rows], y[:rows], rule, micro_batch_size=int(rng.choice([32, 500, 2000])))
        for rows in rng.integers(1, 2000, 5):
            kept.predict(x[:rows])

def now():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20, files, threading.active_count(), len(os.listdir(tempfile.gettempdir()))

work(max(rounds // 4, 5))
before = now()
work(rounds)
after = now()
held = sum(e.nbytes for e in (kept.engine,))
assert after[0] <= before[0] + 24, f"memory: {before[0]} MB, then {after[0]} MB"
assert after[1:] == before[1:], (before, after)
assert held < 64 << 20, held
print("done")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.nightly)])
def test_nothing_grows(rounds: int, tmp_path: Path) -> None:
    import os

    surroundings = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LONG, str(rounds)],
        capture_output=True,
        text=True,
        env=surroundings,
        check=False,
    )
    assert done.stdout.strip() == "done", done.stderr
