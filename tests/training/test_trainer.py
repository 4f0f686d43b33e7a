from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError
from gpubackprop.random import host_generator
from tests.small import assert_same_bits, make_data


def blobs(n=90, d=5, classes=3, seed=0):
    """Classes around centres of their own, some overlapping."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return (rng.normal(size=(classes, d))[y] * 2 + rng.normal(size=(n, d))).astype(np.float32), y


def net_for(backend="cpu", **options):
    return gb.mlp([5, 16, 3], loss="cross_entropy", device=backend, **options)


def test_fit_learns_on_every_backend(backend):
    x, y = blobs()
    net = net_for(backend)
    before = gb.evaluate(net, x, y)
    history = gb.Trainer(net, gb.Adam(1e-2)).fit(x, y, epochs=30, batch_size=16)
    after = gb.evaluate(net, x, y)
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.85
    assert history.stopped == "epochs"
    assert history["epoch"] == list(range(1, 31))


def test_fit_is_the_written_out_loop():
    """Order from the seed and the epoch, a last short batch, one train_step a batch: bit for bit."""
    x, y = blobs(50)
    net, by_hand = net_for(seed=3), net_for(seed=3)
    history = gb.Trainer(net, gb.SGD(0.1, momentum=0.9)).fit(x, y, epochs=2, batch_size=16)
    optimizer, means = gb.SGD(0.1, momentum=0.9), []
    for epoch in range(2):
        order, total = host_generator(3, 1, epoch).permutation(50), 0.0
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            total += float(by_hand.train_step(x[rows], y[rows], optimizer)) * len(rows)
        means.append(total / 50)
    for name, w in net.get_weights().items():
        np.testing.assert_array_equal(w, by_hand.get_weights()[name])
    np.testing.assert_allclose(history["loss"], means, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 50, None, 1000])
def test_full_batch_mini_batch_and_single_samples_are_one_loop(batch_size):
    x, y = blobs(50)
    net = net_for()
    trainer = gb.Trainer(net, gb.SGD(0.05))
    trainer.fit(x, y, epochs=2, batch_size=batch_size)
    assert trainer.optimizer.t == 2 * -(-50 // min(batch_size or 50, 50))


def test_same_seed_same_bits_and_another_seed_others(backend):
    x, y = blobs()

    def weights(seed):
        net = gb.Network(
            [gb.Dense(5, 16, "relu"), gb.Dropout(0.3), gb.Dense(16, 3)], loss="cross_entropy", device=backend, seed=seed
        )
        gb.Trainer(net, "adam").fit(x, y, epochs=3, batch_size=16)
        return np.concatenate([w.ravel() for w in net.get_weights().values()])

    np.testing.assert_array_equal(weights(1), weights(1))
    assert np.abs(weights(1) - weights(2)).max() > 1e-3


def test_micro_batches_take_the_same_steps():
    x, y = blobs(70)
    weights = []
    for parts in (None, 7, 64):
        layers = [gb.Dense(5, 16, "relu"), gb.Dropout(0.2), gb.Dense(16, 3)]
        net = gb.Network(layers, loss="cross_entropy", dtype="float64", l1=1e-4, l2=1e-3)
        history = gb.Trainer(net, gb.Adam(1e-2, clip_norm=0.5)).fit(
            x, y, epochs=2, batch_size=32, micro_batch_size=parts
        )
        weights.append((net.get_weights(), history["loss"]))
    for other, losses in weights[1:]:
        np.testing.assert_allclose(losses, weights[0][1], rtol=1e-12)
        for name, w in weights[0][0].items():
            np.testing.assert_allclose(other[name], w, rtol=1e-10, atol=1e-13)


def test_patience_stops_and_the_best_weights_come_back():
    x, y = blobs(40)
    net = net_for()
    kept = {}

    class Keep(gb.Callback):
        def on_epoch_end(self, trainer, record):
            kept[record["epoch"]] = trainer.net.get_weights()

    held_out = blobs(40, seed=1)
    trainer = gb.Trainer(net, gb.SGD(0.5), callbacks=[Keep()])
    history = trainer.fit(x, y, epochs=500, batch_size=4, validation_data=held_out, patience=5)
    assert history.stopped == "patience"
    best = 1 + int(np.argmin(history["val_loss"]))
    assert history.best_epoch == best
    assert len(history) == best + 5
    for name, w in net.get_weights().items():
        np.testing.assert_array_equal(w, kept[best][name])
    assert gb.evaluate(net, *held_out)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-6)


def test_patience_on_accuracy_takes_the_larger():
    x, y = blobs()
    history = gb.Trainer(net_for(), "sgd").fit(
        x, y, epochs=200, validation_data=(x, y), patience=3, monitor="val_accuracy"
    )
    assert history.best_epoch == 1 + int(np.argmax(history["val_accuracy"]))


def test_gradient_tolerance_stops_at_the_norm_of_the_gradient():
    """A least-squares problem by full-batch descent: the norm in the history is that of the gradient itself."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    y = x @ np.array([[2.0], [-1.0]]) + 0.5
    net = gb.mlp([2, 1], loss="half_squared_error", dtype="float64")
    history = gb.Trainer(net, gb.SGD(0.3)).fit(x, y, epochs=5000, batch_size=None, gradient_tolerance=1e-8)
    assert history.stopped == "gradient_tolerance"
    assert history["gradient_norm"][-1] <= 1e-8 < history["gradient_norm"][-2]
    np.testing.assert_allclose(net.get_weights()["0.weight"], [[2.0], [-1.0]], atol=1e-7)


def test_a_run_that_diverges_ends_and_says_so():
    x, y = blobs()
    net = gb.mlp([5, 16, 1], activation="identity", loss="half_squared_error")
    history = gb.Trainer(net, gb.SGD(10.0)).fit(x, y[:, None].astype(float), epochs=100)
    assert history.stopped == "diverged"
    assert len(history) < 100


def test_diverging_with_patience_gives_finite_weights_back():
    x, y = blobs()
    net = gb.mlp([5, 1], loss="half_squared_error")
    optimizer = gb.SGD(1e-3, schedule=gb.schedules.Exponential(gamma=1.0))

    class Explode(gb.Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 3:
                optimizer.learning_rate = 1e30

    history = gb.Trainer(net, optimizer, callbacks=[Explode()]).fit(x, y[:, None].astype(float), epochs=50, patience=5)
    assert history.stopped == "diverged"
    assert history.best_epoch <= 4
    assert all(np.isfinite(w).all() for w in net.get_weights().values())


def test_an_interrupt_keeps_the_history_and_reaches_the_caller():
    x, y = blobs()
    ended = []

    class Interrupt(gb.Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

        def on_fit_end(self, trainer, history):
            ended.append(len(history))

    trainer = gb.Trainer(net_for(), "adam", callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=10)
    assert trainer.history.stopped == "interrupted"
    assert ended == [2]


def test_going_on_from_an_epoch_repeats_neither_orders_nor_steps():
    x, y = blobs()
    whole, halves = net_for(), net_for()
    gb.Trainer(whole, gb.Adam(1e-2)).fit(x, y, epochs=4)
    trainer = gb.Trainer(halves, gb.Adam(1e-2))
    trainer.fit(x, y, epochs=2)
    history = trainer.fit(x, y, epochs=2, first_epoch=2)
    assert history["epoch"] == [3, 4]
    for name, w in whole.get_weights().items():
        np.testing.assert_array_equal(w, halves.get_weights()[name])


def test_a_schedule_is_spread_over_the_run():
    x, y = blobs(64)
    optimizer = gb.SGD(0.1, schedule=gb.schedules.Cosine(warmup=4))
    net = net_for()
    # Each fit goes through the schedule once: its length is no setting of the optimizer's.
    for trainer in (gb.Trainer(net, optimizer), gb.Trainer(net, optimizer)):
        for epochs in (5, 5):
            rates = trainer.fit(x, y, epochs=epochs, batch_size=16)["learning_rate"]
            assert optimizer.schedule == gb.schedules.Cosine(warmup=4)
            assert rates[0] == pytest.approx(0.1 * 4 / 5)
            assert rates[-1] < 0.01 < rates[1]
    with pytest.raises(ArgumentError, match="spread over the 20 steps of a run, which is over"):
        net.train_step(x, y, optimizer)


def test_a_schedule_that_does_not_need_the_length_of_the_run_goes_on():
    x, y = blobs(64)
    optimizer = gb.SGD(0.1, schedule=gb.schedules.Step(every=6, gamma=0.5))
    trainer = gb.Trainer(net_for(), optimizer)
    rates = [trainer.fit(x, y, epochs=1, batch_size=16)["learning_rate"][0] for _ in range(4)]
    assert rates == [0.1, 0.05, 0.05, 0.025]


def test_a_schedule_may_be_changed_after_the_trainer_was_made():
    x, y = blobs(64)
    trainer = gb.Trainer(net_for(), gb.SGD(0.1))
    trainer.optimizer.schedule = gb.schedules.Exponential(gamma=0.5)
    assert trainer.fit(x, y, epochs=1, batch_size=16)["learning_rate"] == [0.1 * 0.5**3]


def test_fits_one_after_the_other_draw_the_orders_of_one_fit():
    x, y = blobs()
    nets = [net_for() for _ in range(3)]
    for net, fits in zip(nets, ([3], [1, 1, 1], [1, 2]), strict=True):
        optimizer = gb.SGD(0.1)
        for epochs in fits:
            gb.Trainer(net, optimizer).fit(x, y, epochs=epochs)
        assert net.epochs == 3
    for net in nets[1:]:
        for name, w in nets[0].get_weights().items():
            np.testing.assert_array_equal(net.get_weights()[name], w)


def test_a_view_of_the_weights_can_be_the_data():
    nets, found = [gb.mlp([4, 4, 1], dtype="float64", device="cpu") for _ in range(2)], []
    for net, copy in zip(nets, (False, True), strict=True):
        x = net.parameters["0.weight"]
        gb.Trainer(net, gb.SGD(0.1)).fit(x.copy() if copy else x, np.ones((4, 1)), epochs=3, batch_size=2)
        found.append(net.get_weights())
    for name, w in found[0].items():
        np.testing.assert_array_equal(w, found[1][name])


@pytest.mark.parametrize(("size", "part"), [(32, None), (1, None), (64, 63), (64, 1)])
def test_a_batch_of_one_row_has_no_statistics(size, part):
    x, y = blobs(65)
    net = gb.Network([gb.Dense(5, 4, "relu"), gb.BatchNorm(4), gb.Dense(4, 3)], loss="cross_entropy", device="cpu")
    before = net.get_weights()
    with pytest.raises(ArgumentError, match="this batch has one row"):
        gb.Trainer(net, "sgd").fit(x, y, batch_size=size, micro_batch_size=part)
    for name, w in net.get_weights().items():
        np.testing.assert_array_equal(w, before[name])


def test_progress_is_reported_inside_an_epoch():
    x, y = blobs(2000)
    seen = []

    class Watch(gb.Callback):
        def on_progress(self, trainer, progress):
            seen.append(progress)

        def on_epoch_end(self, trainer, record):
            seen.append(record["loss"])

    gb.Trainer(net_for(), gb.SGD(0.01), callbacks=[Watch()]).fit(x, y, epochs=1, batch_size=1)
    first = seen[0]
    assert first.epoch == 1
    assert 0 < first.step < first.steps_per_epoch == 2000
    assert np.isfinite(first.loss)
    assert first.samples_per_second > 0 < first.seconds_left


def test_a_steady_epoch_waits_and_allocates_nothing_per_step():
    x, y = blobs(64)
    net = net_for(gb.get_backend("strict"))
    trainer = gb.Trainer(net, gb.SGD(0.1, momentum=0.9))
    trainer.fit(x, y, epochs=2, batch_size=8)

    def cost(epochs):
        before = net.backend.counts()
        trainer.fit(x, y, epochs=epochs, batch_size=8)
        return net.backend.counts() - before

    three, five = cost(3), cost(5)
    # Each further epoch costs one order and one reading of the sums, however many steps it has.
    assert five.transfers - three.transfers == 2
    assert five.waits - three.waits == 2
    assert five.allocations == three.allocations


def test_data_in_any_layout_gives_the_same_fit():
    x, y = blobs()
    reference = net_for()
    gb.Trainer(reference, gb.SGD(0.1)).fit(x, y, epochs=1)
    frozen = x.copy()
    frozen.flags.writeable = False
    for variant in (np.asfortranarray(x), x.astype(">f4"), x[::-1].copy()[::-1], frozen, x.astype(np.float64)):
        net = net_for()
        gb.Trainer(net, gb.SGD(0.1)).fit(variant, y.astype(np.uint8), epochs=1)
        np.testing.assert_array_equal(net.get_weights()["0.weight"], reference.get_weights()["0.weight"])
    np.testing.assert_array_equal(frozen, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs must be"),
        ({"epochs": 2.5}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"micro_batch_size": 0}, "micro_batch_size must be"),
        ({"patience": 0}, "patience must be"),
        ({"gradient_tolerance": float("nan")}, "gradient_tolerance must be"),
        ({"validation_data": 3}, "pair"),
        ({"validation_data": (np.zeros((2, 4)), np.zeros(2, int))}, r"validation_data\[0\]"),
        ({"validation_data": (np.zeros((2, 5)), np.array([0, 3]))}, r"validation_data\[1\]"),
        ({"patience": 2, "monitor": "val_los"}, "did you mean 'val_loss'"),
    ],
)
def test_bad_settings(change, message):
    x, y = blobs(8)
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        gb.Trainer(net_for(), "sgd").fit(x, y, **{"epochs": 1, **change})


def test_bad_data_is_refused_before_the_first_step():
    x, y = blobs(8)
    net = net_for()
    before = net.get_weights()
    x[3, 2] = np.nan
    with pytest.raises(ArgumentError, match=r"x\[3, 2\] is nan"):
        gb.Trainer(net, "sgd").fit(x, y)
    with pytest.raises(ArgumentTypeError, match="integers"):
        gb.Trainer(net, "sgd").fit(np.zeros((8, 5)), y.astype(float))
    for name, w in before.items():
        np.testing.assert_array_equal(net.get_weights()[name], w)


def test_an_optimizer_belongs_to_one_network():
    x, y = blobs(8)
    optimizer = gb.Adam()
    gb.Trainer(net_for(), optimizer).fit(x, y, epochs=1)
    with pytest.raises(ArgumentError, match="already trains another network"):
        gb.Trainer(net_for(), optimizer).fit(x, y, epochs=1)


def test_zero_epochs_change_nothing():
    x, y = blobs(8)
    net = net_for()
    before = net.get_weights()
    history = gb.Trainer(net, "adam").fit(x, y, epochs=0)
    assert len(history) == 0
    for name, w in before.items():
        np.testing.assert_array_equal(net.get_weights()[name], w)


def test_settings_that_are_recorded_cannot_change():
    x, y = blobs(8)
    trainer = gb.Trainer(net_for(), gb.SGD(0.1, weight_decay=0.1))
    trainer.optimizer.weight_decay = 0.2
    trainer.fit(x, y, epochs=1)
    trainer.optimizer.learning_rate = 0.01
    assert trainer.fit(x, y, epochs=1)["learning_rate"] == [0.01]
    with pytest.raises(ArgumentError, match=r"weight_decay of this SGD was 0\.2 when training began"):
        trainer.optimizer.weight_decay = 0.0
    with pytest.raises(ArgumentError, match="learning_rate must be"):
        trainer.optimizer.learning_rate = float("nan")


@pytest.mark.parametrize(
    "make",
    [
        lambda: gb.Trainer("net", "sgd"),
        lambda: gb.Trainer(net_for(), "sgd", callbacks=[3]),
        lambda: gb.Trainer(net_for(), "sgd", callbacks=gb.EarlyStopping()),
        lambda: gb.Trainer(net_for(), "sgd", callbacks=[gb.EarlyStopping]),
        lambda: gb.Trainer(net_for(), "sgd").fit(*blobs(8), shuffle="no"),
        lambda: gb.Trainer(net_for(), "sgd").fit(*blobs(8), gradient_tolerance=True),
        lambda: gb.EarlyStopping(monitor=3),
    ],
)
def test_arguments_of_another_kind(make):
    with pytest.raises(ArgumentTypeError):
        make()


@pytest.mark.parametrize("dtype", ["uint8", "float64", "float32", "int16"])
@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_a_memory_mapped_array_gives_what_its_values_give(tmp_path, dtype, device):
    x, y = blobs()
    x = (20 * x + 100).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = []
    for given in (x, mapped):
        net = gb.mlp([5, 8, 3], loss="cross_entropy", device=device, seed=1)
        history = gb.Trainer(net, "adam").fit(given, y, epochs=2, batch_size=16, validation_data=(given, y))
        found.append((net.get_weights(), net.predict(given), history["val_loss"], net.loss(given, y)))
    assert_same_bits(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2:] == found[1][2:]


def test_a_memory_mapped_array_is_never_in_memory_as_a_whole(tmp_path):
    """Ten times as large as what its training may take."""
    import subprocess
    import sys

    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc")
    code = """
import re, sys
import numpy as np, gpubackprop as gb
path, n, d = sys.argv[1], 60_000, 1000
big = np.lib.format.open_memmap(path, "w+", "uint8", (n, d))
big[::7] = 3
big.flush()
del big
x, y = np.load(path, mmap_mode="r"), np.zeros(n, np.int64)
def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
most = before = own()
class Look(gb.Callback):
    every_steps = 20
    def on_progress(self, trainer, progress):
        global most
        most = max(most, own())
net = gb.mlp([d, 4, 2], loss="cross_entropy", device="cpu")
gb.Trainer(net, callbacks=[Look()]).fit(x, y, epochs=1, batch_size=1000)
net.predict(x[:20000])
print(max(most, own()) - before)
"""
    given = [sys.executable, "-c", code, str(tmp_path / "x.npy")]
    taken = int(subprocess.run(given, capture_output=True, text=True, check=True).stdout)
    assert taken < 48, f"{taken} MB for an array of 57 MB, 229 MB as float32"


def test_what_holds_for_a_fit_ends_with_it_however_it_ends() -> None:
    class Stop(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            trainer.stop("enough")

    x, y = make_data(64, 4, 2)
    for callbacks in ([], [Stop()]):
        net, optimizer = gb.mlp([4, 2], device="cpu", dtype="float64"), gb.SGD(0.01)
        trainer = gb.Trainer(net, optimizer, callbacks=callbacks)
        trainer.fit(x, y, epochs=3, batch_size=64, scale_learning_rate="linear", base_batch_size=16)
        before, (_, gradients) = net.get_weights(), net.loss_and_gradients(x, y)
        net.train_step(x, y, optimizer)
        np.testing.assert_allclose(before["0.weight"] - net.get_weights()["0.weight"], 0.01 * gradients["0.weight"])
        spread = gb.SGD(0.01, schedule="cosine")
        trainer = gb.Trainer(gb.mlp([4, 2], device="cpu"), spread, callbacks=callbacks)
        trainer.fit(x, y, epochs=3, batch_size=16)
        assert spread.current_learning_rate() == pytest.approx(trainer.history["learning_rate"][-1])
        with pytest.raises(ArgumentError, match="which is over"):
            trainer.net.train_step(x, y, spread)


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {}])
def test_a_step_by_hand_between_those_of_a_fit_takes_the_place_of_none(options: dict[str, Any]) -> None:
    class Extra(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            for _ in range(2):
                trainer.net.train_step(x[:8], y[:8], trainer.optimizer)

    x, y = make_data(64, 4, 2)
    scaled: dict[str, Any] = {} if options else {"scale_learning_rate": "linear", "base_batch_size": 4}
    rates = []
    for callbacks in ([], [Extra()]):
        trainer = gb.Trainer(gb.mlp([4, 2], device="cpu"), gb.SGD(0.001, **options), callbacks=callbacks)
        rates.append(trainer.fit(x, y, epochs=4, batch_size=16, **scaled)["learning_rate"])
    assert rates[0] == rates[1]


def test_a_copy_of_a_trainer_that_is_in_a_fit_is_in_none() -> None:
    class Copies(gb.Callback):
        def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
            copies.append(deepcopy(trainer))

    copies: list[gb.Trainer] = []
    x, y = make_data(16, 4, 2)
    trainer = gb.Trainer(gb.mlp([4, 2], device="cpu"), "sgd")
    trainer.callbacks = [Copies()]
    trainer.fit(x, y, epochs=1)
    with pytest.raises(ArgumentError, match="no fit is running"):
        copies[0].state()
    copies[0].callbacks = trainer.callbacks = []
    for each in (trainer, copies[0]):
        each.fit(x, y, epochs=2)
    assert_same_bits(trainer.net.get_weights(), copies[0].net.get_weights())
