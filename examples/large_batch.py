"""Larger and larger batches: what becomes of accuracy and speed, and what helps.

With k times the batch, an epoch has k times fewer steps. On a parallel machine each epoch gets faster, but fewer steps of the
same size get nowhere. You will see, at batch sizes from 128 to 65,536 and the same number of epochs,

* SGD with the same step size: accuracy falls as the steps get fewer;
* linear scaling: k times the batch, k times the step size, after a warm-up (Goyal et al., 2017). It holds until the steps are so
  large that they overshoot;
* LARS (You et al., 2017) and LAMB (You et al., 2020), which scale the step of each weight matrix by its own norm, made for
  batches beyond that. LAMB's step size grows with the square root of the batch;
* samples per second at each size.

The task is Fashion-MNIST with its images halved to 14x14 pixels where its files are at hand, scikit-learn's digits otherwise.
Batches larger than the data set are cut to it: its full batch is the largest there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, console, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.data import Standardizer, load, split
from gpubackprop.errors import DataError
from gpubackprop.optimizers.schedules import Cosine

SIZES = (128, 512, 2048, 8192, 32768, 65536)
BASE = 128


@dataclass(frozen=True)
class Recipe:
    """A rule for the optimizer at batch size k * BASE."""

    name: str
    optimizer: Callable[[float, Cosine], Any]
    warmup: float = 0.0
    """Share of all steps."""


RECIPES = (
    Recipe("SGD, same step size", lambda k, schedule: gb.SGD(0.05, momentum=0.9, schedule=schedule)),
    Recipe("SGD, linear scaling + warm-up", lambda k, schedule: gb.SGD(0.05 * k, momentum=0.9, schedule=schedule), 0.2),
    Recipe(
        "LARS + warm-up", lambda k, schedule: gb.LARS(0.05 * k**0.5, momentum=0.9, trust=0.1, schedule=schedule), 0.2
    ),
    Recipe("LAMB + warm-up", lambda k, schedule: gb.LAMB(0.008 * k**0.5, schedule=schedule), 0.2),
)


@dataclass
class Cell:
    """One recipe at one batch size."""

    recipe: str
    size: int
    steps: int
    accuracy: float
    samples_per_second: float
    """In the fastest epoch."""


def problem(name: str | None) -> tuple[str, tuple[np.ndarray, ...]]:
    """Its name and x, y, x_test, y_test, standardised."""
    if name is None:
        try:
            data = load("fashion-mnist", download=False)
        except DataError:
            console.print("fashion-mnist is not at hand, so it is the digits")
            data = load("digits")
    else:
        data = load(name)
    if data.x_test is None:
        train, test = split(len(data.x), 0.2, seed=0, labels=data.y)
        x, y, x_test, y_test = data.x[train], data.y[train], data.x[test], data.y[test]
    else:
        x, y, x_test, y_test = data.x, data.y, data.x_test, data.y_test
    if x.shape[1] == 784:
        x, x_test = (
            v.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 196) for v in (x, x_test)
        )
    scale = Standardizer(per_feature=False).fit(x)
    return data.name, (scale.transform(x), y, scale.transform(x_test), y_test)


def train(recipe: Recipe, size: int, data: tuple[np.ndarray, ...], given: Any) -> Cell:
    x, y, x_test, y_test = data
    steps = given.epochs * -(-len(x) // size)
    schedule = Cosine(warmup=int(recipe.warmup * steps), total=steps)
    net = gb.mlp(
        [x.shape[1], given.hidden, 10], activation="relu", loss="cross_entropy", device=given.device, seed=given.seed
    )
    trainer = gb.Trainer(net, recipe.optimizer(size / BASE, schedule))
    history = trainer.fit(x, y, epochs=given.epochs, batch_size=size, verbose=False)
    accuracy = gb.evaluate(net, x_test, y_test)["accuracy"]
    return Cell(recipe.name, size, steps, accuracy, len(x) / min(history["seconds"]))


def main(arguments: list[str] | None = None) -> list[Cell]:
    parser = options(__doc__, seed=True)
    parser.add_argument(
        "--data", help="fashion-mnist, mnist or digits (default: fashion-mnist where it is at hand, else digits)"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=64, help="width of the hidden layer (default: 64)")
    given = parser.parse_args(arguments)
    name, data = problem(given.data)
    n = len(data[0])
    sizes = sorted({min(size, n) for size in SIZES})
    if n < max(SIZES):
        console.print(f"{name} has {n:,} training rows: batches end there, at the full batch")
    cells = [train(recipe, size, data, given) for size in sizes for recipe in RECIPES]

    steps = {c.size: c.steps for c in cells}
    table(
        f"{name}, {given.epochs} epochs: test accuracy by batch size",
        ("batch size", *(f"{size:,}" for size in sizes)),
        [
            ("steps", *(f"{steps[size]:,}" for size in sizes)),
            *((r.name, *(f"{c.accuracy:.4f}" for c in cells if c.recipe == r.name)) for r in RECIPES),
        ],
    )
    table(
        "Samples per second in the fastest epoch",
        ("batch size", *(f"{size:,}" for size in sizes)),
        [(r.name, *(f"{c.samples_per_second:,.0f}" for c in cells if c.recipe == r.name)) for r in RECIPES],
    )
    if given.plot:
        draw(given.plot, cells)
    return cells


def draw(path: Any, cells: list[Cell]) -> None:
    plt = pyplot()
    figure, (accuracy, speed) = plt.subplots(1, 2, figsize=(7.2, 3.3))
    for recipe, colour in zip(RECIPES, (GREY, BLUE, GREEN, ORANGE), strict=True):
        own = [c for c in cells if c.recipe == recipe.name]
        sizes = [c.size for c in own]
        accuracy.semilogx(sizes, [c.accuracy for c in own], "o-", base=2, color=colour, label=recipe.name, markersize=4)
        speed.semilogx(sizes, [c.samples_per_second / 1000 for c in own], "o-", base=2, color=colour, markersize=4)
    accuracy.set(xlabel="batch size", title="test accuracy")
    speed.set(xlabel="batch size", title="thousand samples per second")
    speed.set_ylim(bottom=0)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, path)


if __name__ == "__main__":
    run(main)
