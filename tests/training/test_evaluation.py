import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.metrics import scores


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "half_squared_error", "mean_absolute_error"])
def test_chunks_add_up_to_the_loss_of_all_rows(backend, loss):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(37, 4))
    y = rng.integers(0, 3, 37) if loss == "cross_entropy" else rng.random((37, 3))
    net = gb.mlp([4, 8, 3], loss=loss, device=backend, dtype="float64", l2=0.1)
    expected = {"loss": net.loss(x, y), **scores(net.predict(x), y, net.loss_function)}
    for size in (None, 1, 10, 37, 100):
        assert gb.evaluate(net, x, y, batch_size=size) == pytest.approx(expected, rel=1e-12)


def test_evaluation_in_training_leaves_the_step_recorded():
    """Validation has buffers of its own: it must not throw away what training recorded."""
    x, y = np.random.default_rng(0).normal(size=(64, 4)), np.zeros((64, 1))
    net = gb.mlp([4, 8, 1])
    trainer = gb.Trainer(net, "sgd")
    trainer.fit(x, y, epochs=1, batch_size=16, validation_data=(x, y))
    programs = dict(net.engine.training.batch(16).programs)
    trainer.fit(x, y, epochs=1, batch_size=16, validation_data=(x, y))
    assert net.engine.training.batch(16).programs == programs


def test_evaluate_checks_its_data():
    net = gb.mlp([4, 3], loss="cross_entropy")
    with pytest.raises(gb.GpuBackpropError, match="class labels must be from 0 to 2"):
        gb.evaluate(net, np.zeros((2, 4)), np.array([0, 3]))


@pytest.mark.parametrize("size", [-5, 0, 2.5, True])
def test_evaluate_refuses_a_batch_size_that_is_none(size):
    net = gb.mlp([4, 3], loss="cross_entropy")
    with pytest.raises(gb.GpuBackpropError, match="batch_size must be"):
        gb.evaluate(net, np.zeros((2, 4)), np.array([0, 1]), batch_size=size)


def test_labels_on_the_device_are_looked_at_before_training_and_evaluation():
    be = gb.get_backend("strict")
    net = gb.mlp([4, 3], loss="cross_entropy", device=be)
    x, y = be.asarray(np.zeros((2, 4), np.float32)), be.asarray(np.array([0, 50]))
    for use in (net.loss, net.loss_and_gradients, gb.Trainer(net, "sgd").fit, lambda x, y: gb.evaluate(net, x, y)):
        with pytest.raises(gb.GpuBackpropError, match="class labels must be from 0 to 2"):
            use(x, y)
