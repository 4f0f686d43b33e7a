import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, ArgumentTypeError


def test_every_event_arrives_in_order():
    events = []

    class Log(gb.Callback):
        def on_fit_start(self, trainer, plan):
            events.append(("start", plan.epochs, plan.steps_per_epoch, plan.samples, plan.batch_size))

        def on_epoch_end(self, trainer, record):
            events.append(("epoch", record["epoch"]))

        def on_fit_end(self, trainer, history):
            events.append(("end", len(history)))

    gb.Trainer(gb.mlp([2, 1]), "sgd", callbacks=[Log()]).fit(
        np.zeros((10, 2)), np.zeros((10, 1)), epochs=2, batch_size=4
    )
    assert events == [("start", 2, 3, 10, 4), ("epoch", 1), ("epoch", 2), ("end", 2)]


def test_a_callback_stops_the_fit():
    class Stop(gb.Callback):
        def on_epoch_end(self, trainer, record):
            trainer.stop("enough")

    history = gb.Trainer(gb.mlp([2, 1]), "sgd", callbacks=[Stop()]).fit(np.zeros((4, 2)), np.zeros((4, 1)), epochs=9)
    assert (history.stopped, len(history)) == ("enough", 1)


@pytest.mark.parametrize(
    "options", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1.0}, {"min_delta": float("nan")}]
)
def test_early_stopping_refuses_bad_settings(options):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=next(iter(options))):
        gb.EarlyStopping(**options)


def test_min_delta_is_the_least_improvement():
    stopping = gb.EarlyStopping("loss", patience=2, min_delta=0.5)
    trainer = gb.Trainer(gb.mlp([2, 1]), "sgd")
    for epoch, loss in enumerate([2.0, 1.6, 1.4, 1.3], 1):
        trainer._reason = None
        stopping.on_epoch_end(trainer, {"epoch": epoch, "loss": loss})
    # 1.6 is no improvement on 2.0, 1.4 is, 1.3 is none on 1.4.
    assert stopping.best_epoch == 3
    assert trainer._reason is None
    stopping.on_epoch_end(trainer, {"epoch": 5, "loss": 1.0})
    assert trainer._reason == "patience"


def test_an_epoch_whose_score_is_nan_is_not_the_best():
    stopping = gb.EarlyStopping("val_accuracy", patience=2)
    trainer = gb.Trainer(gb.mlp([2, 1]), "sgd")
    best = []
    for epoch, score in enumerate([np.nan, 0.1, np.nan, np.nan], 1):
        trainer._reason = None
        stopping.on_epoch_end(trainer, {"epoch": epoch, "val_accuracy": score})
        best.append(stopping.best_epoch)
    assert best == [1, 2, 2, 2]
    assert trainer._reason == "patience"


def test_a_network_that_overflows_on_the_validation_rows_has_no_score_there():
    x, y = np.array([[1.0], [-1.0]] * 4), np.array([0, 1] * 4)
    net = gb.Network([gb.Dense(1, 2)], loss="cross_entropy", device="cpu", dtype="float32", seed=0)
    far = np.full((4, 1), 3e38)
    net.set_weights({"0.weight": [[4.0, 8.0]], "0.bias": [0.0, 0.0]})
    history = gb.Trainer(net, "sgd").fit(
        x, y, epochs=4, validation_data=(far, y[:4]), patience=2, monitor="val_accuracy"
    )
    assert np.isnan(history["val_accuracy"]).all()
    assert (history.stopped, history.best_epoch) == ("patience", 1)
