"""Which class has which kernel, and that a class without one runs in its array expressions, in every precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop import activations, losses, optimizers
from gpubackprop.backend.cuda import kernel_table as table
from gpubackprop.backend.cuda import registry
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from tests.cuda.stand_in import gpu, shim  # noqa: F401

PRECISIONS = {"native": 1e-5, "tf32": 2e-3, "bf16": 3e-2, "fp16": 4e-3}
"""Relative error of a gradient, by precision."""
ROWS, INPUTS, OUTPUTS = 40, 6, 3


# -- the table ------------------------------------------------------------------------------------------------------


def test_every_activation_of_the_library_has_its_struct():
    functors = table.functors("activation.cu")
    assert set(functors) == {kind.__name__ for kind in activations.ACTIVATIONS.values()}
    for kind in activations.ACTIVATIONS.values():
        assert registry.activation(kind()) == kind.__name__
        assert functors[kind.__name__].marks["from_output"] == (kind.saves == "a")


def test_every_loss_of_the_library_has_its_kernel():
    functors = table.functors("loss.cu")
    assert {*functors, "CrossEntropy"} == {kind.__name__ for kind in losses.LOSSES.values()}
    assert registry.elementwise_loss(losses.HalfSquaredError()) is functors["HalfSquaredError"]
    assert not functors["HalfSquaredError"].marks["over_outputs"]
    assert registry.elementwise_loss(losses.BinaryCrossEntropy()) is functors["BinaryCrossEntropy"]
    assert functors["BinaryCrossEntropy"].marks["over_outputs"]
    assert registry.is_cross_entropy(losses.CrossEntropy())


OPTIMIZERS = [
    (optimizers.SGD(0.1), "SGD", (0, 0, 0)),
    (optimizers.SGD(0.1, momentum=0.9, nesterov=True), "Momentum", (0.9, 1, 0)),
    (optimizers.RMSprop(0.1, alpha=0.8, eps=1e-6), "RMSprop", (0.8, 1e-6, 0)),
    (optimizers.RMSprop(0.1, alpha=0.8, eps=1e-6, momentum=0.5), "RMSpropMomentum", (0.8, 1e-6, 0.5)),
    (optimizers.RMSprop(0.1, alpha=0.8, eps=1e-6, centered=True), "RMSpropCentered", (0.8, 1e-6, 0)),
    (optimizers.RMSprop(0.1, momentum=0.5, centered=True), "RMSpropCenteredMomentum", (0.99, 1e-8, 0.5)),
    (optimizers.Adagrad(0.1, eps=1e-6), "Adagrad", (1e-6, 0, 0)),
    (optimizers.Adadelta(rho=0.8, eps=1e-4), "Adadelta", (0.8, 1e-4, 0)),
    (optimizers.Adam(betas=(0.8, 0.9), eps=1e-6), "Adam", (0.8, 0.9, 1e-6)),
    (optimizers.AdamW(), "Adam", (0.9, 0.999, 1e-8)),
    (optimizers.Adamax(), "Adamax", (0.9, 0.999, 1e-8)),
    (optimizers.NAdam(), "NAdam", (0.9, 0.999, 1e-8)),
    (optimizers.RAdam(), "RAdam", (0.9, 0.999, 1e-8)),
]


@pytest.mark.parametrize(
    ("optimizer", "name", "constants"), OPTIMIZERS, ids=[o[1] + type(o[0]).__name__ for o in OPTIMIZERS]
)
def test_optimizers(optimizer, name, constants):
    assert registry.update_rule(optimizer) == (name, constants)


def test_every_rule_and_every_optimizer_is_reached():
    assert {name for _, name, _ in OPTIMIZERS} == {rule.name for rule in table.rules()}
    layerwise = {optimizers.LARS, optimizers.LAMB}
    assert {type(o) for o, _, _ in OPTIMIZERS} | layerwise == set(optimizers.OPTIMIZERS.values())


class Tanh(activations.Activation):
    """A user's function with the name of the library's, which it is not: f(z) = 2 tanh z."""

    name = "tanh"
    recordable = True

    def forward(self, be, z, a):
        be.xp.tanh(z, out=a)
        be.xp.multiply(a, 2.0, out=a)

    def times_derivative(self, be, saved, delta):
        t = be.scratch(delta)
        be.xp.multiply(saved, saved, out=t)
        be.xp.multiply(t, -0.5, out=t)
        be.xp.add(t, 2.0, out=t)
        be.xp.multiply(delta, t, out=delta)


class Steep(activations.LeakyReLU):
    """A library class with another constant."""

    slope = 0.3


def steep() -> activations.Activation:
    f = activations.LeakyReLU()
    f.slope = 0.3
    return f


class Scaled(losses.MeanSquaredError):
    """A library class with another reduction: a thousandth."""

    factor = 1e-3


class Huber(losses.Loss):
    """A user's loss from scratch: (1/(n m)) sum sqrt(1 + (a - y)^2) - 1."""

    name = "huber"
    recordable = True

    def value_and_delta(self, be, a, y, v, value, delta, rows):
        xp, scale = be.xp, 1 / (rows * a.shape[1])
        xp.subtract(a, y, out=v.d, dtype=v.d.dtype)
        xp.multiply(v.d, v.d, out=v.t)
        xp.add(v.t, 1.0, out=v.t)
        xp.sqrt(v.t, out=v.t)
        if delta is not None:
            xp.divide(v.d, v.t, out=v.d)
            xp.multiply(v.d, scale, out=delta)
        xp.subtract(v.t, 1.0, out=v.t)
        be.total(v.t, scale, value)


class Gain(gb.Layer):
    """A user's layer with parameters, in array expressions and the vocabulary's product: a = (x W) * gain."""

    recordable = True

    def __init__(self, width):
        self.width = width

    def parameter_shapes(self):
        return {"W": (self.width, self.width), "gain": (self.width,)}

    def initial(self, rng):
        return {
            "W": np.eye(self.width) + 0.1 * rng.normal(size=(self.width, self.width)),
            "gain": np.full(self.width, 1.5),
        }

    def buffers(self, dtype):
        return {"u": (("n", self.width), dtype), "t": (("n", self.width), dtype)}

    def forward(self, be, v, training):
        be.dot(v.x, self.parameters["W"], v.u)
        be.xp.multiply(v.u, self.parameters["gain"], out=v.a)

    def gradients(self, be, v, beta):
        be.xp.multiply(v.delta, v.u, out=v.t)
        be.column_sums(v.t, self.gradient_arrays["gain"])
        be.xp.multiply(v.delta, self.parameters["gain"], out=v.t)
        be.affine_gradients(v.x, v.t, self.gradient_arrays["W"], None, beta)

    def backward(self, be, v, dx, training):
        be.dot(v.t, self.parameters["W"].T, dx)


class Sign(gb.SGD):
    """A user's rule with a state: v <- v + g; p <- p - eta v."""

    states = ("sum",)

    def rule(self, be, p, g, state, h):
        be.xp.add(state[0], g, out=state[0])
        t = be.scratch(p)
        be.xp.multiply(state[0], h[0], out=t)
        be.xp.subtract(p, t, out=p)


class Stubborn(gb.LARS):
    """A library class that treats each array by itself, with another rule."""

    def segment_rule(self, be, p, g, state, adapt):
        be.xp.multiply(g, self.h[0], out=g)
        be.xp.subtract(p, g, out=p)


@pytest.mark.parametrize("f", [Tanh(), Steep(), steep()], ids=["same name", "subclass", "changed"])
def test_an_activation_of_another_class_or_constant_has_no_kernel(f, monkeypatch):
    monkeypatch.setitem(activations.ACTIVATIONS, "tanh", Tanh)
    assert registry.activation(f) is None


def test_a_class_whose_constant_was_changed_has_no_kernel(monkeypatch):
    monkeypatch.setattr(activations.GELUTanh, "k", 0.05)
    assert registry.activation(activations.GELUTanh()) is None


def test_a_loss_or_optimizer_of_another_class_has_no_kernel():
    assert registry.elementwise_loss(Scaled()) is None
    assert not registry.is_cross_entropy(Scaled())
    assert registry.update_rule(Sign(0.1)) is None


# -- what a user brings along, in every precision ------------------------------------------------------------------------


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.normal(size=(ROWS, OUTPUTS)).astype(np.float32)


def network(
    device: Any, f: Any = "tanh", loss: Any = "mean_squared_error", own: bool = False, **options: Any
) -> gb.Network:
    parts = [gb.Dense(INPUTS, 16, f), *([Gain(16)] if own else []), gb.Dense(16, 8, "sigmoid"), gb.Dense(8, OUTPUTS)]
    return gb.Network(parts, loss=loss, device=device, seed=3, **options)


OWN = {
    "activation": {"f": Tanh()},
    "subclass of an activation": {"f": Steep()},
    "loss": {"loss": Huber()},
    "subclass of a loss": {"loss": Scaled()},
    "layer": {"own": True},
    "all": {"f": Tanh(), "loss": Huber(), "own": True},
    "all, with penalties": {"f": Tanh(), "loss": Huber(), "own": True, "l1": 1e-3, "l2": 1e-2},
}


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-12))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("own", OWN)
def test_gradients_are_those_of_the_cpu(gpu, precision, own):  # noqa: F811
    x, y = data()
    net, reference = network(CudaBackend(0, precision), **OWN[own]), network("cpu", **OWN[own])
    (loss, got), (want_loss, want) = (n.loss_and_gradients(x, y) for n in (net, reference))
    assert loss == pytest.approx(want_loss, rel=PRECISIONS[precision])
    assert set(got) == set(want)
    for name, gradient in want.items():
        assert relative(got[name], gradient) < PRECISIONS[precision], name
    for delta, wanted in zip(net.deltas(x, y), reference.deltas(x, y), strict=True):
        assert relative(delta, wanted) < PRECISIONS[precision]
    assert relative(net.input_gradient(x, y), reference.input_gradient(x, y)) < PRECISIONS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", [lambda: gb.SGD(0.1), lambda: Sign(0.02), lambda: Stubborn(0.1)])
@pytest.mark.parametrize("own", [{}, OWN["all, with penalties"]], ids=["library", "own"])
@pytest.mark.parametrize("parts", [None, 17], ids=["whole", "in parts"])
def test_training_is_that_of_the_cpu(gpu, precision, optimizer, own, parts):  # noqa: F811
    """Five steps: the way from the first weights to the last ones, not the weights, which hardly move."""
    x, y = data()
    moved = []
    for device in (CudaBackend(0, precision), "cpu"):
        net, rule = network(device, **own), optimizer()
        before = net.get_weights()
        for _ in range(5):
            net.train_step(x, y, rule, micro_batch_size=parts)
        moved.append({name: w - before[name] for name, w in net.get_weights().items()})
        if device != "cpu":
            assert device.recorder.failure is None
    for name, want in moved[1].items():
        assert relative(moved[0][name], want) < 3 * PRECISIONS[precision], name


class Tiny(losses.MeanSquaredError):
    """A loss whose deltas are about 1e-9: float16 ends at 6e-8."""

    factor = 1e-7


def test_small_deltas_of_a_users_loss_survive_float16(gpu):  # noqa: F811
    made = [network(device, loss=Tiny()).loss_and_gradients(*data())[1] for device in (CudaBackend(0, "fp16"), "cpu")]
    assert 0 < max(abs(g).max() for g in made[1].values()) < 1e-6
    for name, want in made[1].items():
        assert relative(made[0][name], want) < 1e-2, name


@pytest.mark.parametrize(
    "optimizer", [lambda: gb.Adam(0.1), lambda: Sign(0.1), lambda: Stubborn(0.1), lambda: gb.LAMB(0.1)]
)
@pytest.mark.parametrize("clip", [{}, {"clip_value": 1.0}])
def test_an_overflow_leaves_parameters_and_state_as_they_were(gpu, optimizer, clip):  # noqa: F811
    x, y = data()
    backend = CudaBackend(0, "fp16")
    net, rule = network(backend, loss=Huber()), optimizer()
    for name, value in clip.items():
        setattr(rule, name, value)
    for _ in range(3):
        net.train_step(x, y, rule)
    weights, state = net.get_weights(), rule.get_state()
    backend.fill(backend.loss_scale.scale, 2.0**40)
    net.train_step(x, y, rule)
    for name, array in net.get_weights().items():
        np.testing.assert_array_equal(array, weights[name])
    for name, array in rule.get_state().items():
        if name not in ("t", "loss_scale"):
            np.testing.assert_array_equal(array, state[name])
    assert float(backend.to_host(backend.loss_scale.scale)) < 2.0**40


def test_a_class_in_the_table_of_names_is_found_by_name(gpu, monkeypatch):  # noqa: F811
    """What stands in ACTIVATIONS or LOSSES is taken by name; on a GPU it runs as everywhere."""
    monkeypatch.setitem(activations.ACTIVATIONS, "twice_tanh", type("Twice", (Tanh,), {"name": "twice_tanh"}))
    monkeypatch.setitem(losses.LOSSES, "huber", Huber)
    x, y = data()
    made = [
        network(device, f="twice_tanh", loss="huber").loss_and_gradients(x, y)[1] for device in (CudaBackend(0), "cpu")
    ]
    for name, want in made[1].items():
        assert relative(made[0][name], want) < 1e-5, name


@pytest.mark.parametrize("normalized", [False, True])
def test_gradients_that_are_asked_for_are_finite_where_the_first_scale_was_too_large(gpu, normalized):  # noqa: F811
    """Deltas of 100 in one row: times 65,536 they are beyond float16."""
    x, y = data()
    y, results = y * 100, []
    backend = CudaBackend(0, "fp16")
    for device in (backend, "cpu"):
        between = [gb.BatchNorm(16)] if normalized else []
        net = gb.Network([gb.Dense(INPUTS, 16, "tanh"), *between, gb.Dense(16, OUTPUTS)], device=device, seed=3)
        results.append((*net.loss_and_gradients(x[:4], y[:4], training=True), net.get_weights()))
        results[-1] += (net.input_gradient(x[:4], y[:4]),)
    assert float(backend.to_host(backend.loss_scale.scale)) < 2.0**16
    for name, want in results[1][1].items():
        assert relative(results[0][1][name], want) < 2e-2 or np.linalg.norm(want) < 1e-3, name
    for name, want in results[1][2].items():
        # Running statistics have seen this batch once.
        assert relative(results[0][2][name], want) < 1e-2, name
    assert relative(results[0][3], results[1][3]) < 2e-2


def test_gradients_that_are_not_finite_for_another_reason_come_back_as_they_are(gpu):  # noqa: F811
    x, y = data()
    net = network(CudaBackend(0, "fp16"))
    net.set_weights({name: w * (1e5 if name == "2.weight" else 1) for name, w in net.get_weights().items()})
    _, gradients = net.loss_and_gradients(x, y)
    assert not all(np.isfinite(g).all() for g in gradients.values())
