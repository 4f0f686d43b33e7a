from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.activations import Tanh
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 4)), RNG.standard_normal((5, 3))


def net(activation: str = "tanh", **options: Any) -> gb.Network:
    return gb.mlp([4, 6, 3], activation=activation, **{"dtype": "float64", "device": "cpu", "seed": 1, **options})


class Wrong(gb.Layer):
    """a = x^2, with the derivative's entry of one unit off by `error`."""

    recordable = True

    def __init__(self, error: float) -> None:
        self.error = error

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, v.x, out=v.a)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.multiply(v.x, 2.0, out=dx)
        be.xp.multiply(dx[:, 2], 1 + self.error, out=dx[:, 2])
        be.xp.multiply(dx, v.delta, out=dx)


def with_layer(layer: gb.Layer, **options: Any) -> gb.Network:
    return gb.Network([gb.Dense(4, 5, "tanh"), layer, gb.Dense(5, 3)], dtype="float64", device="cpu", **options)


def test_every_entry_is_compared_on_every_device(backend: Backend) -> None:
    report = gb.gradcheck(net(device=backend), X, Y)
    assert report
    assert {(d.name, d.index) for d in report.compared} == {
        (name, index)
        for name, shape in {"0.weight": (4, 6), "0.bias": (6,), "1.weight": (6, 3), "1.bias": (3,), "x": (5, 4)}.items()
        for index in np.ndindex(shape)
    }
    assert report.max_error < 1e-9
    assert report.resampled == 0


@pytest.mark.parametrize("method", ["central", "complex"])
def test_both_methods_pass_a_right_network_and_leave_it_as_it_was(method: str) -> None:
    layers = [gb.Dense(4, 6, "relu"), gb.Dropout(0.4), gb.BatchNorm(6), gb.Dense(6, 3)]
    checked = gb.Network(layers, dtype="float64", device="cpu", seed=2)
    checked.train_step(X, Y, gb.SGD(0.1))
    before, step, loss = checked.get_weights(), int(checked.step), checked.loss(X, Y, training=True)
    before = checked.get_weights()
    assert gb.gradcheck(checked, X, Y, method=method)
    assert int(checked.step) == step == 1
    after = checked.get_weights()
    assert all(np.array_equal(after[k], w) for k, w in before.items())
    assert checked.loss(X, Y, training=True) == loss


def test_complex_step_is_right_to_1e_12() -> None:
    report = gb.gradcheck(net("gelu", loss="cross_entropy"), X, np.array([0, 2, 1, 1, 0]), method="complex")
    assert report.max_error < 1e-14


def test_names_the_entries_of_a_wrong_gradient_worst_first() -> None:
    report = gb.gradcheck(with_layer(Wrong(1e-3)), X, Y)
    assert not report
    assert {(d.name, d.index[-1]) for d in report.failures if d.name.startswith("0.")} == {
        ("0.weight", 2),
        ("0.bias", 2),
    }
    assert all(d.name != "2.weight" and d.name != "2.bias" for d in report.failures)
    ratios = [d.error / d.tolerance for d in report.worst]
    assert ratios == sorted(ratios, reverse=True)
    text = str(report)
    assert "FAILED" in text
    assert "analytic" in text
    worst = report.worst[0]
    assert f"{worst.analytic:.7e}" in text


def test_passes_exactly_up_to_its_tolerance() -> None:
    assert gb.gradcheck(with_layer(Wrong(1e-6)), X, Y)
    assert not gb.gradcheck(with_layer(Wrong(1e-4)), X, Y)
    assert gb.gradcheck(with_layer(Wrong(1e-4)), X, Y, rtol=1e-2)


def test_directions_stand_for_the_entries_of_large_networks() -> None:
    report = gb.gradcheck(net(), X, Y, max_entries=30, directions=6)
    assert report
    names = [d.name for d in report.compared if d.index is None]
    assert names == [n for n in ("0.weight", "0.bias", "1.weight", "1.bias") for _ in range(6)]
    assert sum(d.name == "x" for d in report.compared) == X.size
    assert not gb.gradcheck(with_layer(Wrong(1e-2)), X, Y, max_entries=10)
    large = gb.mlp([100, 110, 3], activation="sigmoid", dtype="float64", device="cpu")
    found = gb.gradcheck(large, RNG.standard_normal((3, 100)), Y[:3])
    assert found
    assert {d.index for d in found.compared if d.name != "x"} == {None}


@pytest.mark.parametrize("method", ["central", "complex"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu"])
def test_kinks_are_found_and_checked_elsewhere(activation: str, method: str) -> None:
    x = X.copy()
    x[1] = 0
    report = gb.gradcheck(net(activation), x, Y, method=method)
    assert report
    assert report.resampled > 0
    assert len(report.compared) == 24 + 6 + 18 + 3 + 20


def test_the_kink_of_the_absolute_error_and_of_the_l1_penalty() -> None:
    checked = net(loss="mean_absolute_error")
    y = Y.copy()
    y[2] = checked.forward(X)[2]
    report = gb.gradcheck(checked, X, y)
    assert report
    assert report.resampled > 0
    sparse = net(l1=0.1)
    weights = sparse.get_weights()
    weights["0.weight"][1] = 0
    sparse.set_weights(weights)
    report = gb.gradcheck(sparse, X, Y)
    assert report
    assert report.resampled == 6


class Abs(gb.Layer):
    """a = |x|: a kink that nobody announced."""

    recordable = True

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.abs(v.x, out=v.a)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.sign(v.x, out=dx)
        be.xp.multiply(dx, v.delta, out=dx)


def test_an_unannounced_kink_is_told_by_its_one_sided_differences() -> None:
    checked = with_layer(Abs())
    x = X.copy()
    x[0] = 0
    checked.set_weights({**checked.get_weights(), "0.bias": np.full(5, 3e-6)})
    report = gb.gradcheck(checked, x, Y)
    assert report
    assert report.resampled > 0


class Rounded(gb.Layer):
    """a = x rounded to steps of 1e-5: a jump within every eps."""

    recordable = True

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, 1e5, out=v.a)
        be.xp.rint(v.a, out=v.a)
        be.xp.multiply(v.a, 1e-5, out=v.a)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.copyto(dx, v.delta)


def test_what_has_no_smooth_point_is_no_pass() -> None:
    report = gb.gradcheck(with_layer(Rounded()), X, Y)
    assert not report
    assert report.failures


def test_kinks_that_cannot_be_left_are_reported() -> None:
    report = gb.gradcheck(net("relu"), X, Y, eps=10.0)
    assert not report
    assert report.unchecked
    assert "at a kink at every point" in str(report)


class TwiceTanh(gb.activations.Activation):
    """tanh, with twice its derivative."""

    name = "twice_tanh"

    def forward(self, be: Any, z: Any, a: Any) -> None:
        be.xp.tanh(z, out=a)

    def times_derivative(self, be: Any, a: Any, delta: Any) -> None:
        delta *= 2 * (1 - a * a)


@pytest.mark.parametrize(("eps", "shift"), [(1e-16, 0.0), (1e-30, 0.0), (None, 1e11)])
def test_a_wrong_gradient_does_not_pass_where_rounding_hides_it(eps: float | None, shift: float) -> None:
    checked = gb.mlp([4, 5, 3], activation=TwiceTanh(), loss="half_squared_error", dtype="float64", device="cpu")
    y = np.random.default_rng(0).standard_normal((6, 3)) + shift
    report = gb.gradcheck(checked, np.random.default_rng(1).standard_normal((6, 4)), y, eps=eps)
    assert not report
    assert any("gradient of 0.weight: not checked, since rounding of the loss" in p for p in report.problems)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_targets_of_any_usual_size_can_be_checked(scale: float) -> None:
    checked = gb.mlp([4, 5, 3], activation="tanh", loss="mean_squared_error", dtype="float64", device="cpu")
    rng = np.random.default_rng(0)
    report = gb.gradcheck(checked, rng.standard_normal((6, 4)), scale * rng.standard_normal((6, 3)))
    assert report, str(report)


class Restless(gb.Layer):
    """a = x; each backward pass differs from the one before."""

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.copyto(v.a, v.x)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        self.calls += 1
        be.xp.multiply(v.delta, 1 + 1e-12 * self.calls, out=dx)


def test_other_bits_the_second_time_are_a_problem() -> None:
    report = gb.gradcheck(with_layer(Restless()), X, Y)
    assert not report
    assert any("other bits" in p for p in report.problems)


def test_a_loss_that_is_not_the_one_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = net()
    right = checked.loss
    monkeypatch.setattr(checked, "loss", lambda *a, **k: right(*a, **k) + 1e-9)
    report = gb.gradcheck(checked, X, Y)
    assert not report
    assert any("loss() reports" in p for p in report.problems)


def test_a_training_step_that_does_not_follow_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gb.SGD.rule

    def rule(self: Any, be: Any, p: Any, g: Any, state: Any, h: Any) -> None:
        be.xp.multiply(g, 1 + 1e-9, out=g)
        right(self, be, p, g, state, h)

    monkeypatch.setattr(gb.SGD, "rule", rule)
    report = gb.gradcheck(net(), X, Y)
    assert not report
    assert any("train_step() moves 0.weight" in p for p in report.problems)


def test_a_batch_that_is_written_to() -> None:
    checked = net()
    right = checked.engine.load

    def load(x: Any, y: Any, weights: Any = None) -> Any:
        batch = right(x, y, weights)
        x += 1e-9
        return batch

    checked.engine.load = load  # type: ignore[method-assign,assignment]
    assert any("modified" in p for p in gb.gradcheck(checked, X.copy(), Y).problems)


def test_nan_is_no_pass() -> None:
    class NoNumber(Tanh):
        name = "no_number"

        def times_derivative(self, be: Any, saved: Any, delta: Any) -> None:
            be.xp.multiply(delta, np.nan, out=delta)

    checked = gb.Network([gb.Dense(4, 3, NoNumber())], dtype="float64", device="cpu")
    report = gb.gradcheck(checked, X, Y)
    assert not report
    assert report.failures


def test_float32_is_refused_with_the_reason() -> None:
    with pytest.raises(ArgumentError, match=r"needs a float64 network.*leaves no digit.*dtype=\"float64\""):
        gb.gradcheck(gb.mlp([4, 3], device="cpu"), X, Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "forward"}, "central"),
        ({"eps": 0.0}, "eps must be"),
        ({"eps": float("nan")}, "eps must be"),
        ({"directions": 2}, "at least 5"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gb.gradcheck(net(), X, Y, **options)


def test_a_layer_must_say_that_it_takes_complex_numbers() -> None:
    with pytest.raises(ArgumentError, match="complex_step = True"):
        gb.gradcheck(with_layer(Wrong(0.0)), X, Y, method="complex")
    willing = Wrong(0.0)
    willing.complex_step = True  # type: ignore[attr-defined]
    assert gb.gradcheck(with_layer(willing), X, Y, method="complex")


def test_bad_data_is_refused_as_everywhere() -> None:
    with pytest.raises(ArgumentError, match="shape"):
        gb.gradcheck(net(), X[:, :3], Y)
