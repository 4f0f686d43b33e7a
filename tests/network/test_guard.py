"""What a network owes to those who copy it, drop it, and use it from several threads."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.network.twin import twin
from tests.small import OPTIMIZERS, assert_same_bits, make_data, make_optimizer

X, Y = make_data(40, 5, 3, "cross_entropy")


def network(device: str | Backend = "cpu", seed: int = 3) -> gb.Network:
    layers = [gb.Dense(5, 8, "gelu"), gb.Dropout(0.3), gb.BatchNorm(8), gb.Dense(8, 3)]
    return gb.Network(layers, loss="cross_entropy", device=device, seed=seed)


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("key", OPTIMIZERS)
def test_a_copied_trainer_goes_on_as_the_original_would(key: str, how: Callable[[Any], Any]) -> None:
    trainer = gb.Trainer(network(), make_optimizer(key, schedule="cosine"))
    trainer.fit(X, Y, epochs=2, batch_size=16)
    other = how(trainer)
    for t in (trainer, other):
        t.fit(X, Y, epochs=2, batch_size=16)
    assert_same_bits(trainer.net.get_weights(), other.net.get_weights())
    assert trainer.optimizer.t == other.optimizer.t
    assert trainer.net.epochs == other.net.epochs == 4


class Doubled(gb.Layer):
    """A user's layer around another one, which it knows by a name of its own too."""

    recordable = True

    def __init__(self, width: int) -> None:
        self.inner = gb.Dense(width, width)
        self.layers = (self.inner,)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"0.{k}": v for k, v in self.inner.parameter_shapes().items()}

    def initial(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {f"0.{k}": v for k, v in self.inner.initial(rng).items()}

    def bind(self, parameters: Any, gradients: Any, state: Any, stream: Any) -> None:
        super().bind(parameters, gradients, state, stream)
        self.inner.bind(*({k[2:]: v for k, v in d.items()} for d in (parameters, gradients, state)), None)

    def forward(self, be: Any, v: Any, training: bool) -> None:
        self.inner.forward(be, v.inner[0], training)
        be.xp.multiply(v.inner[0].a, 2.0, out=v.a)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, twin])
def test_a_copy_leaves_the_layers_to_the_original(how: Callable[[Any], Any]) -> None:
    net = gb.Network([Doubled(5), gb.Residual([gb.Dense(5, 5)]), gb.Dense(5, 3)], device="cpu")
    before, predicted = net.get_weights(), net.predict(X)
    other = how(net)
    other.set_weights({k: np.zeros_like(v) for k, v in before.items()})
    np.testing.assert_array_equal(net.predict(X), predicted)
    assert not other.predict(X).any()
    net.set_weights({k: np.zeros_like(v) for k, v in before.items()})
    assert not net.predict(X).any()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_is_on_its_own(how: Callable[[Any], Any], backend: Backend) -> None:
    net = network(backend)
    other = how(net)
    assert other.backend is not net.backend
    assert other.backend.name == net.backend.name
    before = net.get_weights()
    other.train_step(X, Y, gb.SGD(0.1))
    assert_same_bits(net.get_weights(), before)
    assert int(net.backend.to_host(net.step)) == 0


def test_a_copied_optimizer_brings_its_state_to_the_network_that_it_trains_next() -> None:
    net, optimizer = network(), gb.Adam(0.01)
    net.train_step(X, Y, optimizer)
    other_net, other = copy.deepcopy(net), copy.deepcopy(optimizer)
    assert other.t == 1
    for n, o in ((net, optimizer), (other_net, other)):
        n.train_step(X, Y, o)
    assert_same_bits(net.get_weights(), other_net.get_weights())
    stranger = copy.deepcopy(optimizer)
    with pytest.raises(gb.GpuBackpropError, match="optimizer state 'm' of Adam"):
        gb.mlp([5, 3], loss="cross_entropy", device="cpu").train_step(X, Y, stranger)


def test_a_layer_is_copied_without_its_network() -> None:
    net = network()
    layers = [pickle.loads(pickle.dumps(layer)) for layer in net.layers]
    other = gb.Network(layers, loss="cross_entropy", device="cpu", seed=3)
    assert_same_bits(net.get_weights(), other.get_weights())


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("parts", [None, 7])
def test_a_network_that_is_dropped_gives_its_memory_back_at_once(
    backend: Backend, capture: bool, parts: int | None
) -> None:
    gc.collect()
    gc.disable()
    try:
        net = gb.mlp([5, 8, 3], loss="cross_entropy", dropout=0.2, device=backend, capture=capture)
        trainer = gb.Trainer(net, "adam")
        trainer.fit(X, Y, epochs=1, batch_size=16, micro_batch_size=parts, validation_data=(X, Y))
        net.predict(X)
        net.loss_and_gradients(X, Y)
        net.input_gradient(X, Y)
        held = [weakref.ref(net.engine), weakref.ref(net.engine.training), weakref.ref(net.engine.parameters)]
        del net, trainer
        assert [ref() for ref in held] == [None] * 3
    finally:
        gc.enable()


# -- threads -----------------------------------------------------------------------------------------------------------


def in_threads(*tasks: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_one_network_in_four_threads_predicts_what_it_predicts_alone(backend: Backend) -> None:
    net = network(backend)
    wanted = [net.predict(X[: n + 1]) for n in range(len(X))]
    wrong: list[int] = []

    def predict(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, len(X), 150):
            if not np.array_equal(net.predict(X[: n + 1]), wanted[n]):
                wrong.append(int(n))

    in_threads(*[lambda seed=seed: predict(seed) for seed in range(4)])
    assert not wrong


def test_predicting_while_it_trains_leaves_the_training_alone(backend: Backend) -> None:
    nets = [network(backend) for _ in range(2)]
    done = threading.Event()

    def train() -> None:
        try:
            gb.Trainer(nets[0], gb.SGD(0.1)).fit(X, Y, epochs=30, batch_size=7)
        finally:
            done.set()

    def watch() -> None:
        while not done.is_set():
            nets[0].predict(X)
            nets[0].loss(X, Y)

    in_threads(train, watch, watch)
    gb.Trainer(nets[1], gb.SGD(0.1)).fit(X, Y, epochs=30, batch_size=7)
    assert_same_bits(nets[0].get_weights(), nets[1].get_weights())


def test_two_networks_on_one_backend_train_side_by_side() -> None:
    alone = network()
    gb.Trainer(alone, gb.Adam(0.01)).fit(X, Y, epochs=20, batch_size=8)
    shared = get_backend("cpu")
    nets = [network(shared) for _ in range(4)]
    in_threads(
        *[lambda net=net: gb.Trainer(net, gb.Adam(0.01)).fit(X, Y, epochs=20, batch_size=8) and None for net in nets]
    )
    for net in nets:
        assert_same_bits(net.get_weights(), alone.get_weights())


def test_set_weights_takes_views_of_the_networks_own_parameters(backend: Backend) -> None:
    net = gb.mlp([4, 4, 4], device=backend, dtype="float64")
    before = net.get_weights()
    given = dict(net.parameters)
    given["0.weight"], given["1.weight"] = given["1.weight"], given["0.weight"]
    net.set_weights({**given, "1.bias": np.ones(4)})
    np.testing.assert_array_equal(net.get_weights()["0.weight"], before["1.weight"])
    np.testing.assert_array_equal(net.get_weights()["1.weight"], before["0.weight"])
    np.testing.assert_array_equal(net.get_weights()["1.bias"], np.ones(4))
