"""What is written down of the machine."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import gpubackprop as gb
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
