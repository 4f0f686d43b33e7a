"""Ways of doing one thing: the quickest is taken, kept, and given up where it fails."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubackprop as gb
from gpubackprop.backend.cuda.choices import Choices
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.plans import Planner
from gpubackprop.cli import app
from tests.cuda import fake_cupy
from tests.cuda.stand_in import gpu, shim  # noqa: F401
from tests.cuda.test_cuda_backend import data, relative


class Work:
    """Ways that take so long each, what was done, and what fails."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.done: list[str] = []
        self.failing: set[str] = set()

    def ways(self) -> dict[str, Any]:
        return {name: lambda name=name: self._do(name) for name in self.milliseconds}

    def _do(self, name: str) -> bool:
        if name in self.failing:
            return False
        fake_cupy.run(lambda: self.done.append(name), milliseconds=self.milliseconds[name])
        return True


def test_the_quickest_is_taken_and_kept(gpu):  # noqa: F811
    work, planner = Work(slow=0.03, quick=0.01, last=0.02), Planner(gpu.cupy, 0)
    choices = Choices(planner)
    assert choices.do("it", work.ways()) == "quick"
    gpu.cupy.cuda.Device(0).synchronize()
    assert work.done[-1] == "quick", "what is timed last is not what is left behind"
    entry = planner.measurements.of("ways")["'it'"]
    assert entry["way"] == "quick"
    assert entry["microseconds"] == pytest.approx({"slow": 30, "quick": 10, "last": 20}, rel=0.2)
    planner.measurements.save()
    for again in (choices, Choices(Planner(gpu.cupy, 0))):
        work.done.clear()
        assert again.do("it", work.ways()) == "quick"
        gpu.cupy.cuda.Device(0).synchronize()
        assert work.done == ["quick"], "nothing was timed again"


def test_what_it_saves_later_is_weighed(gpu):  # noqa: F811
    for saved, taken in ((0.0, "alone"), (1.5e-5, "with a mask")):
        work = Work(**{"alone": 0.02, "with a mask": 0.03})
        choices = Choices(Planner(gpu.cupy, 0))
        assert choices.do(("it", saved), work.ways(), {"with a mask": lambda saved=saved: saved}) == taken


def test_one_way_is_not_timed(gpu):  # noqa: F811
    work = Work(only=0.1)
    assert Choices(Planner(gpu.cupy, 0)).do("it", work.ways()) == "only"
    gpu.cupy.cuda.Device(0).synchronize()
    assert work.done == ["only"]


def test_what_cannot_be_done_is_not_taken(gpu):  # noqa: F811
    work, choices = Work(quick=0.01, slow=0.02), Choices(Planner(gpu.cupy, 0))
    work.failing = {"quick"}
    assert choices.do("it", work.ways()) == "slow"
    work.failing = {"slow"}
    assert choices.do("it", work.ways()) == "quick"
    work.failing = set()
    assert choices.do("it", work.ways()) == "quick", "the one that worked last"


def test_in_a_capture_nothing_is_timed(gpu):  # noqa: F811
    work, planner = Work(first=0.03, second=0.01), Planner(gpu.cupy, 0)
    choices = Choices(planner)
    stream = gpu.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert choices.do("it", work.ways()) == "first"
        stream.end_capture()
    assert planner.measurements.of("ways") == {}
    assert choices.do("it", work.ways()) == "second"


NETWORKS = {
    "relu": {"RELU_BIAS", "RELU_AUX_BIAS", "DRELU", "BGRADA"},
    "gelu_tanh": {"GELU_AUX_BIAS", "DGELU", "BGRADA"},
}


@pytest.mark.parametrize("activation", NETWORKS)
@pytest.mark.parametrize("slow", [True, False])
def test_an_epilogue_is_used_where_it_is_quicker(gpu, activation, slow):  # noqa: F811
    """In the steps after the first; the results are the CPU's in any case."""
    if slow:
        gpu.library.slow = dict.fromkeys(NETWORKS[activation], 1.0)
    x, y = data()
    nets = [
        gb.mlp([7, 16, 8, 5], activation=activation, loss="cross_entropy", device=device, seed=1)
        for device in (CudaBackend(0), "cpu")
    ]
    for net in nets:
        net.loss_and_gradients(x, y)
    gpu.library.matmuls.clear()
    (_, got), (_, want) = (net.loss_and_gradients(x, y) for net in nets)
    for name, array in want.items():
        assert relative(got[name], array) < 1e-5, name
    used = set(gpu.library.matmuls)
    assert used & NETWORKS[activation] == (set() if slow else NETWORKS[activation] - {"RELU_BIAS"})


def test_a_mask_is_written_for_what_it_saves(gpu):  # noqa: F811
    """0.001 ms more than without, and 0.002 ms of a kernel less in the backward pass; or 0.003 ms more."""
    for more, used in ((0.001, "RELU_AUX_BIAS"), (0.003, "RELU_BIAS")):
        gpu.library.slow = {"RELU_AUX_BIAS": more}
        backend = CudaBackend(0)
        net = gb.Network(
            [gb.Dense(7, 16 + int(more * 1000), "relu"), gb.Dense(16 + int(more * 1000), 5)], device=backend
        )
        net.loss_and_gradients(*(data()[0], np.zeros((33, 5))))
        assert used in backend.products.choices.taken.values()


def test_measurements_are_forgotten_on_request(gpu):  # noqa: F811
    assert gb.Network([gb.Dense(7, 16, "relu")], device="cuda").predict(data()[0]).shape == (33, 16)
    gc.collect()
    assert Planner(gpu.cupy, 0).measurements.of("ways")
    result = CliRunner().invoke(app, ["doctor", "--remeasure", "--device", "cpu"])
    assert "forgot 1 files of measurements" in result.output, result.output
    assert not Planner(gpu.cupy, 0).measurements.of("ways")
