"""Many neurons in each layer: the same chain rule, with its sums written as matrix products.

Where a layer has several neurons, the cost reaches a neuron through every neuron of the layer above, and a weight through every
sample. Derivatives along all of these ways add up:

    delta_j   = (sum over k of delta_k w_jk) f'(z_j)         for each sample
    dC/dw_ij  = sum over samples of a_i delta_j

and a sum of products over a shared index is a matrix product: delta W^T and a^T delta. You will see both computed, the sums one
number at a time in plain loops and the products by the library, and that they agree to the last digits.
"""

from __future__ import annotations

import time

import numpy as np
from common import BLUE, RED, console, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.proofs.explain import Explanation, explain, matrix_text

WIDTHS = [3, 3, 2]


def one_at_a_time(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Deltas and gradients of the sigmoid network by loops over samples i, neurons j and neurons k of the next layer."""
    n, layers = len(x), len(weights) // 2
    a: list[np.ndarray] = [x]
    for layer in range(layers):
        W, b = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        out = np.zeros((n, len(b)))
        for i in range(n):
            for j in range(len(b)):
                z = b[j] + sum(a[-1][i, k] * W[k, j] for k in range(len(W)))
                out[i, j] = 1 / (1 + np.exp(-z))
        a.append(out)

    found: dict[str, np.ndarray] = {}
    for layer in range(layers, 0, -1):
        delta = np.zeros_like(a[layer])
        for i in range(n):
            for j in range(delta.shape[1]):
                if layer == layers:
                    dC_da = (a[layer][i, j] - y[i, j]) / n
                else:
                    W, above = weights[f"{layer}.weight"], found[f"delta({layer + 1})"]
                    dC_da = sum(above[i, k] * W[j, k] for k in range(W.shape[1]))
                delta[i, j] = dC_da * a[layer][i, j] * (1 - a[layer][i, j])
        dW, db = np.zeros_like(weights[f"{layer - 1}.weight"]), np.zeros(delta.shape[1])
        for j in range(len(db)):
            for i in range(n):
                db[j] += delta[i, j]
                for k in range(len(dW)):
                    dW[k, j] += a[layer - 1][i, k] * delta[i, j]
        found |= {f"delta({layer})": delta, f"dC/dW({layer})": dW, f"dC/db({layer})": db.reshape(1, -1)}
    return found


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = options(__doc__, seed=True)
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args(arguments)
    net = gb.mlp(
        WIDTHS,
        activation="sigmoid",
        output_activation="sigmoid",
        loss="half_squared_error",
        device=given.device,
        dtype="float64",
        seed=given.seed,
    )
    rng = np.random.default_rng(given.seed)
    x, y = rng.normal(size=(given.samples, WIDTHS[0])), rng.random((given.samples, WIDTHS[-1]))

    library = explain(net, x, y)
    sums = one_at_a_time(net.get_weights(), x, y)
    rows = []
    for name, value in sums.items():
        q = library[name]
        texts = (matrix_text(matrix, 5) for matrix in (q.value, value))
        rows.append((name, q.dimensions, q.formula, *texts, np.abs(q.value - value).max()))
    table(
        f"A {'-'.join(map(str, WIDTHS))} sigmoid network on {given.samples} samples",
        ("", "size", "in matrices", "matrix products (library)", "sums (loops)", ("difference", ".0e")),
        rows,
        lines=True,
    )
    worst = max(float(np.abs(library[name].value - value).max()) for name, value in sums.items())
    loops = _seconds(lambda: one_at_a_time(net.get_weights(), x, y))
    products = _seconds(lambda: net.loss_and_gradients(x, y))
    console.print(f"largest difference between sums and matrix products: {worst:.1e}")
    console.print(f"and between matrix products and central differences: {library.worst_error:.1e}")
    console.print(f"time: loops {loops * 1e6:,.0f} us, matrix products {products * 1e6:,.0f} us")
    if given.plot:
        draw(given.plot, library)
    return {"sums": sums, "library": library, "worst": worst}


def _seconds(work, repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def draw(path, library: Explanation) -> None:
    """dC/dW(2) = a(1)^T delta(2) as pictures of the three matrices."""
    plt = pyplot()
    a, delta, dW = library["a(1)"].value.T, library["delta(2)"].value, library["dC/dW(2)"].value
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.9), width_ratios=[a.shape[1], delta.shape[1], dW.shape[1]])
    for ax, values, title in zip(axes, (a, delta, dW), ("a(1)ᵀ", "δ(2)", "= dC/dW(2)"), strict=True):
        limit = np.abs(values).max()
        ax.imshow(values, cmap="RdBu_r", vmin=-1.4 * limit, vmax=1.4 * limit)
        for (i, j), value in np.ndenumerate(values):
            ax.text(j, i, f"{value:.2f}" if limit > 0.2 else f"{value:.3f}", ha="center", va="center", fontsize=9)
        ax.set(title=f"{title}  ({values.shape[0]}×{values.shape[1]})", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("neurons of layer 1")
    axes[0].set_xlabel("samples", color=BLUE)
    axes[1].set_ylabel("samples", color=BLUE)
    axes[1].set_xlabel("neurons of layer 2", color=RED)
    axes[2].set_xlabel("neurons of layer 2", color=RED)
    save(figure, path)


if __name__ == "__main__":
    run(main)
