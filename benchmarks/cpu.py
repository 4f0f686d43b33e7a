"""A training step on the CPU against PyTorch, JAX, scikit-learn and the limit of its matrix products.

    python -m benchmarks.cpu --all                         every config and every peer, about a quarter of an hour
    python -m benchmarks.cpu --configs a,b --seconds 2     a quick look: so many seconds of turns a peer and config
    python -m benchmarks.cpu --show                        what was measured before, beside the goals

Each peer runs in a process of its own. After its gradients are found equal to ours in float64, the peers take turns in
rounds, in random order, a block of steps each; a figure is the median over the rounds, with its quartiles. A ratio is the
median of the rounds' ratios: on a machine whose cores are shared with others, a minute's speed is not the next one's, but a
round's is nearly one. Writes benchmarks/results/cpu.json, of which `benchmarks/readme.py` makes the table of the README;
configs that it holds from the same machine and packages stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write
from benchmarks.peers.base import CONFIGS
from benchmarks.peers.turns import PEERS, available, measure, ratio, summary
from gpubackprop.bench.machine import machine

HERE = [peer for peer in PEERS if peer not in ("ours without graph", "torch graph", "torch compile step")]
"""The peers of the comparison on a CPU."""
ONLY = {"ours numba": "ab", "ours mkl": "cdefgh", "ours fit": "abcd"}
"""The configs that a peer takes part in, where not in all: where products take nearly all of the time, these are all one."""
PACKAGES = ("numpy", "torch", "jax", "scikit-learn", "thinc", "numba", "scipy")

# -- what a step is meant to cost, as a ratio to its peers' time: lower is better -------------------------------------------

EAGER, BEST, LIMIT = "PyTorch eager", "best of PyTorch and JAX", "limit"
MKL = "PyTorch eager, with mkl"
SCAN, LOOP, BY_HAND = "lax.scan with numba", "bare steps, of fit", "bare steps, of train_step"
GOALS: dict[str, dict[str, float]] = {
    "a": {EAGER: 0.06, BEST: 0.55, LIMIT: 2.1, SCAN: 1.0, BY_HAND: 1.33},
    "b": {EAGER: 0.13, BEST: 0.90, LIMIT: 1.9, SCAN: 1.0, BY_HAND: 1.10},
    "c": {EAGER: 0.83, BEST: 0.96, LIMIT: 1.12, BY_HAND: 1.03},
    "d": {EAGER: 0.93, MKL: 0.93, BEST: 1.00, LIMIT: 1.05, LOOP: 1.03, BY_HAND: 1.03},
    "e": {EAGER: 0.90, MKL: 0.90, BEST: 0.92, LIMIT: 1.04, BY_HAND: 1.03},
    "f": {EAGER: 0.85, BEST: 0.90, LIMIT: 1.03, BY_HAND: 1.03},
    "g": {EAGER: 0.93, MKL: 0.93, BEST: 0.93, LIMIT: 1.06, BY_HAND: 1.03},
    "h": {EAGER: 0.96, MKL: 0.96, BEST: 1.04, LIMIT: 1.08, BY_HAND: 1.03},
}
"""Config -> name of a ratio -> the most that it should be. By hand a step may take 5 us or 3 % more than its operations."""
PAIRS = {
    EAGER: ("ours", "torch eager"),
    MKL: ("ours mkl", "torch eager"),
    LIMIT: ("ours", "limit"),
    LOOP: ("ours fit", "ours"),
    BY_HAND: ("ours train_step", "ours"),
    SCAN: ("ours numba", "jax scan"),
}


def ratios(blocks: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Our step's time over that of its peers, as far as they were timed: {name: {ratio, low, high}}.

    blocks: the seconds a step of each peer, a number for each round.
    """
    found = {
        name: ratio(blocks[ours], blocks[theirs])
        for name, (ours, theirs) in PAIRS.items()
        if ours in blocks and theirs in blocks
    }
    best = [ratio(blocks["ours"], blocks[p]) for p in ("torch eager", "torch compile", "jax jit") if p in blocks]
    if best:
        found[BEST] = max(best, key=lambda r: r["ratio"])
    return found


def report(config: str, result: dict[str, Any]) -> None:
    """Print one config: each peer's time, and our ratios beside the goals."""
    print(f"\n{config}  {result['what']}")
    for peer, r in sorted(result["peers"].items(), key=lambda item: item[1]["seconds"]):
        low, median, high = (r[key] * 1e3 for key in ("low", "seconds", "high"))
        print(f"   {peer:<18}{median:12.4f} ms ({low:.4g} to {high:.4g})   {r['blocks']} blocks")
    for name, goal in GOALS[config].items():
        if name in result["ratios"]:
            value, low, high = (result["ratios"][name][key] for key in ("ratio", "low", "high"))
            verdict = "met" if value <= goal * 1.03 else "NOT MET"
            print(f"   to {name:<26} {value:6.3f} ({low:.3f} to {high:.3f})   goal {goal:<5}   {verdict}")


def kept(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """The configs that the file holds already, if they were measured on this machine with these packages."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    same = all(before["machine"].get(key) == value for key, value in here.items() if key not in ("when", "load"))
    configs: dict[str, Any] = before["configs"] if same else {}
    return configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every config, as the README's table has it")
    parser.add_argument("--configs", default="a,b,c,d", help="letters of configs, with commas")
    parser.add_argument("--peers", default=",".join(HERE), help="peers, with commas")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="seconds of turns, pauses included, for each peer and config"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing: print what --output holds")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    options = parser.parse_args()
    if options.show:
        for config, result in json.loads(options.output.read_text())["configs"].items():
            report(config, result)
        return
    configs, peers = list(CONFIGS) if options.all else options.configs.split(","), options.peers.split(",")
    if "ours" not in peers or not set(configs) <= set(CONFIGS) or not set(peers) <= set(HERE):
        parser.error(f"--configs takes {', '.join(CONFIGS)}; --peers takes {', '.join(HERE)}, 'ours' among them")
    peers = available(peers)
    here = machine(PACKAGES)
    results: dict[str, Any] = {"machine": here, "configs": kept(options.output, here)}
    for name in configs:
        timed = measure(CONFIGS[name], [p for p in peers if name in ONLY.get(p, name)], options.seconds)
        summaries = {peer: summary(blocks) for peer, blocks in timed.items()}
        result = {"what": CONFIGS[name].describe(), "peers": summaries, "ratios": ratios(timed)}
        results["configs"] = dict(sorted({**results["configs"], name: result}.items()))
        report(name, result)
        write(options.output, results)


if __name__ == "__main__":
    main()
