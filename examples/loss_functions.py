"""Loss functions and their derivatives: what each asks of the network, and how hard it pulls.

A network of one unit that passes its input on, a = x, makes the loss a function of a single number; its derivative dC/da is the
first delta that backpropagation starts from. You will see value and derivative of each loss, and that every derivative agrees
with the central differences of the value. What to look for:

* the squared error pulls in proportion to the distance: far outliers pull hardest;
* the absolute error pulls equally hard from everywhere, and not at all at the target;
* the cross-entropies, on logits, pull with p - y: as hard as they can when the network is confidently wrong, and not at all when
  it is right. Through a sigmoid, the squared error has its pull multiplied by p (1 - p), which fades just where the network is
  confidently wrong: that is why classifiers are not trained with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, console, options, pyplot, run, save, table

import gpubackprop as gb

STEP = 1e-5


@dataclass
class Curve:
    """A loss along a line of outputs z: its value, its derivative by the library, and by central differences."""

    name: str
    z: np.ndarray
    value: np.ndarray
    derivative: np.ndarray
    numeric: np.ndarray

    @property
    def error(self) -> float:
        """The largest |derivative - numeric|, kinks left out: there a derivative has two sides."""
        smooth = np.abs(self.z) > 2 * STEP if self.name == "absolute error" else np.ones_like(self.z, bool)
        return float(np.abs(self.derivative - self.numeric)[smooth].max())


def pass_on(width: int, loss: str, device: str, activation: str | None = None) -> gb.Network:
    """a = f(x): one layer, whose weights are the identity matrix."""
    net = gb.Network([gb.Dense(width, width, activation, bias=False)], loss=loss, device=device, dtype="float64")
    net.set_weights({"0.weight": np.eye(width)})
    return net


def curve(name: str, net: gb.Network, x_of: Callable[[float], list[float]], y: Any, z: np.ndarray) -> Curve:
    """C and dC/dz along z, where the first input of the network is z."""

    def cost(value: float) -> float:
        return net.loss([x_of(value)], y)

    derivative = [float(net.input_gradient([x_of(v)], y)[0, 0]) for v in z]
    numeric = [(cost(v + STEP) - cost(v - STEP)) / (2 * STEP) for v in z]
    return Curve(name, z, np.array([cost(v) for v in z]), np.array(derivative), np.array(numeric))


def curves(device: str) -> list[Curve]:
    z = np.linspace(-6, 6, 121)
    return [
        curve("half squared error", pass_on(1, "half_squared_error", device), lambda v: [v], [[0.0]], z),
        curve("squared error", pass_on(1, "mean_squared_error", device), lambda v: [v], [[0.0]], z),
        curve("absolute error", pass_on(1, "mean_absolute_error", device), lambda v: [v], [[0.0]], z),
        curve("binary cross-entropy", pass_on(1, "binary_cross_entropy", device), lambda v: [v], [[1.0]], z),
        curve("categorical cross-entropy", pass_on(3, "cross_entropy", device), lambda v: [v, 0.0, 0.0], [0], z),
        curve(
            "half squared error of a sigmoid",
            pass_on(1, "half_squared_error", device, "sigmoid"),
            lambda v: [v],
            [[1.0]],
            z,
        ),
    ]


def unsigned(value: float) -> float:
    """The value with six digits behind the point, of which a zero has no sign."""
    return round(float(value), 6) + 0.0


def main(arguments: list[str] | None = None) -> list[Curve]:
    given = options(__doc__).parse_args(arguments)
    found = curves(given.device)
    shown = (0, 40, 60, 80, 120)
    rows = []
    for c in found:
        rows += [
            (
                c.name if i == shown[0] else "",
                f"{c.z[i]:+.1f}",
                f"{unsigned(c.value[i]):.6f}",
                f"{unsigned(c.derivative[i]):+.6f}",
                f"{unsigned(c.numeric[i]):+.6f}",
            )
            for i in shown
        ]
    table(
        "Target 0 for the first three, 1 (the first class) for the others",
        ("loss", "z", "value", "dC/dz", "central differences"),
        rows,
    )
    for c in found:
        console.print(f"{c.name:<32} largest difference over {len(c.z)} points: {c.error:.1e}")
    if given.plot:
        draw(given.plot, found)
    return found


def draw(path: Any, found: list[Curve]) -> None:
    plt = pyplot()
    figure, (values, slopes) = plt.subplots(1, 2, figsize=(7.2, 3.3))
    colours = (BLUE, GREY, ORANGE, GREEN, PURPLE, RED)
    for c, colour in zip(found, colours, strict=True):
        style = "--" if "sigmoid" in c.name else "-"
        values.plot(c.z, c.value, style, color=colour)
        slopes.plot(c.z, c.derivative, style, color=colour, label=c.name.replace("categorical", "categ."))
        slopes.plot(c.z[::10], c.numeric[::10], ".", color=colour, markersize=4)
    values.set(xlabel="output z", title="value", ylim=(-0.2, 6.5))
    slopes.set(xlabel="output z", title="derivative (dots: central differences)", ylim=(-2.2, 2.2))
    figure.legend(*slopes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, path)


if __name__ == "__main__":
    run(main)
