"""A step by hand that is done again takes the short way, gives the same bits, and sees everything that is not as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.errors import ArgumentError, ArgumentTypeError, DeviceError
from gpubackprop.network.engine import Engine
from tests.small import assert_same_bits

LOSSES = {
    "cross_entropy": lambda rng, n: rng.integers(0, 3, n),
    "mean_squared_error": lambda rng, n: rng.normal(size=(n, 3)),
    "binary_cross_entropy": lambda rng, n: rng.integers(0, 2, (n, 3)).astype(float),
    "poisson": lambda rng, n: rng.integers(0, 5, (n, 3)).astype(float),
}


def small(device: Any = "cpu", loss: str = "mean_squared_error", **options: Any) -> gb.Network:
    layers = [gb.Dense(4, 5, "tanh"), gb.Dropout(0.3), gb.Dense(5, 3)]
    return gb.Network(layers, **{"loss": loss, "dtype": "float64", "device": device, "seed": 1, **options})


def rows(n: int, loss: str = "mean_squared_error", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)), LOSSES[loss](rng, n)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step from now on, whether it took the short way."""
    found: list[bool] = []
    original = Engine.step_again

    def watched(self: Engine, *arguments: Any) -> Any:
        value = original(self, *arguments)
        found.append(value is not None)
        return value

    monkeypatch.setattr(Engine, "step_again", watched)
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("make", [lambda: gb.SGD(0.1, momentum=0.9), lambda: gb.Adam(0.01, clip_norm=0.5)])
def test_the_short_way_has_the_bits_of_the_long_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, loss: str, make: Callable[[], gb.Optimizer]
) -> None:
    found = taken(monkeypatch)
    results = []
    for short in (True, False):
        net, optimizer, losses = small(backend, loss), make(), []
        for i, n in enumerate((6, 6, 6, 3, 3, 6, 6)):
            if not short:
                net.engine._last = None
            losses.append(net.train_step(*rows(n, loss, i), optimizer))
        results.append({**net.get_weights(), "losses": np.array([float(backend.to_host(v)) for v in losses])})
    assert_same_bits(*results)
    # The losses of the rarer kinds of targets are looked at closely each time.
    known = loss != "poisson"
    assert found[:7] == [False, known, known, False, known, False, known]
    assert not any(found[7:])


def test_whatever_is_not_as_it_was_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each change the step is that of a network that always takes the long way."""
    found = taken(monkeypatch)
    nets = [small(), small()]
    optimizers = [[gb.Adam(0.05) for _ in nets], [gb.SGD(0.05) for _ in nets]]
    kind = 0
    x, y = rows(6)

    def both(x: Any = x, y: Any = y, **options: Any) -> None:
        nets[1].engine._last = None
        values = [net.train_step(x, y, optimizers[kind][i], **options) for i, net in enumerate(nets)]
        assert float(values[0]) == float(values[1])
        assert_same_bits(*(net.get_weights() for net in nets))

    def change(f: Callable[[gb.Network], Any]) -> None:
        for net in nets:
            f(net)

    def freeze(net: gb.Network) -> None:
        net.layers[0].trainable = not net.layers[0].trainable

    both()
    both()
    assert found == [False, False, True, False]
    both(x=x.astype("f"))  # another type
    both(y=y.tolist())
    both(sample_weight=np.arange(1.0, 7.0))
    both()
    both(micro_batch_size=4)
    both()
    change(freeze)
    both()
    both()
    change(freeze)
    both()
    change(lambda net: net.loss(*rows(40)))
    change(lambda net: net.predict(rows(40)[0]))
    both()
    change(lambda net: net.train_step(*rows(50), optimizers[kind][nets.index(net)]))  # larger buffers
    both()
    change(lambda net: net.loss(x, y, sample_weight=np.arange(6.0)))  # the buffers of weights
    both()
    kind = 1
    both()
    both()
    for i, optimizer in enumerate(optimizers[kind]):
        optimizer.learning_rate = 0.5
        gb.Trainer(nets[i], optimizer).fit(x, y, epochs=2, batch_size=4, gradient_tolerance=1e-9)
    both()
    change(lambda net: net.to("strict"))
    change(lambda net: net.to("cpu"))
    both()
    change(lambda net: net.engine.release())
    both()
    both(x=x[::2].repeat(2, axis=0)[:, ::-1])
    assert found.count(True) >= 7


def test_values_that_cannot_be_used_are_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    found = taken(monkeypatch)
    for loss, wrong in (
        ("cross_entropy", [-1, 3, 2**40]),
        ("mean_squared_error", [np.nan, np.inf]),
        ("binary_cross_entropy", [np.nan, -0.5, 1.5]),
    ):
        net, optimizer, (x, y) = small(backend, loss), gb.SGD(0.1), rows(6, loss)
        net.train_step(x, y, optimizer)
        net.train_step(x, y, optimizer)
        assert found[-1]
        kept, t = net.get_weights(), optimizer.t
        for value in wrong:
            other = y.copy()
            other.flat[2] = value
            with pytest.raises(ArgumentError, match=r"y\[|y:"):
                net.train_step(x, other, optimizer)
        for value in (np.nan, -np.inf):
            other = x.copy()
            other[1, 2] = value
            with pytest.raises(ArgumentError, match=r"x\[1, 2\]"):
                net.train_step(other, y, optimizer)
        with pytest.raises(ArgumentError):
            net.train_step(x[:, :3], y, optimizer)
        with pytest.raises(ArgumentError):
            net.train_step(x, y[:5], optimizer)
        with pytest.raises(ArgumentTypeError):
            net.train_step(x, y, "sgd")  # type: ignore[arg-type]
        assert_same_bits(net.get_weights(), kept)
        assert optimizer.t == t
        # Large, but finite: what the quick look cannot tell, the close one does.
        net.train_step(np.full_like(x, 1e200), y, optimizer)


def test_arrays_of_the_device_take_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found, be = taken(monkeypatch), gb.get_backend("strict")
    net, optimizer, (x, y) = small(be, "cross_entropy"), gb.SGD(0.1), rows(6, "cross_entropy")
    for _ in range(3):
        net.train_step(be.asarray(x), be.asarray(y), optimizer)
    assert found == [False, True, True]
    other, same = small("cpu", "cross_entropy"), gb.SGD(0.1)
    for _ in range(3):
        other.train_step(x, y, same)
    assert_same_bits(net.get_weights(), other.get_weights())
    with pytest.raises((DeviceError, ArgumentTypeError)):
        other.train_step(be.asarray(x), y, same)


def test_memory_that_runs_out_is_met_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer, (x, y) = small(), gb.Adam(0.1), rows(6)
    same, others = small(), gb.Adam(0.1)
    for n, o in ((net, optimizer), (same, others)):
        n.train_step(x, y, o)
    last = net.engine._last
    assert last is not None

    def fail() -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(last, "program", fail)
    net.train_step(x, y, optimizer)
    same.train_step(x, y, others)
    assert optimizer.t == 2
    for name, array in same.get_weights().items():
        np.testing.assert_allclose(net.get_weights()[name], array, rtol=1e-12)
