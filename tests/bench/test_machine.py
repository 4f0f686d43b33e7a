"""What is written down of the machine."""

from __future__ import annotations

import gc
import json
import os

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.select import get_backend
from gpubackprop.bench import machine as module
from gpubackprop.bench.machine import available_cores, machine, was_busy


def test_a_measurement_can_be_placed_by_it() -> None:
    found = machine(("numpy", "no-such-package"))
    assert json.loads(json.dumps(found)) == found
    assert found["numpy"] == found["packages"]["numpy"] == np.__version__
    assert found["packages"].keys() == {"numpy"}
    assert found["gpubackprop"] == gb.__version__
    assert "cpu" in found["devices"]
    assert "strict" not in found["devices"]
    assert "packages" not in machine()


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


@pytest.mark.parametrize(("load", "busy"), [(None, False), (0.0, False), (0.4, False), (0.6, True)])
def test_a_busy_machine_is_told(load: float | None, busy: bool) -> None:
    assert was_busy({"load": load, "cores": 2}) is busy
    assert not was_busy({})


def test_the_garbage_collector_rests_meanwhile() -> None:
    assert gc.isenabled()
    with module.undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_ceilings_are_a_second_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRODUCTS", {False: (8, 64)})
    monkeypatch.setattr(module, "COPY", {False: 1 << 16})
    taken = iter((1e-6, 1e-5, 1e-3))
    monkeypatch.setattr(module, "_fastest", lambda be, run: next(taken))
    found = module.ceilings(get_backend("cpu"), "float32")
    assert found == {"flops": pytest.approx(2 * 64**3 / 1e-5), "bytes": pytest.approx(2 * (1 << 16) / 1e-3)}


def test_ceilings_run_on_each_device(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRODUCTS", {False: (16,), True: (16,)})
    monkeypatch.setattr(module, "COPY", {False: 1 << 12, True: 1 << 12})
    monkeypatch.setattr(module, "BUDGET", 0.001)
    assert all(rate > 0 for rate in module.ceilings(backend, "float64").values())
