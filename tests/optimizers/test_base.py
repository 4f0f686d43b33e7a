from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, CheckpointError
from gpubackprop.network.parameters import Parameters
from gpubackprop.optimizers import OPTIMIZERS as RULES
from gpubackprop.optimizers import Optimizer, get_optimizer
from gpubackprop.optimizers.schedules import Cosine, Step
from tests.small import OPTIMIZERS, assert_same_bits, make_data, make_optimizer


def parameters_with_gradient(be: Backend, gradient: list[float], dtype: Any = np.float64) -> Parameters:
    parameters = Parameters(be, {"0.weight": (1, len(gradient))}, np.dtype(dtype))
    parameters.write({"0.weight": np.ones((1, len(gradient)))})
    host = np.zeros(parameters.G.shape)
    host[: len(gradient)] = gradient
    be.copy_in(host, parameters.G)
    return parameters


def stepped(be: Backend, optimizer: Optimizer, gradient: list[float]) -> np.ndarray:
    """How far one step takes parameters that were all 1."""
    parameters = parameters_with_gradient(be, gradient)
    optimizer.bind(parameters)
    optimizer.prepare()
    optimizer.apply(be)
    return 1 - parameters.to_host(parameters.P)["0.weight"][0]


# -- clipping and decay --------------------------------------------------------------------------------------------------


def test_clip_by_value(backend: Backend) -> None:
    step = stepped(backend, gb.SGD(1.0, clip_value=0.5), [3.0, -4.0, 0.25])
    np.testing.assert_allclose(step, [0.5, -0.5, 0.25], rtol=1e-12)


def test_clip_by_norm(backend: Backend) -> None:
    optimizer = gb.SGD(1.0, clip_norm=1.0)
    np.testing.assert_allclose(stepped(backend, optimizer, [3.0, -4.0]), [0.6, -0.8], rtol=1e-6)
    assert float(backend.to_host(optimizer.norm)) == pytest.approx(5.0)


def test_a_short_gradient_is_left_as_it_is(backend: Backend) -> None:
    np.testing.assert_array_equal(stepped(backend, gb.SGD(1.0, clip_norm=10.0), [3.0, -4.0]), [3.0, -4.0])
    np.testing.assert_array_equal(stepped(backend, gb.SGD(1.0, clip_norm=10.0), [0.0, 0.0]), [0.0, 0.0])


def test_values_are_clipped_before_the_norm(backend: Backend) -> None:
    step = stepped(backend, gb.SGD(1.0, clip_value=3.0, clip_norm=1.0), [3.0, -100.0])
    np.testing.assert_allclose(step, np.array([1, -1]) / np.sqrt(2), rtol=1e-6)


def test_the_norm_is_tracked_without_clipping(backend: Backend) -> None:
    optimizer = gb.SGD(1.0)
    optimizer.track_norm = True
    np.testing.assert_array_equal(stepped(backend, optimizer, [3.0, -4.0]), [3.0, -4.0])
    assert float(backend.to_host(optimizer.norm)) == pytest.approx(5.0, rel=1e-12)


def test_weight_decay_coupled_and_not(backend: Backend) -> None:
    coupled = stepped(backend, gb.SGD(0.1, weight_decay=0.5), [2.0])
    np.testing.assert_allclose(coupled, [0.1 * (2.0 + 0.5)], rtol=1e-12)
    # Under Adagrad the first step is eta times the sign: a coupled decay vanishes in it, a decoupled one does not.
    options = {"weight_decay": 0.5, "learning_rate": 0.1}
    np.testing.assert_allclose(stepped(backend, gb.Adagrad(**options), [2.0]), [0.1], rtol=1e-8)
    decoupled = stepped(backend, gb.Adagrad(**options, decoupled_weight_decay=True), [2.0])
    np.testing.assert_allclose(decoupled, [0.1 * 0.5 + 0.1], rtol=1e-8)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("key", OPTIMIZERS)
def test_the_weights_alone_decay_where_that_is_asked_for(backend: Backend, key: str, decoupled: bool) -> None:
    """The matrices as if all decayed, everything else as if nothing did; more than one block of a large buffer."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (300, 300), "0.bias": (300,), "1.gamma": (5,), "2.weight": (5, 3)}
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(3)]

    def run(names: list[str], **options: Any) -> dict[str, np.ndarray]:
        parameters = Parameters(backend, {name: shapes[name] for name in names}, np.dtype(np.float64))
        parameters.write({name: start[name] for name in names})
        optimizer = make_optimizer(key, learning_rate=0.05, **options)
        optimizer.bind(parameters)
        for gradient in gradients:
            for name in names:
                backend.copy_in(gradient[name], parameters.gradients[name])
            optimizer.prepare()
            optimizer.apply(backend)
        return parameters.to_host(parameters.P)

    decay = {"weight_decay": 0.2, "decoupled_weight_decay": decoupled}
    found = run(list(shapes), **decay, decay="weights")
    weights = [name for name, shape in shapes.items() if len(shape) > 1]
    expected = run(weights, **decay) | run([name for name in shapes if name not in weights], weight_decay=0.0)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-13, err_msg=name)


def test_decay_comes_after_clipping(backend: Backend) -> None:
    step = stepped(backend, gb.SGD(1.0, clip_value=0.5, weight_decay=2.0), [3.0])
    np.testing.assert_allclose(step, [0.5 + 2.0], rtol=1e-12)


# -- the schedule ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [True, False])
def test_the_schedule_reaches_recorded_steps(backend: Backend, capture: bool) -> None:
    net = gb.Network([gb.Dense(1, 1, bias=False)], device=backend, dtype="float64", capture=capture)
    optimizer = gb.SGD(1.0, schedule=Step(gamma=0.5, every=1))
    assert optimizer.current_learning_rate() == 1.0
    for factor in (1.0, 0.5, 0.25):
        net.set_weights({"0.weight": np.zeros((1, 1))})
        # C = (w - 1)^2 / 2, so that the step from 0 is the learning rate itself.
        net.train_step([[1.0]], [[1.0]], optimizer)
        assert net.get_weights()["0.weight"].item() == pytest.approx(factor, rel=1e-12)
        assert optimizer.current_learning_rate() == factor


def test_learning_rate_may_be_changed_between_steps(backend: Backend) -> None:
    net = gb.Network([gb.Dense(1, 1, bias=False)], device=backend, dtype="float64")
    optimizer = gb.SGD(0.5)
    for rate in (0.5, 0.125):
        optimizer.learning_rate = rate
        net.set_weights({"0.weight": np.zeros((1, 1))})
        net.train_step([[1.0]], [[1.0]], optimizer)
        assert net.get_weights()["0.weight"].item() == rate


# -- state -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_a_run_goes_on_from_its_state_bit_by_bit(backend: Backend, key: str) -> None:
    x, y = make_data(6, 4, 3)
    options = {"schedule": Cosine(total=10), "clip_norm": 1.0, "weight_decay": 0.01}
    net, optimizer = gb.mlp([4, 5, 3], device=backend, dtype="float64"), make_optimizer(key, **options)
    for _ in range(3):
        net.train_step(x, y, optimizer)
    resumed, again = gb.mlp([4, 5, 3], device=backend, dtype="float64"), make_optimizer(key, **options)
    resumed.set_weights(net.get_weights())
    again.bind(resumed.engine.parameters)
    again.set_state(optimizer.get_state())
    for _ in range(3):
        net.train_step(x, y, optimizer)
        resumed.train_step(x, y, again)
    assert_same_bits(net.get_weights(), resumed.get_weights())
    assert_same_bits(optimizer.get_state(), again.get_state())
    assert int(optimizer.get_state()["t"]) == 6


def test_state_that_does_not_fit_changes_nothing(backend: Backend) -> None:
    x, y = make_data(6, 4, 3)
    net, optimizer = gb.mlp([4, 5, 3], device=backend), gb.Adam()
    net.train_step(x, y, optimizer)
    before = optimizer.get_state()
    good = {k: v + 1 for k, v in before.items()}
    for bad, message in (
        ({**good, "v": good["v"][:-1]}, "optimizer state 'v' of Adam: expected shape"),
        ({"t": good["t"], "m": good["m"]}, "optimizer state 'v' of Adam.*got nothing"),
        ({k: v for k, v in good.items() if k != "t"}, "optimizer state 't' of Adam.*got nothing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            optimizer.set_state(bad)
        assert_same_bits(optimizer.get_state(), before)


def test_an_unbound_optimizer_has_its_step_only() -> None:
    assert gb.Adam().get_state() == {"t": 0}


# -- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", OPTIMIZERS)
def test_settings_make_it_again(key: str) -> None:
    optimizer = make_optimizer(key, learning_rate=0.3, clip_norm=2.0, weight_decay=0.25)
    settings = optimizer.settings()
    assert settings.pop("schedule") == {"name": "constant", "warmup": 0, "total": None}
    again = get_optimizer(key.split()[0], **settings)
    assert repr(again) == repr(optimizer)
    assert again.settings() == optimizer.settings()


def test_repr() -> None:
    assert repr(gb.SGD(0.1, momentum=0.9)) == "SGD(0.1, momentum=0.9)"
    assert "schedule=Cosine(warmup=3" in repr(gb.Adam(schedule=Cosine(warmup=3)))


@pytest.mark.parametrize("name", sorted(RULES))
def test_learning_rates_that_cannot_be(name: str) -> None:
    for rate in (0, -0.1, nan, inf):
        with pytest.raises(ArgumentError, match="learning_rate must be a finite number above 0; got"):
            get_optimizer(name, learning_rate=rate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gb.SGD(momentum=1.0), r"momentum must be a number in \[0, 1\)"),
        (lambda: gb.SGD(nesterov=True), "nesterov=True needs a momentum above 0"),
        (lambda: gb.SGD(weight_decay=-1), "weight_decay must be"),
        (lambda: gb.SGD(clip_norm=0), "clip_norm must be"),
        (lambda: gb.SGD(decay="biases"), 'decay must be "all" or "weights"'),
        (lambda: gb.SGD(clip_value=nan), "clip_value must be"),
        (lambda: gb.Adam(betas=(0.9, 1.0)), r"betas\[1\] must be"),
        (lambda: gb.Adam(eps=0), "eps must be"),
        (lambda: gb.RMSprop(alpha=1), "alpha must be"),
        (lambda: gb.Adadelta(rho=-0.1), "rho must be"),
        (lambda: gb.Adagrad(lr_decay=-1), "lr_decay must be"),
        (lambda: gb.NAdam(momentum_decay=0), "momentum_decay must be"),
        (lambda: gb.LARS(trust=0), "trust must be"),
        (lambda: gb.Adam(schedule="cosinus"), "unknown schedule 'cosinus'"),
        (lambda: get_optimizer("adma"), r"unknown optimizer 'adma': did you mean .*'adam'"),
        (lambda: get_optimizer("adam", momentum=0.9), "optimizer 'adam': .*momentum"),
        (lambda: get_optimizer(gb.Adam(), learning_rate=1.0), "are for an optimizer by name"),
        (
            lambda: get_optimizer("sgd", learning_rate="fast"),
            "learning_rate must be a finite number above 0; got 'fast'",
        ),
    ],
)
def test_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_lookup() -> None:
    own = gb.Adam()
    assert get_optimizer(own) is own
    assert type(get_optimizer("AdamW", learning_rate=0.1)) is gb.AdamW
    assert gb.AdamW().weight_decay == 0.01
    assert gb.AdamW().decoupled_weight_decay


def test_a_rule_of_ones_own(backend: Backend) -> None:
    class SignDescent(Optimizer):
        """p <- p - eta sign(g)."""

        def rule(self, be: Backend, p: Any, g: Any, state: Any, h: Any) -> None:
            be.xp.sign(g, out=g)
            be.xp.multiply(g, h[0], out=g)
            be.xp.subtract(p, g, out=p)

    np.testing.assert_allclose(stepped(backend, SignDescent(0.25), [3.0, -4.0, 0.0]), [0.25, -0.25, 0.0])
    with pytest.raises(NotImplementedError, match=r"Optimizer must define rule\(be, p, g, state, h\)"):
        stepped(backend, Optimizer(0.1), [1.0])
