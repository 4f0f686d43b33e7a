"""Plans of products: which algorithm is taken, what is kept of it, and what is shared, in turn, and given back."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend.cuda import plans, timing
from gpubackprop.backend.cuda.plans import Operands, Planner, Problem, UnsupportedError, of_device
from gpubackprop.backend.cuda.products import Products
from gpubackprop.files import cache
from tests.cuda import fake_cupy
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.planted.bugs import Bug

FAST, SLOW, ANY = 0xA161, 0xA160, 0xA162
"""The stand-in's algorithms: the quickest, the one that it guesses to be that, and the one for any alignment."""


@pytest.fixture(autouse=True)
def _as_many_calls_as_on_a_device(gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake_cupy.device, "HOST", 0.01)
    monkeypatch.setattr(timing, "CALLS", 20)
    monkeypatch.setattr(timing, "LEAST", 5)


def multiply(gpu: Any, planner: Planner | None = None, epilogue: str = "DEFAULT", **options: Any) -> tuple[Any, bool]:  # noqa: F811
    """[[4.]] = ones (4, 4) times ones; the output, and whether it was done."""
    planner = planner or Planner(gpu.cupy, 0)
    ones, out = gpu.cupy.ones((4, 4), np.float32), gpu.cupy.zeros((4, 4), np.float32)
    done = Products(planner, False).multiply(ones, ones, out, epilogue, **options)
    gpu.cupy.cuda.Device(0).synchronize()
    planner.measurements.save()
    return out, done


def kept_files() -> list[Path]:
    return list((cache.cache_folder() / "code").glob("algorithms-*.json"))


def kept() -> Any:
    (file,) = kept_files()
    return json.loads(cache.load(file.name) or b"")


def keep(value: Any) -> None:
    (file,) = kept_files()
    cache.store(file.name, json.dumps(value).encode())


def algorithms() -> list[list[int]]:
    return [entry["algorithm"] for entry in kept()["algorithms"].values()]


def problem(**options: Any) -> Problem:
    return Problem(
        **{"M": 4, "N": 4, "K": 4, "transpose_a": False, "transpose_b": False, "types": ("float32",) * 2} | options
    )


def test_the_quickest_algorithm_is_taken(gpu):  # noqa: F811
    multiply(gpu)
    assert gpu.library.ran[-1] == FAST


def test_one_call_at_a_time_would_measure_the_host(gpu, monkeypatch):  # noqa: F811
    """What the graph is for: the stand-in's host takes longer to launch a product than the device to do it."""
    found = {}
    for calls in (1, 20):
        monkeypatch.setattr(timing, "CALLS", calls)
        found[calls] = [timing.seconds_a_call(gpu.cupy, lambda ms=ms: fake_run(ms)) for ms in (0.003, 0.004, 0.008)]
    assert found[1] == pytest.approx([2e-5] * 3)
    assert found[20] == pytest.approx([3e-6, 4e-6, 8e-6], rel=0.2)


def fake_run(milliseconds: float) -> None:
    fake_cupy.run(lambda: None, milliseconds=milliseconds)


def test_what_cannot_be_captured_is_timed_without_a_graph(gpu, caplog):  # noqa: F811
    def waits() -> None:
        gpu.cupy.cuda.Device(0).synchronize()
        fake_run(0.05)

    with caplog.at_level(logging.WARNING, "gpubackprop.cuda"):
        assert timing.seconds_a_call(gpu.cupy, waits) == pytest.approx(6e-5, rel=0.2)
    assert "could not be captured" in caplog.text


def test_the_choice_is_kept_and_says_how_it_was_made(gpu):  # noqa: F811
    multiply(gpu)
    found = kept()
    assert (found["device"], found["cublasLt"], found["measured"]) == ("stand-in", 120900, timing.HOW)
    (entry,) = found["algorithms"].values()
    assert entry["algorithm"] == [FAST] * 8
    assert entry["microseconds"] > 0
    gpu.library.ran.clear()
    multiply(gpu)
    assert gpu.library.ran == [FAST, FAST], "tried once, then used; nothing was timed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kept: [k.update(algorithm=[1] * 8) for k in kept["algorithms"].values()],
        lambda kept: [k.update(algorithm=["x"]) for k in kept["algorithms"].values()],
        lambda kept: kept.update(algorithms=dict.fromkeys(kept["algorithms"], 7)),
        lambda kept: kept.update(algorithms=[]),
        lambda kept: kept.update(measured="by one call between two events"),
        lambda kept: kept.clear(),
    ],
)
def test_what_another_way_or_version_left_is_made_anew(gpu, spoil):  # noqa: F811
    multiply(gpu)
    found = kept()
    spoil(found)
    keep(found)
    out, done = multiply(gpu)
    assert done
    assert (out.get() == 4).all()
    assert algorithms() == [[FAST] * 8]


def test_an_algorithm_that_fails_is_left_out(gpu, caplog):  # noqa: F811
    gpu.library.failing.add(("DEFAULT", FAST))
    with caplog.at_level(logging.WARNING, "gpubackprop.cuda"):
        assert multiply(gpu)[1]
    assert gpu.library.ran[-1] == SLOW
    assert "failed and is left out" in caplog.text


@pytest.mark.parametrize("others", [True, False])
def test_a_kept_algorithm_that_fails_is_chosen_anew_or_refused(gpu, others):  # noqa: F811
    """Also where it is the only candidate: training goes on without it."""
    if not others:
        gpu.library.algorithms = {FAST: gpu.library.algorithms[FAST]}
    multiply(gpu)
    gpu.library.failing.add(("DEFAULT", FAST))
    planner = Planner(gpu.cupy, 0)
    out, done = multiply(gpu, planner)
    assert done == others
    if others:
        assert (out.get() == 4).all()
        assert algorithms() == [[SLOW] * 8]
    else:
        with pytest.raises(UnsupportedError, match="no algorithm runs: failed"):
            planner.plan(problem(), Operands(0, 0, 0))


def test_a_failure_later_on_is_refused(gpu, caplog):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    products = Products(planner, False)
    ones, out = gpu.cupy.ones((4, 4), np.float32), gpu.cupy.zeros((4, 4), np.float32)
    assert products.multiply(ones, ones, out)
    gpu.library.failing |= {("DEFAULT", number) for number in gpu.library.algorithms}
    assert not products.multiply(ones, ones, out)
    assert "status 13" in products.refused["DEFAULT in float32"]
    gpu.library.failing.clear()
    assert not products.multiply(ones, ones, out), "it stays refused"


@pytest.mark.parametrize("how", ["refused", "empty"])
def test_no_algorithm(gpu, how):  # noqa: F811
    getattr(gpu.library, how).add(("DEFAULT", "float32"))
    assert not multiply(gpu)[1]


def test_what_is_added_to_is_not_touched_by_the_trials(gpu):  # noqa: F811
    out, done = multiply(gpu, beta=1.0)
    assert done
    assert (out.get() == 4).all()


def test_the_same_plan_with_and_without_adding(gpu):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    multiply(gpu, planner)
    gpu.library.ran.clear()
    multiply(gpu, planner, beta=1.0)
    assert len(gpu.library.ran) == 1, "nothing was timed again"


def test_no_memory_for_the_trials(gpu, caplog):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    a, out = gpu.cupy.ones((256, 256), np.float32), gpu.cupy.ones((256, 256), np.float32)
    gpu.state.limit = gpu.state.live + 1000
    with caplog.at_level(logging.WARNING, "gpubackprop.cuda"):
        assert Products(planner, False).multiply(a, a, out, beta=1.0)
    assert "the library's first choice is taken" in caplog.text
    assert (out.get() == 257).all()
    assert gpu.library.ran == [SLOW]


def test_in_a_capture_nothing_is_tried(gpu):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    products = Products(planner, False)
    ones, out, bias = (
        gpu.cupy.ones((4, 4), np.float32),
        gpu.cupy.zeros((4, 4), np.float32),
        gpu.cupy.ones((4,), np.float32),
    )
    stream = gpu.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert products.multiply(ones, ones, out)
        assert not products.multiply(ones, ones, out, "BIAS", bias=bias), "an epilogue that was never tested"
        graph = stream.end_capture()
    assert gpu.library.ran == []
    planner.launch(graph)
    assert (out.get() == 4).all()
    assert gpu.library.ran == [SLOW]
    assert not kept_files(), "what was not measured is not kept"
    assert products.multiply(ones, ones, out, "BIAS", bias=bias), "outside of the capture it can be tested"


@pytest.mark.parametrize("part", [0, 1, 2, 3, 4])
def test_operands_at_odd_addresses(gpu, part):  # noqa: F811
    """The heuristics are told how each operand is aligned, bias and mask too; what they then offer can read it."""
    cupy = gpu.cupy

    def placed(shape: tuple[int, ...], dtype: Any, odd: bool) -> Any:
        count = int(np.prod(shape))
        memory = cupy.zeros((count + 1,), dtype)
        return memory[int(odd) : int(odd) + count].reshape(shape)

    a, b, out, bias, aux = (
        placed(shape, dtype, part == i)
        for i, (shape, dtype) in enumerate(
            [
                ((8, 16), np.float16),
                ((16, 24), np.float16),
                ((8, 24), np.float16),
                ((24,), np.float16),
                ((8, 16), np.uint8),
            ]
        )
    )
    a.fill(1), b.fill(1), bias.fill(2)
    products = Products(Planner(cupy, 0), False)
    assert products.multiply(a, b, out, "RELU_AUX_BIAS", bias=bias, aux=aux)
    assert (out.get() == 18).all()
    assert gpu.library.ran[-1] == ANY


# -- one for all networks of a device --------------------------------------------------------------------------------


def test_one_handle_and_workspace_a_device(gpu):  # noqa: F811
    before = gpu.state.live
    first, second = of_device(gpu.cupy, 0), of_device(gpu.cupy, 0)
    assert first is second
    assert gpu.state.live - before == plans.WORKSPACE


def test_it_goes_with_the_last_network(gpu):  # noqa: F811
    gc.disable()  # whatever is held by a circle would stay
    try:
        before = gpu.state.live
        planner = of_device(gpu.cupy, 0)
        out, done = multiply(gpu, planner)
        assert done
        assert {item["kind"] for item in gpu.library.objects.values()} == {"handle", "descriptor", "layout"}
        del planner, out
        assert gpu.library.objects == {}
        assert gpu.state.live == before
    finally:
        gc.enable()


def test_streams_take_turns_in_the_workspace(gpu, monkeypatch):  # noqa: F811
    planner = Planner(gpu.cupy, 0)
    waits: list[Any] = []
    wait = gpu.cupy.cuda.Stream.wait_event
    monkeypatch.setattr(gpu.cupy.cuda.Stream, "wait_event", lambda s, e: waits.append((s.ptr, e)) or wait(s, e))
    streams = [gpu.cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    for stream in (streams[0], streams[0], streams[1], streams[1], streams[0]):
        with stream, planner.in_turn():
            pass
    assert waits == [(streams[1].ptr, planner._done), (streams[0].ptr, planner._done)]


def two_streams_at_once(gpu: Any, graphs: bool) -> None:  # noqa: F811
    """Products of two networks on two streams, put off and then done piece by piece in turn; plain or in graphs."""
    cupy, planner = gpu.cupy, Planner(gpu.cupy, 0)
    ready = []
    for value in (1.0, 2.0):
        products, a = Products(planner, False), cupy.asarray(np.full((8, 8), value, np.float32))
        out = cupy.zeros((8, 8), np.float32)
        assert products.multiply(a, a, out)
        out.fill(0)
        ready.append((value, cupy.cuda.Stream(non_blocking=True), products, a, out))
    cupy.cuda.Device(0).synchronize()
    for _, stream, products, a, out in ready:
        with stream:
            if graphs:
                stream.begin_capture()
            assert products.multiply(a, a, out)
            if graphs:
                planner.launch(stream.end_capture())
    gpu.state.interleaved = True
    cupy.cuda.Device(0).synchronize()
    gpu.state.interleaved = False
    for value, _, _, _, out in ready:
        assert (out.get() == 8 * value * value).all()


@pytest.fixture
def put_off(gpu):  # noqa: F811
    gpu.state.deferred = gpu.library.two_kernels = True
    for queue in gpu.state.nulls:
        queue.late = True
    return gpu


@pytest.mark.parametrize("graphs", [False, True])
def test_networks_on_two_streams_share_the_workspace(put_off, graphs):
    two_streams_at_once(put_off, graphs)


@pytest.mark.parametrize(
    ("old", "new"), [("stream.wait_event(self._done)", "pass"), ("self._done.record(stream)", "pass")]
)
@pytest.mark.parametrize("graphs", [False, True])
def test_sharing_it_needs_the_wait(put_off, monkeypatch, old, new, graphs):
    Bug("", "backend.cuda.plans:Planner.in_turn", old, new, "").plant(monkeypatch)
    with pytest.raises(AssertionError):
        two_streams_at_once(put_off, graphs)
