"""The pictures of a run: loss and score over the epochs, and what was taken for what."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpubackprop.errors import MissingExtraError
from gpubackprop.training import History

LABELLED = 30
"""Classes up to which a confusion matrix has their names and numbers in it."""
POINTS = 5000
"""Points of a scatter plot, drawn evenly from the rows."""


def draw_curves(history: History, title: str) -> bytes:
    """A PNG with the losses (logarithmic) on the left and accuracy or R^2, where it was measured, on the right.

    Raises MissingExtraError without matplotlib.
    """
    columns: list[str] = list(history.records[-1])
    scores = [c for c in columns if c.endswith(("accuracy", "r2"))]
    figure = _figure(10 if scores else 5, 4)
    axes: Any = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    epochs = history["epoch"]
    panels: list[list[str]] = [[c for c in ("loss", "val_loss") if c in columns], scores]
    for ax, names in zip(axes, panels, strict=False):
        for name in names:
            label = name.replace("val_", "validation ")
            ax.plot(epochs, history[name], label=label, marker="." if len(epochs) == 1 else None)
        if history.best_epoch:
            ax.axvline(history.best_epoch, color="grey", linestyle=":", label=f"epoch {history.best_epoch}, kept")
        ax.set_xlabel("epoch")
        ax.legend()
        ax.grid(alpha=0.3)
    if all(value > 0 for name in ("loss", "val_loss") if name in columns for value in history[name]):
        axes[0].set_yscale("log")
    return _png(figure, title)


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """A PNG of a confusion matrix (m, m): rows of the true classes, columns of what they were taken for.

    Raises MissingExtraError without matplotlib.
    """
    side = min(3 + 0.4 * len(classes), 12)
    figure = _figure(side + 1, side)
    ax: Any = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=ax, label="share of the rows of a class")
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
    return _png(figure, title)


def draw_predictions(answers: np.ndarray, y: np.ndarray, targets: Sequence[str], title: str) -> bytes:
    """A PNG of predicted against true values, both (n, m), for the first four of the m targets.

    Raises MissingExtraError without matplotlib.
    """
    shown = min(y.shape[1], 4)
    figure = _figure(4.5 * shown, 4.5)
    rows = np.linspace(0, len(y) - 1, min(len(y), POINTS)).astype(int)
    for k, ax in enumerate(figure.subplots(1, shown, squeeze=False)[0]):
        truth, said = y[rows, k], answers[rows, k]
        ax.plot(truth, said, ".", alpha=0.4, markersize=4)
        ends = [min(truth.min(), said.min()), max(truth.max(), said.max())]
        ax.plot(ends, ends, color="grey", linewidth=1)
        ax.set_xlabel("true")
        ax.set_ylabel("predicted")
        ax.set_title(targets[k] if k < len(targets) else "", parse_math=False)
        ax.grid(alpha=0.3)
    return _png(figure, title)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing pictures of a run", "plot") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    # Whatever MPLBACKEND says: nothing is shown here, it is written.
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any, title: str) -> bytes:
    # A dollar sign in a name is no formula.
    figure.suptitle(title, parse_math=False)
    png = io.BytesIO()
    with warnings.catch_warnings():
        # Of characters that the font does not have.
        warnings.simplefilter("ignore")
        figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
