"""How good predictions are: accuracy for classes, R^2 and mean absolute error for numbers. Host arrays throughout."""

from __future__ import annotations

import numpy as np

from gpubackprop.errors import ArgumentError
from gpubackprop.losses import Loss


def accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """The share of rows whose class is right.

    outputs (n, m): scores or probabilities, the class being the largest; with m = 1, a probability whose class is 1 from
    0.5 on. y: labels (n,), or one-hot (n, m), or (n, 1) of 0 and 1. Raises ArgumentError for other shapes.
    """
    n, m = outputs.shape
    if m == 1:
        if y.shape != (n, 1):
            raise ArgumentError(f"y must have shape ({n}, 1) for one output; got {y.shape}")
        return float(np.mean((outputs >= 0.5) == (y >= 0.5)))
    if y.shape not in ((n,), (n, m)):
        raise ArgumentError(f"y must have shape ({n},) or ({n}, {m}); got {y.shape}")
    truth = y if y.ndim == 1 else y.argmax(axis=1)
    return float(np.mean(outputs.argmax(axis=1) == truth))


def label_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """The share of right labels where each of the m outputs is a yes-or-no of its own; both (n, m)."""
    return float(np.mean((outputs >= 0.5) == (y >= 0.5)))


def r2(outputs: np.ndarray, y: np.ndarray) -> float:
    """The coefficient of determination 1 - sum (y - a)^2 / sum (y - mean y)^2, averaged over the m outputs; both (n, m).

    An output whose target never changes counts as 1 where it is met exactly and as 0 elsewhere, as in scikit-learn.
    """
    residual = np.sum((y - outputs.astype(np.float64)) ** 2, axis=0)
    total = np.sum((y - y.mean(axis=0, dtype=np.float64)) ** 2, axis=0)
    varies = total > 0
    score = np.where(residual == 0, 1.0, 0.0)
    score[varies] = 1 - residual[varies] / total[varies]
    return float(score.mean())


def mean_absolute_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """The mean of |a - y| over all elements; both (n, m)."""
    return float(np.mean(np.abs(outputs.astype(np.float64) - y)))


def scores(predictions: np.ndarray, y: np.ndarray, loss: Loss) -> dict[str, float]:
    """The metrics that suit the loss: {"accuracy": ...} for the cross-entropies, else {"r2", "mean_absolute_error"}.

    predictions (n, m): what `Network.predict` returns.
    """
    if loss.output == "softmax" or (loss.output == "sigmoid" and predictions.shape[1] == 1):
        return {"accuracy": accuracy(predictions, y)}
    if loss.output == "sigmoid":
        return {"accuracy": label_accuracy(predictions, y)}
    return {"r2": r2(predictions, y), "mean_absolute_error": mean_absolute_error(predictions, y)}


def confusion_matrix(predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """counts[i, j]: rows of class i that were taken for class j, an (m, m) int64 array.

    predictions (n, m): scores or probabilities; y: labels (n,) from 0 to m-1.
    """
    m = predictions.shape[1]
    return np.bincount(np.asarray(y) * m + predictions.argmax(axis=1), minlength=m * m).reshape(m, m)
