"""Handwritten digits, twice: the classic settings and the modern ones.

The classic: 784-100-10 sigmoid units, half squared error, step size 0.5, batches of 100, targets 0 and 1. The modern: ReLU units,
cross-entropy on logits, Adam. You will see

* how much faster the modern network learns: its delta does not carry the factor a (1 - a) of saturated output units, and Adam
  gives every weight a step size of its own;
* the confusion matrix, which tells what is mistaken for what;
* 25 test images drawn at random, with prediction and truth.

MNIST is used where its files are at hand, otherwise Fashion-MNIST, otherwise scikit-learn's small digits (8x8). Nothing is
downloaded unless --data names a set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import BLUE, ORANGE, console, options, pyplot, run, save, table

import gpubackprop as gb
from gpubackprop.data import Dataset, load, split
from gpubackprop.errors import DataError
from gpubackprop.metrics import confusion_matrix

HIDDEN = 100


@dataclass
class Images:
    """Training and test images as rows of pixels from 0 to 1, and labels."""

    name: str
    classes: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def at_hand() -> Dataset:
    """MNIST, or Fashion-MNIST, or the digits: the first that needs no download."""
    for name in ("mnist", "fashion-mnist"):
        try:
            return load(name, download=False)
        except DataError:
            console.print(f"{name} is not at hand")
    return load("digits")


def images(name: str | None) -> Images:
    data = load(name) if name else at_hand()
    if data.x_test is None:
        train, test = split(len(data.x), 0.2, seed=0, labels=data.y)
        parts = (data.x[train], data.y[train], data.x[test], data.y[test])
    else:
        parts = (data.x, data.y, data.x_test, data.y_test)
    white = float(parts[0].max())
    x, y, x_test, y_test = parts
    return Images(data.name, data.classes, np.float32(x) / white, y, np.float32(x_test) / white, y_test)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = options(__doc__, seed=True)
    parser.add_argument("--data", help="mnist, fashion-mnist or digits (default: the first that is at hand)")
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args(arguments)
    data = images(given.data)
    d, m = data.x.shape[1], len(data.classes)
    one_hot, one_hot_test = np.eye(m)[data.y], np.eye(m)[data.y_test]

    classic = gb.mlp(
        [d, HIDDEN, m],
        activation="sigmoid",
        output_activation="sigmoid",
        loss="half_squared_error",
        device=given.device,
        seed=given.seed,
    )
    modern = gb.mlp([d, HIDDEN, m], activation="relu", loss="cross_entropy", device=given.device, seed=given.seed)
    settings = (
        ("classic: sigmoid, half squared error, SGD 0.5", classic, gb.SGD(0.5), one_hot, one_hot_test),
        ("modern: ReLU, cross-entropy, Adam 0.001", modern, gb.Adam(1e-3), data.y, data.y_test),
    )
    results = {}
    for name, net, optimizer, y, y_test in settings:
        watch = _AccuracyPerEpoch(data.x_test, data.y_test)
        history = gb.Trainer(net, optimizer, callbacks=[watch]).fit(
            data.x, y, epochs=given.epochs, batch_size=100, verbose=False
        )
        results[name] = {
            "net": net,
            "accuracies": watch.accuracies,
            "seconds": sum(history["seconds"]),
            "loss": net.loss(data.x_test, y_test),
        }
    table(
        f"{data.name}: {len(data.x):,} training and {len(data.x_test):,} test images; accuracy on the test images",
        ("settings", *(f"epoch {i + 1}" for i in range(given.epochs)), "seconds"),
        [(name, *(f"{a:.4f}" for a in r["accuracies"]), f"{r['seconds']:.1f}") for name, r in results.items()],
    )

    predictions = modern.predict(data.x_test)
    confusion = confusion_matrix(predictions, data.y_test)
    short = [c.split("/")[0][:7] for c in data.classes]
    table(
        "Confusion matrix of the modern network: a row is the truth, a column the prediction",
        ("truth", *short),
        [
            (f"{name} ", *(f"{count}" if count else "." for count in row))
            for name, row in zip(short, confusion, strict=True)
        ],
    )
    if given.plot:
        draw(given.plot, data, predictions, results, np.random.default_rng(given.seed))
    return {"data": data, "results": results, "confusion": confusion}


class _AccuracyPerEpoch(gb.Callback):
    """Takes the accuracy on the test images after each epoch, the largest output being the prediction for either loss."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y
        self.accuracies: list[float] = []

    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        self.accuracies.append(float(np.mean(trainer.net.predict(self.x).argmax(axis=1) == self.y)))


def draw(path: Any, data: Images, predictions: np.ndarray, results: dict[str, Any], rng: np.random.Generator) -> None:
    """25 test images with prediction and truth, and the accuracies by epoch."""
    plt = pyplot()
    figure = plt.figure(figsize=(7.0, 3.9))
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    side = round(data.x.shape[1] ** 0.5)
    for ax, i in zip(left.subplots(5, 5).flat, rng.choice(len(data.x_test), 25, replace=False), strict=True):
        truth, guess = data.y_test[i], int(predictions[i].argmax())
        ax.imshow(data.x_test[i].reshape(side, side), cmap="gray_r")
        right_guess = truth == guess
        words = data.classes[guess].split("/")[0] if right_guess else f"{data.classes[guess].split('/')[0]}?"
        ax.set_title(words, color="black" if right_guess else "#cc3344", fontsize=7.5, pad=2)
        if not right_guess:
            ax.set_xlabel(data.classes[truth].split("/")[0], fontsize=7.5, labelpad=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    ax = right.subplots()
    for (name, r), colour in zip(results.items(), (BLUE, ORANGE), strict=True):
        ax.plot(range(1, len(r["accuracies"]) + 1), r["accuracies"], "o-", color=colour, label=name.split(":")[0])
    ax.set(xlabel="epoch", title=f"accuracy on the test images\n({data.name})")
    ax.legend(loc="lower right")
    save(figure, path)


if __name__ == "__main__":
    run(main)
