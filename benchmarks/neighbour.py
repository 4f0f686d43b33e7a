"""Fifty epochs of a small network on an idle machine, and beside a process that keeps one core busy.

    python -m benchmarks.neighbour        prints the times and writes benchmarks/results/neighbour.json

With the rule of `gpubackprop.backend.cpu.threads`, and without it (all of BLAS's threads for every product), in turns.
"""

from __future__ import annotations

import multiprocessing
import time
from statistics import median
from typing import Any

import numpy as np

import gpubackprop as gb
from benchmarks.common import RESULTS, write
from gpubackprop.backend.cpu import numpy_backend
from gpubackprop.backend.cpu.blas_info import blas_library
from gpubackprop.bench.machine import machine

ROUNDS = 5


def one_core_busy(stop: Any) -> None:
    """Products on one thread until told to stop."""
    found = blas_library()
    if found is not None:
        library, getter = found
        library[getter.replace("get_num", "set_num")](1)
    a = np.random.default_rng(0).random((400, 400))
    while not stop.is_set():
        a @ a


def seconds(rule: bool) -> float:
    """50 epochs of 64-256-128-10 on 1,797 rows, batch 32, as `train digits` has them."""
    rng = np.random.default_rng()
    x, y = rng.random((1797, 64), np.float32), rng.integers(0, 10, 1797)
    own = numpy_backend.takes_one_thread
    if not rule:
        numpy_backend.takes_one_thread = lambda calls: None
    try:
        net = gb.mlp([64, 256, 128, 10], loss="cross_entropy", dropout=0.2, device="cpu")
        started = time.perf_counter()
        gb.Trainer(net, gb.AdamW(2e-3)).fit(x, y, epochs=50, batch_size=32)
        return time.perf_counter() - started
    finally:
        numpy_backend.takes_one_thread = own


def main() -> None:
    """Measure both, alone and beside the neighbour."""
    found: dict[str, dict[str, float]] = {}
    seconds(True)
    for where in ("alone", "beside a busy process"):
        stop = multiprocessing.Event()
        neighbour = multiprocessing.Process(target=one_core_busy, args=(stop,))
        if where != "alone":
            neighbour.start()
            time.sleep(1)
        times: dict[str, list[float]] = {"rule": [], "all threads": []}
        for _ in range(ROUNDS):
            for how, taken in times.items():
                taken.append(seconds(how == "rule"))
        if where != "alone":
            stop.set()
            neighbour.join()
        for how, taken in times.items():
            found.setdefault(how, {})[where] = median(taken)
    for how, by_place in found.items():
        alone, beside = by_place.values()
        print(f"{how}: {alone:.2f} s alone, {beside:.2f} s beside a busy process, {beside / alone:.2f} times")
    write(RESULTS / "neighbour.json", {"machine": machine(("numpy",)), "seconds": found})


if __name__ == "__main__":
    main()
