"""What scikit-learn's tests ask of its multilayer perceptrons, asked of this library's network and trainer."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, whose data these are, is not installed")


def digits(classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(n_class=classes, return_X_y=True)
    return x[:300] / 16, y[:300]


def network(widths: list[int], loss: str = "cross_entropy", activation: str = "tanh", **options: Any) -> gb.Network:
    return gb.mlp(widths, activation=activation, loss=loss, device="cpu", **{"dtype": "float64", "seed": 1, **options})


def same(a: gb.Network, b: gb.Network) -> bool:
    one, other = a.get_weights(), b.get_weights()
    return all(np.array_equal(one[k], other[k]) for k in one)


def test_a_step_by_hand() -> None:
    """Three inputs, two logistic units, one output; a log loss with an L2 penalty; descent with eta = 0.1."""
    net = network([3, 2, 1], "binary_cross_entropy", "sigmoid", l2=0.1)
    w = [np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0.0]]), np.array([[0.1], [0.2]])]
    names = ("0.weight", "0.bias", "1.weight", "1.bias")
    net.set_weights(dict(zip(names, (w[0], np.full(2, 0.1), w[1], np.array([1.0])), strict=True)))
    net.train_step(np.array([[0.6, 0.8, 0.7]]), np.array([[0.0]]), gb.SGD(0.1))
    h1, h2 = 1 / (1 + np.exp(-0.75)), 1 / (1 + np.exp(-0.3))  # 0.06 + 0.24 + 0.35 + 0.1, and 0.12 + 0.08 + 0.1
    p = 1 / (1 + np.exp(-(0.1 * h1 + 0.2 * h2 + 1)))
    d1, d2 = p * 0.1 * h1 * (1 - h1), p * 0.2 * h2 * (1 - h2)
    after = net.get_weights()
    slopes = np.outer([0.6, 0.8, 0.7], [d1, d2])
    np.testing.assert_allclose(after["0.weight"], w[0] - 0.1 * (slopes + 0.1 * w[0]), rtol=1e-14)
    np.testing.assert_allclose(after["0.bias"], [0.1 - 0.1 * d1, 0.1 - 0.1 * d2], rtol=1e-14)
    np.testing.assert_allclose(after["1.weight"][:, 0], 0.99 * w[1][:, 0] - 0.1 * p * np.array([h1, h2]), rtol=1e-14)
    np.testing.assert_allclose(after["1.bias"], [1 - 0.1 * p], rtol=1e-14)


def test_more_penalty_is_less_weight() -> None:
    x, y = digits(2)
    sizes = []
    for l2 in (0.0, 0.1, 1.0):
        net = network([64, 10, 2], l2=l2)
        gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=20, batch_size=50)
        sizes.append(sum(abs(w).sum() for name, w in net.get_weights().items() if name.endswith("weight")))
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_classes_are_learnt(activation: str) -> None:
    x, y = digits()
    net = network([64, 30, 10], activation=activation)
    gb.Trainer(net, gb.Adam(0.02)).fit(x, y, epochs=40, batch_size=50)
    assert gb.evaluate(net, x, y)["accuracy"] > 0.97


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_several_numbers_are_learnt(activation: str) -> None:
    x, y = datasets.make_regression(n_samples=200, n_targets=5, n_features=8, random_state=3)
    y = y / y.std(axis=0)
    net = network([8, 30, 5], "mean_squared_error", activation)
    gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=150, batch_size=50)
    assert gb.evaluate(net, x, y)["r2"] > 0.9


def test_several_labels_at_once_are_learnt() -> None:
    x, y = datasets.make_multilabel_classification(n_samples=100, random_state=0)
    net = network([20, 50, 5], "binary_cross_entropy")
    gb.Trainer(net, gb.Adam(0.02)).fit((x - x.mean(0)) / x.std(0), y.astype(float), epochs=100, batch_size=None)
    assert gb.evaluate(net, (x - x.mean(0)) / x.std(0), y.astype(float))["accuracy"] > 0.97


def test_steps_by_hand_are_a_fit() -> None:
    """Batch after batch with train_step is what fit does without shuffling."""
    x, y = digits(3)
    fitted, stepped = network([64, 10, 3]), network([64, 10, 3])
    gb.Trainer(fitted, gb.SGD(0.2, momentum=0.9)).fit(x, y, epochs=5, batch_size=64, shuffle=False)
    optimizer = gb.SGD(0.2, momentum=0.9)
    for _ in range(5):
        for start in range(0, len(x), 64):
            stepped.train_step(x[start : start + 64], y[start : start + 64], optimizer)
    for name, w in fitted.get_weights().items():
        np.testing.assert_allclose(stepped.get_weights()[name], w, rtol=0, atol=1e-13)


def test_training_goes_on_from_where_it_was() -> None:
    """A second fit starts from the weights of the first, and a pickled network goes on as the one that it was made from."""
    x, y = digits(3)
    net = network([64, 10, 3])
    optimizer = gb.Adam(0.01)
    trainer = gb.Trainer(net, optimizer)
    first = trainer.fit(x, y, epochs=5)
    net2, optimizer2 = pickle.loads(pickle.dumps((net, optimizer)))
    second = trainer.fit(x, y, epochs=5)
    assert second["loss"][0] < first["loss"][-1]
    gb.Trainer(net2, optimizer2).fit(x, y, epochs=5)
    assert same(net, net2)


def test_shuffling_changes_the_result_and_the_seed_decides() -> None:
    x, y = digits(3)

    def trained(shuffle: bool, seed: int = 1) -> gb.Network:
        net = network([64, 10, 3], seed=seed)
        gb.Trainer(net, gb.SGD(0.1)).fit(x, y, epochs=2, batch_size=30, shuffle=shuffle)
        return net

    assert same(trained(False), trained(False))
    assert same(trained(True), trained(True))
    assert not same(trained(True), trained(False))
    assert not same(trained(True), trained(True, seed=2))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_probabilities(loss: str) -> None:
    x, y = digits(3)
    net = network([64, 5, 3], loss)
    p = net.predict(x)
    assert p.shape == (len(x), 3)
    assert ((p > 0) & (p < 1)).all()
    np.testing.assert_array_equal(p.argmax(axis=1), np.asarray(net.forward(x)).argmax(axis=1))
    if loss == "cross_entropy":
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-14)
        assert gb.evaluate(net, x, y)["accuracy"] == np.mean(p.argmax(axis=1) == y)


def test_a_gradient_of_nothing_ends_training() -> None:
    """x and y that a linear network meets exactly."""
    x = np.array([[3.0, 2.0], [1.0, 6.0], [5.0, 6.0], [-2.0, -4.0]])
    net = network([2, 1], "half_squared_error")
    history = gb.Trainer(net, gb.SGD(0.02)).fit(
        x, x @ [[1.0], [2.0]], epochs=5000, batch_size=None, gradient_tolerance=1e-6
    )
    assert history.stopped == "gradient_tolerance"
    assert len(history) < 5000


@pytest.mark.parametrize("patience", [1, 3, 8])
def test_patience_is_how_long_it_waits(patience: int) -> None:
    """Of noise nothing can be learnt: the validation loss stops improving, and `patience` epochs later training ends."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 10)), rng.integers(0, 2, 60)
    net = network([10, 20, 2])
    history = gb.Trainer(net, gb.Adam(0.01)).fit(
        x[:40], y[:40], epochs=500, batch_size=10, validation_data=(x[40:], y[40:]), patience=patience
    )
    losses = history["val_loss"]
    assert history.stopped == "patience"
    assert history.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - patience
    assert gb.evaluate(net, x[40:], y[40:])["loss"] == pytest.approx(min(losses), rel=1e-12)


def test_without_end_to_patience_all_epochs_are_done() -> None:
    x, y = digits(2)
    history = gb.Trainer(network([64, 3, 2]), gb.SGD(1e-8)).fit(x, y, epochs=30, patience=30)
    assert (history.stopped, len(history)) == ("epochs", 30)


@pytest.mark.filterwarnings("error")
def test_training_that_diverges_says_so() -> None:
    x, y = datasets.make_regression(n_samples=20, random_state=1)
    history = gb.Trainer(network([100, 10, 1], "half_squared_error", "relu"), gb.SGD(1e3)).fit(
        1e3 * x, 1e3 * y[:, None], epochs=100, validation_data=(x, y[:, None])
    )
    assert history.stopped == "diverged"


def test_float32_is_float64_with_fewer_digits() -> None:
    x, y = digits(3)
    nets = [network([64, 10, 3], dtype=dtype) for dtype in ("float32", "float64")]
    for net in nets:
        gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=5, batch_size=50)
        assert {w.dtype for w in net.get_weights().values()} == {np.dtype(net.dtype)}
        assert net.predict(x).dtype == net.dtype
    np.testing.assert_allclose(nets[0].predict(x), nets[1].predict(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    x, y = digits(2)
    x = x.copy()
    x[3, 4] = wrong
    with pytest.raises(gb.GpuBackpropError, match=r"x\[3, 4\]"):
        gb.Trainer(network([64, 3, 2])).fit(x, y)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": -1.0}, {"learning_rate": 0.0}, {"momentum": 2.0}, {"momentum": -0.5}, {"weight_decay": -1.0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(gb.GpuBackpropError, match=next(iter(settings))):
        gb.SGD(**settings)
