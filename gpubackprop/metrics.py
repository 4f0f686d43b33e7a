"""How good predictions are: accuracy for classes, R^2 and mean absolute error for numbers. Host arrays throughout.

Nothing is broadcast: targets of another shape than a metric says raise ArgumentError. Of outputs that hold NaN, as of a network
that diverged, every metric is NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gpubackprop.errors import ArgumentError, ArgumentTypeError, unknown_name
from gpubackprop.losses import Loss
from gpubackprop.precision import is_constant


def _check_classes(outputs: np.ndarray, y: np.ndarray) -> None:
    """ArgumentError unless y is (n, m), or labels (n,) of several outputs (n, m)."""
    n, m = outputs.shape
    if y.shape != (n, m) and (m == 1 or y.shape != (n,)):
        labels = "" if m == 1 else f"({n},) or "
        raise ArgumentError(f"y must have shape {labels}({n}, {m}) for outputs of shape ({n}, {m}); got {y.shape}")


def _check_labels(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y as int64; ArgumentError unless it is labels (n,) of outputs (n, m)."""
    (n, m), truth = outputs.shape, np.asarray(y).astype(np.int64)
    if truth.shape != (n,) or (n and not 0 <= truth.min() <= truth.max() < m):
        span = f" from {truth.min()} to {truth.max()}" if truth.size else ""
        raise ArgumentError(f"y must be {n} labels from 0 to {m - 1}, one for each row; got shape {truth.shape}{span}")
    return truth


def _same_shape(outputs: np.ndarray, y: np.ndarray) -> None:
    if outputs.shape != y.shape:
        raise ArgumentError(f"y must have the shape of the outputs, {outputs.shape}; got {y.shape}")


def _has_nan(outputs: np.ndarray) -> bool:
    return bool(np.isnan(outputs).any())


def accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """The share of rows whose class is right.

    outputs (n, m): scores or probabilities, the class being the largest; with m = 1, a probability whose class is 1 from
    0.5 on. y: labels (n,), or one-hot (n, m), or (n, 1) of 0 and 1.
    """
    _check_classes(outputs, y)
    if outputs.shape[1] == 1:
        return label_accuracy(outputs, y)
    if _has_nan(outputs):
        return float("nan")
    truth = y if y.ndim == 1 else y.argmax(axis=1)
    return float(np.mean(outputs.argmax(axis=1) == truth))


def label_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """The share of right labels where each of the m outputs is a yes-or-no of its own; both (n, m)."""
    _same_shape(outputs, y)
    if _has_nan(outputs):
        return float("nan")
    return float(np.mean((outputs >= 0.5) == (y >= 0.5)))


def r2(outputs: np.ndarray, y: np.ndarray) -> float:
    """The coefficient of determination 1 - sum (y - a)^2 / sum (y - mean y)^2, averaged over the m outputs; both (n, m).

    An output whose target never changes, but for rounding, counts as 1 where it is met and as 0 elsewhere, as in
    scikit-learn.
    """
    _same_shape(outputs, y)
    if _has_nan(outputs):
        return float("nan")
    n, mean = len(y), y.mean(axis=0, dtype=np.float64)
    residual = np.mean((y - outputs.astype(np.float64)) ** 2, axis=0)
    variance = np.mean((y - mean) ** 2, axis=0)
    varies = ~is_constant(variance, mean, n)
    score = np.where(is_constant(residual, mean, n), 1.0, 0.0)
    score[varies] = 1 - residual[varies] / variance[varies]
    return float(score.mean())


def mean_absolute_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """The mean of |a - y| over all elements; both (n, m)."""
    _same_shape(outputs, y)
    return float(np.mean(np.abs(outputs.astype(np.float64) - y)))


def root_mean_squared_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """The square root of the mean of (a - y)^2 over all elements; both (n, m)."""
    _same_shape(outputs, y)
    return float(np.sqrt(np.mean((outputs.astype(np.float64) - y) ** 2)))


def log_loss(probabilities: np.ndarray, y: np.ndarray) -> float:
    """The mean of -log p of the class that is right. probabilities (n, m); y: labels (n,), or (n, m) of 0 and 1, each of whose
    elements is a yes-or-no of its own. A probability of 0 counts as the smallest that its type can tell from 0 beside 1."""
    _check_classes(probabilities, y)
    if _has_nan(probabilities):
        return float("nan")
    least = np.finfo(probabilities.dtype).eps
    p = np.clip(probabilities.astype(np.float64), least, 1 - least)
    if y.ndim == 1:
        return float(-np.mean(np.log(p[np.arange(len(y)), _check_labels(p, y)])))
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
    under the ROC curve. The mean over the classes, each against all others; of labels of two, that of the second.

    outputs (n, m): scores or probabilities. y: labels (n,), or (n, m) of 0 and 1. NaN where no class has both kinds of rows.
    """
    _check_classes(outputs, y)
    if _has_nan(outputs):
        return float("nan")
    found, m = [], outputs.shape[1]
    y = _check_labels(outputs, y) if y.ndim == 1 else y
    # The first of two would say the same, were p and 1 - p not rounded.
    for k in range(1 if y.ndim == 1 and m == 2 else 0, m):
        mine = y == k if y.ndim == 1 else y[:, k] >= 0.5
        yes, no = int(mine.sum()), int((~mine).sum())
        if yes and no:
            # The rank-sum statistic of Mann and Whitney (1947), with the mean of the ranks for equal outputs.
            _, inverse, count = np.unique(outputs[:, k], return_inverse=True, return_counts=True)
            ranks = np.cumsum(count) - (count - 1) / 2
            found.append((ranks[inverse.reshape(-1)][mine].sum() - yes * (yes + 1) / 2) / (yes * no))
    return float(np.mean(found)) if found else float("nan")


def f1(counts: np.ndarray) -> float:
    """F1 of the second of two classes; of more classes `macro_f1`. counts (m, m): a `confusion_matrix`; 0 where no row has the
    class and none was taken for it, as in scikit-learn."""
    if len(counts) > 2:
        return macro_f1(counts)
    total = counts[1].sum() + counts[:, 1].sum()
    return float(2 * counts[1, 1] / total) if total else 0.0


def top_k_accuracy(outputs: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of rows whose class is among the k with the largest outputs (n, m); of equal ones, the later are the larger, as
    in scikit-learn. labels (n,)."""
    labels = _check_labels(outputs, labels)
    if _has_nan(outputs):
        return float("nan")
    best = np.argsort(outputs, axis=1, kind="stable")[:, ::-1][:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


Metric = Callable[[np.ndarray, np.ndarray], float]
"""A function (y, prediction) -> a number, both host arrays: y (n,) labels or (n, m); prediction (n, m), as of `predict`."""

NAMES = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "roc_auc",
    "log_loss",
    "r2",
    "mean_absolute_error",
    "root_mean_squared_error",
    "mae_per_target",
)
"""The metrics known by name; beside them top_2, top_3, ..."""

COLUMNS = ("epoch", "loss", "learning_rate", "seconds", "samples_per_second", "gradient_norm", "skipped")
"""The columns of a history that are no metrics."""

_LARGER = ("accuracy", "r2", "f1", "auc", "precision", "recall", "top")
_SMALLER = ("loss", "error", "mae", "mse", "rmse", "norm")
_TURNED = {"neg", "negative", "minus"}


def larger_is_better(column: str) -> bool | None:
    """Whether a large value is good in this column of a history, as its name ends, numbers aside; None if it does not say,
    and of the negative of another."""
    *before, word = re.sub(r"_\d+$", "", column.lower()).split("_")
    if _TURNED.intersection(before):
        return None
    return True if word in _LARGER else False if word in _SMALLER else None


def is_known(name: str) -> bool:
    """Whether a metric of this file has the name."""
    return name in NAMES or re.fullmatch(r"top_[1-9]\d*", name) is not None


def checked(metrics: Sequence[str | Metric]) -> dict[str, Metric | None]:
    """The metrics by name, None for those of this file: functions bear their own. Raises ArgumentError for an unknown name or two
    of one name, ArgumentTypeError for what is neither a name nor a function."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise ArgumentTypeError(f"metrics must be a list of names and functions (y, prediction); got {metrics!r}")
    found: dict[str, Metric | None] = {}
    for metric in metrics:
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        if not isinstance(metric, str) and not callable(metric):
            raise ArgumentTypeError(f"metrics must be names or functions (y, prediction) -> float; got {metric!r}")
        if isinstance(metric, str) and not is_known(name):
            raise unknown_name("metric", name, (*NAMES, "top_3"))
        if name in (*found, *COLUMNS) or (is_known(name) and not isinstance(metric, str)):
            raise ArgumentError(f"metrics: {name!r} is the name of another; give the function another __name__")
        found[name] = None if isinstance(metric, str) else metric
    return found


def measured(
    metrics: Mapping[str, Metric | None], predictions: np.ndarray, y: np.ndarray, loss: Loss
) -> dict[str, float]:
    """The values of `checked` metrics. predictions (n, m): what `Network.predict` returns; y: (n,) labels or (n, m).

    Rows with the label that the loss ignores count in none; NaN where no others are left. mae_per_target gives mae_0, mae_1, ...
    Raises ArgumentError, naming the metric, where the loss or the targets have no use for it.
    """
    ignored = getattr(loss, "ignore_index", None)
    if y.ndim == 1 and ignored is not None:
        predictions, y = predictions[y != ignored], y[y != ignored]
    found: dict[str, float] = {}
    # Predictions of a network that diverged: what comes of them is no number, and says so.
    with np.errstate(over="ignore", invalid="ignore"):
        for name, function in metrics.items():
            if not len(y):
                found[name] = float("nan")
            elif function is not None:
                value = np.asarray(function(y, predictions))
                if value.ndim or value.dtype.kind not in "fiub":
                    raise ArgumentTypeError(f"the metric {name!r} must return a number; got {value!r}")
                found[name] = float(value)
            elif name == "mae_per_target" or name in _OF_VALUES:
                if loss.output not in ("identity", "exponential"):
                    raise ArgumentError(
                        f"the metric {name!r} is of numbers, and the loss {loss.name} of classes: leave it out"
                    )
                if name in _OF_VALUES:
                    found[name] = _OF_VALUES[name](predictions, y)
                else:
                    errors = [mean_absolute_error(predictions[:, i], y[:, i]) for i in range(y.shape[1])]
                    found |= {f"mae_{i}": error for i, error in enumerate(errors)}
            else:
                found[name] = _of_classes(name, predictions, y, loss)
    return found


_OF_VALUES = {
    "r2": r2,
    "mean_absolute_error": mean_absolute_error,
    "root_mean_squared_error": root_mean_squared_error,
}


def _of_classes(name: str, p: np.ndarray, y: np.ndarray, loss: Loss) -> float:
    """A metric of classes, or of several labels a row. p (n, m): probabilities; of one output, that of the second class."""
    if loss.output not in ("softmax", "sigmoid"):
        raise ArgumentError(f"the metric {name!r} is of classes, and the loss {loss.name} of numbers: leave it out")
    if name != "accuracy" and y.ndim == 2 and not np.isin(y, (0, 1)).all():
        raise ArgumentError(f"the metric {name!r} is of classes, and some targets are between 0 and 1: leave it out")
    of_labels = {"accuracy": label_accuracy, "roc_auc": roc_auc, "log_loss": log_loss}
    if loss.output == "sigmoid" and (p.shape[1] > 1 or name in of_labels):
        if name not in of_labels:
            raise ArgumentError(
                f"the metric {name!r} is of one class a row, and the targets are several labels: leave it out"
            )
        return of_labels[name](p, y)
    if _has_nan(p):
        return float("nan")
    if loss.output == "sigmoid":
        p, y = np.hstack([p < 0.5, p >= 0.5]).astype(p.dtype), y[:, 0].astype(np.int64)
    labels = y if y.ndim == 1 else y.argmax(axis=1)
    if name in ("roc_auc", "log_loss"):
        return of_labels[name](p, labels)
    if name.startswith("top_"):
        if (k := int(name[4:])) >= p.shape[1]:
            raise ArgumentError(f"the metric {name!r} is always 1 with {p.shape[1]} classes: leave it out")
        return top_k_accuracy(p, labels, k)
    if name == "accuracy":
        return accuracy(p, labels)
    counts = confusion_matrix(p, labels)
    return balanced_accuracy(counts) if name == "balanced_accuracy" else f1(counts)


def scores(predictions: np.ndarray, y: np.ndarray, loss: Loss) -> dict[str, float]:
    """The metrics that suit the loss: {"accuracy": ...} for the cross-entropies, else {"r2", "mean_absolute_error"}.

    predictions (n, m): what `Network.predict` returns. Rows with the label that the loss ignores do not count.
    """
    names = ["accuracy"] if loss.output in ("softmax", "sigmoid") else ["r2", "mean_absolute_error"]
    return measured(checked(names), predictions, y, loss)


def confusion_matrix(predictions: np.ndarray, y: np.ndarray) -> np.ndarray:
    """counts[i, j]: rows of class i that were taken for class j, an (m, m) int64 array.

    predictions (n, m): scores or probabilities; y: labels (n,) from 0 to m-1, of any integer type. Raises ArgumentError for
    another shape or label, and for predictions that hold NaN, which are of no class.
    """
    truth, m = _check_labels(predictions, y), predictions.shape[1]
    if _has_nan(predictions):
        row = int(np.argmax(np.isnan(predictions).any(axis=1)))
        raise ArgumentError(
            f"predictions must be numbers; got NaN in row {row}, which is of no class: leave such rows out"
        )
    return np.bincount(truth * m + predictions.argmax(axis=1), minlength=m * m).reshape(m, m)
