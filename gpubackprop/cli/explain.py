"""`gpubackprop explain`."""

from __future__ import annotations

from textwrap import indent
from typing import Annotated

import numpy as np
from rich.console import Console
from rich.text import Text
from typer import Argument, Context, Option

from gpubackprop.bench.subject import model_file
from gpubackprop.cli.options import NEW, OWN, refuse
from gpubackprop.cli.output import Json, print_json
from gpubackprop.errors import ArgumentError
from gpubackprop.files.checkpoint import load
from gpubackprop.losses import get_loss
from gpubackprop.network.network import Network
from gpubackprop.network.perceptron import mlp
from gpubackprop.proofs.explain import STEPS, Explanation, Quantity, matrix_text
from gpubackprop.proofs.explain import explain as take_apart
from gpubackprop.terminal import Terminal

_WIDTH = 110
"""Columns where the output is no terminal: a pipe has no width of its own."""


def explain(
    context: Context,
    run: Annotated[
        str | None,
        Argument(
            metavar="[RUN]", help="A run folder or a saved network (.safetensors), instead of the next four options."
        ),
    ] = None,
    layers: Annotated[str, Option(help="Widths, the inputs first: 2,3,2.")] = "2,3,2",
    activation: Annotated[str, Option(help="Of the hidden layers.")] = "sigmoid",
    output_activation: Annotated[
        str | None, Option(help="Of the last layer: by default that of the others, or identity under a cross-entropy.")
    ] = None,
    loss: Annotated[str, Option(help="half_squared_error, cross_entropy, ...")] = "half_squared_error",
    x: Annotated[
        str | None,
        Option(help='The sample: "0.05,0.1"; rows with ";" between. By default drawn.'),
    ] = None,
    y: Annotated[str | None, Option(help="Its target, written like x, or class labels. By default drawn.")] = None,
    learning_rate: Annotated[float, Option(help="Of the update.")] = 0.5,
    input_layer: Annotated[int, Option(help="Number of the layer that x is: 0 or, as in many textbooks, 1.")] = 0,
    digits: Annotated[int, Option(help="Digits behind the point.", min=1, max=15)] = 5,
    seed: Annotated[int, Option(help="Of the weights, and of x and y where they are not given.", min=0)] = 0,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    as_json: Json = False,
) -> None:
    """Show every matrix of the forward, delta-propagation and update steps of a small network on a sample.

    Each stands with its name, its dimensions and the chain-rule formula that it comes from; each derivative also beside
    central differences, which know nothing of the chain rule.
    """
    if run is not None:
        refuse(context, NEW, OWN)
        net = load(model_file(run), device)
    else:
        if output_activation is None:
            output_activation = activation if get_loss(loss).output == "identity" else "identity"
        net = mlp(
            _widths(layers),
            activation=activation,
            output_activation=output_activation,
            loss=loss,
            device=device,
            dtype="float64",
            seed=seed,
        )
    rng = np.random.default_rng(seed)
    rows = rng.random((1, net.widths[0])).round(2) if x is None else _matrix("x", x)
    targets = _drawn_targets(net, len(rows), rng) if y is None else _targets(net, y)
    found = take_apart(net, rows, targets, learning_rate=learning_rate, input_layer=input_layer)
    if as_json:
        print_json({"network": repr(net), **found.plain()})
        return
    show(found, Terminal(width=None if Terminal().is_terminal else _WIDTH, highlight=False), digits, repr(net))


def show(explanation: Explanation, console: Console, digits: int, title: str) -> None:
    """Print every quantity of the explanation under the step that it belongs to."""
    console.print(title, style="bold", markup=False)
    for step in STEPS:
        console.print()
        console.rule(step, align="left")
        for q in explanation:
            if q.step == step:
                _print(q, console, digits)
    before, after = (explanation[name].value.item() for name in ("C", "new C"))
    console.rule()
    console.print(f"largest difference between a derivative and its central differences: {explanation.worst_error:.1e}")
    console.print(f"loss before the update {before:.6f}, after it {after:.6f}")


def _print(q: Quantity, console: Console, digits: int) -> None:
    """The name, dimensions and formula, then the matrix, and beside it (below it where it is wide) its central differences."""
    heading = Text.assemble((q.name, "bold"), f"  {q.dimensions}", f"  = {q.formula}" if q.formula else "")
    console.print(heading, soft_wrap=True)
    value = indent(matrix_text(q.value, digits), "    ")
    if q.numeric is None:
        console.print(value, soft_wrap=True, markup=False)
        return
    numeric = indent(matrix_text(q.numeric, digits), "    ")
    about = f"    central differences, off by {q.error:.1e}:"
    lines = list(zip(value.splitlines(), numeric.splitlines(), strict=True))
    if len(lines[0][0]) + len(about) + len(lines[0][1]) <= console.width:
        for i, (left, right) in enumerate(lines):
            console.print(f"{left}{about if i == 0 else ' ' * len(about)}{right}", soft_wrap=True, markup=False)
    else:
        console.print(f"{value}\n{about}\n{numeric}", soft_wrap=True, markup=False)


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(f"layers is {text!r}; expected whole numbers with commas between, such as 2,3,2") from None


def _matrix(name: str, text: str) -> np.ndarray:
    try:
        rows = [[float(part) for part in row.split(",")] for row in text.split(";")]
    except ValueError:
        raise ArgumentError(
            f'{name} is {text!r}; expected numbers, such as "0.05,0.1", or "0,1;1,0" for two rows'
        ) from None
    if len({len(row) for row in rows}) > 1:
        raise ArgumentError(f"{name} is {text!r}, whose rows are of different lengths")
    return np.array(rows)


def _targets(net: Network, text: str) -> np.ndarray:
    y = _matrix("y", text)
    if net.loss_function.labels and y.shape[1] == 1 < net.widths[-1] and (y == y.round()).all():
        return y[:, 0].astype(np.int64)
    return y


def _drawn_targets(net: Network, n: int, rng: np.random.Generator) -> np.ndarray:
    m = net.widths[-1]
    if net.loss_function.labels:
        return rng.integers(m, size=n)
    return rng.random((n, m)).round(2)
