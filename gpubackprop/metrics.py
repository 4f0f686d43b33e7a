"""How good predictions are: accuracy for classes, R^2 and mean absolute error for numbers. Host arrays throughout."""

from __future__ import annotations

import numpy as np

from gpubackprop.errors import ArgumentError
from gpubackprop.losses import Loss
from gpubackprop.precision import is_constant


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

    An output whose target never changes, but for rounding, counts as 1 where it is met and as 0 elsewhere, as in
    scikit-learn.
    """
    n, mean = len(y), y.mean(axis=0, dtype=np.float64)
    residual = np.mean((y - outputs.astype(np.float64)) ** 2, axis=0)
    variance = np.mean((y - mean) ** 2, axis=0)
    varies = ~is_constant(variance, mean, n)
    score = np.where(is_constant(residual, mean, n), 1.0, 0.0)
    score[varies] = 1 - residual[varies] / variance[varies]
    return float(score.mean())


def mean_absolute_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """The mean of |a - y| over all elements; both (n, m)."""
    return float(np.mean(np.abs(outputs.astype(np.float64) - y)))


def root_mean_squared_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """The square root of the mean of (a - y)^2 over all elements; both (n, m)."""
    return float(np.sqrt(np.mean((outputs.astype(np.float64) - y) ** 2)))


def log_loss(probabilities: np.ndarray, y: np.ndarray) -> float:
    """The mean of -log p of the class that is right. probabilities (n, m); y: labels (n,), or (n, m) of 0 and 1, each of whose
    elements is a yes-or-no of its own. A probability of 0 counts as the smallest that its type can tell from 0 beside 1."""
    least = np.finfo(probabilities.dtype).eps
    p = np.clip(probabilities.astype(np.float64), least, 1 - least)
    if y.ndim == 1:
        return float(-np.mean(np.log(p[np.arange(len(y)), y])))
    return float(-np.mean(np.where(y >= 0.5, np.log(p), np.log1p(-p))))


def balanced_accuracy(counts: np.ndarray) -> float:
    """The mean over the classes of the share of their rows that is right. counts (m, m): a `confusion_matrix`."""
    rows = counts.sum(axis=1)
    return float(np.mean(counts.diagonal()[rows > 0] / rows[rows > 0]))


def macro_f1(counts: np.ndarray) -> float:
    """The mean over the classes of F1 = 2 TP / (2 TP + FP + FN), those left out that no row has and none was taken for.

    counts (m, m): a `confusion_matrix`.
    """
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2 * counts.diagonal()[total > 0] / total[total > 0]))


def roc_auc(outputs: np.ndarray, y: np.ndarray) -> float:
    """The chance that a row of a class has a larger output for it than a row of another class, ties counting half: the area
    under the ROC curve. The mean over the classes, each against all others; of two, they are the same.

    outputs (n, m): scores or probabilities. y: labels (n,), or (n, m) of 0 and 1. NaN where no class has both kinds of rows.
    """
    found = []
    for k in range(outputs.shape[1]):
        mine = y == k if y.ndim == 1 else y[:, k] >= 0.5
        yes, no = int(mine.sum()), int((~mine).sum())
        if yes and no:
            # The rank-sum statistic of Mann and Whitney (1947), with the mean of the ranks for equal outputs.
            _, inverse, count = np.unique(outputs[:, k], return_inverse=True, return_counts=True)
            ranks = np.cumsum(count) - (count - 1) / 2
            found.append((ranks[inverse.reshape(-1)][mine].sum() - yes * (yes + 1) / 2) / (yes * no))
    return float(np.mean(found)) if found else float("nan")


def scores(predictions: np.ndarray, y: np.ndarray, loss: Loss) -> dict[str, float]:
    """The metrics that suit the loss: {"accuracy": ...} for the cross-entropies, else {"r2", "mean_absolute_error"}.

    predictions (n, m): what `Network.predict` returns.
    """
    if loss.output == "softmax" or (loss.output == "sigmoid" and predictions.shape[1] == 1):
        return {"accuracy": accuracy(predictions, y)}
    if loss.output == "sigmoid":
        return {"accuracy": label_accuracy(predictions, y)}
    # Predictions of a network that diverged: what comes of them is no number, and says so.
    with np.errstate(over="ignore", invalid="ignore"):
        return {"r2": r2(predictions, y), "mean_absolute_error": mean_absolute_error(predictions, y)}


def confusion_matrix(predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """counts[i, j]: rows of class i that were taken for class j, an (m, m) int64 array.

    predictions (n, m): scores or probabilities; y: labels (n,) from 0 to m-1, of any integer type. Raises ArgumentError for
    another shape or label.
    """
    n, m = predictions.shape
    truth = np.asarray(y).astype(np.int64)
    if truth.shape != (n,) or (n and not 0 <= truth.min() <= truth.max() < m):
        span = f" from {truth.min()} to {truth.max()}" if truth.size else ""
        raise ArgumentError(f"y must be {n} labels from 0 to {m - 1}, one for each row; got shape {truth.shape}{span}")
    return np.bincount(truth * m + predictions.argmax(axis=1), minlength=m * m).reshape(m, m)
