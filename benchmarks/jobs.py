"""One whole job by one library, from the start of this process: python benchmarks/jobs.py LIBRARY DATA.npz SETTINGS

LIBRARY is a key of LIBRARIES. DATA.npz holds x (n, d) float32, y (n,) int64 labels, x_test, y_test. SETTINGS is JSON: widths,
batch, epochs, seed, and goal, a test accuracy at which the job is done, or null. Prints a line when it is done, and then one
of JSON: epochs, accuracy, cpu (seconds of all threads until then), and the seconds of its parts.

Nothing is imported here that a library does not need: what it imports is part of its time.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LEARNING_RATE = 1e-3
CHUNK = 4096
"""Rows that are predicted at a time, by the libraries that ask."""


class Job:
    """What is to be done, and how far it is.

    path: of the data. settings: see above.
    """

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self.path = path
        self.widths: list[int] = settings["widths"]
        self.batch: int = settings["batch"]
        self.epochs: int = settings["epochs"]
        self.goal: float | None = settings["goal"]
        self.seed: int = settings["seed"]
        self.done = 0
        self.accuracy = 0.0
        self.parts: dict[str, float] = {}
        self._before = perf_counter()
        self._predict: Callable[[Any], Any] | None = None

    def load(self, predict: Callable[[Any], Any]) -> tuple[Any, Any]:
        """x and y. predict: gives the labels of rows; for the accuracy after an epoch. To be called after the imports."""
        self._part("import")
        import numpy as np

        with np.load(self.path) as arrays:
            x, y, self.x_test, self.y_test = (arrays[name] for name in ("x", "y", "x_test", "y_test"))
        self._predict = predict
        self._part("data")
        return x, y

    def reached(self) -> bool:
        """Whether the job is done after this epoch, which counts."""
        self.done += 1
        if self.goal is not None:
            self.measure()
        return self.done == self.epochs or (self.goal is not None and self.accuracy >= self.goal)

    def measure(self) -> None:
        """Predict the test rows."""
        assert self._predict is not None
        self.accuracy = float((self._predict(self.x_test) == self.y_test).mean())

    def report(self) -> None:
        """Say that it is done, and what it took."""
        self._part("fit")
        used = os.times()
        print("done", flush=True)
        if self.goal is None:
            self.done = self.epochs
            self.measure()
        cpu = used.user + used.system
        print(json.dumps({"epochs": self.done, "accuracy": self.accuracy, "cpu": cpu, "parts": self.parts}), flush=True)

    def _part(self, name: str) -> None:
        now = perf_counter()
        self.parts[name] = now - self._before
        self._before = now


def ours(job: Job) -> None:
    """This library."""
    import gpubackprop as gb

    class Stop(gb.Callback):
        """At the goal."""

        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            if job.reached():
                trainer.stop("goal")

    net: Any = None
    x, y = job.load(lambda rows: net.predict(rows).argmax(axis=1))
    net = gb.mlp(job.widths, loss="cross_entropy", device="cpu", seed=job.seed)
    callbacks = [] if job.goal is None else [Stop()]
    gb.Trainer(net, gb.Adam(LEARNING_RATE), callbacks=callbacks).fit(x, y, epochs=job.epochs, batch_size=job.batch)


def scikit_learn(job: Job) -> None:
    """MLPClassifier."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)
    model = MLPClassifier(
        job.widths[1:-1],
        alpha=0.0,
        batch_size=job.batch,
        learning_rate_init=LEARNING_RATE,
        max_iter=job.epochs,
        n_iter_no_change=job.epochs + 1,
        random_state=job.seed,
    )
    x, y = job.load(model.predict)
    if job.goal is None:
        model.fit(x, y)
        return
    classes = list(range(job.widths[-1]))
    model.partial_fit(x, y, classes=classes)
    while not job.reached():
        model.partial_fit(x, y)


def _module(widths: list[int]) -> Any:
    from itertools import pairwise

    from torch import nn

    layers: list[Any] = []
    for d, m in pairwise(widths):
        layers += [nn.Linear(d, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def pytorch(job: Job, by_index: bool = False) -> None:
    """PyTorch with its DataLoader, as its tutorials do it; or with batches taken out of the tensors by index."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(job.seed)
    model = _module(job.widths)

    def predict(rows: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(rows)).argmax(1).numpy()

    x, y = (torch.from_numpy(array) for array in job.load(predict))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    loader = DataLoader(TensorDataset(x, y), job.batch, shuffle=True)

    def batches() -> Any:
        return ((x[rows], y[rows]) for rows in torch.randperm(len(x)).split(job.batch)) if by_index else loader

    finished = False
    while not finished:
        for rows, labels in batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows), labels).backward()
            optimizer.step()
        finished = job.reached()


def pytorch_by_index(job: Job) -> None:
    """PyTorch, without its DataLoader."""
    pytorch(job, by_index=True)


def skorch(job: Job) -> None:
    """skorch's NeuralNetClassifier, with no more callbacks than it needs."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback

    class Stop(Callback):
        """At the goal, in the way that skorch documents: it catches the interrupt, and its weights stay."""

        def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
            if job.reached():
                raise KeyboardInterrupt

    torch.manual_seed(job.seed)
    net = NeuralNetClassifier(
        _module(job.widths),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=LEARNING_RATE,
        batch_size=job.batch,
        max_epochs=job.epochs,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=CHUNK,
        train_split=None,
        verbose=0,
        callbacks="disable" if job.goal is None else [("stop", Stop())],
    )
    net.fit(*job.load(net.predict))


def keras(job: Job) -> None:
    """Keras on PyTorch."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    class Stop(keras.callbacks.Callback):
        """At the goal."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if job.reached():
                self.model.stop_training = True

    keras.utils.set_random_seed(job.seed)
    hidden = [keras.layers.Dense(m, "relu") for m in job.widths[1:-1]]
    model = keras.Sequential([keras.Input(job.widths[:1]), *hidden, keras.layers.Dense(job.widths[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    x, y = job.load(lambda rows: model.predict(rows, CHUNK, verbose=0).argmax(axis=1))
    callbacks = [] if job.goal is None else [Stop()]
    model.fit(x, y, job.batch, job.epochs, verbose=0, callbacks=callbacks)


LIBRARIES = {
    "gpubackprop": ours,
    "scikit-learn": scikit_learn,
    "PyTorch, DataLoader": pytorch,
    "PyTorch, by index": pytorch_by_index,
    "skorch": skorch,
    "Keras": keras,
}


def main() -> None:
    library, path, settings = sys.argv[1:]
    job = Job(path, json.loads(settings))
    LIBRARIES[library](job)
    job.report()


if __name__ == "__main__":
    main()
