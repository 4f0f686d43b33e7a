"""The picture of a run: loss and score over the epochs."""

from __future__ import annotations

import io
from typing import Any

from gpubackprop.errors import MissingExtraError
from gpubackprop.training import History


def draw(history: History, title: str) -> bytes:
    """A PNG with the losses (logarithmic) on the left and accuracy or R^2, where it was measured, on the right.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing curves.png", "plot") from None
    columns: list[str] = list(history.records[-1])
    scores = [c for c in columns if c.endswith(("accuracy", "r2"))]
    figure = Figure(figsize=(10 if scores else 5, 4), layout="constrained")
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
    figure.suptitle(title)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
