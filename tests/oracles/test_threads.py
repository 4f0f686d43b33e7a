"""What several threads do with networks at the same time is what one after the other would have done."""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((64, 6)), RNG.integers(0, 3, 64)
STEPS = 150


@pytest.fixture(autouse=True)
def _often() -> Iterator[None]:
    """Steps of small networks are done before another thread would have its turn."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def network(width: int = 8, device: Any = "cpu", **options: Any) -> gb.Network:
    return gb.mlp(
        [6, width, 3], activation="tanh", loss="cross_entropy", device=device, dtype="float64", seed=width, **options
    )


def together(*functions: Callable[[], Any]) -> list[Any]:
    """What each returns; the first error of any is raised."""
    results: list[Any] = [None] * len(functions)

    def run(i: int) -> None:
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[k], b[k]) for k in b)


def trained(net: gb.Network, steps: int = STEPS) -> dict[str, np.ndarray]:
    optimizer = gb.SGD(0.1, momentum=0.9)
    for i in range(steps):
        net.train_step(X[i % 8 :: 2], Y[i % 8 :: 2], optimizer)
    return net.get_weights()


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_one_network_answers_many(device: str) -> None:
    net = network(device=device)
    expected = {n: net.predict(X[:n]) for n in (1, 7, 30, 64)}

    def ask(n: int) -> bool:
        return all(np.array_equal(net.predict(X[:n]), expected[n]) for _ in range(40))

    assert together(*(lambda n=n: ask(n) for n in expected)) == [True] * len(expected)


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_networks_on_one_backend_do_not_meet(device: str) -> None:
    be = gb.get_backend(device)
    alone = [trained(network(width, device)) for width in (8, 9, 10)]
    beside = together(*(lambda w=w: trained(network(w, be)) for w in (8, 9, 10)))
    assert all(equal(a, b) for a, b in zip(alone, beside, strict=True))


@pytest.mark.skipif(not find_spec("numba"), reason="Numba is not installed")
def test_networks_compile_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBACKPROP_CACHE", str(tmp_path))

    def fitted(width: int) -> dict[str, np.ndarray]:
        net = network(width, compile=True)
        gb.Trainer(net, gb.SGD(0.1)).fit(X, Y, epochs=2, batch_size=16)
        return net.get_weights()

    beside = together(*(lambda w=w: fitted(w) for w in (5, 5, 6)))
    assert all(equal(a, fitted(w)) for a, w in zip(beside, (5, 5, 6), strict=True))


@pytest.mark.parametrize("take", ["get_weights", "copy", "save"])
def test_what_is_taken_while_it_trains_is_a_moment_of_it(take: str, tmp_path: Path) -> None:
    """Weights, and the optimizer with them, are those after some whole number of steps, from which training goes on as it did."""
    moments, net, optimizer = [], network(), gb.SGD(0.1, momentum=0.9)
    for i in range(STEPS + 2):
        moments.append(net.get_weights())
        net.train_step(X[i % 8 :: 2], Y[i % 8 :: 2], optimizer)
    net, optimizer = network(), gb.SGD(0.1, momentum=0.9)
    start, over = threading.Barrier(2), threading.Event()

    def train() -> None:
        try:
            start.wait()
            for i in range(STEPS):
                net.train_step(X[i % 8 :: 2], Y[i % 8 :: 2], optimizer)
                time.sleep(1e-4)
        finally:
            over.set()

    def takings() -> list[Any]:
        found: list[Any] = []
        start.wait()
        while not over.is_set():
            time.sleep(1e-3)
            if take == "get_weights":
                found.append((net.get_weights(), None, None))
            elif take == "copy":
                copied = copy.deepcopy(gb.Trainer(net, optimizer))
                found.append((copied.net.get_weights(), copied.net, copied.optimizer))
            else:
                path = tmp_path / f"{len(found)}.safetensors"
                gb.save(path, net, optimizer=optimizer)
                held = gb.load_checkpoint(path, device="cpu")
                found.append((held.net.get_weights(), held.net, held.optimizer))
        return found

    _, found = together(train, takings)
    seen = set()
    for weights, taken, its_optimizer in found:
        at = [i for i, moment in enumerate(moments) if equal(weights, moment)]
        assert at, "weights of no moment"
        seen.add(at[0])
        if taken is not None:
            assert its_optimizer.t == at[0], (
                f"the optimizer of step {its_optimizer.t} beside the weights of step {at[0]}"
            )
            taken.train_step(X[at[0] % 8 :: 2], Y[at[0] % 8 :: 2], its_optimizer)
            assert equal(taken.get_weights(), moments[at[0] + 1])
    assert len(seen) > 2, "all was over before the other thread had its turn"


@pytest.mark.parametrize("ask", ["predict", "evaluate"])
def test_an_answer_in_chunks_is_of_one_moment(ask: str) -> None:
    def answer(net: gb.Network, size: int) -> Any:
        return net.predict(X, batch_size=size) if ask == "predict" else gb.evaluate(net, X, Y, batch_size=size)["loss"]

    moments, net, optimizer = [], network(), gb.SGD(0.1)
    for _ in range(STEPS + 1):
        moments.append(answer(net, 8))
        net.train_step(X, Y, optimizer)
    net, optimizer = network(), gb.SGD(0.1)
    start, over = threading.Barrier(2), threading.Event()

    def train() -> None:
        try:
            start.wait()
            for _ in range(STEPS):
                net.train_step(X, Y, optimizer)
                time.sleep(1e-4)
        finally:
            over.set()

    def answers() -> list[Any]:
        start.wait()
        found = []
        while not over.is_set():
            found.append(answer(net, 8))
            time.sleep(1e-3)
        return found

    found = together(train, answers)[1]
    assert all(any(np.array_equal(a, moment) for moment in moments) for a in found)
    assert len(found) > 2


def test_a_step_is_not_lost_where_the_network_moves() -> None:
    """A call that waited while the network moved is refused, and has done nothing."""
    expected, net, optimizer = trained(network()), network(), gb.SGD(0.1, momentum=0.9)
    over = threading.Event()

    def train() -> None:
        i = 0
        try:
            while i < STEPS:
                try:
                    net.train_step(X[i % 8 :: 2], Y[i % 8 :: 2], optimizer)
                except gb.GpuBackpropError:
                    continue
                i += 1
        finally:
            over.set()

    def move() -> int:
        times = 0
        while not over.is_set():
            net.to("cpu")
            times += 1
            time.sleep(1e-3)
        return times

    assert together(train, move)[1] > 2
    assert optimizer.t == STEPS
    assert equal(net.get_weights(), expected)


class Meddler(gb.Callback):
    """Does something with the network that is being trained, in the middle of an epoch or at its end."""

    def __init__(self, inside: bool, deed: Callable[[gb.Trainer], Any]) -> None:
        self.inside, self.deed, self.told = inside, deed, ""

    def meddle(self, trainer: gb.Trainer) -> None:
        try:
            self.deed(trainer)
        except gb.GpuBackpropError as error:
            self.told = str(error)

    def on_progress(self, trainer: gb.Trainer, progress: Any) -> None:
        if self.inside:
            self.meddle(trainer)

    def on_epoch_end(self, trainer: gb.Trainer, record: dict[str, Any]) -> None:
        if not self.inside:
            self.meddle(trainer)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("deed", "message"),
    [
        (lambda trainer: trainer.net.to("cpu"), "move it before or after"),
        (lambda trainer: trainer.net.to("strict"), "move it before or after"),
        (lambda trainer: trainer.fit(X, Y, epochs=1), "another fit of this network is running"),
        (lambda trainer: gb.Trainer(trainer.net, gb.SGD(0.1)).fit(X, Y, epochs=1), "another fit of this network"),
    ],
    ids=["move", "move far", "fit", "another trainer"],
)
def test_what_would_ruin_a_fit_is_refused_while_it_runs(inside: bool, deed: Any, message: str) -> None:
    def fitted(*callbacks: gb.Callback) -> tuple[list[float], dict[str, np.ndarray]]:
        net = network()
        trainer = gb.Trainer(net, gb.SGD(0.1, momentum=0.9), callbacks=callbacks)
        losses = trainer.fit(X, Y, epochs=3, batch_size=16)["loss"]
        # It is over: both are possible.
        net.to("cpu")
        trainer.fit(X, Y, epochs=1)
        return losses, net.get_weights()

    losses, weights = fitted()
    meddler = Meddler(inside, deed)
    others, after = fitted(meddler)
    assert message in meddler.told
    assert others == losses
    assert equal(after, weights)
