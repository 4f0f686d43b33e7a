"""Training steps on one NVIDIA GPU against PyTorch (eager, CUDA graph, torch.compile), JAX and the roofline.

    python -m benchmarks.gpu                 # everything, within --budget seconds
    python -m benchmarks.gpu --dry-run       # the same code on small networks on the CPU, to see that it runs

Parity comes first: a library whose loss over the first steps is not the one of float64 on the CPU gets no time. Each library
is warmed up, then timed in blocks of steps with one wait at the end; the median block counts. Every cell's libraries run after
each other in one process, so ratios in a cell are of the same machine in the same minute.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.base import Config, Peer
from benchmarks.peers.ours import Step, kernel_times
from benchmarks.peers.turns import make
from gpubackprop.bench import timing
from gpubackprop.bench.cases import Timing
from gpubackprop.bench.machine import machine

PEERS = ("ours", "ours without graph", "torch eager", "torch graph", "jax jit", "torch compile")
BLOCKS, BLOCK_SECONDS = 5, 0.04
PARITY_STEPS = 3
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2}
"""Largest relative difference of the loss to float64 on the CPU, over the first steps."""
REFERENCE_LIMIT = 3e11
"""Products up to this many operations are checked against float64 on the CPU; larger ones against each other."""


def cases(dry: bool = False) -> list[Config]:
    """Every cell of the comparison, the most telling ones first; `dry`: the same networks, small enough for a CPU."""
    shapes = [((784, 512, 256, 10), b) for b in (1024, 65536, 128, 8192)]
    shapes += [((w, w, w, w, w, 10), b) for b in (65536, 1048576) for w in (64, 128)]
    shapes.append(((4096,) * 9, 16384))
    found = [
        Config(w, b, optimizer=o, precision=p)
        for o, p, (w, b) in product(("adam", "sgd"), ("fp32", "tf32", "bf16"), shapes)
    ]
    if dry:
        small = [replace(c, widths=tuple(min(w, 32) for w in c.widths), batch=min(c.batch, 64)) for c in found]
        found = [c for c in dict.fromkeys(small) if c.precision == "fp32"]
    return found


def reference(case: Config) -> list[float] | None:
    """The losses of the first steps in float64 on the CPU."""
    if case.flops() * PARITY_STEPS > REFERENCE_LIMIT:
        return None
    return losses(Step(case, dtype="float64"))


def losses(peer: Peer) -> list[float]:
    """The losses of the first steps."""
    found = []
    for _ in range(PARITY_STEPS):
        peer.step()
        found.append(peer.loss())
    return found


def timed(peer: Peer, blocks: int = BLOCKS, seconds: float = BLOCK_SECONDS) -> dict[str, float]:
    """Seconds a step, with the wait at the end of a group of steps shared out, and seconds the host needs to launch one."""
    whole = Timing.of([timing.seconds_a_call(peer.step, peer.wait, seconds) for _ in range(blocks)])
    host = timing.seconds_to_launch(peer.step, peer.wait, seconds)
    return {"seconds": whole.median, "host_seconds": host, "spread": whole.spread}


def measure(name: str, case: Config, device: str, want: list[float] | None, dry: bool) -> dict[str, Any]:
    """Parity, then time, of one library in one cell; on failure the reason."""
    started = time.perf_counter()
    peer: Any = None
    try:
        peer = make(name, case, device)
        got = losses(peer)
        error = None if want is None else max(abs(a / b - 1) for a, b in zip(got, want, strict=True))
        result: dict[str, Any] = {"losses": got, "error": error}
        if not np.isfinite(got).all():
            return {**result, "failed": "the loss is not finite"}
        if error is not None and error > TOLERANCE[case.precision]:
            return {**result, "failed": f"the loss is off by {error}"}
        result |= timed(peer, 2, 0.01) if dry else timed(peer)
        if hasattr(peer, "describe"):
            result["how"] = peer.describe()
        return result
    except Exception as error:  # a library that is missing or fails in a cell must not end the run
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"failed": f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"}
    finally:
        del peer
        _release()
        if time.perf_counter() - started > 20:
            print(f"    {name} took {time.perf_counter() - started:.0f} s", file=sys.stderr)


def _release() -> None:
    gc.collect()
    if "cupy" in sys.modules:
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def ceilings(dry: bool) -> dict[str, float]:
    """Operations a second of a large product in each precision, and bytes a second of a copy, as they are reached here."""
    if dry:
        return {"fp32": 1e11, "tf32": 1e11, "bf16": 1e11, "bandwidth": 1e10}
    from gpubackprop.backend.cuda.cuda_backend import CudaBackend

    found = {}
    for precision in ("fp32", "tf32", "bf16"):
        best = timing.ceilings(CudaBackend(0, "native" if precision == "fp32" else precision), "float32")
        found[precision], found["bandwidth"] = best["flops"], best["bytes"]
        _release()
    return found


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
        floor = f"{1e6 * r['floor']:>10.1f}"
        own = f"{1e6 * cells[0]['host_seconds']:>8.1f}{r['floor'] / times[0]:>9.2f}" if times[0] else " " * 17
        lines.append(f"{r['case']:52}" + "".join(shown) + floor + own + best)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and write JSON and a table; returns 0 unless ours failed somewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="small networks on the CPU: does everything run?")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds for everything (default 450)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--only", default="", help="cells whose description has this in it")
    parser.add_argument("--peers", default=",".join(PEERS), help="libraries, in this order, by comma")
    options = parser.parse_args(arguments)
    started, dry, device = time.perf_counter(), options.dry_run, "cpu" if options.dry_run else "cuda"
    report: dict[str, Any] = {"machine": machine(), "dry_run": dry, "ceilings": ceilings(dry), "cells": []}
    chosen = [c for c in cases(dry) if options.only in c.describe()]
    wanted = [p.strip() for p in options.peers.split(",")]
    limit = report["ceilings"]
    for c in chosen:
        floor = c.floor(limit[c.precision], limit["bandwidth"])
        report["cells"].append({"case": c.describe(), "flops": c.flops(), "floor": floor, "peers": {}})
    # Everything that is quick for every cell first, then the compiler as far as the time goes.
    slow = [p for p in wanted if p == "torch compile"]
    references = {}
    for group in ([p for p in wanted if p not in slow], slow):
        for c, cell in zip(chosen, report["cells"], strict=True):
            for name in group:
                if time.perf_counter() - started > options.budget:
                    cell["peers"][name] = {"failed": "no time left"}
                    continue
                if dry and ("graph" in name.split() or name == "torch compile") and not name.startswith("ours"):
                    cell["peers"][name] = {"failed": "needs a GPU"}
                    continue
                if c not in references:
                    references[c] = reference(c)
                cell["peers"][name] = measure(name, c, device, references[c], dry)
            _write(options.out, report)
    if not dry:
        report["kernels"] = {}
        for c in chosen[:2] + [x for x in chosen if x.precision == "bf16"][:2]:
            if time.perf_counter() - started < options.budget + 20:
                try:
                    report["kernels"][c.describe()] = kernel_times(c)
                except Exception as error:  # a table that is missing must not cost the others
                    report["kernels"][c.describe()] = [(f"{type(error).__name__}: {error}", 0.0)]
    report["seconds"] = time.perf_counter() - started
    _write(options.out, report)
    print(table(report["cells"]))
    for name, kernels in report.get("kernels", {}).items():
        print(f"\n{name}: {1e3 * sum(ms for _, ms in kernels):.1f} us in {len(kernels)} launches")
        print("\n".join(f"  {1e3 * ms:9.1f} us  {what}" for what, ms in kernels))
    return 0 if all("seconds" in r["peers"].get("ours", {"seconds": 0}) for r in report["cells"]) else 1


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
