"""Any number of hidden layers: the same three lines of mathematics, repeated.

    delta(l) = (delta(l+1) W(l+1)^T) * f'(z(l))        dC/dW(l) = a(l-1)^T delta(l)        dC/db(l) = column sums of delta(l)

Nothing in them asks how many layers there are. The task is two interleaved spirals, which no straight line separates. You will
see networks of 0, 1, 2, ... hidden layers: that the gradient of each agrees with central differences, and what each makes of
the spirals. Without a hidden layer it is a coin's toss; with each further layer the boundary can wind more.

A step moves all layers at once, and what one layer's step does to the output is multiplied by all others': deeper networks need
smaller steps. With 8 hidden layers and the step of the shallow ones, 0.01, two of five seeds never come below a loss of 0.1; with
0.003 all five do. The gradient does not fade here: at the start that of the first weights is about as long as that
of the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import BLUE, ORANGE, decision_regions, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.data import spirals

STRETCH = 6.0


def rate(hidden: list[int]) -> float:
    """The step size: see above."""
    return 0.01 if len(hidden) < 5 else 0.003


def train(hidden: list[int], x: np.ndarray, y: np.ndarray, given: Any) -> gb.Network:
    net = gb.mlp([2, *hidden, 2], activation="tanh", loss="cross_entropy", device=given.device, seed=given.seed)
    gb.Trainer(net, gb.Adam(rate(hidden))).fit(x, y, epochs=given.epochs, batch_size=64, verbose=False)
    return net


def gradient_error(
    hidden: list[int], x: np.ndarray, y: np.ndarray, given: Any, *, draws: int = 60, e: float = 1e-5
) -> float:
    """The worst |dC/dw - (C(w + e) - C(w - e)) / 2e| over parameters drawn at random, in float64."""
    net = gb.mlp(
        [2, *hidden, 2], activation="tanh", loss="cross_entropy", device=given.device, dtype="float64", seed=given.seed
    )
    weights, (_, gradients) = net.get_weights(), net.loss_and_gradients(x, y)

    def cost(name: str, index: int, nudge: float) -> float:
        nudged = weights[name].copy()
        nudged.flat[index] += nudge
        net.set_weights({**weights, name: nudged})
        return net.loss(x, y)

    rng, worst = np.random.default_rng(given.seed), 0.0
    for _ in range(draws):
        name = rng.choice(sorted(weights))
        index = int(rng.integers(weights[name].size))
        slope = (cost(name, index, e) - cost(name, index, -e)) / (2 * e)
        worst = max(worst, abs(slope - float(gradients[name].flat[index])))
    return worst


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = options(__doc__, seed=True)
    parser.add_argument("--hidden", help="one network only, with hidden layers of these widths: 16,16,16")
    parser.add_argument("--epochs", type=int, default=400)
    given = parser.parse_args(arguments)
    if given.hidden:
        depths = [[int(width) for width in given.hidden.split(",")]]
    else:
        depths = [[12] * depth for depth in (0, 1, 2, 3, 5, 8)]
    data = spirals(600, noise=0.02)
    # The windings are narrow: stretched, they are wide enough for the slopes that the first layer starts with.
    x = STRETCH * data.x

    results = []
    for hidden in depths:
        error = gradient_error(hidden, x[:50], data.y[:50], given)
        net = train(hidden, x, data.y, given)
        scores = gb.evaluate(net, x, data.y)
        results.append({"hidden": hidden, "net": net, "gradient_error": error, **scores})
    table(
        f"Two spirals, {len(x)} points, tanh layers, Adam, {given.epochs} epochs",
        (
            *("hidden layers", "widths", "parameters", ("step size", "g")),
            *(("loss", ".4f"), ("accuracy", ".3f"), ("gradient - central differences", ".1e")),
        ),
        [
            (
                *(len(r["hidden"]), "-".join(map(str, [2, *r["hidden"], 2])), r["net"].parameter_count),
                *(rate(r["hidden"]), r["loss"], r["accuracy"], r["gradient_error"]),
            )
            for r in results
        ],
    )
    if given.plot:
        draw(given.plot, results, x, data.y)
    return results


def draw(path: Any, results: list[dict[str, Any]], x: np.ndarray, y: np.ndarray) -> None:
    plt = pyplot()
    columns = min(len(results), 3)
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.35 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, r in zip(axes.flat, results, strict=False):
        net = r["net"]
        decision_regions(ax, lambda points, net=net: net.predict(points)[:, 1], -1.15 * STRETCH, 1.15 * STRETCH)
        for label, colour in ((0, BLUE), (1, ORANGE)):
            ax.plot(*x[y == label].T, ".", color=colour, markersize=2)
        depth = len(r["hidden"])
        ax.set_title(f"{depth} hidden: {r['accuracy']:.0%}")
    save(figure, path)


if __name__ == "__main__":
    run(main)
