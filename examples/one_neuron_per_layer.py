"""A chain of neurons, one in each layer: the chain rule with nothing but numbers.

Each layer has one weight w and one bias b: z = w a_before + b, a = sigmoid(z). Going back from the cost C = 1/2 (a - y)^2, the
derivative of C picks up two factors at every layer, da/dz = a (1 - a) and dz/da_before = w. You will see

* every partial derivative of that chain, and how their product is the gradient of each weight and each bias;
* that the library says the same, and so do central differences;
* why depth is hard for sigmoid units: da/dz is at most 1/4, so the gradient fades from the last layer to the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from common import BLUE, GREY, ORANGE, console, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.proofs.explain import explain

X, Y = 0.6, 0.2


@dataclass
class Link:
    """One neuron of the chain: its numbers, and the partial derivatives at it."""

    w: float
    b: float
    a_before: float
    z: float
    a: float
    da_dz: float
    dC_da: float = 0.0

    @property
    def dC_dz(self) -> float:
        """delta = dC/da * da/dz."""
        return self.dC_da * self.da_dz

    @property
    def dC_dw(self) -> float:
        """delta * dz/dw, with dz/dw = a_before."""
        return self.dC_dz * self.a_before

    @property
    def dC_db(self) -> float:
        """delta * dz/db, with dz/db = 1."""
        return self.dC_dz * 1.0


def chain(weights: dict[str, np.ndarray], x: float, y: float) -> list[Link]:
    """Forward along the chain, then back: one number at a time."""
    links: list[Link] = []
    a = x
    for i in range(len(weights) // 2):
        w, b = weights[f"{i}.weight"].item(), weights[f"{i}.bias"].item()
        z = w * a + b
        before, a = a, 1 / (1 + np.exp(-z))
        links.append(Link(w, b, before, z, a, a * (1 - a)))
    links[-1].dC_da = links[-1].a - y
    for above, link in zip(links[:0:-1], links[-2::-1], strict=True):
        link.dC_da = above.dC_dz * above.w
    return links


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = options(__doc__, seed=True)
    parser.add_argument("--layers", type=int, default=4, help="neurons in the chain (default: 4)")
    parser.add_argument("--learning-rate", type=float, default=1.0)
    given = parser.parse_args(arguments)
    net = gb.mlp(
        [1] * (given.layers + 1),
        activation="sigmoid",
        output_activation="sigmoid",
        loss="half_squared_error",
        device=given.device,
        dtype="float64",
        seed=given.seed,
    )
    x, y = np.array([[X]]), np.array([[Y]])
    links = chain(net.get_weights(), X, Y)
    library = explain(net, x, y, learning_rate=given.learning_rate)

    numbers = [(i, k.w, k.b, k.a_before, k.z, k.a) for i, k in enumerate(links, 1)]
    names = ("w", "b", "a before", "z = w a + b", "a = sigmoid(z)")
    table(f"Forward: x = {X}, y = {Y}", ("layer", *((name, ".5f") for name in names)), numbers)
    rows, worst = [], 0.0
    for i, k in reversed(list(enumerate(links, 1))):
        weight, bias = library[f"dC/dW({i})"], library[f"dC/db({i})"]
        worst = max(worst, abs(k.dC_dw - weight.value.item()), abs(k.dC_db - bias.value.item()))
        of_w = (k.dC_da, k.da_dz, k.dC_dz, k.a_before, k.dC_dw, weight.value.item(), weight.numeric.item())
        rows.append((i, *of_w, k.dC_db, bias.value.item()))
    names = ("dC/da", "da/dz", "delta", "dz/dw", "dC/dw", "library", "central", "dC/db", "library")
    table(
        "Backward, from the last layer to the first: dC/da = delta of the layer above * its w",
        ("layer", *((name, ".6f") for name in names)),
        rows,
    )

    eta, before = given.learning_rate, net.loss(x, y)
    net.train_step(x, y, gb.SGD(eta))
    after = net.get_weights()
    rows, updates = [], 0.0
    for i, k in enumerate(links):
        w, b = k.w - eta * k.dC_dw, k.b - eta * k.dC_db
        new_w, new_b = (after[f"{i}.{name}"].item() for name in ("weight", "bias"))
        rows.append((i + 1, k.w, w, new_w, k.b, b, new_b))
        updates = max(updates, abs(w - new_w), abs(b - new_b))
    table(
        f"Update: w <- w - {eta:g} dC/dw, b <- b - {eta:g} dC/db",
        ("layer", *((name, ".6f") for name in ("w", "new w", "library", "b", "new b", "library"))),
        rows,
    )
    console.print(f"largest difference between these numbers and the library's: {max(worst, updates):.1e}")
    console.print(f"cost before {before:.6f}, after {net.loss(x, y):.6f}")
    if given.plot:
        draw(given.plot, given.device)
    return {
        "links": links,
        "worst": worst,
        "updates": updates,
        "library": library,
        "before": before,
        "after": net.loss(x, y),
    }


def draw(path, device: str) -> None:
    """|delta| along a long chain, for sigmoid and for ReLU neurons, both with w = 1."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    depth = 12
    for activation, colour in (("sigmoid", BLUE), ("relu", ORANGE)):
        net = gb.mlp(
            [1] * (depth + 1), activation=activation, loss="half_squared_error", device=device, dtype="float64"
        )
        net.set_weights(
            {k: np.ones_like(v) if k.endswith("weight") else np.zeros_like(v) for k, v in net.get_weights().items()}
        )
        sizes = [abs(d.item()) for d in net.deltas([[X]], [[Y]])]
        axes.semilogy(range(1, depth + 1), sizes, "o-", color=colour, label=f"{activation} neurons")
    reach = np.arange(1, depth + 1)
    axes.semilogy(reach, sizes[-1] * 0.25 ** (depth - reach), "--", color=GREY, linewidth=1.2, label="¼ per layer")
    axes.set(xlabel="layer", ylabel="|δ|", title="the gradient on its way back through 12 neurons, w = 1")
    axes.set_xticks(reach)
    axes.legend()
    save(figure, path)


if __name__ == "__main__":
    run(main)
