"""Exclusive or, and the trap in it.

The classic: 2 inputs, 2 sigmoid units, one sigmoid output, binary cross-entropy, plain gradient descent with one sample at
a time, step size 0.01, 50,000 epochs. From some starting weights it learns all four rows. From others it ends with two rows right
and the other two at 0.5, and stays there however long one waits. You will see

* how the classic ends, before and after (--seed chooses the start; the default is one that gets stuck);
* why: the two hidden units, saturated, give the two rows all but the same activations. What is alike cannot be told apart by
  the output, and the best single answer to "0" and "1" is 0.5. The two rows' deltas are then +1/8 and -1/8, which cancel in every
  gradient, and what would pull the rows apart again goes through a (1 - a), which saturation has made tiny. Points nearby, in
  whatever direction, are no better. This is where the local minima of this network are: where hidden units are saturated for
  two rows or more (Sprinkhuizen-Kuyper and Boers, "The local minima of the error surface of the 2-2-1 XOR network", 1999);
* over 20 starts: how often that happens, and what prevents it every time. A better optimizer alone does not: it gets stuck
  more often, as its equal steps in all weights saturate the units sooner.

The 20 starts use full-batch steps of size 1. The four small steps of an epoch add up to one of 0.04, so that 2,000 of them
cover the way of the 50,000 epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, GREEN, ORANGE, RED, console, decision_regions, options, pyplot, run, save, table

import gpubackprop as gb

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
Y = np.array([[0], [1], [1], [0]], np.float32)
STUCK = float(np.log(2) / 2)
"""The loss of two rows right and two at 0.5: (0 + 0 + ln 2 + ln 2) / 4."""


def network(given: Any, seed: int, hidden: int = 2) -> gb.Network:
    return gb.mlp([2, hidden, 1], activation="sigmoid", loss="binary_cross_entropy", device=given.device, seed=seed)


def with_lines_in_place(given: Any, seed: int) -> gb.Network:
    """2 units that start near "a or b" and "a and b": the lines a + b = 1/2 and a + b = 3/2, with noise on every weight."""
    net = network(given, seed)
    weights = net.get_weights()
    noise = 0.5 * np.random.default_rng(seed).normal(size=(2, 2))
    net.set_weights({**weights, "0.weight": 4 + noise, "0.bias": [-2.0, -6.0]})
    return net


@dataclass(frozen=True)
class Remedy:
    name: str
    start: Callable[[Any, int], gb.Network]
    optimizer: Callable[[], Any]
    steps: int


REMEDIES = (
    Remedy("2 units, SGD (the classic)", network, lambda: gb.SGD(1.0), 2000),
    Remedy("2 units, Adam", network, lambda: gb.Adam(0.05), 1000),
    Remedy("2 units, lines in place, SGD", with_lines_in_place, lambda: gb.SGD(1.0), 2000),
    Remedy("8 units, SGD", lambda given, seed: network(given, seed, 8), lambda: gb.SGD(1.0), 2000),
    Remedy("8 units, Adam", lambda given, seed: network(given, seed, 8), lambda: gb.Adam(0.05), 500),
)


def solved(net: gb.Network) -> bool:
    """Whether all four rows are within 0.2 of their targets."""
    return bool((np.abs(net.predict(X) - Y) < 0.2).all())


def attempt(remedy: Remedy, given: Any) -> tuple[list[bool], list[gb.Network]]:
    """The remedy from each of the starts."""
    nets = [remedy.start(given, seed) for seed in range(given.seeds)]
    for net in nets:
        optimizer = remedy.optimizer()
        for _ in range(remedy.steps):
            net.train_step(X, Y, optimizer)
    return [solved(net) for net in nets], nets


def hidden_activations(net: gb.Network) -> np.ndarray:
    """a(1), (4, hidden): the network cut off behind its hidden layer."""
    weights = net.get_weights()
    first = gb.Network([gb.Dense(*weights["0.weight"].shape, "sigmoid")], device="cpu")
    first.set_weights({"0.weight": weights["0.weight"], "0.bias": weights["0.bias"]})
    return first.predict(X)


def lowest_nearby(net: gb.Network, radius: float, *, draws: int = 500) -> float:
    """The lowest loss at `draws` random points at the distance `radius` in weight space."""
    weights, rng = net.get_weights(), np.random.default_rng(0)
    losses = []
    for _ in range(draws):
        step = {name: rng.normal(size=w.shape) for name, w in weights.items()}
        length = np.sqrt(sum((s**2).sum() for s in step.values()))
        net.set_weights({name: w + radius / length * step[name] for name, w in weights.items()})
        losses.append(net.loss(X, Y))
    net.set_weights(weights)
    return min(losses)


def autopsy(net: gb.Network) -> dict[str, Any]:
    """What the hidden units compute, the deltas of each row, and what the surroundings look like."""
    loss, gradients = net.loss_and_gradients(X, Y)
    norm = float(np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())))
    a, delta, p = hidden_activations(net), net.deltas(X, Y)[-1], net.predict(X)
    table(
        "The network at the end: what the hidden units compute, and delta(2) = (p - y) / 4",
        (
            *((name, ".0f") for name in ("a", "b", "a xor b")),
            *((f"unit {j + 1}", ".4f") for j in range(a.shape[1])),
            ("prediction", ".4f"),
            ("delta(2)", "+.4f"),
        ),
        np.hstack([X, Y, a, p, delta]),
    )
    found = {"loss": loss, "gradient_norm": norm, "hidden": a, "deltas": delta, "predictions": p}
    console.print(
        f"loss {loss:.5f}; two rows right and two at 0.5 would be ln 2 / 2 = {STUCK:.5f}; |gradient| {norm:.1e}"
    )
    if not solved(net):
        i, j = np.argsort(-np.abs(delta[:, 0]))[:2]
        slope = a[[i, j]] * (1 - a[[i, j]])
        found |= {"pair": (int(i), int(j)), "lowest_nearby": lowest_nearby(net, 1.0), "slopes": slope}
        rows, apart = f"rows {X[i].astype(int)} and {X[j].astype(int)}", np.abs(a[i] - a[j]).max()
        console.print(
            f"{rows}: hidden activations differ by at most {apart:.4f}, the smallest a (1 - a) is {slope.min():.1e},",
            markup=False,
        )
        console.print(f"and the deltas add up to {float(delta[i, 0] + delta[j, 0]):+.4f}")
        console.print(f"the lowest loss at 500 random points one unit of length away: {found['lowest_nearby']:.5f}")
    console.print()
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = options(__doc__)
    parser.add_argument("--seed", type=int, default=2, help="of the starting weights of the classic (default: 2)")
    parser.add_argument("--epochs", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=20, help="how many starts for the comparison (default: 20)")
    given = parser.parse_args(arguments)

    classic = network(given, given.seed)
    before = classic.predict(X)
    start = time.perf_counter()
    gb.Trainer(classic, gb.SGD(0.01)).fit(X, Y, epochs=given.epochs, batch_size=1, shuffle=False, verbose=False)
    seconds = time.perf_counter() - start
    after = classic.predict(X)
    steps = 4 * given.epochs
    console.print(
        f"the classic: {steps:,} steps of one sample in {seconds:.2f} s, {seconds / steps * 1e6:.1f} us a step\n"
    )
    table(
        f"Before and after {given.epochs:,} epochs, from start {given.seed}",
        (*((name, ".0f") for name in ("a", "b", "a xor b")), ("before", ".4f"), ("after", ".4f")),
        np.hstack([X, Y, before, after]),
    )
    found = autopsy(classic)

    outcomes, nets = {}, {}
    for remedy in REMEDIES:
        outcomes[remedy.name], nets[remedy.name] = attempt(remedy, given)
    table(
        f"{given.seeds} starts: how many learn all four rows",
        ("network", "steps", "solved", "stuck from the starts"),
        [
            (
                r.name,
                r.steps,
                f"{sum(outcomes[r.name])} of {given.seeds}",
                ", ".join(str(i) for i, ok in enumerate(outcomes[r.name]) if not ok) or "none",
            )
            for r in REMEDIES
        ],
    )
    if given.plot:
        draw(given.plot, classic, nets[REMEDIES[-1].name][0], outcomes)
    return {
        "before": before,
        "after": after,
        "seconds": seconds,
        "solved": solved(classic),
        "outcomes": outcomes,
        **found,
    }


def draw(path: Any, classic: gb.Network, cured: gb.Network, outcomes: dict[str, list[bool]]) -> None:
    """Decision regions of the classic and of 8 units, and how many starts are solved."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), width_ratios=[1, 1, 1.15])
    for ax, net, title in ((axes[0], classic, "2 units, SGD"), (axes[1], cured, "8 units, Adam")):
        decision_regions(ax, net.predict, -0.4, 1.4)
        for (a, b), y, q in zip(X, Y[:, 0], net.predict(X)[:, 0], strict=True):
            ax.plot(a, b, "o" if y else "s", color=ORANGE if y else BLUE, markersize=9, markeredgecolor="white")
            ax.annotate(f"{q:.2f}", (a, b), (0, 8), textcoords="offset points", ha="center", fontsize=9)
        ax.set(title=title, xticks=[0, 1], yticks=[0, 1])
    names = list(outcomes)[::-1]
    counts = [sum(outcomes[name]) for name in names]
    total = len(outcomes[names[0]])
    axes[2].barh(range(len(names)), counts, color=[GREEN if c == total else RED for c in counts], height=0.85)
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        short = name.split(" (")[0].replace(", lines in place", ", placed")
        axes[2].text(0.3, i, f"{short}: {count}", va="center", color="white", fontsize=9)
    axes[2].set(title=f"solved, of {total} starts", yticks=[], xlim=(0, total))
    save(figure, path)


if __name__ == "__main__":
    run(main)
