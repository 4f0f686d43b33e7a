"""Gradient descent on the smallest network there is: one weight m and one bias c, f(x) = m x + c.

You will see

* the squared-error cost, (1/n) sum 1/2 (f(x) - y)^2, as a parabola over m. Its slope shrinks on the way down, so that a
  constant step size walks ever more slowly and comes to rest at the bottom;
* the absolute-error cost, (1/n) sum |f(x) - y|, as straight pieces with a kink. Its slope never shrinks: a constant step
  size jumps from one side of the kink to the other for ever, and only stops because the iterations are counted. The two
  costs have different bottoms, too: they are different questions;
* m and c learned together, down to the least-squares line that the normal equations give directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, RED, options, pyplot, run, save, table

import gpubackprop as gb

A, B = (1.0, 2.0), (3.0, 5.0)
X = np.array([[A[0]], [B[0]]])
Y = np.array([[A[1]], [B[1]]])


@dataclass
class Descent:
    """Where gradient descent went: the parameters and the cost before each step, and why it ended."""

    path: np.ndarray
    costs: np.ndarray
    gradient_norm: float
    stopped: str


def line(loss: str, device: str, *, bias: bool) -> gb.Network:
    """f(x) = m x (+ c), with m = 1 and c = 0 to begin with."""
    net = gb.Network([gb.Dense(1, 1, bias=bias)], loss=loss, device=device, dtype="float64")
    net.set_weights({"0.weight": [[1.0]], **({"0.bias": [0.0]} if bias else {})})
    return net


def descend(net: gb.Network, rate: float, *, tolerance: float = 1e-9, most: int = 2000) -> Descent:
    """m <- m - eta dC/dm (and c likewise) until the gradient is nearly 0, at most `most` times."""
    optimizer = gb.SGD(rate)
    path, costs, stopped = [], [], "iterations counted"
    for _ in range(most):
        cost, gradients = net.loss_and_gradients(X, Y)
        norm = float(np.sqrt(sum((g**2).sum() for g in gradients.values())))
        path.append([float(w.item()) for w in net.get_weights().values()])
        costs.append(cost)
        if norm < tolerance:
            stopped = "gradient nearly 0"
            break
        net.train_step(X, Y, optimizer)
    return Descent(np.array(path), np.array(costs), norm, stopped)


def cost_curve(loss: str, device: str, m: np.ndarray) -> np.ndarray:
    """C(m) for each m, with c = 0."""
    net = line(loss, device, bias=False)
    costs = []
    for value in m:
        net.set_weights({"0.weight": [[value]]})
        costs.append(net.loss(X, Y))
    return np.array(costs)


def ends(descent: Descent) -> tuple[str, str]:
    m, *c = descent.path[-1]
    return f"{m:.6f}", f"{c[0]:.6f}" if c else "0 (fixed)"


def how(descent: Descent) -> tuple[str, int, str]:
    return f"{descent.gradient_norm:.1e}", len(descent.costs), descent.stopped


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = options(__doc__)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    given = parser.parse_args(arguments)
    rate, device = given.learning_rate, given.device

    squared = descend(line("half_squared_error", device, bias=False), rate)
    absolute = descend(line("mean_absolute_error", device, bias=False), rate, most=61)
    both = descend(line("half_squared_error", device, bias=True), rate)
    slope_alone = float((X * Y).sum() / (X * X).sum())
    (slope, intercept), *_ = np.linalg.lstsq(np.hstack([X, np.ones_like(X)]), Y[:, 0], rcond=None)

    table(
        f"Two points, A = {A} and B = {B}; m starts at 1, step size {rate:g}",
        ("learned", "cost", "m", "c", "best m", "best c", "|gradient|", "iterations", "stopped by"),
        [
            ("m", "squared", *ends(squared), f"{slope_alone:.6f}", "-", *how(squared)),
            ("m", "absolute", *ends(absolute), f"{B[1] / B[0]:.6f}", "-", *how(absolute)),
            ("m, c", "squared", *ends(both), f"{slope:.6f}", f"{intercept:.6f}", *how(both)),
        ],
    )
    table(
        "The absolute error's last steps: m jumps over the kink, with a slope that does not shrink",
        ("iteration", "m", "cost"),
        [
            (len(absolute.costs) - 4 + i, f"{absolute.path[i - 4, 0]:.6f}", f"{absolute.costs[i - 4]:.6f}")
            for i in range(4)
        ],
    )
    if given.plot:
        draw(given.plot, device, squared, absolute, both)
    return {"squared": squared, "absolute": absolute, "both": both, "least_squares": (slope, intercept)}


def draw(path, device, squared: Descent, absolute: Descent, both: Descent) -> None:
    plt = pyplot()
    figure, (curves, surface) = plt.subplots(1, 2, figsize=(7.2, 3.2))
    m = np.linspace(0.85, 2.3, 146)
    for loss, descent, colour, name in (
        ("half_squared_error", squared, BLUE, "½ squared error"),
        ("mean_absolute_error", absolute, ORANGE, "absolute error"),
    ):
        curves.plot(m, cost_curve(loss, device, m), color=colour, label=name)
        curves.plot(descent.path[:, 0], descent.costs, "o", color=colour, markersize=5, markeredgecolor="white")
    curves.set(xlabel="m  (c = 0)", ylabel="cost C", title="the path down each cost")
    curves.legend()

    m, c = np.meshgrid(np.linspace(0.8, 2.2, 141), np.linspace(-0.4, 1.6, 141))
    cost = (0.5 * (m[..., None] * X[:, 0] + c[..., None] - Y[:, 0]) ** 2).mean(axis=-1)
    surface.contour(m, c, cost, levels=0.002 * 2.2 ** np.arange(9), colors=GREY, linewidths=0.8)
    surface.plot(*both.path.T, "-", color=BLUE)
    surface.plot(*both.path[::20].T, "o", color=BLUE, markersize=4, markeredgecolor="white", label="every 20th step")
    surface.plot(*both.path[0], "o", color=RED, markersize=7, label="start")
    surface.plot(*both.path[-1], "*", color=GREEN, markersize=13, label="least squares")
    surface.set(xlabel="m", ylabel="c", title="m and c together")
    surface.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    save(figure, path)


if __name__ == "__main__":
    run(main)
