from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.errors import ArgumentTypeError, CheckFailedError
from gpubackprop.testing import check_layer


class Scale(gb.Layer):
    """a = s * x with a trained s for each unit: a correct user-defined layer."""

    recordable = True

    def __init__(self, width: int) -> None:
        self.width = width

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"s": (self.width,)}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"s": rng.random(self.width) + 0.5}

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, self.parameters["s"], out=v.a)

    def gradients(self, be: Any, v: Any, beta: float) -> None:
        t, part = be.scratch(v.delta), be.scratch(self.gradient_arrays["s"], 1)
        be.xp.multiply(v.delta, v.x, out=t)
        be.xp.sum(t, axis=0, out=part)
        be.xp.multiply(self.gradient_arrays["s"], beta, out=self.gradient_arrays["s"])
        be.xp.add(self.gradient_arrays["s"], part, out=self.gradient_arrays["s"])

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.multiply(v.delta, self.parameters["s"], out=dx)


LAYERS: list[Callable[[], gb.Layer]] = [
    lambda: gb.Dense(6, 4, "relu"),
    lambda: gb.Dense(3, 3, "selu", bias=False),
    lambda: gb.BatchNorm(5),
    lambda: gb.LayerNorm(5),
    lambda: gb.Dropout(0.3),
    lambda: gb.Activation("gelu"),
    lambda: Scale(4),
]


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: repr(make()))
def test_right_layers_pass(make: Callable[[], gb.Layer]) -> None:
    assert check_layer(make)
    report = check_layer(make())
    assert report
    assert not report.failures
    assert {c.device for c in report.checks} >= {"cpu", "strict", "cuda"}
    assert "ok" in str(report)


def test_it_is_a_public_name_and_leaves_the_layer_unbound() -> None:
    layer = gb.Dense(3, 3)
    gb.testing.check_layer(layer, width=3)
    gb.Network([layer], device="cpu")


class Centred(gb.Layer):
    """a = x - its mean over the batch, in training or always, and no word of it."""

    def __init__(self, always: bool) -> None:
        self.always = always

    def forward(self, be: Any, v: Any, training: bool) -> None:
        v.a[...] = v.x - (be.xp.mean(v.x, axis=0) if training or self.always else 0)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        dx[...] = v.delta - (be.xp.mean(v.delta, axis=0) if training or self.always else 0)


class SaysSo(Centred):
    mixes_rows = True


def test_rows_that_depend_on_each_other_have_to_be_told() -> None:
    with pytest.raises(CheckFailedError, match="in training depends on the other rows: set mixes_rows = True"):
        check_layer(lambda: Centred(False), allow_allocations=True)
    assert check_layer(lambda: SaysSo(False), allow_allocations=True)
    with pytest.raises(CheckFailedError, match="in inference depends on the other rows"):
        check_layer(lambda: SaysSo(True), allow_allocations=True)


class WrongDerivative(Scale):
    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.copyto(dx, v.delta)


class WrongGradient(Scale):
    def gradients(self, be: Any, v: Any, beta: float) -> None:
        super().gradients(be, v, beta)
        be.xp.multiply(self.gradient_arrays["s"], 1.001, out=self.gradient_arrays["s"])


class Overwrites(Scale):
    def gradients(self, be: Any, v: Any, beta: float) -> None:
        super().gradients(be, v, 0.0)


class WritesToItsInput(Scale):
    def forward(self, be: Any, v: Any, training: bool) -> None:
        super().forward(be, v, training)
        be.xp.multiply(v.x, 1.5, out=v.x)


class WritesToDelta(Scale):
    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        be.xp.multiply(v.delta, self.parameters["s"], out=v.delta)
        be.xp.copyto(dx, v.delta)


class Waits(Scale):
    recordable = False

    def forward(self, be: Any, v: Any, training: bool) -> None:
        if be.to_host(v.x).max() < 1e9:
            super().forward(be, v, training)


class Allocates(Scale):
    recordable = False

    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.copyto(v.a, v.x * self.parameters["s"])


class MixesInAHostArray(Scale):
    def forward(self, be: Any, v: Any, training: bool) -> None:
        be.xp.multiply(v.x, np.ones(4), out=v.a)
        be.xp.multiply(v.a, self.parameters["s"], out=v.a)


class RemembersTheFirstBatch(Scale):
    """Looks at how many rows there are once, as a buffer that is made for the first batch does."""

    rows = 0

    def forward(self, be: Any, v: Any, training: bool) -> None:
        self.rows = self.rows or len(v.x)
        be.xp.multiply(v.x, self.parameters["s"], out=v.a)
        be.xp.multiply(v.a, self.rows / 9, out=v.a)

    def backward(self, be: Any, v: Any, dx: Any, training: bool) -> None:
        super().backward(be, v, dx, training)
        be.xp.multiply(dx, self.rows / 9, out=dx)


class CountsItsCalls(Scale):
    """What only the layer's Python does is not done again by a recorded step."""

    calls = 0
    recordable = True

    def forward(self, be: Any, v: Any, training: bool) -> None:
        self.calls += 1
        be.xp.multiply(v.x, self.parameters["s"], out=v.a)
        be.xp.multiply(v.a, 1 + 0.1 * self.calls, out=v.a)


class WrongShape(Scale):
    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"s": np.ones(self.width + 1)}


class NoInitial(Scale):
    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {}


class OnlyOnTheCpu(Scale):
    """Off by 1e-3 on other devices."""

    def forward(self, be: Any, v: Any, training: bool) -> None:
        super().forward(be, v, training)
        if be.name != "cpu":
            be.xp.multiply(v.a, 1.001, out=v.a)


class Raises(Scale):
    def forward(self, be: Any, v: Any, training: bool) -> None:
        raise ZeroDivisionError("no such luck")


BROKEN = [
    (WrongDerivative, "gradients, training"),
    (WrongGradient, "gradients, training"),
    (Overwrites, "gradients add up when beta is 1"),
    (WritesToItsInput, r"left alone: forward\(\) changed x"),
    (WritesToDelta, r"left alone: propagate\(\) changed delta"),
    (Waits, "a steady step waits 1 time"),
    (Allocates, "a steady step allocates 1 array"),
    (MixesInAHostArray, "host array"),
    (RemembersTheFirstBatch, "4 rows in used buffers"),
    (CountsItsCalls, "recorded once and done again"),
    (WrongShape, r"initial s has shape \(5,\), expected \(4,\)"),
    (NoInitial, "initial"),
    (OnlyOnTheCpu, "strict parity with the cpu in float64"),
    (Raises, "ZeroDivisionError: no such luck"),
]


@pytest.mark.parametrize(("layer", "message"), BROKEN, ids=[c.__name__ for c, _ in BROKEN])
def test_every_broken_promise_is_named(layer: type[Scale], message: str) -> None:
    with pytest.raises(CheckFailedError) as error:
        check_layer(layer(4))
    lines = [line for line in str(error.value).splitlines() if re.search(message, line)]
    assert lines, str(error.value)


def test_allocations_can_be_accepted() -> None:
    assert check_layer(Allocates(4), allow_allocations=True)


def test_an_activation_of_ones_own() -> None:
    class Square(gb.activations.Activation):
        name = "square"
        saves = "z"
        wrong = 1.0

        def forward(self, be: Any, z: Any, a: Any) -> None:
            be.xp.multiply(z, z, out=a)

        def times_derivative(self, be: Any, saved: Any, delta: Any) -> None:
            t = be.scratch(delta)
            be.xp.multiply(saved, 2.0 * self.wrong, out=t)
            be.xp.multiply(delta, t, out=delta)

    assert check_layer(gb.Activation(Square()))
    Square.wrong = 1.01
    with pytest.raises(CheckFailedError, match="gradients"):
        check_layer(gb.Activation(Square()))


@pytest.mark.parametrize("layer", ["dense", 3, lambda: "dense"])
def test_what_is_no_layer_is_refused(layer: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="must be a Layer"):
        check_layer(layer)


def test_a_layer_of_a_network_is_refused() -> None:
    layer = gb.Dense(3, 3)
    gb.Network([layer], device="cpu")
    with pytest.raises(ArgumentTypeError, match="already belongs"):
        check_layer(layer)
