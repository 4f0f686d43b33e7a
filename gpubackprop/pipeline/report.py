"""How good a trained model is on rows with known targets: every metric that suits its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubackprop.layout import html
from gpubackprop.metrics import (
    balanced_accuracy,
    confusion_matrix,
    log_loss,
    macro_f1,
    roc_auc,
    root_mean_squared_error,
)
from gpubackprop.pipeline.model import Array, Model, Rows

MOST = 50_000_000
"""Rows times classes up to which ROC AUC is taken, which sorts the outputs of each class."""
SHOWN = 100
"""Classes up to which the confusion matrix is written."""


@dataclass
class Report:
    """metrics: by name, in the unit of the target. answers: of `Model.answers`. counts: the confusion matrix (m, m) of classes,
    None for other tasks, and where answers are NaN, as every metric then is."""

    metrics: dict[str, float]
    answers: Array
    counts: Array | None

    def lines(self) -> list[str]:
        """The metrics as text: those that one looks at first, then the others."""
        shown = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.metrics.items()]
        return [", ".join(f"{k} {v:.4f}" for k, v in [*self.metrics.items()][:FIRST]), ", ".join(shown[FIRST:])]

    def _repr_html_(self) -> str:
        return html([], [("metric", "value"), *((name, f"{value:.6g}") for name, value in self.metrics.items())])

    def plain(self, classes: list[str], judged_on: str) -> dict[str, Any]:
        """For metrics.json. judged_on: which rows these were."""
        found: dict[str, Any] = {"judged_on": judged_on, "rows": len(self.answers), **self.metrics}
        if self.counts is not None and len(self.counts) <= SHOWN:
            found |= {"classes": classes, "confusion_matrix": self.counts.tolist()}
        return found


FIRST = 2
"""Metrics that are looked at first: accuracy and loss, or R^2 and the mean absolute error."""


def report(model: Model, x: Rows, y: Array, batch_size: int | None = None) -> Report:
    """The metrics of raw rows x, an array (n, d) or a table, with raw targets y, labels (n,) or values (n, m).

    Classes: accuracy, loss (as in training, penalties included), balanced accuracy, macro F1, ROC AUC and, where the outputs are
    probabilities, the log loss. Several labels a row: accuracy, loss, ROC AUC, log loss. Numbers: R^2, mean absolute error, root
    mean squared error and loss, the latter of standardised targets where they are.
    """
    answers = model.answers(x, batch_size)
    found = model.scores(x, y, batch_size, answers)
    if model.data["task"] == "regression":
        return Report({**found, "root_mean_squared_error": root_mean_squared_error(answers, y)}, answers, None)
    counts = confusion_matrix(answers, y) if model.classes and not np.isnan(answers).any() else None
    if model.classes:
        of_counts = {"balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
        found |= {name: float("nan") if counts is None else metric(counts) for name, metric in of_counts.items()}
    if answers.size <= MOST:
        found["roc_auc"] = roc_auc(answers, y)
    if model.network.loss_function.output != "identity":
        found["log_loss"] = log_loss(answers, y)
    return Report(found, answers, counts)
