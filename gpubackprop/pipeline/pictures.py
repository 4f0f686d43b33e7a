"""The pictures of a run beside its curves: what was taken for what, and how far predictions are off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.training.figures import figure, png

LABELLED = 30
"""Classes up to which a confusion matrix has their names and numbers in it."""
POINTS = 5000
"""Points of a scatter plot, drawn evenly from the rows."""


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """A PNG of a confusion matrix (m, m): rows of the true classes, columns of what they were taken for.

    Raises MissingExtraError without matplotlib.
    """
    side = min(3 + 0.4 * len(classes), 12)
    made = figure(side + 1, side, title)
    ax: Any = made.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    made.colorbar(image, ax=ax, label="share of the rows of a class")
    ax.set_xlabel("taken for")
    ax.set_ylabel("class")
    if len(classes) <= LABELLED:
        names = [name if len(name) <= 20 else name[:19] + "…" for name in classes]
        ax.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        ax.set_yticks(range(len(names)), names, parse_math=False)
        for (i, j), count in np.ndenumerate(counts):
            if count:
                ax.text(
                    j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black", size=7
                )
    return png(made)


def draw_predictions(answers: np.ndarray, y: np.ndarray, targets: Sequence[str], title: str) -> bytes:
    """A PNG of predicted against true values, both (n, m), for the first four of the m targets.

    Raises MissingExtraError without matplotlib.
    """
    shown = min(y.shape[1], 4)
    made = figure(4.5 * shown, 4.5, title)
    rows = np.linspace(0, len(y) - 1, min(len(y), POINTS)).astype(int)
    for k, ax in enumerate(made.subplots(1, shown, squeeze=False)[0]):
        truth, said = y[rows, k], answers[rows, k]
        ax.plot(truth, said, ".", alpha=0.4, markersize=4)
        ends = [min(truth.min(), said.min()), max(truth.max(), said.max())]
        ax.plot(ends, ends, color="grey", linewidth=1)
        ax.set_xlabel("true")
        ax.set_ylabel("predicted")
        ax.set_title(targets[k] if k < len(targets) else "", parse_math=False)
        ax.grid(alpha=0.3)
    return png(made)
