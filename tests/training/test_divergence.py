"""Losses that are no longer finite."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.small import assert_same_bits, make_data

N, SIZE = 40, 8
pytestmark = pytest.mark.filterwarnings("error")


class TooFast(gb.Callback):
    """Raises the learning rate beyond all bounds after an epoch."""

    def __init__(self, after: int = 2) -> None:
        self.after = after
        self.weights: dict[str, np.ndarray] = {}

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        if record["epoch"] == self.after:
            self.weights = trainer.net.get_weights()
            trainer.optimizer.learning_rate = 1e30


def network(device: Any = "cpu", **options: Any) -> gb.Network:
    layers = [gb.Dense(5, 6, "relu"), gb.BatchNorm(6), gb.Dropout(0.2), gb.Dense(6, 3)]
    return gb.Network(layers, **{"loss": "half_squared_error", "device": device, "seed": 2, **options})


def blown_up(device: Any = "cpu", **options: Any) -> tuple[gb.Trainer, TooFast]:
    x, y = make_data(N, 5, 3)
    callback = TooFast()
    trainer = gb.Trainer(network(device), gb.SGD(0.01, momentum=0.9), callbacks=[callback])
    trainer.fit(x, y, **{"epochs": 8, "batch_size": SIZE, **options})
    return trainer, callback


@pytest.mark.parametrize("patience", [None, 1])
@pytest.mark.parametrize("micro", [None, 3])
def test_stopped_it_has_the_last_finite_weights_and_says_where(patience: int | None, micro: int | None) -> None:
    trainer, callback = blown_up(patience=patience, micro_batch_size=micro)
    history = trainer.history
    assert history.stopped == "diverged"
    assert [isfinite(loss) for loss in history["loss"]] == [True, True, False]
    assert_same_bits(trainer.net.get_weights(), callback.weights)
    assert history.diagnosis is not None
    for part in (
        "in epoch 3, between its steps 1 and 5",
        "learning rate 1e+30",
        "layer 0, Dense(",
        "largest activations",
    ):
        assert part in history.diagnosis
    sizes = [float(v) for v in history.diagnosis.rpartition(": ")[2].split(", ")]
    assert len(sizes) == 4
    assert all(map(isfinite, sizes))
    assert history.diagnosis in repr(history)


@pytest.mark.parametrize("device", ["cpu", "strict", "cuda"])
@pytest.mark.parametrize("rule", ["adam", "momentum"])
def test_after_a_fit_that_stopped_the_next_one_begins_with_a_finite_optimizer(
    device: str,
    rule: str,
    gpu: Any,  # noqa: F811
) -> None:
    """Adam's v overflows where the gradient does not, and would stop every parameter for ever."""
    x, y = make_data(N, 5, 3)
    bad = y.copy()
    bad[SIZE : 2 * SIZE] = 1e25
    options: dict[str, Any] = {"epochs": 2, "batch_size": SIZE}
    trainers = []
    for wrong in (True, False):
        optimizer = gb.Adam(0.01) if rule == "adam" else gb.SGD(0.01, momentum=0.9)
        trainer = gb.Trainer(network(device), optimizer)
        trainer.fit(x, y, **options)
        if wrong:
            optimizer.learning_rate = 0.01 if rule == "adam" else 1e12
            assert trainer.fit(x, bad if rule == "adam" else y, **options).stopped == "diverged"
            assert trainer.history["learning_rate"] == [optimizer.learning_rate]
            trainer.net.epochs, optimizer.learning_rate = 2, 0.01
        assert trainer.fit(x, y, **options).stopped == "epochs"
        trainers.append(trainer)
    assert_same_bits(trainers[0].optimizer.get_state(), trainers[1].optimizer.get_state())
    assert_same_bits(trainers[0].net.get_weights(), trainers[1].net.get_weights())


@pytest.mark.parametrize("device", ["cpu", "strict", "cuda"])
def test_a_moment_that_overflows_is_told_though_the_loss_is_finite(device: str, gpu: Any) -> None:  # noqa: F811
    """The square of the gradient is beyond float32, and the step it divides is 0 from then on."""
    x, y = make_data(N, 5, 3)
    x[:SIZE] *= 1e12
    trainer = gb.Trainer(gb.mlp([5, 3], loss="half_squared_error", device=device), gb.Adam(0.01))
    before = trainer.net.get_weights()
    history = trainer.fit(x, y, epochs=5, batch_size=SIZE)
    assert (history.stopped, len(history)) == ("diverged", 1)
    assert "layer 0, Dense" in str(history.diagnosis)
    assert "the values of 0.weight (v of Adam)" in str(history.diagnosis)
    assert_same_bits(trainer.net.get_weights(), before)
    assert all(np.isfinite(array).all() for array in trainer.optimizer.get_state().values())


def test_a_second_fit_that_stops_in_its_first_epoch_has_the_rate_of_its_first_step() -> None:
    x, y = make_data(N, 5, 3)
    trainer = gb.Trainer(network(), gb.Adam(0.01, schedule="cosine"))
    trainer.fit(x, y, epochs=1, batch_size=SIZE)
    history = trainer.fit(x, np.full_like(y, 3e38), epochs=1, batch_size=SIZE, on_nan="skip")
    assert (history.stopped, history["learning_rate"]) == ("diverged", [0.01])
    assert trainer.optimizer.current_learning_rate() == 0.01


def test_restored_the_fit_goes_on_with_a_smaller_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, callback = blown_up(on_nan="restore", epochs=4)
    assert trainer.history.stopped == "diverged", "ten times half of 1e30 is not enough"
    assert trainer.optimizer.learning_rate == 1e30 / 2**10
    assert_same_bits(trainer.net.get_weights(), callback.weights)
    monkeypatch.setattr("gpubackprop.training.trainer.RESTORES", 200)
    trainer, _ = blown_up(on_nan="restore", epochs=6)
    history = trainer.history
    assert history.stopped == "epochs"
    assert all(map(isfinite, history["loss"]))
    halves = np.log2(1e30 / trainer.optimizer.learning_rate)
    assert halves == int(halves) > 50
    # The epoch is the one of a fit that had this rate from the start of it.
    x, y = make_data(N, 5, 3)
    again = gb.Trainer(network(), gb.SGD(0.01, momentum=0.9))
    again.fit(x, y, epochs=2, batch_size=SIZE)
    again.optimizer.learning_rate = history["learning_rate"][2]
    assert again.fit(x, y, epochs=1, batch_size=SIZE)["loss"] == [history["loss"][2]]


@pytest.mark.parametrize("how", [{}, {"device": "strict"}, {"capture": False}], ids=str)
def test_skipped_steps_leave_everything_as_it_was(how: dict[str, Any]) -> None:
    """A batch with a loss beyond all bounds: the fit is the one without it, but for the order."""
    x, y = make_data(N, 5, 3)
    y[:SIZE] = 3e38
    nets, rules = [network(**how) for _ in range(2)], [gb.Adam(0.01), gb.Adam(0.01)]
    history = gb.Trainer(nets[0], rules[0]).fit(x, y, epochs=3, batch_size=SIZE, shuffle=False, on_nan="skip")
    assert history["skipped"] == [SIZE] * 3
    assert history.stopped == "epochs"
    assert rules[0].t == 3 * (N // SIZE - 1)
    for _ in range(3):
        nets[1].engine.set_count(nets[1].engine.count() + 1)
        for rows in np.split(np.arange(SIZE, N), N // SIZE - 1):
            nets[1].train_step(x[rows], y[rows], rules[1])
    for name, want in nets[1].get_weights().items():
        np.testing.assert_allclose(nets[0].get_weights()[name], want, rtol=1e-5, atol=1e-6)


class Overflow(gb.Callback):
    """Lets the last update of the second epoch overflow."""

    every_steps = 1

    def on_progress(self, trainer: Any, progress: Any) -> None:
        if (progress.epoch, progress.step) == (2, progress.steps_per_epoch - 1):
            trainer.optimizer.learning_rate = 1e300

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        trainer.optimizer.learning_rate = 0.01


@pytest.mark.parametrize("on_nan", ["stop", "skip", "restore"])
@pytest.mark.parametrize("epochs", [2, 4])
def test_an_overflow_in_the_last_update_of_an_epoch_does_not_stay(on_nan: str, epochs: int) -> None:
    x, y = make_data(N, 5, 3)
    nets = [network(), network()]
    gb.Trainer(nets[0], gb.SGD(0.01)).fit(x, y, epochs=1, batch_size=SIZE)
    trainer = gb.Trainer(nets[1], gb.SGD(0.01), callbacks=[Overflow()])
    history = trainer.fit(x, y, epochs=epochs, batch_size=SIZE, on_nan=on_nan)
    assert history.stopped == "diverged"
    assert [isfinite(loss) for loss in history["loss"]] == [True, False]
    assert "the values of 0.weight, 0.bias" in str(history.diagnosis)
    for name, want in nets[0].get_weights().items():
        np.testing.assert_allclose(nets[1].get_weights()[name], want, rtol=1e-5, atol=1e-6)


def test_where_every_step_is_skipped_there_is_no_loss() -> None:
    x, y = make_data(N, 5, 3)
    history = gb.Trainer(network(), gb.SGD(0.01)).fit(x, np.full_like(y, 3e38), epochs=3, on_nan="skip")
    assert history.stopped == "diverged"
    assert np.isnan(history["loss"]).tolist() == [True]
    assert "the loss is nan in epoch 1" in str(history.diagnosis)


class Written(gb.Checkpoints):
    """Waits for each checkpoint."""

    def save(self, trainer: Any) -> None:
        super().save(trainer)
        self.flush()


@pytest.mark.parametrize("step", [3, 6, 9])
@pytest.mark.parametrize(
    ("schedule", "warmup"), [("constant", 0.0), ("constant", 1.5), ("cosine", 0.0)], ids=["plain", "warmup", "cosine"]
)
def test_a_fit_that_skips_goes_on_from_a_checkpoint(schedule: str, warmup: float, step: int, tmp_path: Path) -> None:
    """The schedule begins where it began, though the skipped steps are none of the optimizer."""
    x, y = make_data(N - 3, 5, 3)
    y[:SIZE] = y[-SIZE + 3 :] = 3e38
    options: dict[str, Any] = {"epochs": 3, "batch_size": SIZE, "shuffle": False, "on_nan": "skip", "warmup": warmup}
    rule = gb.Adam(0.01, schedule=schedule)
    whole = gb.Trainer(network(), rule, callbacks=[Written(tmp_path, "3 steps", keep=9)])
    whole.fit(x, y, **options)
    resumed = gb.Trainer.resume(tmp_path / f"step-{step:010}.safetensors", device="cpu")
    resumed.continue_fit(x, y)
    for column in ("loss", "learning_rate", "skipped"):
        assert resumed.history[column] == whole.history[column]
    assert whole.history["skipped"] == [2 * SIZE - 3] * 3
    assert_same_bits(resumed.net.get_weights(), whole.net.get_weights())


def test_the_gradient_norm_is_the_mean_over_the_steps_that_were_done() -> None:
    x, y = make_data(N, 5, 3)
    y[:SIZE] = 3e38
    options: dict[str, Any] = {"batch_size": SIZE, "epochs": 1, "shuffle": False, "gradient_tolerance": 1e-12}
    norms = []
    for first, on_nan in ((0, "skip"), (SIZE, "stop")):
        net = gb.mlp([5, 6, 3], loss="half_squared_error", device="cpu", seed=2)
        norms += gb.Trainer(net, gb.SGD(1e-30)).fit(x[first:], y[first:], on_nan=on_nan, **options)["gradient_norm"]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_a_fit_without_trouble_is_the_same_whatever_is_asked() -> None:
    x, y = make_data(N, 5, 3)
    found = []
    for on_nan in ("stop", "restore", "skip"):
        net = network()
        history = gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=4, batch_size=SIZE, on_nan=on_nan)
        assert history.diagnosis is None
        found.append(net.get_weights())
    assert_same_bits(found[0], found[1])
    for name, want in found[0].items():
        np.testing.assert_allclose(found[2][name], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("on_nan", ["stop", "restore", "skip"])
def test_on_a_gpu(gpu: Any, on_nan: str) -> None:  # noqa: F811
    trainer, callback = blown_up("cuda", on_nan=on_nan, epochs=3)
    assert all(np.isfinite(w).all() for w in trainer.net.get_weights().values())
    if on_nan == "stop":
        assert_same_bits(trainer.net.get_weights(), callback.weights)
        assert "in epoch 3" in str(trainer.history.diagnosis)


def test_other_words_are_refused() -> None:
    x, y = make_data(N, 5, 3)
    with pytest.raises(ArgumentError, match="on_nan must be stop, skip or restore"):
        gb.Trainer(network()).fit(x, y, on_nan="ignore")


def test_without_memory_for_a_copy_the_last_finite_weights_are_kept_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpubackprop.training.divergence import LastGood

    net = network("strict")
    optimizer = gb.Adam(0.01)
    x, y = make_data(N, 5, 3)
    net.train_step(x, y, optimizer)

    def none(self: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(type(net.engine.parameters.P), "copy", none)
    kept = LastGood(net, optimizer)
    kept.take()
    monkeypatch.undo()
    before, state = net.get_weights(), optimizer.get_state()
    net.train_step(x, y, optimizer)
    kept.put_back()
    assert_same_bits(net.get_weights(), before)
    assert_same_bits(optimizer.get_state(), state)
