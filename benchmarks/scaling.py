"""How a training step grows shorter with the number of processes: python -m benchmarks.scaling

A model, and how far real MPI runs on this machine are from it:

    step(N) = compute(rows / N) + update + allreduce(bytes of the gradients, N)

compute is linear in the rows; the ring all-reduce takes 2 (N - 1) (latency + bytes / (N bandwidth)) (Patarasuk and Yuan, 2009).
With overlap, gradients of later layers travel while delta-propagation goes on below: what shows of the all-reduce is at least its
last bucket, and what is longer than the backward pass. Inside nodes of 8 GPUs the sum goes over NVLink first, and each GPU then
sends its eighth of it between the nodes.

Measured here: the parts of the model, which are processes that train side by side without a word to each other, and pure
all-reduces; and, against their sum, the steps of 1, 2 and 4 ranks that train together. So it is the model that is judged, and
not how many cores the machine has, nor what else runs on it. Every number about a GPU is an ASSUMPTION, NOT YET MEASURED.
Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT

ASSUMED = "assumption, not yet measured"
RANKS = (1, 2, 4)
GPUS = tuple(2**k for k in range(11))
BACKWARD = 2 / 3
"""Of the compute: delta-propagation and gradients are two products a layer, where the forward pass is one."""
BUCKETS = 4
NODE = 8


@dataclass(frozen=True)
class Link:
    """bandwidth: bytes a second in one direction, as far as they are reached; latency: seconds a message."""

    bandwidth: float
    latency: float


LINKS = {
    "NVLink 4": Link(450e9 * 0.75, 3e-6),
    "InfiniBand NDR, 400 Gbit/s": Link(50e9 * 0.85, 5e-6),
    "Ethernet, 25 Gbit/s": Link(3.125e9 * 0.8, 30e-6),
}
NETWORKS = {
    "NVLink among all": ("NVLink 4", "NVLink 4"),
    "NVLink in nodes of 8, InfiniBand between": ("NVLink 4", "InfiniBand NDR, 400 Gbit/s"),
    "NVLink in nodes of 8, Ethernet between": ("NVLink 4", "Ethernet, 25 Gbit/s"),
}


@dataclass(frozen=True)
class Job:
    """A network on one device: parameters, rows of the global batch, seconds a row, and seconds a step whatever the rows."""

    parameters: int
    rows: int
    per_row: float
    fixed: float

    @property
    def bytes(self) -> int:
        """Of the gradients, in float32."""
        return 4 * self.parameters

    def compute(self, rows: float) -> float:
        """Seconds of a step without its all-reduce."""
        return self.fixed + self.per_row * rows


def assumed_job(parameters: int, rows: int, flops: float = 300e12, bandwidth: float = 2.5e12) -> Job:
    """A job on one H100-like GPU: 6 operations a parameter and row on tensor cores; launches, and an Adam update that goes
    through 7 arrays of the parameters' size in float32."""
    return Job(parameters, rows, 6 * parameters / flops, 15e-6 + 7 * 4 * parameters / bandwidth)


JOBS = {
    "MLP 784-512-256-10 (0.5 M parameters), 1024 rows": assumed_job(535_818, 1024),
    "MLP with 16 layers of 4096 (268 M parameters), 65536 rows": assumed_job(16 * 4096**2, 65536),
    "MLP with 32 layers of 8192 (2.1 G parameters), 262144 rows": assumed_job(32 * 8192**2, 262144),
}


def ring(size: float, ranks: int, link: Link) -> float:
    """Seconds of a ring all-reduce of so many bytes: reduce-scatter and all-gather, ranks - 1 messages each."""
    return 2 * (ranks - 1) * (link.latency + size / ranks / link.bandwidth)


def hierarchical(size: float, ranks: int, inside: Link, between: Link) -> float:
    """The same over nodes of 8: a ring inside, and one between for each eighth."""
    local = min(ranks, NODE)
    nodes = -(-ranks // NODE)
    return ring(size, local, inside) + ring(size / local, nodes, between)


def exposed(total: float, compute: float) -> float:
    """What shows of an all-reduce that overlaps with the backward pass."""
    return max(total / BUCKETS, total - BACKWARD * compute)


def on_paper(job: Job, network: str, *, strong: bool) -> dict[str, Any]:
    """Steps on 1 to 1024 GPUs. strong: the same global batch for any number; otherwise the same rows a GPU (weak)."""
    inside, between = (LINKS[name] for name in NETWORKS[network])
    table: list[dict[str, float]] = []
    for gpus in GPUS:
        compute = job.compute(job.rows / gpus if strong else job.rows)
        total = hierarchical(job.bytes, gpus, inside, between)
        shown = exposed(total, compute)
        rows = job.rows if strong else job.rows * gpus
        table.append(
            {
                "gpus": gpus,
                "compute": compute,
                "allreduce": total,
                "step": compute + total,
                "step with overlap": compute + shown,
                "rows a second": rows / (compute + total),
                "efficiency": rows / (compute + total) / gpus / (job.rows / job.compute(job.rows)),
                "efficiency with overlap": rows / (compute + shown) / gpus / (job.rows / job.compute(job.rows)),
            }
        )
    takes_over = next((int(t["gpus"]) for t in table if t["allreduce"] > t["compute"]), None)
    return {"label": ASSUMED, "all-reduce takes over at": takes_over, "table": table}


# -- this machine ---------------------------------------------------------------------------------------------------

WIDTHS = (256, 1024, 1024, 10)
BATCHES = (256, 512, 1024)
SIZES = (1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24)
"""Bytes of the pure all-reduces."""


def measure_steps(batches: tuple[int, ...], widths: tuple[int, ...], steps: int, together: bool) -> dict[str, float]:
    """Seconds of a training step for each global batch, in the slowest of the processes that there are. together: whether they
    add up their gradients, or each trains a network of its own on its share of the rows."""
    import gpubackprop as gb
    from gpubackprop.distributed import join

    rng, ranks, found = np.random.default_rng(0), join(), {}
    for batch in batches:
        rows = batch if together or ranks is None else batch // ranks.size
        net = gb.mlp(list(widths), loss="cross_entropy", device="cpu", seed=0, dtype="float32")
        trainer = gb.Trainer(net, "adam", distributed=ranks if together else None)
        x = rng.standard_normal((rows * steps, widths[0]), np.float32)
        y = rng.integers(0, widths[-1], len(x))
        if ranks is not None:
            ranks.gather(None)
        # The first epochs record; of the others the quickest was disturbed the least by what else runs on the machine.
        history = trainer.fit(x, y, epochs=20, batch_size=rows, shuffle=False)
        seconds = min(history["seconds"][2:]) / steps
        found[str(batch)] = seconds if ranks is None else max(ranks.gather(seconds))
    return found


def measure_allreduce(sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Seconds of an all-reduce of so many bytes, in the processes that there are."""
    from gpubackprop.backend.select import get_backend
    from gpubackprop.distributed import join

    ranks, be, found = join(), get_backend("cpu"), {}
    assert ranks is not None
    ranks.attach(be)
    for size in sizes:
        array = np.ones(size // 4, np.float32)
        times = []
        for _ in range(max(int(ranks.broadcast(seconds / (1e-5 + size / 1e9))), 10)):
            began = time.perf_counter()
            ranks.sum(be, array)
            times.append(time.perf_counter() - began)
            array.fill(1.0)
        found[str(size)] = float(np.median(times))
    return found


def in_ranks(ranks: int, what: str) -> dict[str, float]:
    """What one of the measurements above says in so many processes."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("no mpiexec here: pip install mpi4py mpich")
    command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.scaling", "--measure", what]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **threads}
    )
    return dict(json.loads(answer.stdout))


def line(points: dict[str, float]) -> tuple[float, float]:
    """(a, b) of the line a + b x through measured points, by least squares of the relative errors."""
    x, y = np.array([float(k) for k in points]), np.array(list(points.values()))
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(x)), rcond=None)
    return float(a), float(b)


def validated(measured: dict[str, dict[str, dict[str, float]]], size: int) -> list[dict[str, float]]:
    """The model's step beside the measured one, for each number of ranks and global batch.

    measured: "together", "side by side" and "allreduce", by the number of ranks. size: bytes of the gradients.
    """
    found = []
    for ranks, steps in measured["together"].items():
        fixed, per_row = line(measured["side by side"][ranks])
        a, b = line(measured["allreduce"][ranks]) if ranks in measured["allreduce"] else (0.0, 0.0)
        for batch, seconds in steps.items():
            step = fixed + per_row * int(batch) + a + b * size
            found.append(
                {"ranks": int(ranks), "batch": int(batch), "measured": seconds, "model": step, "ratio": step / seconds}
            )
    return found


def written(content: dict[str, dict[str, Any]]) -> str:
    """The JSON of the results, with a line for each table."""
    parts = []
    for name, part in content.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        parts.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--measure", choices=("together", "side by side", "allreduce"), help="under mpiexec: measure, as JSON"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    if options.measure:
        from gpubackprop.distributed import join

        if options.measure == "allreduce":
            found = measure_allreduce(SIZES, 0.3)
        else:
            found = measure_steps(BATCHES, WIDTHS, 6, together=options.measure == "together")
        if (ranks := join()) is None or ranks.leads:
            print(json.dumps(found))
        return

    import gpubackprop as gb
    from gpubackprop.bench.machine import machine

    cores = os.cpu_count() or 1
    measured = {
        **{what: {str(n): in_ranks(n, what) for n in RANKS} for what in ("side by side", "together")},
        "allreduce": {str(n): in_ranks(n, "allreduce") for n in RANKS if n > 1},
    }
    size = int(gb.mlp(list(WIDTHS), device="cpu").engine.parameters.G.nbytes)
    rows = validated(measured, size)
    print(f"Training steps by MPI on this machine, which has {cores} cores, one thread a rank; Adam, widths {WIDTHS}")
    for r in rows:
        print(
            f"  {r['ranks']} ranks, batch {r['batch']:>5}: measured {r['measured'] * 1e3:7.2f} ms, "
            f"model {r['model'] * 1e3:7.2f} ms, ratio {r['ratio']:.2f}"
        )
    paper: dict[str, Any] = {}
    print(f"GPUs ({ASSUMED}): the number of them from which the all-reduce takes longer than all else")
    for name, job in JOBS.items():
        for network in NETWORKS:
            for kind, strong in (("same global batch", True), ("same rows a GPU", False)):
                found = on_paper(job, network, strong=strong)
                paper[f"{name} | {network} | {kind}"] = found
                last = found["table"][-1]
                takes_over = found["all-reduce takes over at"] or "never, up to 1024"
                print(
                    f"  {name} | {network} | {kind}: {takes_over}; efficiency on 1024 {last['efficiency']:.2f}, "
                    f"with overlap {last['efficiency with overlap']:.2f}"
                )
    content = {
        "machine": machine(("numpy", "mpi4py")),
        "this machine": {
            "note": f"{cores} cores, for any number of ranks, and other programs ran at the same time",
            "widths": WIDTHS,
            "bytes of gradients": size,
            "measured": measured,
            "model": rows,
        },
        "GPUs": {
            "label": ASSUMED,
            "links": {name: {**asdict(link), "label": ASSUMED} for name, link in LINKS.items()},
            "jobs": {name: {**asdict(job), "label": ASSUMED} for name, job in JOBS.items()},
        },
        "steps on GPUs": paper,
    }
    options.output.write_text(written(content))


if __name__ == "__main__":
    main()
