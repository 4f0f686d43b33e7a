"""A training step on the CPU against PyTorch, JAX, scikit-learn and the limit of its matrix products.

    python benchmarks/cpu.py --all                         every config and every peer, about a quarter of an hour
    python benchmarks/cpu.py --configs a,b --seconds 2     a quick look: so many seconds of turns a peer and config

Each peer runs in a process of its own. After its gradients are found equal to ours, the peers take turns in rounds, in
random order, a block of steps each; a figure is the median over the rounds, with its quartiles. A ratio is the median of
the rounds' ratios: on a machine whose cores are shared with others, a minute's speed is not the next one's, but a round's
is nearly one. Writes benchmarks/results/cpu.json, which `benchmarks/cpu_table.py`
turns into the table of the README; configs that it holds from the same machine and packages stay.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.goals import goals, ratios  # noqa: E402
from benchmarks.machine import machine  # noqa: E402
from benchmarks.peers.base import CONFIGS  # noqa: E402
from benchmarks.peers.worker import PEERS  # noqa: E402

NEEDS = {"ours numba": "numba", "torch": "torch", "jax": "jax", "scikit-learn": "sklearn", "thinc": "thinc"}
BLOCK = 0.1
"""Seconds that a peer's turn lasts at least; one step where that is longer."""
ONLY = {"ours numba": "ab", "ours train_step": "abcd", "ours fit": "abcd"}
"""The configs that a peer takes part in, where not in all: where products take nearly all of the time, these are all one."""
PAUSE = 0.15
"""Seconds between turns: OpenBLAS's threads keep a core busy, looking out for more work, for 2^28 ticks before they sleep."""


class Worker:
    """A peer in a process of its own."""

    def __init__(self, peer: str, config: str) -> None:
        self.peer = peer
        self.blocks: list[float] = []
        command = [sys.executable, "-m", "benchmarks.peers.worker", peer, config]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def started(self) -> dict[str, str]:
        """Wait until it is ready; the versions that it runs on."""
        versions: dict[str, str] = self._answer()["versions"]
        return versions

    def ask(self, command: str) -> Any:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def gradients(self) -> list[np.ndarray]:
        """dC/dW, dC/db of each layer."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/gradients.npz"
            self.ask(f"gradients {path}")
            with np.load(path) as arrays:
                return [arrays[name] for name in arrays.files]

    def turn(self) -> None:
        """Time one block."""
        self.blocks.append(self.ask(f"block {BLOCK}")["seconds"])
        time.sleep(PAUSE)

    def close(self) -> None:
        """End the process: at the end of its commands it ends by itself, and one that hangs is not waited for."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.peer} ended with exit status {self.process.wait()}; what it said stands above")
        return json.loads(line)


def check(ours: list[np.ndarray], theirs: list[np.ndarray], peer: str, kinks: bool) -> None:
    """Leave with an error unless the gradients agree to 1e-5 of their norm: only the same step is worth timing.

    kinks: whether the hidden layers rectify. Among millions of such units some lie so near to 0 that rounding decides whether
    a row's delta goes through; below the last layer 1e-2 is asked for then.
    """
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        error, allowed = np.linalg.norm(a - b) / np.linalg.norm(a), 1e-2 if kinks and i < len(ours) - 2 else 1e-5
        if not error < allowed:
            raise SystemExit(
                f"{peer} has another gradient: array {i} of {len(ours)} is off by {error:.1e} of its norm, "
                f"{allowed:.0e} is allowed"
            )


def measure(config: str, peers: list[str], seconds: float) -> dict[str, list[float]]:
    """{peer: seconds a step in each of its blocks} for one config, `seconds` of turns for each peer, at least three."""
    workers = [Worker(peer, config) for peer in peers if config in ONLY.get(peer, config)]
    try:
        for worker in workers:
            worker.started()
        ours = next(w for w in workers if w.peer == "ours").gradients()
        for worker in workers:
            if not worker.peer.startswith(("ours", "limit")):
                check(ours, worker.gradients(), worker.peer, CONFIGS[config].activation == "relu")
        for worker in workers:
            worker.turn()
            worker.blocks.clear()
        end = time.perf_counter() + seconds * len(workers)
        while time.perf_counter() < end or len(workers[0].blocks) < 3:
            for worker in random.sample(workers, len(workers)):
                worker.turn()
    finally:
        for worker in workers:
            worker.close()
    return {w.peer: w.blocks for w in workers}


def summary(blocks: list[float]) -> dict[str, Any]:
    """The median of the blocks' medians, in seconds a step, and the quartiles."""
    low, median, high = (float(q) for q in np.percentile(blocks, [25, 50, 75]))
    return {"seconds": median, "low": low, "high": high, "blocks": len(blocks)}


def available(peers: list[str]) -> list[str]:
    """The peers whose library is installed, with a line for each that is not."""
    found = []
    for peer in peers:
        missing = [module for word, module in NEEDS.items() if peer.startswith(word) and find_spec(module) is None]
        if missing:
            print(f"{peer}: left out, as {missing[0]} is not installed")
        else:
            found.append(peer)
    return found


def report(config: str, result: dict[str, Any]) -> None:
    """Print one config: each peer's time, and our ratios beside the goals."""
    print(f"\n{config}  {CONFIGS[config].describe()}")
    for peer, r in sorted(result["peers"].items(), key=lambda item: item[1]["seconds"]):
        low, median, high = (r[key] * 1e3 for key in ("low", "seconds", "high"))
        print(f"   {peer:<18}{median:12.4f} ms ({low:.4g} to {high:.4g})   {r['blocks']} blocks")
    for name, goal in goals(config).items():
        if name in result["ratios"]:
            ratio, low, high = (result["ratios"][name][key] for key in ("ratio", "low", "high"))
            verdict = "met" if ratio <= goal * 1.03 else "NOT MET"
            print(f"   to {name:<24} {ratio:6.3f} ({low:.3f} to {high:.3f})   goal {goal:<5}   {verdict}")


def kept(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """The configs that the file holds already, if they were measured on this machine with these packages."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    same = all(before["machine"].get(key) == value for key, value in here.items() if key not in ("when", "load_before"))
    configs: dict[str, Any] = before["configs"] if same else {}
    return configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every config, as the README's table has it")
    parser.add_argument("--configs", default="a,b,c,d", help="letters of configs, with commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="peers, with commas")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="seconds of turns, pauses included, for each peer and config"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/cpu.json")
    options = parser.parse_args()
    configs = list(CONFIGS) if options.all else options.configs.split(",")
    peers = available(options.peers.split(","))
    if "ours" not in peers or not set(configs) <= set(CONFIGS) or not set(peers) <= set(PEERS):
        parser.error(f"--configs takes {', '.join(CONFIGS)}; --peers takes {', '.join(PEERS)}, 'ours' among them")
    here = machine()
    results: dict[str, Any] = {"machine": here, "configs": kept(options.output, here)}
    for config in configs:
        timed = measure(config, peers, options.seconds)
        summaries = {peer: summary(blocks) for peer, blocks in timed.items()}
        results["configs"][config] = {"what": CONFIGS[config].describe(), "peers": summaries, "ratios": ratios(timed)}
        results["configs"] = dict(sorted(results["configs"].items()))
        report(config, results["configs"][config])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
