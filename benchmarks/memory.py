"""What a fit keeps in memory: python -m benchmarks.memory

The peak of a fit should be the data, three times the parameters (weights, gradients, velocity; four times for Adam) and
one workspace, within 10 %. Each case runs in a process of its own, which reads the peak of its resident memory from the
system (Linux and macOS) before the network is made and after the fit. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import argparse
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.common import RESULTS, write

CASES = {
    # name: widths, rows of data, batch, optimizer
    "large network, SGD": ((1024, 4096, 4096, 1000), 4096, 512, "sgd"),
    "large network, Adam": ((1024, 4096, 4096, 1000), 4096, 512, "adam"),
    "large data, SGD": ((784, 512, 256, 10), 200_000, 1024, "sgd"),
    "large batch, SGD": ((784, 1024, 1024, 10), 16384, 16384, "sgd"),
}
TOLERANCE = 1.10


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def case(name: str) -> dict[str, float]:
    """Run one case in this process: bytes measured and expected."""
    import numpy as np

    import gpubackprop as gb
    from benchmarks.peers.ours import held

    widths, rows, batch, optimizer = CASES[name]
    # What the libraries keep for themselves, their threads' buffers among it, is there before.
    gb.Trainer(gb.mlp([512, 512, 512], device="cpu"), "sgd").fit(np.ones((512, 512)), np.ones((512, 512)), epochs=1)
    before = peak()
    rng = np.random.default_rng(0)
    x = rng.random((rows, widths[0]), np.float32)
    y = rng.integers(0, widths[-1], rows)
    net = gb.mlp(list(widths), loss="cross_entropy", device="cpu")
    made = gb.SGD(0.01, momentum=0.9) if optimizer == "sgd" else gb.Adam()
    gb.Trainer(net, made).fit(x, y, epochs=2, batch_size=batch)
    copies = 3 if optimizer == "sgd" else 4
    parameters, workspace = held(net)
    expected = x.nbytes + y.nbytes + copies * parameters + workspace
    return {"measured": peak() - before, "expected": expected, "workspace": workspace}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()
    results = {}
    for name in CASES:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            result = pool.submit(case, name).result()
        result["ratio"] = result["measured"] / result["expected"]
        verdict = "met" if result["ratio"] <= TOLERANCE else "NOT MET"
        sizes = ", ".join(f"{key} {result[key] / 2**20:.0f} MiB" for key in ("measured", "expected", "workspace"))
        print(f"{name:<22} ratio {result['ratio']:.3f} ({verdict}: at most {TOLERANCE:g})   {sizes}")
        results[name] = result
    from gpubackprop.bench.machine import machine

    write(options.output, {"machine": machine(("numpy",)), "cases": results})


if __name__ == "__main__":
    main()
