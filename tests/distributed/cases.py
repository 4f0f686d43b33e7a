"""Fits of several kinds, in as many processes as there are: what rank 0 has at the end goes into a file.

python cases.py OUT, in one process or under mpiexec.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import gpubackprop as gb
from gpubackprop.losses import CrossEntropy

ROWS = 37
"""A prime, which no number of processes divides, and no batch size."""

Case = tuple[gb.Network, Any, dict[str, Any]]


def network(
    hidden: list[Any] | None = None, loss: Any = "cross_entropy", outputs: int = 3, **options: Any
) -> gb.Network:
    """A small network for `data`."""
    layers = hidden or [gb.Dense(4, 8, activation="tanh")]
    return gb.Network(
        [*layers, gb.Dense(8, outputs)], loss=loss, **{"dtype": "float64", "device": "cpu", "seed": 5} | options
    )


def _case(net: gb.Network, optimizer: Any, **options: Any) -> Case:
    return net, optimizer, {"epochs": 3, "batch_size": 10, **options}


def _regularized() -> gb.Network:
    return network([gb.Dense(4, 8, activation="relu"), gb.Dropout(0.4), gb.LayerNorm(8)], l1=1e-3, l2=1e-2)


def _frozen() -> gb.Network:
    net = network()
    net.layers[0].trainable = False
    return net


def batch_normalized() -> gb.Network:
    """Whose first layer normalises the rows themselves."""
    return network([gb.BatchNorm(4), gb.Dense(4, 8, activation="tanh")])


def _synchronized(**options: Any) -> gb.Network:
    norms = [gb.BatchNorm(4, synchronized=True), gb.Dense(4, 8, activation="tanh"), gb.BatchNorm(8, synchronized=True)]
    return network([*norms, gb.Dense(8, 8, activation="relu"), gb.Dropout(0.2)], **options)


def _weighted_classes() -> gb.Network:
    return network(loss=CrossEntropy(class_weights=[1.0, 0.3, 2.0], ignore_index=-1))


CASES: dict[str, Callable[[], Case]] = {
    "sgd": lambda: _case(network(), gb.SGD(0.1)),
    "momentum, one batch": lambda: _case(network(), gb.SGD(0.1, momentum=0.9), batch_size=None),
    "adam, dropout, norms, penalties": lambda: _case(_regularized(), gb.Adam(1e-2)),
    "clipping": lambda: _case(network(), gb.RMSprop(1e-2, clip_norm=0.05)),
    "lamb, micro batches, dropout": lambda: _case(_regularized(), gb.LAMB(1e-2, clip_value=0.01), micro_batch_size=2),
    "fewer rows than processes": lambda: _case(network(), gb.SGD(0.1), batch_size=3),
    "one row a step, dropout": lambda: _case(_regularized(), gb.SGD(0.1), batch_size=1, epochs=1),
    "weights of rows": lambda: _case(network(), gb.AdamW(1e-2), sample_weight=np.linspace(0, 2, ROWS)),
    "weights of classes": lambda: _case(_weighted_classes(), gb.SGD(0.1)),
    "rows that do not count, one by one": lambda: _case(_weighted_classes(), gb.SGD(0.1), batch_size=2),
    "skipping": lambda: _case(network(), gb.SGD(0.1), on_nan="skip"),
    "synchronized batchnorm": lambda: _case(_synchronized(), gb.Adam(1e-2), batch_size=13),
    "synchronized batchnorm, strict": lambda: _case(_synchronized(device="strict"), gb.Adam(1e-2), batch_size=None),
    "diverging": lambda: _case(network(loss="mean_squared_error", outputs=2), gb.SGD(1e200)),
    "going back": lambda: _case(network(loss="mean_squared_error", outputs=2), gb.SGD(1e200), on_nan="restore"),
    "patience, validation": lambda: _case(
        network(), gb.SGD(0.9), epochs=12, patience=2, validation_data=(data()[0][:9], data()[1][:9])
    ),
    "schedule, gradient norm": lambda: _case(
        network(), gb.SGD(0.1, schedule=gb.schedules.Cosine(warmup=3)), gradient_tolerance=1e-9
    ),
    "frozen layer": lambda: _case(_frozen(), gb.SGD(0.1)),
    # The sums go through the host.
    "strict": lambda: _case(network(device="strict"), gb.AdamW(1e-2, clip_norm=0.5)),
    "several targets": lambda: _case(network(loss="mean_squared_error", outputs=2), gb.SGD(0.1), batch_size=7),
}


def data(ignored: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, labels (of which some do not count, where that is asked for), and targets."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((ROWS, 4)), rng.integers(0, 3, ROWS)
    if ignored:
        y[::3] = -1
        y[:20] = -1
    return x, y, rng.standard_normal((ROWS, 2))


def run(distributed: str | None) -> dict[str, np.ndarray]:
    """The weights, the optimizer's state and the losses at the end of each case."""
    found: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        net, optimizer, options = case()
        x, labels, targets = data(ignored=not net.loss_function.counts_rows)
        trainer = gb.Trainer(net, optimizer, distributed=distributed)
        history = trainer.fit(x, labels if net.loss_function.labels else targets, **options)
        found |= {f"{name}: {k}": v for k, v in {**net.get_weights(), **trainer.optimizer.get_state()}.items()}
        columns = ("loss", "val_loss", "gradient_norm", "skipped")
        found[f"{name}: history"] = np.array([[r[k] for k in columns if k in r] for r in history])
        found[f"{name}: stopped"] = np.array(history.stopped)
    x, y, _ = data()
    trainer = gb.Trainer(
        network([gb.Residual([gb.Dense(4, 4, "tanh"), gb.Dropout(0.2)]), gb.Dense(4, 8)]), distributed=distributed
    )
    stream = gb.open_stream(lambda: [(x[:20], y[:20]), (x[20:], y[20:])], rows=ROWS, window=16)
    history = trainer.fit(
        stream, epochs=3, batch_size=7, validation_data=(x, y), metrics=["f1", "log_loss"], scale_learning_rate="sqrt"
    )
    found |= {f"stream: {k}": v for k, v in trainer.net.get_weights().items()}
    found["stream: history"] = np.array([[r["loss"], r["val_f1"], r["val_log_loss"]] for r in history])
    return found


if __name__ == "__main__":
    results = run("auto")
    ranks = gb.Trainer(network(), distributed="auto").ranks
    if ranks is None or ranks.leads:
        np.savez(sys.argv[1], **results)
