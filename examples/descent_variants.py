"""Stochastic, mini-batch and full-batch descent: the same loop with another number of samples a step.

The gradient of one sample points roughly, that of all samples exactly, downhill. An epoch is one pass over the data: it is 1 step
with the full batch and n steps with single samples. You will see

* against epochs, small batches get furthest, since they take more steps;
* against time, single samples lose their lead: a step with one sample does not cost a 32nd of one with 32;
* steadiness: the loss of the full batch falls at every epoch, single samples hop, and do not come to rest at a constant step
  size. The noise of the gradient falls like 1 / sqrt(batch size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, GREEN, ORANGE, options, pyplot, run, save, table

import gpubackprop as gb

VARIANTS = {"one sample": 1, "mini-batch of 32": 32, "full batch": None}
COLOUR = {"one sample": ORANGE, "mini-batch of 32": GREEN, "full batch": BLUE}


@dataclass
class Run:
    """One descent: the loss on all samples before the first epoch and after each, the time gone by then, and its steadiness."""

    name: str
    steps: int
    losses: np.ndarray
    seconds: np.ndarray
    rises: float
    """Share of the epochs after which the loss on all samples was higher than before."""
    noise: float
    """|gradient of a batch - gradient of all| / |gradient of all|, root mean square, at the starting weights."""


def problem() -> tuple[np.ndarray, np.ndarray]:
    """512 noisy values of a smooth function of two inputs: x (512, 2), y (512, 1)."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (512, 2))
    y = np.sin(3 * x[:, :1]) * x[:, 1:] + 0.1 * rng.normal(size=(512, 1))
    return x, y


def network(given: Any) -> gb.Network:
    return gb.mlp([2, 16, 1], activation="tanh", loss="half_squared_error", device=given.device, seed=given.seed)


def gradient(net: gb.Network, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All parameters' derivatives in one row."""
    return np.concatenate([g.ravel() for g in net.loss_and_gradients(x, y)[1].values()]).astype(np.float64)


def gradient_noise(x: np.ndarray, y: np.ndarray, size: int | None, given: Any, *, draws: int = 200) -> float:
    net = network(given)
    exact = gradient(net, x, y)
    rng = np.random.default_rng(given.seed)
    off = []
    for _ in range(draws):
        rows = rng.choice(len(x), size or len(x), replace=False)
        off.append(np.linalg.norm(gradient(net, x[rows], y[rows]) - exact) / np.linalg.norm(exact))
    return float(np.sqrt(np.mean(np.square(off))))


def descend(name: str, x: np.ndarray, y: np.ndarray, given: Any) -> Run:
    net, size = network(given), VARIANTS[name]
    start = net.loss(x, y)
    history = gb.Trainer(net, gb.SGD(given.learning_rate)).fit(
        x, y, epochs=given.epochs, batch_size=size, validation_data=(x, y), verbose=False
    )
    losses = np.array([start, *history["val_loss"]])
    seconds = np.concatenate([[0.0], np.cumsum(history["seconds"])])
    steps = given.epochs * -(-len(x) // (size or len(x)))
    return Run(name, steps, losses, seconds, float(np.mean(np.diff(losses) > 0)), gradient_noise(x, y, size, given))


def main(arguments: list[str] | None = None) -> dict[str, Run]:
    parser = options(__doc__, seed=True)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    given = parser.parse_args(arguments)
    x, y = problem()
    runs = {name: descend(name, x, y, given) for name in VARIANTS}
    table(
        f"{len(x)} samples, a 2-16-1 tanh network, step size {given.learning_rate:g}, {given.epochs} epochs",
        (
            *("descent", "steps", ("seconds", ".3f"), ("us a step", ".0f"), ("last loss", ".5f")),
            *(("epochs that rose", ".0%"), ("noise of the gradient", ".3f")),
        ),
        [
            (r.name, r.steps, r.seconds[-1], r.seconds[-1] / r.steps * 1e6, r.losses[-1], r.rises, r.noise)
            for r in runs.values()
        ],
    )
    if given.plot:
        draw(given.plot, runs)
    return runs


def draw(path: Any, runs: dict[str, Run]) -> None:
    plt = pyplot()
    figure, (epochs, time) = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
    for name, r in runs.items():
        epochs.semilogy(r.losses, color=COLOUR[name], label=name, linewidth=1.3)
        time.loglog(np.maximum(r.seconds[1:], 1e-6), r.losses[1:], color=COLOUR[name], linewidth=1.3)
    epochs.set(xlabel="epoch", ylabel="loss on all samples", title="against epochs")
    time.set(xlabel="seconds", title="against time")
    epochs.legend(loc="center right", bbox_to_anchor=(1, 0.7))
    save(figure, path)


if __name__ == "__main__":
    run(main)
