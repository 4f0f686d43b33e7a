"""Large batches: the rules for the learning rate, what "auto" may touch, and a noise scale that is known."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentError, DeviceError
from gpubackprop.network.engine import Engine
from gpubackprop.training import large_batches
from gpubackprop.training.large_batches import gradient_noise_scale, learning_rate_factor, measure_batch_sizes
from tests.small import assert_same_bits, make_data
from tests.training.test_checkpoints import Each

X, Y = make_data(400, 5, 3, "cross_entropy")


def network(**options):
    layers = [gb.Dense(5, 8), gb.BatchNorm(8), gb.Activation("relu"), gb.Dropout(0.2), gb.Dense(8, 3)]
    return gb.Network(layers, **{"loss": "cross_entropy", "device": "cpu", "seed": 4, **options})


# -- the learning rate ---------------------------------------------------------------------------------------------------------


def test_the_rules():
    assert learning_rate_factor(None, 1024, 256) == 1
    assert learning_rate_factor("linear", 1024, 256) == 4
    assert learning_rate_factor("sqrt", 1024, 256) == 2
    assert learning_rate_factor("linear", 64, 256) == 0.25
    with pytest.raises(ArgumentError, match=r"unknown scale_learning_rate 'liner': did you mean 'linear'"):
        learning_rate_factor("liner", 1, 1)
    with pytest.raises(ArgumentError, match="base_batch_size must be at least 1"):
        learning_rate_factor("sqrt", 1, 0)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_scaled_rate_with_warm_up_is_the_written_out_loop(schedule):
    """4 times the batch, 4 times the rate, reached over 7 steps, of which the second has the optimizer's own, which stays."""
    net, by_hand = network(), network()
    optimizer = gb.SGD(0.1, schedule=schedule)
    history = gb.Trainer(net, optimizer).fit(
        X, Y, epochs=3, batch_size=80, shuffle=False, scale_learning_rate="linear", base_batch_size=20, warmup=1.4
    )
    plain, warmup = gb.SGD(0.1), 7
    rates = []
    for step in range(15):
        falling = 1.0 if schedule == "constant" else 0.5 * (1 + np.cos(np.pi * step / 15))
        rates.append(0.1 * 4 * min(1.0, (step + 1) / (warmup + 1)) * falling)
        plain.learning_rate = rates[-1]
        rows = slice(step % 5 * 80, (step % 5 + 1) * 80)
        by_hand.train_step(X[rows], Y[rows], plain)
    for name, w in by_hand.get_weights().items():
        np.testing.assert_allclose(net.get_weights()[name], w, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(history["learning_rate"], [rates[i] for i in (4, 9, 14)], rtol=1e-12)
    assert optimizer.learning_rate == 0.1
    if schedule == "constant":
        assert optimizer.factor(15) == 1.0, "the scale is that of the fit alone"


def test_a_scaled_fit_goes_on_bit_for_bit(tmp_path):
    whole = network()
    options = {"scale_learning_rate": "sqrt", "base_batch_size": 10, "warmup": 0.7}
    gb.Trainer(whole, "adam", callbacks=[Each(tmp_path)]).fit(X, Y, epochs=2, batch_size=80, **options)
    for path in sorted(tmp_path.iterdir()):
        trainer = gb.Trainer.resume(path, device="cpu")
        trainer.continue_fit(X, Y)
        assert_same_bits(trainer.net.get_weights(), whole.get_weights())


# -- batch_size="auto" ----------------------------------------------------------------------------------------------------------


def test_measuring_leaves_the_fit_as_it_would_be(monkeypatch):
    net, same = network(), network()
    trainer = gb.Trainer(net, gb.Adam(schedule="cosine"))
    trainer.fit(X, Y, epochs=2, batch_size="auto")
    found = trainer.batch_sizes
    assert found.fastest in found.speeds
    gb.Trainer(same, gb.Adam(schedule="cosine")).fit(X, Y, epochs=2, batch_size=found.fastest)
    assert_same_bits(net.get_weights(), same.get_weights())
    assert f"batch size {found.fastest:,}, the fastest" in str(found)


def speeds(monkeypatch, seconds):
    """Steps that take seconds(rows), whatever they do."""

    def step(net, optimizer, source):
        net.engine.train(source, 0, 1, optimizer, source.n)
        return seconds(source.n)

    monkeypatch.setattr(large_batches, "_seconds_a_step", step)


def test_the_smallest_of_the_fastest_and_the_end_of_the_search(monkeypatch):
    speeds(monkeypatch, lambda n: 1.0 + 0.01 * max(0, n - 128))
    found = measure_batch_sizes(network(), gb.SGD(0.1), X, Y, 10_000)
    assert list(found.speeds) == [16, 32, 64, 128, 256, 512]
    assert found.fastest == 128
    assert found.largest == 10_000
    speeds(monkeypatch, lambda n: 1.0)
    assert list(measure_batch_sizes(network(), gb.SGD(0.1), X, Y, 100).speeds) == [16, 32, 64, 100]


def test_the_memory_bounds_what_is_tried(monkeypatch):
    speeds(monkeypatch, lambda n: 1.0)
    engine = network().engine
    engine.load(X[:64])
    memory = engine.nbytes
    found = measure_batch_sizes(network(), gb.SGD(0.1), X, Y, 10_000, memory=memory)
    assert max(found.speeds) <= 64
    assert found.largest < 128


def test_no_larger_than_the_device_has_memory_for(monkeypatch):
    speeds(monkeypatch, lambda n: 1.0)
    known = Engine._stretch

    def stretch(self, source, step, until, n, *rest):
        return known(self, source, step, until, n, *rest) if n <= 70 else (step, "no room")

    monkeypatch.setattr(Engine, "_stretch", stretch)
    net = gb.mlp([5, 8, 3], loss="cross_entropy", device="cpu")
    for trained in (net, network()):
        found = measure_batch_sizes(trained, gb.SGD(0.1), X, Y, 400)
        assert list(found.speeds) == [16, 32, 64]
        assert found.largest == 64
        assert trained.engine.rows_at_once is None
    monkeypatch.setattr(Engine, "_stretch", lambda self, source, step, *rest: (step, "no room"))
    with pytest.raises(DeviceError, match="no memory"):
        measure_batch_sizes(network(), gb.SGD(0.1), X, Y, 400)


def test_a_stream_is_measured_by_its_first_rows(monkeypatch):
    speeds(monkeypatch, lambda n: 1.0)

    def chunks():
        yield X, Y

    trainer = gb.Trainer(network())
    trainer.fit(gb.open_stream(chunks), epochs=1, batch_size="auto")
    assert max(trainer.batch_sizes.speeds) > 64
    with pytest.raises((ArgumentError, TypeError), match="batch_size must be a whole number"):
        trainer.fit(X, Y, batch_size="largest")


# -- the noise scale ---------------------------------------------------------------------------------------------------------


def linear(n, noise=0.5, d=3, seed=0):
    """y = x w* + noise with x standard normal, at w = 0: of C = (x w - y)^2 / 2 a row's gradient is -x y, and -y for the bias.

    So G = -w* and 0, and by E[|x|^2 (x w*)^2] = (d + 2) |w*|^2 the covariance has the trace (d + 1) |w*|^2 + d noise^2, and
    |w*|^2 + noise^2 for the bias."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, d)), np.array([1.0, -0.5, 0.25])
    y = x @ w[:, None] + noise * rng.normal(size=(n, 1))
    net = gb.Network([gb.Dense(d, 1)], loss="half_squared_error", device="cpu", dtype="float64")
    net.set_weights({name: np.zeros_like(v) for name, v in net.get_weights().items()})
    square = float(w @ w)
    return net, x, y, square, (d + 1) * square + d * noise**2 + square + noise**2


def test_the_noise_scale_of_a_linear_regression_is_the_known_one():
    net, x, y, square, trace = linear(200_000)
    before = net.get_weights()
    found = gradient_noise_scale(net, x, y, batch_size=20, batches=10_000)
    assert found.trace == pytest.approx(trace, rel=0.02)
    assert found.squared_norm == pytest.approx(square, rel=0.02)
    assert found.scale == pytest.approx(trace / square, rel=0.03)
    assert_same_bits(net.get_weights(), before)


def test_the_estimates_are_not_biased_by_the_batch_size():
    for size in (1, 5, 40):
        found = []
        for seed in range(1000):
            net, x, y, square, trace = linear(40 * 4, seed=seed)
            found.append(gradient_noise_scale(net, x, y, batch_size=size, batches=4, seed=seed))
        assert np.mean([f.squared_norm for f in found]) == pytest.approx(square, rel=0.1)
        assert np.mean([f.trace for f in found]) == pytest.approx(trace, rel=0.1)


def test_noise_of_what_is_trained_alone_and_none_where_all_rows_are_one():
    net, x, y, *_ = linear(1000)
    same = gradient_noise_scale(net, np.tile(x[:1], (100, 1)), np.tile(y[:1], (100, 1)), batch_size=10)
    assert abs(same.scale) < 1e-12
    layers = [gb.Dense(3, 4), gb.Dense(4, 1)]
    net = gb.Network(layers, loss="half_squared_error", device="cpu")
    whole = gradient_noise_scale(net, x, y)
    layers[0].trainable = False
    part = gradient_noise_scale(net, x, y)
    assert 0 < part.trace < whole.trace
    with pytest.raises(ArgumentError, match="two batches of 32 rows"):
        gradient_noise_scale(net, x[:63], y[:63])


def test_where_the_gradient_is_lost_in_noise_the_scale_is_infinite():
    net, x, y, *_ = linear(64)
    noise = np.random.default_rng(1).normal(size=y.shape)
    found = [gradient_noise_scale(net, x, noise, batch_size=1, batches=8, seed=s) for s in range(20)]
    assert any(f.scale == np.inf and f.squared_norm <= 0 for f in found)
