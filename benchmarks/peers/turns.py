"""Peers in processes of their own, which take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.peers.base import Config, Peer
from gpubackprop.backend.cpu import mkl
from gpubackprop.bench.measure import disagreement, seconds_each
from gpubackprop.bench.process import Worker
from gpubackprop.bench.runner import PAUSE

PEERS = {
    "limit": "limit.Limit",
    "ours": "ours.Step",
    "ours without graph": "ours.Eager",
    "ours train_step": "ours.TrainStep",
    "ours fit": "ours.Fit",
    "ours numba": "ours.Numba",
    "ours mkl": "ours.Mkl",
    "torch eager": "torch_.Eager",
    "torch graph": "torch_.Graph",
    "torch compile": "torch_.Compiled",
    "torch compile step": "torch_.CompiledStep",
    "jax jit": "jax_.Jit",
    "jax scan": "jax_.Scan",
    "scikit-learn": "sklearn_.Sklearn",
    "thinc": "thinc_.Thinc",
}
"""Name -> module and class in this folder."""
NEEDS = {"ours numba": "numba", "torch": "torch", "jax": "jax", "scikit-learn": "sklearn", "thinc": "thinc"}
"""The beginning of a name -> the module that it cannot do without."""
BLOCK = 0.1
"""Seconds that a peer's turn lasts at least; one step where that is longer."""


def make(peer: str, config: Config, device: str = "cpu") -> Any:
    """The peer with that name for that config. Raises ImportError where its library is not installed."""
    module, _, name = PEERS[peer].partition(".")
    return getattr(import_module(f"benchmarks.peers.{module}"), name)(config, device)


def available(peers: Sequence[str]) -> list[str]:
    """The peers whose library is installed, with a line for each that is not."""
    if "ours mkl" in peers and (why := mkl.problem()) is not None:
        print(f"ours mkl: left out: {why}")
        peers = [peer for peer in peers if peer != "ours mkl"]
    return common.available(peers, NEEDS)


class Turns:
    """A peer inside a `Worker`. Each method is a request."""

    def __init__(self, peer: str, config: Config) -> None:
        self.peer: Peer = make(peer, config)
        self.steps = 0

    def versions(self) -> dict[str, str]:
        """See `Peer.versions`."""
        return self.peer.versions()

    def gradients(self) -> list[np.ndarray]:
        """See `Peer.gradients`."""
        return [np.array(array) for array in self.peer.gradients()]

    def block(self, seconds: float) -> float:
        """Seconds a step, the median of this block, which lasts so long at least."""
        # The number of steps stays: a loop of another length may be compiled anew.
        self.steps = self.steps or calls_for(self.peer.run, self.peer.measurement)
        return seconds_each(self.peer.run, self.steps, seconds)


def calls_for(group: Callable[[int], object], seconds: float) -> int:
    """How many things last for about so many seconds, a power of 2; warms up on the way."""
    count = 1
    # Twice each, as the first time may compile something for a loop of this length.
    while any(count * seconds_each(group, count, 0.0) < seconds for _ in range(2)):
        count *= 2
    return count


def measure(config: Config, peers: Sequence[str], seconds: float) -> dict[str, list[float]]:
    """{peer: seconds a step in each of its blocks}, `seconds` of turns for each peer, at least three.

    Before, the gradients of each peer are held to ours in float64. Raises SystemExit for another gradient.
    """
    with ExitStack() as stack:
        workers = {peer: stack.enter_context(closing(Worker(f"{__name__}:Turns", peer, config))) for peer in peers}
        expected = reference(config)
        for peer, worker in workers.items():
            # A mask of dropout is every library's own.
            if peer != "limit" and config.between != "dropout":
                # 1 - a^2 of a saturated tanh, as others compute it, has few digits in float32.
                check(worker.ask("gradients"), expected, peer, config.kinks or config.activation == "tanh")
        blocks: dict[str, list[float]] = {peer: [] for peer in peers}
        for worker in workers.values():
            worker.ask("block", BLOCK)
            time.sleep(PAUSE)
        end = time.perf_counter() + seconds * len(workers)
        while time.perf_counter() < end or len(blocks[peers[0]]) < 3:
            for peer in random.sample(list(peers), len(peers)):
                blocks[peer].append(workers[peer].ask("block", BLOCK))
                time.sleep(PAUSE)
    return blocks


def reference(config: Config) -> list[np.ndarray]:
    """The gradients in float64, by this library on the CPU."""
    from benchmarks.peers.ours import Step

    return Step(config, dtype="float64").gradients()


def check(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], peer: str, kinks: bool) -> None:
    """Leave with an error unless the float32 gradients are the expected ones: only the same step is worth timing.

    kinks: see `gpubackprop.bench.measure.disagreement`.
    """

    def named(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return {f"gradient {i}": array for i, array in enumerate(arrays)}

    wrong = disagreement(named(found), named(expected), "float32", "native", kinks)
    if wrong:
        raise SystemExit(f"{peer} has another gradient: {wrong}")


def summary(blocks: Sequence[float]) -> dict[str, Any]:
    """The median of the blocks' medians, in seconds a step, and the quartiles."""
    low, median, high = (float(q) for q in np.percentile(blocks, [25, 50, 75]))
    return {"seconds": median, "low": low, "high": high, "blocks": len(blocks)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The median over the rounds of the ratio within a round, and the quartiles: {ratio, low, high}."""
    low, median, high = np.percentile(np.divide(ours, theirs), [25, 50, 75])
    return {"ratio": float(median), "low": float(low), "high": float(high)}
