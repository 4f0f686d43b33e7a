from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.errors import ArgumentError, DeviceError

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((16, 5)), RNG.integers(0, 3, 16)
WIDTHS = [5, 7, 6, 3]


def net(dtype: str = "float64", activation: str = "tanh", **options: Any) -> gb.Network:
    return gb.mlp(WIDTHS, activation=activation, loss="cross_entropy", dtype=dtype, device="cpu", seed=2, **options)


class Disturbed(NumpyBackend):
    """A CPU that is off by `size` in one place: an operation on the weights of one shape, from one call on."""

    def __init__(self, operation: str, shape: tuple[int, ...], first_call: int, size: float) -> None:
        super().__init__()
        self.operation, self.shape, self.first_call, self.size = operation, shape, first_call, size
        self.calls = 0

    def _disturb(self, operation: str, shape: tuple[int, ...], out: Any) -> None:
        if (operation, shape) == (self.operation, self.shape):
            self.calls += 1
            if self.calls >= self.first_call:
                flat = out.reshape(-1)
                flat[flat.size // 2] += self.size * np.linalg.norm(out)

    def affine(self, x: Any, W: Any, b: Any, f: Any, z: Any, out: Any) -> None:
        super().affine(x, W, b, f, z, out)
        self._disturb("affine", W.shape, out)

    def propagate(self, delta: Any, W: Any, f: Any, saved: Any, out: Any) -> None:
        super().propagate(delta, W, f, saved, out)
        self._disturb("propagate", W.shape, out)

    def affine_gradients(self, x: Any, delta: Any, dW: Any, db: Any, beta: float) -> None:
        super().affine_gradients(x, delta, dW, db, beta)
        self._disturb("gradients", dW.shape, dW)
        self._disturb("bias gradients", dW.shape, db)

    def update(self, optimizer: Any, P: Any, G: Any, state: Any, h: Any) -> None:
        super().update(optimizer, P, G, state, h)
        self._disturb("update", (1,), P[:21].reshape(1, 21))


# Each step runs a backward pass on the weights, one on weights that are moved by rounding, and that of the training step.
PLANTED = [
    ("affine", (7, 6), 1, (1, 1, "forward", "output")),
    ("affine", (5, 7), 4, (2, 0, "forward", "output")),
    ("affine", (6, 3), 7, (3, 2, "forward", "output")),
    ("propagate", (7, 6), 4, (2, 0, "delta", "delta")),
    ("propagate", (6, 3), 10, (4, 1, "delta", "delta")),
    ("gradients", (7, 6), 1, (1, 1, "gradient", "1.weight")),
    ("gradients", (5, 7), 13, (5, 0, "gradient", "0.weight")),
    ("bias gradients", (6, 3), 7, (3, 2, "gradient", "2.bias")),
    ("update", (1,), 3, (3, 0, "update", "0.weight")),
]


@pytest.mark.parametrize(("operation", "shape", "call", "place"), PLANTED)
@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e-10), ("float32", 1e-3)])
def test_a_planted_perturbation_is_located_exactly(
    operation: str, shape: tuple[int, ...], call: int, place: tuple[int, int, str, str], dtype: str, size: float
) -> None:
    report = gb.check_parity(net(dtype, capture=False), X, Y, ("cpu", Disturbed(operation, shape, call, size)), 6)
    assert not report
    assert report.first is not None
    assert (report.first.step, report.first.layer, report.first.kind, report.first.name) == place
    assert report.steps == place[0], "nothing is followed past the step that failed"
    assert "first: layer" in str(report)
    assert f"step {place[0]}" in str(report)
    assert "!" in str(report)


def test_a_perturbation_within_the_tolerance_is_none() -> None:
    assert gb.check_parity(net(capture=False), X, Y, ("cpu", Disturbed("affine", (7, 6), 1, 1e-14)), 3)
    disturbed = Disturbed("affine", (7, 6), 1, 1e-10)
    assert gb.check_parity(net(capture=False), X, Y, ("cpu", disturbed), 3, tolerance=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_device_agrees_with_the_cpu(backend: Backend, dtype: str) -> None:
    layers = [gb.Dense(5, 7, "relu"), gb.Dropout(0.3), gb.Dense(7, 6, "gelu"), gb.LayerNorm(6), gb.Dense(6, 3)]
    checked = gb.Network(layers, loss="cross_entropy", dtype=dtype, device="cpu", seed=2, l2=0.01)
    report = gb.check_parity(checked, X, Y, ("cpu", backend), 10)
    assert report, str(report)
    assert set(report.worst) >= {(i, kind) for i in (0, 2, 3, 4) for kind in ("forward", "delta", "gradient", "update")}


@pytest.mark.parametrize("rule", ["sgd", "adam", "rmsprop", "lamb"])
def test_two_precisions_agree_to_the_coarser_ones_tolerance(rule: str) -> None:
    x = RNG.standard_normal((200, 5))
    y = RNG.integers(0, 3, 200)
    report = gb.check_parity(net(), x, y, (("cpu", "float64"), ("cpu", "float32")), 10, optimizer=rule)
    assert report, str(report)
    assert report.tolerance == 1e-5
    assert 1e-9 < report.worst[1, "forward"].relative_error < 1e-5


def test_gradients_that_are_nothing_but_rounding_raise_no_alarm() -> None:
    layers = [gb.Dense(5, 7), gb.BatchNorm(7), gb.Activation("relu"), gb.Dense(7, 3)]
    checked = gb.Network(layers, loss="cross_entropy", dtype="float64", device="cpu", seed=2)
    for rule in ("sgd", "adam"):
        report = gb.check_parity(checked, X, Y, (("cpu", "float64"), ("cpu", "float32")), 10, optimizer=rule)
        assert report, str(report)


class Above(NumpyBackend):
    """A CPU on which the first unit of the layer (5, 7) is a rounding error above 0 where it is 0, in some rows."""

    def __init__(self, rows: slice) -> None:
        super().__init__()
        self.rows = rows

    def affine(self, x: Any, W: Any, b: Any, f: Any, z: Any, out: Any) -> None:
        super().affine(x, W, b, f, z, out)
        if W.shape == (5, 7):
            out[np.isin(x[:, 0], X[self.rows, 0]), 0] += 1e-17


def at_a_kink(*above: gb.Layer) -> gb.Network:
    """The first unit of its first layer is exactly 0."""
    layers = [gb.Dense(5, 7, "relu"), *above, gb.Dense(7, 3)]
    checked = gb.Network(layers, loss="cross_entropy", dtype="float64", device="cpu", seed=2, capture=False)
    weights = checked.get_weights()
    weights["0.weight"][:, 0] = 0
    checked.set_weights(weights)
    return checked


def test_pre_activations_on_either_side_of_a_kink_are_counted() -> None:
    report = gb.check_parity(at_a_kink(), X, Y, ("cpu", Above(slice(3, 4))), 3)
    assert report, str(report)
    assert report.kinks == 3
    assert "different sides of 0" in str(report)
    assert report.worst[0, "gradient"].relative_error < 1e-12, "of the other rows"


def test_what_could_not_be_compared_at_any_step_is_named_and_is_no_parity() -> None:
    inside = gb.Residual([gb.Dense(7, 7, "tanh"), gb.Dense(7, 7)])
    report = gb.check_parity(at_a_kink(inside), X, Y, ("cpu", Above(slice(None))), 3)
    assert not report
    assert report.first is None
    assert report.unchecked == [(0, "delta"), (0, "gradient"), (0, "update")], "but the layers above"
    assert "never compared, since every row has such a pre-activation: delta of layer 0," in str(report)
    assert report.plain()["unchecked"] == report.unchecked


def test_layers_above_a_residual_with_a_kink_inside_are_compared() -> None:
    inner = gb.Residual([gb.Dense(5, 7, "relu"), gb.Dense(7, 5)])
    layers = [gb.Dense(5, 5), inner, gb.Dense(5, 3)]
    checked = gb.Network(layers, loss="cross_entropy", dtype="float64", device="cpu", capture=False)
    weights = checked.get_weights()
    weights["1.0.weight"][:, 0] = 0
    checked.set_weights(weights)

    class Every(Above):
        def affine(self, x: Any, W: Any, b: Any, f: Any, z: Any, out: Any) -> None:
            NumpyBackend.affine(self, x, W, b, f, z, out)
            out[:, 0] += 1e-17 * (W.shape == (5, 7))

    report = gb.check_parity(checked, X, Y, ("cpu", Every(slice(None))), 3)
    assert (2, "gradient") in report.worst
    assert (0, "gradient") in report.unchecked


class WrongInFloat32(gb.Layer):
    """a = 2 x, whose backward pass is wrong in float32: dx = 0."""

    def forward(self, be: Any, v: Any, training: bool) -> None:
        v.a[...] = 2 * v.x

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        dx[...] = 2 * v.delta if v.delta.dtype == np.float64 else 0


def test_a_row_at_a_kink_hides_nothing_below_it() -> None:
    # 1e-50 is 0 in float32, so some ReLU takes another side at every step.
    x, y = RNG.standard_normal((16, 3)), RNG.standard_normal((16, 2))
    x[0] = 1e-50
    below = [gb.Dense(3, 4, "tanh", bias=False), WrongInFloat32(), gb.Dense(4, 6, "relu", bias=False)]
    checked = gb.Network([*below, gb.Dense(6, 2)], device="cpu", dtype="float64")
    report = gb.check_parity(checked, x, y, (("cpu", "float64"), ("cpu", "float32")))
    assert report.kinks
    assert report.first is not None
    assert (report.first.layer, report.first.kind) == (0, "delta")


class Coarse(NumpyBackend):
    """A CPU that rounds what it multiplies to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.precision = "bf16"

    def affine(self, x: Any, W: Any, b: Any, f: Any, z: Any, out: Any) -> None:
        super().affine(_bf16(x), _bf16(W), b, f, z, out)


def _bf16(a: np.ndarray) -> np.ndarray:
    return ((a.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("norm", [gb.BatchNorm, gb.LayerNorm])
def test_a_relu_network_in_low_precision_is_compared_all_the_way_down(norm: Any) -> None:
    layers = [gb.Dense(40, 200), norm(200), gb.Activation("relu"), gb.Dropout(0.2), gb.Dense(200, 100, "relu")]
    layers.append(gb.Dense(100, 3))
    checked = gb.Network(layers, loss="cross_entropy", dtype="float32", device="cpu", seed=2, capture=False)
    x, y = RNG.standard_normal((200, 40), np.float32), RNG.integers(0, 3, 200)
    report = gb.check_parity(checked, x, y, ("cpu", Coarse()))
    assert report, str(report)
    assert report.kinks > 100
    assert (0, "gradient") in report.worst


def test_after_ten_steps_only_losses_are_compared() -> None:
    report = gb.check_parity(net(), X, Y, ("cpu", "strict"), 14)
    assert report
    assert len(report.losses) == report.steps == 14
    late = gb.check_parity(net(capture=False), X, Y, ("cpu", Disturbed("affine", (5, 7), 34, 1e-2)), 14)
    assert late.first is not None
    assert (late.first.layer, late.first.kind) == (None, "loss")
    assert late.first.step > 10


def test_nan_on_one_device_is_a_difference() -> None:
    report = gb.check_parity(net(capture=False), X, Y, ("cpu", Disturbed("affine", (6, 3), 1, np.nan)), 2)
    assert report.first is not None
    assert (report.first.step, report.first.layer, report.first.kind) == (1, 2, "forward")


def test_the_network_and_the_optimizer_are_left_alone() -> None:
    checked, rule = net(), gb.Adam(0.1)
    before = checked.get_weights()
    gb.check_parity(checked, X, Y, ("cpu", "strict"), 2, optimizer=rule)
    assert rule.t == 0
    assert rule.parameters is None
    assert all(np.array_equal(w, before[k]) for k, w in checked.get_weights().items())


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_optimizer_that_has_trained_begins_anew(schedule: str) -> None:
    """Its old moments are no part of what is compared, nor is where its schedule was."""
    used = gb.Adam(0.01, schedule=schedule)
    trainer = gb.Trainer(net(), used)
    for _ in range(2):
        trainer.fit(X, Y, epochs=9, batch_size=len(X))
    fresh = gb.Adam(0.01, schedule=gb.schedules.Cosine(total=9) if schedule == "cosine" else None)
    losses = [gb.check_parity(net(), X, Y, ("cpu", "cpu"), 6, optimizer=rule).losses for rule in (used, fresh)]
    assert losses[0] == losses[1]


def test_the_state_of_tf32_and_the_worst_of_each_layer_are_shown() -> None:
    text = str(gb.check_parity(net(), X, Y, ("cpu", "strict"), 2))
    assert "TF32: cpu float64: has none; strict float64: has none" in text
    for i in range(3):
        assert f"{i} Dense" in text


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        (("cpu",), {}, "devices must be two"),
        (("cpu", "strict"), {"steps": 0}, "steps"),
        (("cpu", "strict"), {"tolerance": 0.0}, "tolerance"),
        (("cpu", ("cpu", "float8")), {}, "float8"),
        (("cpu", "gpu"), {}, "gpu"),
    ],
)
def test_settings_that_cannot_be(devices: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        gb.check_parity(net(), X, Y, devices, **options)


def test_a_device_that_is_not_there_is_an_error() -> None:
    if gb.get_backend("auto").name != "cpu":
        pytest.skip("a GPU is here")
    with pytest.raises(DeviceError, match="cuda"):
        gb.check_parity(net(), X, Y)
