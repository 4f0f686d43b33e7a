"""Every layer and activation on the CPU against PyTorch eager, as a loop written by hand trains it.

    python -m benchmarks.layers                                       all of them, about half an hour
    python -m benchmarks.layers --only gelu --seconds 1 --batches 32  a quick look

Two networks, three batch sizes, each activation, and dropout and the normalisations with ReLU: our `train_step` against
forward, `backward()` and `torch.optim`, in turns as in benchmarks/cpu.py and with the same check of gradients before (but of
dropout, whose masks are each library's own). Writes benchmarks/results/layers.json, of which `benchmarks/readme.py` makes the
table of the README.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write
from benchmarks.peers.base import Config
from benchmarks.peers.turns import measure, ratio, summary
from gpubackprop.bench.machine import machine

WIDTHS = ((64, 128, 10), (784, 512, 256, 10))
BATCHES = (32, 1024, 8192)
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "elu", "softplus", "sigmoid")
BETWEEN = ("dropout", "batch_norm", "layer_norm")
OURS, THEIRS = "ours train_step", "torch eager"
GOAL = 1.0


def configs(batches: list[int], only: str = "") -> dict[str, list[Config]]:
    """{name of a layer or activation: its configs}, for names that hold `only`."""
    kinds = {name: {"activation": name} for name in ACTIVATIONS} | {name: {"between": name} for name in BETWEEN}
    return {
        name: [Config(widths, n, **kind) for widths in WIDTHS for n in batches]
        for name, kind in kinds.items()
        if only in name
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layers and activations whose names hold this")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="batch sizes, with commas")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of turns for each library and network")
    parser.add_argument("--output", type=Path, default=RESULTS / "layers.json")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(("numpy", "torch", "numba", "scipy")), "layers": {}}
    for name, chosen in configs([int(n) for n in options.batches.split(",")], options.only).items():
        rows = results["layers"][name] = []
        for config in chosen:
            timed = measure(config, [OURS, THEIRS], options.seconds)
            found = ratio(timed[OURS], timed[THEIRS])
            peers = {peer: summary(blocks) for peer, blocks in timed.items()}
            rows.append({"widths": config.widths, "batch": config.batch, "peers": peers, "ratio": found})
            ours, theirs = (peers[peer]["seconds"] * 1e3 for peer in (OURS, THEIRS))
            verdict = "met" if found["ratio"] <= GOAL * 1.03 else "NOT MET"
            print(
                f"{config.describe():<50} {ours:9.4f} ms, PyTorch {theirs:9.4f} ms   {found['ratio']:.3f}   {verdict}"
            )
            write(options.output, results)


if __name__ == "__main__":
    main()
