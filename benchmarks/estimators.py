"""`gpubackprop.MLPClassifier` and `MLPRegressor` against scikit-learn's own on the CPU.

    python -m benchmarks.estimators        prints a line a job and writes benchmarks/results/estimators.json

The same jobs with the same numbers of epochs, on fresh random rows, by both in turns, in float32 for both. Each
job runs once before it counts. `benchmarks/readme.py` makes the table of the guide's page about scikit-learn of it.
"""

from __future__ import annotations

import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import sklearn.neural_network

import gpubackprop as gb
from benchmarks.common import RESULTS, write
from gpubackprop.bench.machine import machine

ROUNDS = 5

JOBS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "digits: 1,797 x 64, (100,), adam, 20 epochs": ("MLPClassifier", 1797, 64, {"max_iter": 20}),
    "1,797 x 64, (64, 32), sgd with early stopping, 20 epochs": (
        "MLPClassifier", 1797, 64, {"hidden_layer_sizes": (64, 32), "solver": "sgd", "early_stopping": True, "max_iter": 20},
    ),
    "500 x 20, (50,), lbfgs, 100 iterations": (
        "MLPRegressor", 500, 20, {"hidden_layer_sizes": (50,), "solver": "lbfgs", "max_iter": 100},
    ),
    "20,000 x 50, (100, 50), adam, batch 200, 5 epochs": (
        "MLPRegressor", 20_000, 50, {"hidden_layer_sizes": (100, 50), "max_iter": 5},
    ),
    "20,000 x 784, (512, 256), adam, batch 1024, 2 epochs": (
        "MLPClassifier", 20_000, 784, {"hidden_layer_sizes": (512, 256), "batch_size": 1024, "max_iter": 2},
    ),
}  # fmt: skip
"""What a job is -> estimator, rows, columns, and its settings beside the defaults."""


def rows(kind: str, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Fresh random rows, and targets that depend on them."""
    rng = np.random.default_rng()
    x = rng.standard_normal((n, d), np.float32)
    hidden = np.tanh(x @ rng.standard_normal((d, 8), np.float32))
    if kind == "MLPRegressor":
        return x, hidden.sum(axis=1)
    return x, np.argmax(hidden @ rng.standard_normal((8, 10), np.float32), axis=1)


def timed(library: Any, kind: str, settings: dict[str, Any], x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Seconds of a fit, and of the predictions of all its rows: the median of five times."""
    model = getattr(library, kind)(random_state=0, n_iter_no_change=10_000, tol=0.0, **settings)
    started = time.perf_counter()
    model.fit(x, y)
    fitted, predicted = time.perf_counter() - started, []
    for _ in range(5):
        started = time.perf_counter()
        model.predict(x)
        predicted.append(time.perf_counter() - started)
    return fitted, median(predicted)


def main() -> None:
    """Measure every job in turns."""
    warnings.simplefilter("ignore")
    found = []
    for what, (kind, n, d, settings) in JOBS.items():
        rounds = []
        for _ in range(ROUNDS + 1):
            x, y = rows(kind, n, d)
            rounds.append([timed(library, kind, settings, x, y) for library in (gb, sklearn.neural_network)])
            time.sleep(0.2)
        counted = rounds[1:]
        row = {"what": f"{kind}: {what}"}
        for i, part in enumerate(("fit", "predict")):
            ours, theirs = ([r[k][i] for r in counted] for k in (0, 1))
            ratio = median(b / a for a, b in zip(ours, theirs, strict=True))
            row[part] = {"ours": median(ours), "scikit-learn": median(theirs), "times": ratio}
        print(f"{row['what']:<75} fit {row['fit']['times']:.2f} times as fast, predict {row['predict']['times']:.2f}")
        found.append(row)
    write(RESULTS / "estimators.json", {"machine": machine(("numpy", "scikit-learn")), "jobs": found})


if __name__ == "__main__":
    main()
