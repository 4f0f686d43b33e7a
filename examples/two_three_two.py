"""One step of backpropagation through a 2-3-2 sigmoid network, every matrix of it on paper.

The network is x (layer 1) -> 3 sigmoid units (layer 2) -> 2 sigmoid units (layer 3), with the cost C = 1/2 |a(3) - y|^2 for one
sample. You will see each matrix with its dimensions three times:

* as the library computes it (`gpubackprop.proofs.explain`);
* by hand: the chain rule written out below, line by line as in a textbook (the table shows how far it is off);
* by central differences, which know nothing of the chain rule: nudge one number, look at how much the cost changes.

All three agree. Then one step of gradient descent is taken, and the cost goes down by about eta |dC/dW|^2, as it must.
"""

from __future__ import annotations

import numpy as np
from common import BLUE, GREY, RED, console, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.proofs.explain import Explanation, explain, matrix_text

X = np.array([[0.05, 0.10]])
Y = np.array([[0.01, 0.99]])
W1 = np.array([[0.15, 0.25, -0.30], [0.20, -0.40, 0.35]])
B1 = np.array([[0.35, 0.10, -0.20]])
W2 = np.array([[0.40, -0.50], [0.45, 0.55], [-0.60, 0.30]])
B2 = np.array([[0.60, -0.10]])


def network(device: str) -> gb.Network:
    net = gb.mlp(
        [2, 3, 2],
        activation="sigmoid",
        output_activation="sigmoid",
        loss="half_squared_error",
        device=device,
        dtype="float64",
    )
    net.set_weights({"0.weight": W1, "0.bias": B1[0], "1.weight": W2, "1.bias": B2[0]})
    return net


def by_hand(eta: float) -> dict[str, np.ndarray]:
    """The whole step on paper; a row is a sample, so that x is 1x2."""
    z2 = X @ W1 + B1
    a2 = 1 / (1 + np.exp(-z2))
    z3 = a2 @ W2 + B2
    a3 = 1 / (1 + np.exp(-z3))
    s = a3 - Y
    delta3 = s * a3 * (1 - a3)
    delta2 = (delta3 @ W2.T) * a2 * (1 - a2)
    dW2, db2 = a2.T @ delta3, delta3
    dW1, db1 = X.T @ delta2, delta2
    return {
        "x": X, "z(2)": z2, "a(2)": a2, "z(3)": z3, "a(3)": a3, "C": 0.5 * (s @ s.T),
        "s = dC/da(3)": s, "delta(3)": delta3, "delta(2)": delta2,
        "dC/dW(1)": dW1, "dC/db(1)": db1, "dC/dW(2)": dW2, "dC/db(2)": db2,
        "new W(1)": W1 - eta * dW1, "new b(1)": B1 - eta * db1, "new W(2)": W2 - eta * dW2, "new b(2)": B2 - eta * db2,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = options(__doc__)
    parser.add_argument("--learning-rate", type=float, default=0.5)
    given = parser.parse_args(arguments)
    eta = given.learning_rate

    library = explain(network(given.device), X, Y, learning_rate=eta, input_layer=1)
    hand = by_hand(eta)
    rows = []
    for name, value in hand.items():
        q = library[name]
        numeric = "" if q.numeric is None else matrix_text(q.numeric, 5)
        off = f"{np.abs(q.value - value).max():.0e}"
        rows.append((name, q.dimensions, q.formula, matrix_text(q.value, 5), numeric, off))
    columns = ("", "size", "chain rule", "the library", "central differences", "by hand +-")
    table("A 2-3-2 sigmoid network, one sample, one step", columns, rows, lines=True)

    against_hand = max(float(np.abs(library[name].value - value).max()) for name, value in hand.items())
    before, after = library["C"].value.item(), library["new C"].value.item()
    squared = sum(float((hand[k] ** 2).sum()) for k in hand if k.startswith(("dC/dW", "dC/db")))
    console.print(f"largest difference between the library and the hand:                {against_hand:.1e}")
    console.print(f"largest difference between the library and the central differences: {library.worst_error:.1e}")
    console.print(
        f"cost before the step {before:.6f}, after it {after:.6f}; foretold by the gradient: {before - eta * squared:.6f}"
    )
    if given.plot:
        draw(given.plot, library)
    return {"library": library, "hand": hand, "against_hand": against_hand, "before": before, "after": after}


def draw(path, library: Explanation) -> None:
    """The network as a graph: units with their activation and delta, connections as strong as their gradient."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 3.4))
    places = [[(0.0, y) for y in (0.7, -0.7)], [(2.0, y) for y in (1.2, 0.0, -1.2)], [(4.0, y) for y in (0.7, -0.7)]]
    for layer, name in enumerate(("dC/dW(1)", "dC/dW(2)")):
        gradient = library[name].value
        for i, start in enumerate(places[layer]):
            for j, end in enumerate(places[layer + 1]):
                g = gradient[i, j]
                strength = abs(g) / np.abs(gradient).max()
                colour = RED if g > 0 else BLUE
                axes.plot(
                    *zip(start, end, strict=True), color=colour, linewidth=0.6 + 5 * strength, alpha=0.65, zorder=1
                )
    for layer, (a, delta) in enumerate((("x", None), ("a(2)", "delta(2)"), ("a(3)", "delta(3)"))):
        for j, (px, py) in enumerate(places[layer]):
            axes.plot(px, py, "o", markersize=36, color="white", markeredgecolor=GREY, zorder=2)
            axes.text(px, py, f"{library[a].value[0, j]:.3f}", ha="center", va="center", fontsize=10, zorder=3)
            if delta:
                label = f"δ = {library[delta].value[0, j]:+.4f}"
                axes.text(
                    px + 0.27, py + 0.36, label, fontsize=9, zorder=3, bbox={"color": "white", "alpha": 0.8, "pad": 1}
                )
        axes.text(places[layer][0][0], -1.95, ("x", "a(2)", "a(3)")[layer], ha="center", fontsize=11)
    axes.text(4.27, -1.4, "C = {:.4f}".format(library["C"].value.item()), fontsize=11)
    axes.set(
        xlim=(-0.4, 5.2),
        ylim=(-2.1, 1.9),
        title="activations, deltas, and dC/dW as lines (red: above 0, the step lowers W)",
    )
    axes.axis("off")
    save(figure, path)


if __name__ == "__main__":
    run(main)
