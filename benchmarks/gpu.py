"""Training steps on one NVIDIA GPU against PyTorch (eager, CUDA graph, torch.compile), JAX and the roofline.

    python -m benchmarks.gpu                 # within --budget seconds, from the most telling cell on; says what it left out
    python -m benchmarks.gpu                 # once more: goes on with what was left out
    python -m benchmarks.gpu --dry-run       # the same code on small networks on the CPU, to see that it runs

Each library has a process of its own, which is ended where it takes too long; data and weights are made once for all of them.
Parity comes first: a library whose loss over the first steps is not the one of float64 on the CPU gets no time; in a cell that
is too large for that, the libraries are held to each other. Each is warmed up, then timed in blocks of steps with one wait at
the end; the median block counts. What is measured is written down at once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import write
from benchmarks.peers.base import Config, Peer
from benchmarks.peers.ours import Step, kernel_times
from benchmarks.peers.turns import make
from gpubackprop.bench.cases import Timing
from gpubackprop.bench.machine import ceilings, machine
from gpubackprop.bench.measure import seconds_a_call, seconds_to_launch
from gpubackprop.bench.process import Worker
from gpubackprop.errors import GpuBackpropError

PEERS = ("ours", "ours without graph", "torch eager", "torch graph", "jax jit", "torch compile", "torch compile step")
SLOW = ("torch compile", "torch compile step")
"""Those that compile for minutes: after the others, as far as the time goes."""
LIMIT, SLOW_LIMIT = 90.0, 180.0
"""Seconds that a library may take for a cell."""
BLOCKS, BLOCK_SECONDS = 5, 0.04
PARITY_STEPS = 3
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}
"""Largest relative difference of the loss to float64 on the CPU, or to the other libraries', over the first steps."""
REFERENCE_LIMIT = 3e11
"""Products up to this many operations are checked against float64 on the CPU; larger ones against each other."""
LEFT_OUT = "no time left"


def cases(dry: bool = False) -> list[Config]:
    """Every cell of the comparison, the most telling ones first; `dry`: the same networks, small enough for a CPU."""
    shapes = [((784, 512, 256, 10), b) for b in (1024, 65536)]
    shapes += [
        ((64,) * 5 + (10,), 65536),
        ((4096,) * 9, 16384),
        ((128,) * 5 + (10,), 65536),
        ((64,) * 5 + (10,), 1048576),
    ]
    shapes += [((784, 512, 256, 10), b) for b in (128, 8192)] + [((128,) * 5 + (10,), 1048576)]
    found = [
        Config(widths, batch, optimizer=optimizer, precision=precision)
        for optimizer, (widths, batch), precision in product(("adam", "sgd"), shapes, ("fp32", "bf16", "tf32"))
    ]
    if dry:
        small = [replace(c, widths=tuple(min(w, 32) for w in c.widths[-4:]), batch=min(c.batch, 64)) for c in found]
        found = list(dict.fromkeys(small))
    return found


# -- in a library's own process ---------------------------------------------------------------------------------------


class Bench:
    """One library. device: "cuda", "cpu", or "stand-in", where ours runs on the stand-ins for CuPy and the others on the CPU."""

    def __init__(self, peer: str, device: str) -> None:
        self.name, self.device = peer, device
        if device == "stand-in":
            self.device = "cpu"
            if peer.startswith("ours"):
                from tests.cuda.stand_in import stand_in_for_this_process

                stand_in_for_this_process()
                self.device = "cuda"
        self.peer: Any = None

    def losses(self, config: Config) -> list[float]:
        """Make the cell; the losses of the first steps."""
        self.peer = None
        gc.collect()
        self.peer = make(self.name, config, self.device)
        return losses(self.peer)

    def times(self, blocks: int, seconds: float) -> dict[str, Any]:
        """Seconds a step of the cell, with the wait at the end of a group of steps shared out, and seconds that the host needs
        to launch one; and how it runs."""
        peer = self.peer
        whole = Timing.of([seconds_a_call(peer.step, peer.wait, seconds) for _ in range(blocks)])
        host = seconds_to_launch(peer.step, peer.wait, seconds)
        found = {"seconds": whole.median, "host_seconds": host, "spread": whole.spread}
        return found | ({"how": peer.describe()} if hasattr(peer, "describe") else {})

    def release(self) -> None:
        """Give the cell's memory back to the device."""
        self.peer = None
        gc.collect()
        if "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            # After some functions of the same code PyTorch would go on without compiling, and not say so.
            torch._dynamo.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def ceilings(self, precision: str) -> dict[str, float]:
        """See `machine.ceilings`; ours only."""
        from gpubackprop.backend.cuda.cuda_backend import CudaBackend

        return ceilings(CudaBackend(0, "native" if precision == "fp32" else precision), "float32")

    def kernels(self, config: Config) -> list[tuple[str, float]]:
        """See `kernel_times`; ours only."""
        return kernel_times(config)


def losses(peer: Peer) -> list[float]:
    """The losses of the first steps."""
    found = []
    for _ in range(PARITY_STEPS):
        peer.step()
        found.append(peer.loss())
    return found


# -- the comparison ---------------------------------------------------------------------------------------------------


def reference(case: Config) -> list[float] | None:
    """The losses of the first steps in float64 on the CPU; None where that would take too long."""
    if case.flops() * PARITY_STEPS > REFERENCE_LIMIT:
        return None
    return losses(Step(case, dtype="float64"))


def measure(worker: Worker, case: Config, want: list[float] | None, limit: float, quick: bool) -> dict[str, Any]:
    """Parity, then time, of one library in one cell; on failure the reason."""
    started = time.perf_counter()

    def left() -> float:
        return max(limit - (time.perf_counter() - started), 1.0)

    result: dict[str, Any] = {}
    try:
        result["losses"] = got = worker.ask("losses", case, limit=left())
        result["error"] = error = None if want is None else off(got, want)
        if not np.isfinite(got).all():
            return {**result, "failed": "the loss is not finite"}
        if error is not None and error > TOLERANCE[case.precision]:
            return {**result, "failed": f"the loss is off by {error}"}
        result |= worker.ask("times", *((2, 0.01) if quick else (BLOCKS, BLOCK_SECONDS)), limit=left())
        worker.ask("release", limit=left())
    except GpuBackpropError as error:  # a library that is missing or fails in a cell must not end the run
        worker.close()
        result["failed"] = str(error)[:300]
    return result


def off(got: list[float], want: list[float]) -> float:
    """The largest relative difference of two rows of losses."""
    return max(abs(a / b - 1) for a, b in zip(got, want, strict=True))


def hold_to_each_other(case: Config, peers: dict[str, dict[str, Any]]) -> None:
    """In a cell without a reference: a library whose losses are not those that most have gets no time."""
    rows = {name: p["losses"] for name, p in peers.items() if "seconds" in p}
    if len(rows) < 2:
        return
    want = [median(step) for step in zip(*rows.values(), strict=True)]
    for name, row in rows.items():
        peers[name] |= {"error": off(row, want), "against": "each other"}
        if peers[name]["error"] > TOLERANCE[case.precision]:
            peers[name]["failed"] = f"the loss is off by {peers[name]['error']}, held to the others'"
            peers[name].pop("seconds", None)


def floors(report: dict[str, Any], chosen: list[Config]) -> None:
    """The roofline of each cell, once the ceilings are known."""
    limit = report["ceilings"]
    for c, cell in zip(chosen, report["cells"], strict=True):
        if c.precision in limit:
            cell["floor"] = c.floor(limit[c.precision], limit["bandwidth"])


def table(results: list[dict[str, Any]]) -> str:
    """Microseconds a step: a line a cell, a column a library, and how ours stands."""
    lines = [f"{'':52}" + "".join(f"{p:>20}" for p in PEERS) + f"{'floor':>10}{'host':>8}{'of floor':>9}{'vs best':>8}"]
    for r in results:
        cells = [r["peers"].get(p, {}) for p in PEERS]
        times = [c.get("seconds") for c in cells]
        shown = [
            f"{1e6 * t:>20.1f}" if t else f"{c.get('failed', '-')[:18]:>20}" for t, c in zip(times, cells, strict=True)
        ]
        rivals = [t for t in times[2:] if t]
        best = f"{min(rivals) / times[0]:>8.2f}" if times[0] and rivals else f"{'':>8}"
        floor = f"{1e6 * r['floor']:>10.1f}" if "floor" in r else f"{'':>10}"
        host = f"{1e6 * cells[0]['host_seconds']:>8.1f}" if times[0] else f"{'':>8}"
        own = f"{r['floor'] / times[0]:>9.2f}" if times[0] and "floor" in r else f"{'':>9}"
        lines.append(f"{r['case']:52}" + "".join(shown) + floor + host + own + best)
    return "\n".join(lines)


class Run:
    """One call: as much as there is time for, on top of what the file holds from earlier calls on the same machine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.started = options, time.perf_counter()
        self.chosen = [c for c in cases(options.dry_run) if options.only in c.describe()]
        here = machine(("torch", "jax", "cupy-cuda12x", "cupy-cuda13x"))
        cells = [{"case": c.describe(), "flops": c.flops(), "peers": {}} for c in self.chosen]
        self.report: dict[str, Any] = {"machine": here, "dry_run": options.dry_run, "ceilings": {}, "cells": cells}
        self.report["kernels"] = {}
        if options.out.exists() and not options.again:
            self._take(json.loads(options.out.read_text(encoding="utf-8")))
        self.references: dict[Config, list[float] | None] = {}

    def _take(self, before: dict[str, Any]) -> None:
        """What was measured before, by the same packages on the same devices."""
        same = ("devices", "packages", "gpubackprop", "numpy")
        if any(before["machine"].get(k) != self.report["machine"].get(k) for k in same):
            return
        self.report["ceilings"], self.report["kernels"] = before["ceilings"], before["kernels"]
        kept = {cell["case"]: cell["peers"] for cell in before["cells"]}
        for cell in self.report["cells"]:
            found = kept.get(cell["case"], {})
            cell["peers"] = {name: p for name, p in found.items() if p.get("failed") != LEFT_OUT}

    def left(self) -> float:
        """Seconds that this call has left."""
        return float(self.options.budget - (time.perf_counter() - self.started))

    def write(self) -> None:
        """Write down all that is known by now."""
        self.report["seconds"] = time.perf_counter() - self.started
        write(self.options.out, self.report)

    def everything(self, workers: dict[str, Worker]) -> None:
        """The ceilings, every cell with the libraries that are quick to start, the kernels of some, then the compilers."""
        if "ours" in workers:
            self.ceilings(workers["ours"])
        floors(self.report, self.chosen)
        self.compare({name: w for name, w in workers.items() if name not in SLOW}, LIMIT)
        if "ours" in workers:
            self.kernels(workers["ours"])
        self.compare({name: w for name, w in workers.items() if name in SLOW}, SLOW_LIMIT)

    def compare(self, workers: dict[str, Worker], limit: float) -> None:
        """All cells with these libraries."""
        for c, cell in zip(self.chosen, self.report["cells"], strict=True):
            peers = cell["peers"]
            for name, worker in workers.items():
                if name in peers:
                    continue
                if self.left() < 5:
                    peers[name] = {"failed": LEFT_OUT}
                    continue
                if c not in self.references:
                    self.references[c] = reference(c)
                quick, within = self.options.dry_run, min(limit, self.left())
                peers[name] = measure(worker, c, self.references[c], within, quick)
                self.write()
            if self.references.get(c, []) is None:
                hold_to_each_other(c, peers)
                self.write()

    def ceilings(self, worker: Worker) -> None:
        """Operations a second of a large product in each precision, and bytes a second of a copy, as they are reached here."""
        found = self.report["ceilings"]
        if self.options.dry_run:
            found |= {"fp32": 1e11, "tf32": 1e11, "bf16": 1e11, "bandwidth": 1e10}
        for precision in ("fp32", "tf32", "bf16"):
            if precision not in found and self.left() > 5:
                try:
                    best = worker.ask("ceilings", precision, limit=min(LIMIT, self.left()))
                    found[precision], found["bandwidth"] = best["flops"], best["bytes"]
                except GpuBackpropError as error:
                    self.report.setdefault("failed", {})[f"ceilings {precision}"] = str(error)
                self.write()

    def kernels(self, worker: Worker) -> None:
        """What each launch of some cells takes."""
        for c in self.chosen[:2] + [c for c in self.chosen if c.precision == "bf16"][:2]:
            if c.describe() not in self.report["kernels"] and self.left() > 5:
                try:
                    self.report["kernels"][c.describe()] = worker.ask("kernels", c, limit=min(LIMIT, self.left()))
                except GpuBackpropError as error:  # a table that is missing must not cost the others
                    self.report.setdefault("failed", {})[f"kernels of {c.describe()}"] = str(error)
                self.write()


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and write JSON and a table; returns 0 unless ours failed somewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="small networks on the CPU: does everything run?")
    parser.add_argument("--budget", type=float, default=400.0, help="seconds for this call (default 400)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--only", default="", help="cells whose description has this in it")
    parser.add_argument("--peers", default=",".join(PEERS), help="libraries, in this order, by comma")
    parser.add_argument("--again", action="store_true", help="measure anew what the file holds already")
    options = parser.parse_args(arguments)
    wanted = [p.strip() for p in options.peers.split(",")]
    if options.dry_run:
        wanted = [p for p in wanted if p not in ("torch graph", *SLOW)]  # these need a GPU, or minutes
    run = Run(options)
    device = "stand-in" if options.dry_run else "cuda"
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpubackprop-benchmark-"))
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "GPUBACKPROP_BENCHMARK_DATA": folder}
        # The references are computed in this process.
        os.environ["GPUBACKPROP_BENCHMARK_DATA"] = folder
        stack.callback(os.environ.pop, "GPUBACKPROP_BENCHMARK_DATA")
        workers = {
            p: stack.enter_context(closing(Worker("benchmarks.gpu:Bench", p, device, environment=environment)))
            for p in wanted
        }
        run.everything(workers)
    run.write()
    cells = run.report["cells"]
    print(table(cells))
    for name, kernels in run.report["kernels"].items():
        print(f"\n{name}: {1e3 * sum(ms for _, ms in kernels):.1f} us in {len(kernels)} launches")
        print("\n".join(f"  {1e3 * ms:9.1f} us  {what}" for what, ms in kernels))
    left_out = [f"{c['case']}: {n}" for c in cells for n, p in c["peers"].items() if p.get("failed") == LEFT_OUT]
    if left_out:
        print(f"\nleft out for want of time, {len(left_out)} of them; call this again:", *left_out, sep="\n  ")
    ours = [c["peers"].get("ours", {}) for c in cells]
    return 0 if all("seconds" in p or p.get("failed", LEFT_OUT) == LEFT_OUT for p in ours) else 1


if __name__ == "__main__":
    sys.exit(main())
