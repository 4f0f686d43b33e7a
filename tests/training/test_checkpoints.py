"""A fit that goes on from a checkpoint is the fit that was never interrupted, to the last bit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import gpubackprop as gb
from gpubackprop.backend.cpu.compiled import installed
from gpubackprop.errors import ArgumentError, ArgumentTypeError, CheckpointError
from gpubackprop.files import atomic
from gpubackprop.files.checkpoint import load_checkpoint
from gpubackprop.training import TrainingInterrupted
from gpubackprop.training import checkpoints as checkpoints_module
from gpubackprop.training.checkpoints import Checkpoints, Every, newest, stored
from tests.files.test_checkpoint import mutate, rewrite
from tests.small import OPTIMIZERS, assert_same_bits, make_data, make_optimizer

N, EPOCHS, SIZE = 22, 3, 6
X, Y = make_data(N, 5, 3, "cross_entropy")
VALIDATION = make_data(9, 5, 3, "cross_entropy", seed=1)


class Each(Checkpoints):
    """A checkpoint after every step and every epoch, each on the disk before training goes on."""

    def __init__(self, folder: Path, every: str = "1 step", keep: int = 10**6, **options: Any) -> None:
        super().__init__(folder, every, keep=keep, **options)

    def save(self, trainer: Any) -> None:
        super().save(trainer)
        self.flush()


class Slower(gb.Callback):
    """Changes the learning rate on the way, and gives early stopping a loss that rises from the third epoch on."""

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        trainer.optimizer.learning_rate *= 0.5
        record["rising_loss"] = abs(record["epoch"] - 3.0)


def network(**options: Any) -> gb.Network:
    layers = [gb.Dense(5, 7), gb.BatchNorm(7), gb.Activation("relu"), gb.Dropout(0.3), gb.Dense(7, 3)]
    return gb.Network(layers, **{"loss": "cross_entropy", "device": "cpu", "seed": 4, "l2": 0.01, **options})


CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    **{name: ({}, name, {}) for name in OPTIMIZERS},
    "float64": ({"dtype": "float64"}, "adam", {}),
    "on the strict device": ({"device": "strict"}, "adam", {}),
    "rows in order": ({}, "adam", {"shuffle": False}),
    "all rows at once": ({}, "adam", {"batch_size": None}),
    "in parts": ({}, "sgd momentum", {"micro_batch_size": 4}),
    "without recording": ({"capture": False}, "adam", {}),
    "early stopping": ({}, "adam", {"patience": 1, "monitor": "val_loss"}),
    "gradient tolerance": ({}, "adam", {"gradient_tolerance": 1e-9}),
}
if installed():
    CASES["machine code"] = ({"compile": True}, "sgd momentum", {})


def fit_of(name: str, callbacks: list[gb.Callback]) -> tuple[gb.Trainer, dict[str, Any]]:
    options, rule, fit = CASES[name]
    if "micro_batch_size" in fit or rule in ("lars", "lamb"):
        net = gb.mlp([5, 7, 3], **{"dropout": 0.3, "loss": "cross_entropy", "device": "cpu", **options})
    else:
        net = network(**options)
    schedule = gb.schedules.Cosine(warmup=3)
    trainer = gb.Trainer(net, make_optimizer(rule, schedule=schedule, clip_norm=5.0), callbacks=callbacks)
    return trainer, {"epochs": EPOCHS, "batch_size": SIZE, "validation_data": VALIDATION, **fit}


def timeless(history: gb.History) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "samples_per_second")} for r in history]


def assert_same_run(a: gb.Trainer, b: gb.Trainer) -> None:
    assert_same_bits(a.net.get_weights(), b.net.get_weights())
    assert_same_bits(a.optimizer.get_state(), b.optimizer.get_state())
    assert timeless(a.history) == timeless(b.history)
    assert (a.history.stopped, a.history.best_epoch) == (b.history.stopped, b.history.best_epoch)
    assert (a.net.engine.count(), a.net.epochs) == (b.net.engine.count(), b.net.epochs)
    assert a.optimizer.learning_rate == b.optimizer.learning_rate


@pytest.mark.parametrize("name", CASES)
def test_from_every_step_it_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    plain, options = fit_of(name, [Slower()])
    plain.fit(X, Y, **options)
    whole, _ = fit_of(name, [Slower(), Each(tmp_path)])
    whole.fit(X, Y, **options)
    assert_same_run(whole, plain)
    paths = stored(tmp_path)
    steps = 1 if options["batch_size"] is None else -(-N // SIZE)
    assert [int(p.stem[5:]) for p in paths] == list(range(1, len(plain.history) * steps + 1))
    # In the first epoch, between two, in the last, at its end; every one for one rule.
    for path in paths if name == "adam" else paths[:: max(len(paths) // 3, 1)]:
        resumed = gb.Trainer.resume(path, device=CASES[name][0].get("device", "cpu"), callbacks=[Slower()])
        resumed.continue_fit(X, Y, options["validation_data"])
        assert_same_run(resumed, plain)


def test_another_device_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole, options = fit_of("adam", [Each(tmp_path)])
    whole.fit(X, Y, **options)
    with pytest.warns(RuntimeWarning, match="device 'cpu', here 'strict'.* not bit for bit"):
        resumed = gb.Trainer.resume(stored(tmp_path)[4], device="strict")
    resumed.continue_fit(X, Y, VALIDATION)
    for name, array in whole.net.get_weights().items():
        np.testing.assert_allclose(resumed.net.get_weights()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_more_epochs(tmp_path: Path) -> None:
    short, options = fit_of("sgd momentum", [Checkpoints(tmp_path, "1 epoch")])
    short.optimizer.schedule = gb.schedules.Constant()
    short.fit(X, Y, **options)
    long, _ = fit_of("sgd momentum", [])
    long.optimizer.schedule = gb.schedules.Constant()
    long.fit(X, Y, **{**options, "epochs": EPOCHS + 2})
    resumed = gb.Trainer.resume(tmp_path, device="cpu")
    assert len(resumed.continue_fit(X, Y, VALIDATION, more_epochs=2)) == EPOCHS + 2
    assert_same_run(resumed, long)
    with pytest.raises(ArgumentError, match=r"Trainer\.resume"):
        resumed.continue_fit(X, Y)


def test_a_schedule_spreads_over_all_epochs_when_there_are_more(tmp_path: Path) -> None:
    short, options = fit_of("sgd", [Checkpoints(tmp_path, "1 epoch")])
    short.fit(X, Y, **options)
    resumed = gb.Trainer.resume(tmp_path, device="cpu")
    rates = resumed.continue_fit(X, Y, VALIDATION, more_epochs=3)["learning_rate"]
    total, first = (EPOCHS + 3) * 4, rates[EPOCHS]
    assert first == pytest.approx(make_optimizer("sgd").learning_rate * gb.schedules.Cosine(warmup=3, total=total)(15))


# -- every part of the state counts -----------------------------------------------------------------------------------


def without(part: str) -> Callable[[Any, dict[str, np.ndarray]], None]:
    """A change of a checkpoint as if `part` had been forgotten and began anew."""

    def change(manifest: Any, arrays: dict[str, np.ndarray]) -> None:
        extra = manifest["extra"]
        fresh = network().get_weights()
        if part in fresh:
            arrays[part] = fresh[part]
        elif part.startswith("optimizer."):
            arrays[part] = np.zeros_like(arrays[part])
        elif part in ("step", "epochs"):
            manifest[part] = 0
        elif part == "schedule":
            manifest["optimizer"]["settings"]["schedule"] = {"name": "constant", "warmup": 0, "total": None}
        elif part == "learning_rate":
            manifest["optimizer"]["settings"]["learning_rate"] = make_optimizer("adam").learning_rate
        elif part == "order":
            arrays["extra.order"] = np.arange(N, dtype=np.uint8)
        elif part == "position":
            extra["fit"]["step"] = 1
        elif part == "epoch":
            extra["fit"]["epoch"] = 0
        elif part == "sums":
            extra["fit"]["sums"] = [0.0, 0.0]
        elif part == "history":
            extra["history"] = []
        elif part == "best":
            next(c for c in extra["callbacks"] if c["type"] == "EarlyStopping")["values"]["best"] = None
        elif part == "best weights":
            for name in arrays:
                if ".weights." in name:
                    arrays[name] = fresh[name.partition(".weights.")[2]]
        else:
            extra["fit"] |= {"patience": None} if part == "patience" else {part: {"size": 5, "l2": 0}[part]}

    return change


PARTS = (
    "0.weight",
    "4.bias",
    "1.running_mean",
    "optimizer.t",
    "optimizer.m",
    "optimizer.v",
    "step",
    "epochs",
    "schedule",
)
PARTS += ("learning_rate", "order", "position", "epoch", "sums", "history", "best", "best weights", "patience", "size")


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gb.Trainer]:
    """A fit that early stopping ends in its fifth epoch, and its checkpoint in the middle of the fourth."""
    folder = tmp_path_factory.mktemp("early")
    trainer = gb.Trainer(network(), make_optimizer("adam", learning_rate=0.1, schedule=gb.schedules.Cosine(warmup=3)))
    trainer.callbacks += [Slower(), Each(folder)]
    trainer.fit(X, Y, epochs=6, batch_size=SIZE, validation_data=VALIDATION, patience=2, monitor="rising_loss")
    assert trainer.history.stopped == "patience"
    assert trainer.history.best_epoch == 3
    return stored(folder)[13], trainer


def entries(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as file:
        manifest = json.loads(file.metadata()["gpubackprop"].partition(" ")[2])
        return manifest, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewritten(source: Path, target: Path, change: Callable[[Any, dict[str, np.ndarray]], None]) -> Path:
    from gpubackprop.files.checkpoint import _fingerprint

    manifest, arrays = entries(source)
    change(manifest, arrays)
    rewrite(target, {**manifest, "arrays": {k: _fingerprint(v) for k, v in arrays.items()}}, arrays)
    return target


def resume(path: Path) -> gb.Trainer:
    trainer = gb.Trainer.resume(path, device="cpu", callbacks=[Slower(), Each(path.parent / "again" / path.name)])
    trainer.continue_fit(X, Y, VALIDATION)
    return trainer


def test_the_whole_state_gives_the_same_run(early: tuple[Path, gb.Trainer], tmp_path: Path) -> None:
    path, whole = early
    assert_same_run(resume(rewritten(path, tmp_path / "same", lambda m, a: None)), whole)


@pytest.mark.parametrize("part", PARTS)
def test_no_part_of_the_state_can_be_left_out(part: str, early: tuple[Path, gb.Trainer], tmp_path: Path) -> None:
    path, whole = early
    changed = rewritten(path, tmp_path / "changed", without(part))
    with pytest.raises((AssertionError, CheckpointError, ArgumentError)):
        assert_same_run(resume(changed), whole)


# -- what is wrong with a checkpoint -----------------------------------------------------------------------------------


def test_the_one_before_is_taken_where_the_newest_is_damaged(tmp_path: Path) -> None:
    whole, options = fit_of("adam", [Each(tmp_path)])
    whole.fit(X, Y, **options)
    paths = stored(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"taking {paths[-2].name}"):
        resumed = gb.Trainer.resume(tmp_path, device="cpu", callbacks=[Each(tmp_path)])
    assert stored(tmp_path)[-1] == paths[-2], "the damaged one is out of the way of those to come"
    resumed.continue_fit(X, Y, VALIDATION)
    assert_same_run(resumed, whole)
    for path in stored(tmp_path)[2:]:
        path.unlink()
    for path in stored(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"), pytest.warns(RuntimeWarning, match="taking"):
        newest(tmp_path, "cpu")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        newest(tmp_path / "none", "cpu")


def test_an_earlier_checkpoint_needs_a_folder_without_later_ones(tmp_path: Path) -> None:
    """The later ones, of the fit that is given up, would be taken for the newest, and those of the new one be removed at once."""
    whole, options = fit_of("adam", [Each(tmp_path)])
    whole.fit(X, Y, **options)
    before = [(path.name, path.read_bytes()) for path in stored(tmp_path)]
    back = gb.Trainer.resume(stored(tmp_path)[3], device="cpu", callbacks=[Checkpoints(tmp_path)])
    with pytest.raises(ArgumentError, match=r"holds step-0000000012\.safetensors, later than step 4, from which"):
        back.continue_fit(X, Y, VALIDATION)
    assert [(path.name, path.read_bytes()) for path in stored(tmp_path)] == before
    for path in stored(tmp_path)[4:]:
        path.unlink()
    back.continue_fit(X, Y, VALIDATION)
    assert_same_run(back, whole)


def test_names_of_the_fit_are_no_extras(tmp_path: Path) -> None:
    class Looks(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            names.update(trainer.state())

    names: set[str] = set()
    trainer, options = fit_of("early stopping", [Looks(), Each(tmp_path, extra={"mine": 1, "also": X})])
    trainer.fit(X, Y, **options)
    assert names >= {"fit", "history", "callback.0.weights.0.weight"}
    for name in (*names, "order"):
        with pytest.raises(ArgumentError, match=f"extra: {name} would be overwritten"):
            Checkpoints(tmp_path, extra={name: 1})
    assert set(gb.Trainer.resume(stored(tmp_path)[0], device="cpu").extra) == {"mine", "also"}


# A forged learning rate that is a number may overflow: then training says so.
@pytest.mark.filterwarnings("ignore:.*is not finite after:UserWarning")
@pytest.mark.parametrize("seeds", [range(150), pytest.param(range(150, 3000), marks=pytest.mark.nightly)])
def test_a_forged_state_gives_the_one_error(seeds: range, early: tuple[Path, gb.Trainer], tmp_path: Path) -> None:
    manifest, arrays = entries(early[0])
    state, refused = ("fit", "history", "reason", "rows_at_once", "digests", "callbacks"), 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        part = str(rng.choice(state))
        rewrite(
            tmp_path / "forged",
            {**manifest, "extra": {**manifest["extra"], part: mutate(manifest["extra"][part], rng)}},
            arrays,
        )
        try:
            resume(tmp_path / "forged")
        except (CheckpointError, ArgumentError):
            refused += 1
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
    assert refused > len(seeds) / 2


@pytest.mark.parametrize("metrics", [0, False, "", {}, [0]])
def test_metrics_that_are_no_list_of_names_are_refused(metrics: Any, early: tuple[Path, Any], tmp_path: Path) -> None:
    manifest, arrays = entries(early[0])
    fit = {**manifest["extra"]["fit"], "metrics": metrics}
    rewrite(tmp_path / "forged", {**manifest, "extra": {**manifest["extra"], "fit": fit}}, arrays)
    with pytest.raises(CheckpointError, match="metrics must be a list of names"):
        resume(tmp_path / "forged")


@pytest.mark.parametrize(
    "order", [np.zeros(N, "u1"), np.arange(N - 1), np.arange(N) + 1.0, np.arange(N) - 1, np.eye(N)]
)
def test_an_order_that_is_none_is_refused(order: np.ndarray, early: tuple[Path, gb.Trainer], tmp_path: Path) -> None:
    changed = rewritten(early[0], tmp_path / "changed", lambda m, a: a.update({"extra.order": order}))
    with pytest.raises(CheckpointError, match="order of the rows"):
        resume(changed)


def test_what_does_not_belong_to_the_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer, options = fit_of("early stopping", [Each(tmp_path / "c")])
    trainer.fit(X, Y, **options)
    for x, y, v, what in (
        (X + 1, Y, VALIDATION, "x must"),
        (X, (Y + 1) % 3, VALIDATION, "y must"),
        (X, Y, None, "validation_data must"),
        (X[:-1], Y[:-1], VALIDATION, "x and y must"),
    ):
        with pytest.raises(ArgumentError, match=what):
            gb.Trainer.resume(tmp_path / "c", device="cpu").continue_fit(x, y, v)
    resumed = gb.Trainer.resume(tmp_path / "c", device="cpu", callbacks=[gb.EarlyStopping()])
    with pytest.raises(
        ArgumentError, match="callbacks with a state must be those of the checkpoint, EarlyStopping; got"
    ):
        resumed.continue_fit(X, Y, VALIDATION)
    for other in ({"monitor": "val_accuracy"}, {"monitor": "val_loss", "mode": "max"}):
        own, _ = fit_of("adam", [gb.EarlyStopping(), Each(tmp_path / str(len(other)))])
        own.fit(X, Y, **options)
        resumed = gb.Trainer.resume(tmp_path / str(len(other)), device="cpu", callbacks=[gb.EarlyStopping(**other)])
        with pytest.raises(ArgumentError, match="EarlyStopping watched the min of 'val_loss' when"):
            resumed.continue_fit(X, Y, VALIDATION)
    with pytest.raises(ArgumentError, match="call continue_fit"):
        gb.Trainer.resume(tmp_path / "c", device="cpu").fit(X, Y)
    gb.save(tmp_path / "bare", trainer.net)
    with pytest.raises(CheckpointError, match="not the state of a fit"):
        gb.Trainer.resume(tmp_path / "bare")
    with pytest.raises(ArgumentError, match="of another fit"):
        gb.Trainer(network(), callbacks=[Checkpoints(tmp_path / "c")]).fit(X, Y)
    with pytest.raises(ArgumentError, match="no fit is running"):
        trainer.state()


# -- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("500 steps", Every(steps=500)),
        ("1step", Every(steps=1)),
        ("5 minutes", Every(seconds=300)),
        ("2.5 min", Every(seconds=150)),
        ("90s", Every(seconds=90)),
        ("1 hour", Every(seconds=3600)),
        ("3 epochs", Every(epochs=3)),
    ],
)
def test_how_often(text: str, every: Every) -> None:
    assert Every.parse(text) == every


@pytest.mark.parametrize("text", ["", "often", "0 steps", "1.5 epochs", "-1 s", "5", "5 weeks", "nan s", 5])
def test_how_often_is_refused(text: Any) -> None:
    with pytest.raises(ArgumentError, match="500 steps"):
        Every.parse(text)


class Recorded(Checkpoints):
    """Notes the steps that are saved."""

    steps: list[int]

    def save(self, trainer: Any) -> None:
        self.steps = [*getattr(self, "steps", []), trainer.steps_done]
        super().save(trainer)


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("3 steps", [3, 6, 9, 12]),
        ("2 epochs", [8, 12]),
        ("1 epoch", [4, 8, 12]),
        ("0.000001 s", [*range(1, 13)]),
        ("1 h", [12]),
    ],
)
def test_when_it_is_saved(every: str, steps: list[int], tmp_path: Path) -> None:
    checkpoints = Recorded(tmp_path, every)
    trainer, options = fit_of("adam", [checkpoints])
    with pytest.MonkeyPatch.context() as patch:
        if every == "0.000001 s":
            patch.setattr("gpubackprop.training.trainer.REPORTS_PER_SECOND", 1e12)
        trainer.fit(X, Y, **options)
    assert checkpoints.steps == steps
    assert stored(tmp_path)[-1].name == "step-0000000012.safetensors"
    assert len(stored(tmp_path)) <= 2


@pytest.mark.parametrize("idle", [True, False])
def test_each_epoch_that_improves_and_the_last_is_saved(
    idle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as there is time for it."""
    monkeypatch.setattr("gpubackprop.training.checkpoints._REST", 10**6)

    class Noted(Recorded):
        def save(self, trainer: Any) -> None:
            super().save(trainer)
            if idle:
                self.flush()

    checkpoints = Noted(tmp_path)
    trainer = gb.Trainer(network(), gb.SGD(0.5), callbacks=[checkpoints])
    losses = trainer.fit(X, Y, epochs=12, batch_size=SIZE, validation_data=VALIDATION)["val_loss"]
    improved = [4 * (i + 1) for i in range(12) if losses[i] < min([np.inf, *losses[:i]])]
    if idle:
        assert checkpoints.steps == sorted({*improved, 48})
        assert len(improved) < 12
    else:
        assert checkpoints.steps == [4, 48]


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path, "1 step", report=said.append)
    x, y = make_data(20, 5, 3, "half_squared_error")
    net = gb.mlp([5, 7, 3], loss="half_squared_error", device="cpu", activation="relu")
    with np.errstate(all="ignore"):
        history = gb.Trainer(net, gb.SGD(1e12), callbacks=[checkpoints]).fit(x, y, epochs=20, batch_size=4)
    assert history.stopped == "diverged"
    for path in stored(tmp_path):
        assert all(np.isfinite(a).all() for a in load_checkpoint(path, "cpu").net.get_weights().values())


# -- the disk ---------------------------------------------------------------------------------------------------------


class Failing(gb.Callback):
    """The disk is full from one epoch's end to another's."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.patch = pytest.MonkeyPatch()

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if record["epoch"] == self.first:
            self.patch.setattr(atomic.os, "fsync", full)
        if record["epoch"] == self.last:
            self.patch.undo()


def test_training_goes_on_while_the_disk_is_full(tmp_path: Path) -> None:
    said: list[str] = []

    checkpoints, disk = Each(tmp_path, "1 epoch", keep=2, report=said.append), Failing(3, 6)
    trainer = gb.Trainer(network(), callbacks=[disk, checkpoints])
    try:
        trainer.fit(X, Y, epochs=7, batch_size=SIZE)
    finally:
        disk.patch.undo()
    other = gb.Trainer(network())
    other.fit(X, Y, epochs=7, batch_size=SIZE)
    assert_same_run(trainer, other)
    assert len(said) == 2
    assert "No space left on device" in said[0]
    assert "training goes on" in said[0]
    assert "again" in said[1]
    assert [p.name for p in stored(tmp_path)] == ["step-0000000024.safetensors", "step-0000000028.safetensors"]
    assert not list(tmp_path.glob(".*"))


def test_whatever_goes_wrong_with_one_checkpoint_the_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, taken: Any) -> None:
        tried.append(path)
        if len(tried) == 1:
            raise MemoryError("no memory for the content")
        real(path, taken)

    tried: list[Path] = []
    said: list[str] = []
    real = checkpoints_module.write
    monkeypatch.setattr(checkpoints_module, "write", write)
    trainer, options = fit_of("adam", [Each(tmp_path, "1 epoch", report=said.append)])
    trainer.fit(X, Y, **options)
    assert len(said) == 2
    assert "(MemoryError: no memory for the content); training goes on" in said[0]
    assert [path.name for path in stored(tmp_path)] == ["step-0000000008.safetensors", "step-0000000012.safetensors"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    disk = Failing(3, 99)
    trainer = gb.Trainer(network(), callbacks=[disk, Each(tmp_path, report=said.append)])
    try:
        trainer.fit(X, Y, epochs=5, batch_size=SIZE)
    finally:
        disk.patch.undo()
    resumed = gb.Trainer.resume(tmp_path, device="cpu", callbacks=[Each(tmp_path)])
    assert stored(tmp_path)[-1].name == "step-0000000011.safetensors"
    resumed.continue_fit(X, Y)
    assert_same_run(resumed, trainer)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be made"):
        gb.Trainer(network(), callbacks=[Checkpoints(tmp_path / "file" / "c")]).fit(X, Y)


def test_saving_does_not_hold_up_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes half a second for each checkpoint: those that are overtaken are left out."""
    from gpubackprop.training import checkpoints as module

    real = module.write

    def slow(path: Any, taken: Any) -> None:
        time.sleep(0.5)
        real(path, taken)

    monkeypatch.setattr(module, "write", slow)
    trainer = gb.Trainer(network(), callbacks=[Checkpoints(tmp_path, "1 step")])
    started = time.monotonic()
    trainer.fit(X, Y, epochs=10, batch_size=SIZE)
    assert time.monotonic() - started < 3, "40 checkpoints would take 20 s"
    assert stored(tmp_path)[-1].name == "step-0000000040.safetensors"


# -- signals ----------------------------------------------------------------------------------------------------------


class Kick(gb.Callback):
    """Sends this process a signal at a moment of the fit."""

    every_steps = 1

    def __init__(self, number: int, epoch: int, step: int) -> None:
        self.number, self.place = number, (epoch, step)

    def on_progress(self, trainer: Any, progress: Any) -> None:
        if (progress.epoch, progress.step) == self.place:
            os.kill(os.getpid(), self.number)

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        if (record["epoch"], 0) == self.place:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def _quiet_handlers() -> Iterator[None]:
    """A test that goes wrong must not end the test run; and what was there before must be back afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, lambda *_: pytest.fail("the signal was not caught")) for n in numbers}
    ours = {n: signal.getsignal(n) for n in numbers}
    yield
    assert {n: signal.getsignal(n) for n in numbers} == ours
    for n, handler in before.items():
        signal.signal(n, handler)


@pytest.mark.usefixtures("_quiet_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", [(1, 1), (2, 3), (2, 0), (3, 0)])
def test_a_signal_saves_and_the_fit_goes_on_later(number: int, place: tuple[int, int], tmp_path: Path) -> None:
    plain, options = fit_of("adam", [])
    plain.fit(X, Y, **options)
    trainer, _ = fit_of("adam", [Kick(number, *place), Checkpoints(tmp_path, "1 h")])
    with pytest.raises(TrainingInterrupted) as caught:
        trainer.fit(X, Y, **options)
    assert caught.value.signal == number
    assert trainer.history.stopped == "interrupted"
    epoch, step = place
    assert stored(tmp_path)[-1].name == f"step-{(epoch - 1) * 4 + (step or 4):010}.safetensors"
    resumed = gb.Trainer.resume(tmp_path, device="cpu", callbacks=[Checkpoints(tmp_path)])
    resumed.continue_fit(X, Y, VALIDATION)
    assert_same_run(resumed, plain)


@pytest.mark.usefixtures("_quiet_handlers")
def test_the_callback_of_a_fit_that_a_signal_ended_serves_the_next_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "1 h")
    trainer, options = fit_of("adam", [Kick(signal.SIGINT, 2, 3), checkpoints])
    with pytest.raises(TrainingInterrupted):
        trainer.fit(X, Y, **options)
    resumed = gb.Trainer.resume(tmp_path, device="cpu", callbacks=[checkpoints])
    assert len(resumed.continue_fit(X, Y, VALIDATION)) == EPOCHS


@pytest.mark.usefixtures("_quiet_handlers")
def test_a_signal_after_the_last_step_is_heard_once_all_is_saved(tmp_path: Path) -> None:
    class Late(gb.Callback):
        def on_fit_end(self, trainer: Any, history: gb.History) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path, "1 epoch")
    trainer, options = fit_of("adam", [Late(), checkpoints])
    with pytest.raises(TrainingInterrupted, match="when the fit had ended") as caught:
        trainer.fit(X, Y, **options)
    assert (caught.value.signal, trainer.history.stopped) == (signal.SIGTERM, "epochs")
    trainer.callbacks[:] = [checkpoints]
    for path in stored(tmp_path):
        path.unlink()
    assert trainer.fit(X, Y, **options).stopped == "epochs", "it is told once"


@pytest.mark.usefixtures("_quiet_handlers")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_signal_ends_at_once(number: int, error: type[BaseException], tmp_path: Path) -> None:
    class Twice(Kick):
        def on_progress(self, trainer: Any, progress: Any) -> None:
            for _ in range(2):
                super().on_progress(trainer, progress)

    trainer, options = fit_of("adam", [Twice(number, 2, 2), Each(tmp_path)])
    with pytest.raises(error) as caught:
        trainer.fit(X, Y, **options)
    assert not isinstance(caught.value, TrainingInterrupted)
    if error is SystemExit:
        assert caught.value.code == 143  # type: ignore[attr-defined]
    resumed = gb.Trainer.resume(tmp_path, device="cpu", callbacks=[Checkpoints(tmp_path)])
    resumed.continue_fit(X, Y, VALIDATION)
    plain, _ = fit_of("adam", [])
    plain.fit(X, Y, **options)
    assert_same_run(resumed, plain)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer, options = fit_of("adam", [Kick(signal.SIGHUP, 1, 2), Checkpoints(tmp_path)])
        assert len(trainer.fit(X, Y, **options)) == EPOCHS
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_keep(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="keep"):
        Checkpoints(tmp_path, keep=None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="keep"):
        Checkpoints(tmp_path, keep=0)
