"""What `fit` measures, holds out and shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4)).astype(np.float32)
Y = (X[:, 0] > 0.8).astype(np.int64)


def trainer(device: str = "cpu", **options: Any) -> gb.Trainer:
    net = gb.mlp([4, 8, 2], loss="cross_entropy", seed=7, device=device)
    return gb.Trainer(net, gb.Adam(0.01), **options)


def spread(y: np.ndarray, prediction: np.ndarray) -> float:
    return float(prediction.max() - prediction.min())


def test_the_metrics_of_a_fit_are_in_its_history() -> None:
    t = trainer()
    history = t.fit(X, Y, epochs=2, validation_data=(X[:50], Y[:50]), metrics=["f1", "roc_auc", spread])
    assert {k for k in history.records[-1] if k.startswith("val_")} == {
        "val_loss",
        "val_f1",
        "val_roc_auc",
        "val_spread",
    }
    assert "f1" not in history.records[-1]
    now = gb.evaluate(t.net, X[:50], Y[:50], metrics=["f1", "roc_auc", spread])
    assert {f"val_{k}": v for k, v in now.items()} == {
        k: v for k, v in history.records[-1].items() if k in map("val_{}".format, now)
    }


@pytest.mark.parametrize("options", [{}, {"validation_data": (X[:50], Y[:50]), "training_metrics": True}])
def test_metrics_of_the_training_rows(options: dict[str, Any]) -> None:
    t = trainer()
    history = t.fit(X, Y, epochs=2, metrics=["accuracy", "top_1"], **options)
    assert history["accuracy"][-1] == history["top_1"][-1] == gb.evaluate(t.net, X, Y)["accuracy"]
    assert history["loss"][-1] != gb.evaluate(t.net, X, Y)["loss"], "that of the steps"


def test_metrics_are_refused_before_the_first_step() -> None:
    t = trainer()
    for metrics in (["r2"], ["acc"], ["top_2"]):
        with pytest.raises(gb.GpuBackpropError):
            t.fit(X, Y, epochs=1, metrics=metrics)
    assert t.net.epochs == 0


def test_the_best_epoch_of_a_metric_that_is_best_large() -> None:
    history = trainer().fit(
        X, Y, epochs=12, validation_split=0.3, metrics=["roc_auc"], monitor="val_roc_auc", patience=20
    )
    values = history["val_roc_auc"]
    assert history.best_epoch == 1 + int(np.argmax(values))
    with pytest.raises(gb.GpuBackpropError, match=r'EarlyStopping\(.*mode="min"'):
        trainer().fit(X, Y, epochs=1, metrics=[spread], monitor="spread", patience=1)


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_a_split_is_of_each_class_and_the_same_everywhere(device: str) -> None:
    t = trainer(device)
    be, seen = t.net.backend, {}

    class See(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            seen["data"] = [
                np.asarray(be.to_host(a) if be.owns(a) else a)
                for a in (trainer._data.x, trainer._data.y, *trainer._data.validation)
            ]

    t.callbacks.append(See())
    x, y = (be.asarray(X), be.asarray(Y)) if device == "strict" else (X, Y)
    t.fit(x, y, epochs=1, validation_split=0.25, metrics=["f1"], training_metrics=True)
    kept, held = gb.data.split(200, 0.25, seed=7, labels=Y)
    for found, expected in zip(seen["data"], (X[kept], Y[kept], X[held], Y[held]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert abs(Y[held].mean() - Y.mean()) < 0.02


def test_a_split_in_numbers() -> None:
    """The weights of a fit with validation_split are those of one with the rows divided beforehand."""
    kept, held = gb.data.split(200, 0.25, seed=7, labels=Y)
    weights = RNG.random(200)
    a, b = trainer(), trainer()
    first = a.fit(X, Y, epochs=3, validation_split=0.25, sample_weight=weights)
    second = b.fit(X[kept], Y[kept], epochs=3, validation_data=(X[held], Y[held]), sample_weight=weights[kept])
    assert first["val_loss"] == second["val_loss"]


def test_a_column_to_monitor_needs_patience() -> None:
    with pytest.raises(gb.GpuBackpropError, match="give patience too"):
        trainer().fit(X, Y, epochs=1, monitor="loss")


def test_a_split_that_cannot_be(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for x, options, match in (
        (X, {"validation_split": 0.2, "validation_data": (X, Y)}, "both given"),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), {"validation_split": 0.2}, "memory-mapped"),
        (X, {"validation_split": 1.5}, "validation_split must be"),
        (X, {"validation_split": 0}, "validation_split must be"),
    ):
        with pytest.raises(gb.GpuBackpropError, match=match):
            trainer().fit(x, Y, epochs=1, **options)


def test_a_fit_with_split_and_metrics_goes_on_to_the_same_result(tmp_path: Path) -> None:
    options: dict[str, Any] = {"validation_split": 0.2, "metrics": ["f1", spread], "training_metrics": True}
    whole = trainer()
    expected = whole.fit(X, Y, epochs=6, **options)

    class Stop(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            if record["epoch"] == 3:
                raise KeyboardInterrupt

    halted = trainer(callbacks=[gb.Checkpoints(tmp_path, "1 epochs"), Stop()])
    with pytest.raises(KeyboardInterrupt):
        halted.fit(X, Y, epochs=6, **options)
    with pytest.raises(gb.GpuBackpropError, match=r"among those of the fit, \['spread'\]; got \[\]"):
        gb.Trainer.resume(tmp_path, device="cpu").continue_fit(X, Y)
    with pytest.raises(gb.GpuBackpropError, match=r"\[.spread.\]; got \[.spread., "):
        gb.Trainer.resume(tmp_path, device="cpu").continue_fit(X, Y, metrics=[spread, test_a_split_in_numbers])
    again = gb.Trainer.resume(tmp_path, device="cpu")
    found = again.continue_fit(X, Y, metrics=[spread])
    for column in ("loss", "val_loss", "f1", "val_f1", "val_spread"):
        assert found[column] == expected[column]
    for name, array in whole.net.get_weights().items():
        np.testing.assert_array_equal(array, again.net.get_weights()[name])


SCRIPT = """
import numpy as np, gpubackprop as gb
net = gb.mlp([2, 3, 2], loss="cross_entropy", device="cpu")
gb.Trainer(net).fit(np.eye(2), [0, 1], epochs=3{option})
"""


@pytest.mark.parametrize(("option", "shown"), [("", False), (", verbose=True", True), (", verbose=False", False)])
def test_a_pipe_is_told_what_is_asked_for(option: str, shown: bool) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1"}
    script = [sys.executable, "-c", SCRIPT.format(option=option) + "import sys; print('rich' in sys.modules)"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    assert ("epoch 3/3" in done.stdout) is shown
    assert done.stdout.splitlines()[-1].endswith(str(shown)), "what shows nothing imports nothing for it"
    assert not done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are others there")
@pytest.mark.parametrize(("option", "shown"), [("", True), (", verbose=False", False)])
def test_a_terminal_is_told_unless_it_is_not_wanted(option: str, shown: bool) -> None:
    import pty

    mine, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT.format(option=option)], stdout=theirs) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(mine, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            text += part
    os.close(mine)
    assert process.returncode == 0
    assert (b"epoch 3/3" in text) is shown


def test_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    trainer().fit(X, Y, epochs=1)
    assert "epoch 1/1" in capsys.readouterr().out
    with pytest.raises(TypeError, match="verbose must be"):
        trainer().fit(X, Y, epochs=1, verbose="yes")  # type: ignore[arg-type]


def test_a_split_of_sparse_rows() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    history = [trainer().fit(x, Y, epochs=2, validation_split=0.2)["val_loss"] for x in (X, sparse.csr_array(X))]
    assert history[0] == pytest.approx(history[1])


def test_beside_a_stream() -> None:
    """Validation data is in memory; what would need all rows of a stream there is refused."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)

    def stream() -> gb.Stream:
        return gb.open_stream(lambda: [(x[:40], y[:40]), (x[40:], y[40:])], rows=60)

    def trainer() -> gb.Trainer:
        return gb.Trainer(gb.mlp([4, 5, 3], loss="cross_entropy", device="cpu"), "adam")

    history = trainer().fit(stream(), epochs=2, validation_data=(x, y), metrics=["f1"], monitor="val_f1", patience=3)
    assert "val_f1" in history.records[-1]
    for options in ({"validation_split": 0.2}, {"training_metrics": True}, {"metrics": ["accuracy"]}):
        with pytest.raises(ArgumentError, match="in memory"):
            trainer().fit(stream(), epochs=1, **options)
