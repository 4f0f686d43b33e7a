"""Elementwise work on several threads: the bits of one, whatever the layers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu import lanes, numpy_backend
from gpubackprop.backend.cpu.lanes import SideBySide, side_by_side
from gpubackprop.backend.cpu.numpy_backend import NumpyBackend
from gpubackprop.backend.cpu.recorder import Call, replay
from gpubackprop.optimizers import get_optimizer

ROWS, WIDTH = 1024, 640
"""Enough numbers for two parts; the width makes parts of rows and parts of 2^17 numbers end at different places."""


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the number of lanes; calls share them however short they are."""
    monkeypatch.setattr(lanes, "idle_threads_sleep", lambda: True)
    monkeypatch.setattr(lanes, "LEAST", 0.0)

    def put(number: int) -> None:
        monkeypatch.setattr(NumpyBackend, "lanes", lambda self: number)

    return put


def programs(net: gb.Network) -> list[Call]:
    return [
        call
        for batch in [net.engine.training.batch(ROWS)]
        for key, held in batch.programs.items()
        for call in held[1].calls
    ]


FUNCTIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "elu", "softplus", "sigmoid")
LAYERS: dict[str, Callable[[], list[gb.Layer]]] = {
    **{f: lambda f=f: [gb.Dense(20, WIDTH, f)] for f in FUNCTIONS},
    "batch_norm": lambda: [gb.Dense(20, WIDTH), gb.BatchNorm(WIDTH), gb.Activation("relu")],
    "layer_norm": lambda: [gb.Dense(20, WIDTH), gb.LayerNorm(WIDTH), gb.Activation("gelu")],
    "rms_norm": lambda: [gb.Dense(20, WIDTH), gb.RMSNorm(WIDTH), gb.Dropout(0.3)],
    "prelu": lambda: [gb.Dense(20, WIDTH), gb.PReLU(WIDTH)],
    "residual": lambda: [gb.Dense(20, WIDTH), gb.Residual([gb.LayerNorm(WIDTH), gb.Activation("tanh")])],
}


def trained(layers: list[gb.Layer], optimizer: gb.Optimizer, dtype: str = "float32") -> tuple[list[Any], int]:
    """Losses, weights and a prediction after three steps, and how many times lanes ran side by side in a step."""
    rng = np.random.default_rng(3)
    net = gb.Network([*layers, gb.Dense(WIDTH, 10)], loss="cross_entropy", device="cpu", dtype=dtype, seed=1)
    x = rng.standard_normal((ROWS, 20))
    y = rng.integers(0, 10, ROWS)
    losses = [net.train_step(x, y, optimizer) for _ in range(3)]
    be: Any = net.backend
    shared = sum(isinstance(f, SideBySide) for f, _ in side_by_side(programs(net), be.lanes()))
    return [*losses, *net.get_weights().values(), net.predict(x)], shared


@pytest.mark.parametrize("name", LAYERS)
def test_the_bits_are_those_of_one_thread(name: str, count: Callable[[int], None]) -> None:
    count(1)
    one, shared = trained(LAYERS[name](), gb.SGD(0.1, momentum=0.9))
    assert not shared
    for number in (2, 3):
        count(number)
        found, shared = trained(LAYERS[name](), gb.SGD(0.1, momentum=0.9))
        assert shared
        for a, b in zip(one, found, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "nadam", "adagrad"])
def test_updates_have_the_bits_of_one_thread(optimizer: str, count: Callable[[int], None]) -> None:
    layers = lambda: [gb.Dense(20, WIDTH, "relu"), gb.Dense(WIDTH, WIDTH, "relu")]  # noqa: E731
    count(1)
    one, _ = trained(layers(), get_optimizer(optimizer, learning_rate=0.01), "float64")
    count(2)
    found, shared = trained(layers(), get_optimizer(optimizer, learning_rate=0.01), "float64")
    assert shared
    for a, b in zip(one, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_below_the_smallest_normal_are_flushed_in_every_lane(count: Callable[[int], None]) -> None:
    count(2)
    be = NumpyBackend()
    a = np.full((2 * ROWS, WIDTH), 1e-38, np.float32)
    program = be.record(lambda: be.xp.multiply(a, 0.5, out=a))
    (shared,) = side_by_side(program.calls, 2)
    assert isinstance(shared[0], SideBySide)
    with be:
        program()
    assert not a.any()


def _random_calls(rng: np.random.Generator) -> tuple[np.ndarray, list[Call]]:
    memory = rng.standard_normal(60)

    def some(size: int) -> np.ndarray:
        start = int(rng.integers(0, memory.size - size + 1))
        return memory[start : start + size]

    calls: list[Call] = []
    for _ in range(int(rng.integers(2, 14))):
        size = int(rng.integers(1, 7))
        function: Any = [np.add, np.multiply, np.subtract, np.copyto][int(rng.integers(4))]
        arrays = [some(size) for _ in range(2 if function is np.copyto else 3)]
        calls.append((function, tuple(arrays)))
    return memory, calls


@pytest.mark.parametrize("seed", range(200))
def test_groups_of_calls_have_nothing_to_do_with_each_other(seed: int) -> None:
    memory, calls = _random_calls(np.random.default_rng(seed))
    before = memory.copy()
    known = [lanes._known(call) for call in calls]
    groups = lanes._apart(known)
    assert sorted(i for group in groups for i in group) == list(range(len(calls)))
    for group in groups:
        for other in groups:
            if other is not group:
                for i in group:
                    assert not any(
                        np.shares_memory(known[i].written[0], a)
                        for j in other
                        for a in (*known[j].written, *known[j].read)
                    )
    replay(calls)()
    expected = memory.copy()
    memory[:] = before
    for group in reversed(groups):
        replay([calls[i] for i in group])()
    np.testing.assert_array_equal(memory, expected)


def test_parts_of_a_call_are_the_call() -> None:
    rng = np.random.default_rng(0)
    x, wide, column, row = (
        rng.standard_normal((700, 500)),
        np.empty((700, 500)),
        rng.standard_normal((700, 1)),
        np.arange(500.0),
    )
    sums, grouped = np.empty(700), np.empty((70, 50))
    calls: list[tuple[Call, np.ndarray]] = [
        ((np.multiply, (x, column, wide)), wide),
        ((np.add, (x, row, wide)), wide),
        ((np.exp, (x, wide)), wide),
        ((np.copyto, (wide, row)), wide),
        ((partial(np.maximum, out=wide), (x, 0.5)), wide),
        ((partial(np.einsum, out=sums), ("ij,ij->i", x, x)), sums),
        ((partial(np.einsum, out=grouped), ("gij,gij->gj", x.reshape(70, 100, 50), x.reshape(70, 100, 50))), grouped),
    ]
    for call, out in calls:
        replay([call])()
        expected = out.copy()
        parts = [part.call for part in lanes._parts(lanes._known(call))]
        assert len(parts) > 1
        out.fill(np.nan)
        replay(parts[::-1])()
        np.testing.assert_array_equal(out, expected)
    whole: list[Call] = [(np.add.reduce, (x, 1, None, sums)), (partial(np.add, out=wide, where=x > 0), (x, 1.0))]
    assert [len(lanes._parts(lanes._known(call))) for call in whole] == [1, 1]


def test_an_error_in_another_lane_is_the_callers(count: Callable[[int], None]) -> None:
    def fails() -> None:
        raise FloatingPointError("in the other lane")

    ran: list[str] = []
    side = SideBySide([[(ran.append, ("own",))], [(fails, ())], [(ran.append, ("third",))]])
    with pytest.raises(FloatingPointError, match="in the other lane"):
        side()
    assert sorted(ran) == ["own", "third"]
    SideBySide([[(ran.append, ("own",))], [(ran.append, ("after",))]])()
    assert "after" in ran


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_lane_waits_for_the_others(error: type[BaseException]) -> None:
    started, ended = threading.Event(), []

    def slow() -> None:
        started.wait(10)
        ended.append(True)

    def stops() -> None:
        started.set()
        raise error

    with pytest.raises(error):
        SideBySide([[(stops, ())], [(slow, ())]])()
    assert ended


def test_threads_that_train_at_the_same_time_get_their_own_results(count: Callable[[int], None]) -> None:
    count(2)
    alone, _ = trained(LAYERS["gelu"](), gb.SGD(0.1))
    found: list[list[Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(trained(LAYERS["gelu"](), gb.SGD(0.1))[0])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        for a, b in zip(alone, one, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_an_interrupt_right_after_a_lane_was_given_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real, ended = lanes._inboxes(1)[0], []

    class Interrupted:
        struck = False

        def put(self, work: Any) -> None:
            real.put(work)
            if not self.struck:
                self.struck = True
                raise KeyboardInterrupt

    inbox = Interrupted()
    monkeypatch.setattr(lanes, "_inboxes", lambda count: [inbox] * count)
    with pytest.raises(KeyboardInterrupt):
        lanes.run_side_by_side([lambda: None, lambda: (time.sleep(0.3), ended.append(1))])
    assert ended == [1]


def test_a_forked_process_has_lanes_of_its_own() -> None:
    ran: list[int] = []
    side = SideBySide([[(ran.append, (1,))], [(ran.append, (2,))]])
    side()
    child = os.fork()
    if not child:
        side()
        os._exit(0 if len(ran) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_little_work_and_what_hangs_together_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "idle_threads_sleep", lambda: True)
    a, b = np.ones((512, 512)), np.ones((512, 512))
    little: list[Call] = [(np.add, (a, b, a))]
    assert side_by_side(little, 2) == little
    # Each row of the second reads all rows of the first.
    together: list[Call] = [(np.exp, (a, b)), (np.add, (b.T, a, a)), (np.exp, (a, b))] * 9
    assert side_by_side(together, 2) == together
    apart: list[Call] = [(np.exp, (a, b)), (np.add, (b, a, a)), (np.exp, (a, b))] * 9
    assert len(side_by_side(apart, 2)) == 1
    assert side_by_side(apart, 1) == apart
    monkeypatch.setattr(lanes, "idle_threads_sleep", lambda: False)
    assert side_by_side(apart, 2) == apart


def test_rows_are_copied_and_gathered_by_several_threads(
    monkeypatch: pytest.MonkeyPatch, count: Callable[[int], None]
) -> None:
    monkeypatch.setattr(numpy_backend, "idle_threads_sleep", lambda: True)
    monkeypatch.setattr(numpy_backend, "MANY_TO_COPY", 8)
    count(3)
    be, rng = NumpyBackend(), np.random.default_rng(0)
    for n in (2, 7, 100):
        source, index = rng.standard_normal((50, 4)), rng.integers(0, 50, n)
        out, copied = np.empty((n, 4)), np.empty((n, 4), np.float32)
        be.gather_rows(source, index, out)
        np.testing.assert_array_equal(out, source[index])
        be.copy_in(out, copied)
        np.testing.assert_array_equal(copied, out.astype(np.float32))
    overlapping = np.arange(400.0).reshape(100, 4)
    be.copy_in(overlapping[::-1], overlapping)
    assert (overlapping == np.arange(400.0).reshape(100, 4)[::-1]).all()
    number = np.empty(())
    be.copy_in(np.asarray(3.0), number)
    assert number == 3
    whole = np.empty((3, 4))
    be.copy_in(np.arange(4.0), whole)
    assert (whole == np.arange(4.0)).all()


def _square(be: NumpyBackend, what: Callable[[Any, np.ndarray, np.ndarray], None]) -> np.ndarray:
    """x after `what` was recorded of it, with enough other work that it is shared out."""
    x = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    y, more = np.random.default_rng(1).standard_normal((512, 512)).astype(np.float32), np.ones((1024, 512), np.float32)

    def step() -> None:
        be.xp.exp(more, out=more)
        what(be, x, y)
        be.xp.exp(more, out=more)

    program = be.record(step)
    with be:
        program()
    return x


MASK = np.random.default_rng(2).random((512, 512)) < 0.5
UNUSUAL: dict[str, Callable[[Any, Any, Any], Any]] = {
    "the first row from all": lambda be, x, y: be.xp.subtract(x, x[:1], out=x),
    "its own row": lambda be, x, y: be.xp.subtract(x, x[0], out=x),
    "its transpose": lambda be, x, y: be.xp.add(x, x.T, out=x),
    "backwards": lambda be, x, y: be.xp.copyto(x, x[::-1]),
    "shifted": lambda be, x, y: be.xp.add(x[1:], x[:-1], out=x[1:]),
    "copied on": lambda be, x, y: be.xp.copyto(x[1:], x[:-1]),
    "a product": lambda be, x, y: be.xp.matmul(y, y, out=x),
    "another dimension": lambda be, x, y: be.xp.copyto(x, y[None]),
    "by names": lambda be, x, y: be.xp.copyto(dst=x, src=1.5),
    "where": lambda be, x, y: be.xp.copyto(x, y, where=MASK),
    "numbered": lambda be, x, y: be.xp.einsum(y, [0, 1], y, [0, 1], [0, 1], out=x),
    "reduced by names": lambda be, x, y: be.call(partial(np.add.reduce, axis=1, out=x[:, 0]), y),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_calls_have_the_bits_of_one_thread(name: str, count: Callable[[int], None]) -> None:
    count(1)
    one = _square(NumpyBackend(), UNUSUAL[name])
    for number in (2, 3):
        count(number)
        np.testing.assert_array_equal(_square(NumpyBackend(), UNUSUAL[name]), one)


def test_both_outputs_of_a_function_are_written(count: Callable[[int], None]) -> None:
    count(2)
    be = NumpyBackend()
    x, more = np.full((512, 512), 13.0), np.ones((1024, 512))
    q, r, u = (np.zeros_like(x) for _ in range(3))

    def step() -> None:
        be.xp.exp(more, out=more)
        be.call(np.divmod, x, 2.0, q, r)
        be.xp.add(q, 0.0, out=u)

    be.record(step)()
    assert (u == 6).all()


def test_the_first_error_is_raised_once_all_have_ended_whatever_it_is() -> None:
    class Alarm(BaseException):
        """What a signal's handler may raise."""

    started, ended = threading.Event(), []

    def slow() -> None:
        started.set()
        time.sleep(0.2)
        ended.append(True)

    def alarm(*_: object) -> None:
        raise Alarm

    def own() -> None:
        started.wait(10)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Alarm):
            lanes.run_side_by_side([own, slow])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ended
