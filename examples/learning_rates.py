"""One problem, step sizes from 0.000001 to 1.0: too small, slow, good, overshooting, diverging.

The problem is a plane fitted to 200 points, so that the cost is a bowl whose curvature is known: along the
steepest direction it is lambda, the largest eigenvalue of X^T X / n. Each step multiplies the error along that direction by
(1 - eta lambda), from which everything follows:

    eta < 1 / lambda                     the error shrinks and keeps its sign: a walk down the slope
    1 / lambda < eta < 2 / lambda        it shrinks but changes its sign at each step: overshooting, from wall to wall
    eta > 2 / lambda                     it grows at each step: diverging

Overshooting is no failure: such a run can end lower than one that walks down, only each further increase of eta makes it worse.
The script judges each run by what it did alone: how far it came ("good" is within 1% of the way), and how. It prints this theory
beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, RED, console, options, pyplot, run, save, table

import gpubackprop as gb

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.5, 1.0)


@dataclass
class Run:
    """One descent: the loss before each step, and what it looked like."""

    rate: float
    losses: np.ndarray
    path: np.ndarray
    """The two weights before each step."""
    turned: float
    """Share of the steps whose gradient pointed against the one before."""
    verdict: str
    theory: str


def problem() -> tuple[np.ndarray, np.ndarray, float]:
    """x (200, 2), y (200, 1), and lambda."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) * [2.0, 1.3]
    y = x @ [[1.5], [-0.5]] + 0.3 * rng.normal(size=(200, 1))
    return x, y, float(np.linalg.eigvalsh(x.T @ x / len(x))[-1])


def descend(x: np.ndarray, y: np.ndarray, rate: float, steps: int, device: str) -> tuple[np.ndarray, np.ndarray, float]:
    """The losses and the weights of `steps` steps of full-batch descent, and the share of steps that turned back."""
    net = gb.Network([gb.Dense(2, 1, bias=False)], loss="half_squared_error", device=device, dtype="float64")
    net.set_weights({"0.weight": [[0.0], [0.0]]})
    optimizer = gb.SGD(rate)
    losses, path, turned, before = [], [], 0, np.zeros((2, 1))
    for _ in range(steps):
        loss, gradients = net.loss_and_gradients(x, y)
        gradient = gradients["0.weight"]
        turned += bool((gradient * before).sum() < 0)
        before = gradient
        losses.append(loss)
        path.append(net.get_weights()["0.weight"][:, 0])
        net.train_step(x, y, optimizer)
    return np.array(losses), np.array(path), turned / (steps - 1)


def judge(losses: np.ndarray, turned: float, least: float) -> str:
    """What a run did, from its losses and its turns; `least` is the lowest loss that there is."""
    if losses[-1] > losses[0]:
        return "diverges"
    if losses[-1] - least > 0.5 * (losses[0] - least):
        return "too small"
    came = "slow" if losses[-1] - least > 0.01 * (losses[0] - least) else "good"
    return f"{came}, overshooting" if turned > 0.1 else came


def foretell(rate: float, curvature: float) -> str:
    if rate > 2 / curvature:
        return "diverges"
    return "overshoots" if rate > 1 / curvature else "walks down"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args(arguments)
    x, y, curvature = problem()
    _, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    least = float(residual[0]) / (2 * len(x))

    runs = []
    for rate in RATES:
        losses, path, turned = descend(x, y, rate, given.steps, given.device)
        runs.append(Run(rate, losses, path, turned, judge(losses, turned, least), foretell(rate, curvature)))
    limits = f"overshooting from 1/lambda = {1 / curvature:.3f}, diverging from 2/lambda = {2 / curvature:.3f}"
    console.print(f"lambda = {curvature:.3f}: {limits}")
    table(
        f"{given.steps} steps from the same start; the lowest loss there is: {least:.6f}",
        (
            *(("eta", "g"), ("first loss", ".4f"), ("last loss", ".6g"), ("turned back", ".0%")),
            *(("1 - eta lambda", ".4f"), "what it did", "theory"),
        ),
        [(r.rate, r.losses[0], r.losses[-1], r.turned, 1 - r.rate * curvature, r.verdict, r.theory) for r in runs],
    )
    if given.plot:
        draw(given.plot, runs, x, y, least)
    return {"runs": runs, "least": least, "curvature": curvature}


def draw(path: Any, runs: list[Run], x: np.ndarray, y: np.ndarray, least: float) -> None:
    plt = pyplot()
    figure, (axes, bowl) = plt.subplots(1, 2, figsize=(7.2, 3.3), width_ratios=[1.5, 1])
    colours = {
        "diverges": RED,
        "good, overshooting": ORANGE,
        "slow, overshooting": ORANGE,
        "good": GREEN,
        "slow": BLUE,
        "too small": GREY,
    }
    low, high = 1e-7, 1e4
    for r in runs:
        excess = np.maximum(r.losses - least, low / 10)
        axes.semilogy(excess, "o-" if "overshooting" in r.verdict else "-", color=colours[r.verdict], markersize=3)
    small = max(r.rate for r in runs if r.verdict == "too small")
    for r in runs:
        if r.verdict == "too small" and r.rate < small:
            continue
        inside = np.flatnonzero((r.losses - least > low) & (r.losses < high))
        sign = "≤" if r.rate == small else "="
        where = (inside[-1], r.losses[inside[-1]] - least)
        axes.annotate(
            f"η {sign} {r.rate:g}: {r.verdict}",
            where,
            (4, -8 if r.verdict == "slow" else 2),
            textcoords="offset points",
            color=colours[r.verdict],
            fontsize=9,
        )
    axes.set_xticks(range(0, len(runs[0].losses) + 1, 25))
    axes.set(
        xlim=(-1, 1.6 * len(runs[0].losses)),
        ylim=(low, high),
        xlabel="step",
        ylabel="loss above the minimum",
        title="one problem, eight step sizes",
    )

    w = np.stack(np.meshgrid(np.linspace(-0.6, 3.4, 80), np.linspace(-1.0, 0.4, 80)), axis=-1)
    cost = 0.5 * ((w @ x.T - y[:, 0]) ** 2).mean(axis=-1)
    bowl.contour(w[..., 0], w[..., 1], cost, levels=least + 0.02 * 2.6 ** np.arange(8), colors=GREY, linewidths=0.6)
    for r in runs:
        if r.verdict.startswith("good") and r.rate > 0.01:
            bowl.plot(*r.path[:25].T, "o-", color=colours[r.verdict], markersize=3, linewidth=1.2)
    bowl.set(xlabel="w1", ylabel="w2", title="down the bowl")
    save(figure, path)


if __name__ == "__main__":
    run(main)
