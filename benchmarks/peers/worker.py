"""One peer in a process of its own: python -m benchmarks.peers.worker PEER CONFIG, commanded line by line.

gradients PATH   writes dC/dW, dC/db of the first batch to an .npz file
block SECONDS    times steps for that long; answers with the median seconds a step
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.peers.base import CONFIGS, Peer

PEERS = {
    "limit": "limit.Limit",
    "ours": "ours.Step",
    "ours train_step": "ours.TrainStep",
    "ours fit": "ours.Fit",
    "ours numba": "ours.Numba",
    "torch eager": "torch_.Eager",
    "torch compile": "torch_.Compiled",
    "jax jit": "jax_.Jit",
    "jax scan": "jax_.Scan",
    "scikit-learn": "sklearn_.Sklearn",
    "thinc": "thinc_.Thinc",
}


def make(peer: str, config: str) -> Peer:
    """The peer with that name for that config."""
    module, _, name = PEERS[peer].partition(".")
    return getattr(import_module(f"benchmarks.peers.{module}"), name)(CONFIGS[config])


def timed(peer: Peer, steps: int) -> float:
    """Seconds for that many steps."""
    start = perf_counter()
    peer.run(steps)
    return perf_counter() - start


def steps_for(peer: Peer, seconds: float) -> int:
    """How many steps last about that long; warms the peer up on the way."""
    steps = 1
    # Once for what the peer does only the first time: a loop of another length may be compiled anew.
    while timed(peer, steps) < seconds or timed(peer, steps) < seconds:
        steps *= 2
    return steps


def main() -> None:
    peer = make(sys.argv[1], sys.argv[2])
    answers = sys.stdout
    sys.stdout = sys.stderr
    steps = 0

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    answer({"versions": peer.versions()})
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "gradients":
            np.savez(argument, *peer.gradients())
            answer({})
        elif command == "block":
            if not steps:
                steps = steps_for(peer, peer.measurement)
            end, measured = perf_counter() + float(argument), []
            while not measured or perf_counter() < end:
                measured.append(timed(peer, steps) / steps)
            answer({"seconds": median(measured)})


if __name__ == "__main__":
    main()
