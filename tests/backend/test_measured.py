"""Devices chosen by a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gpubackprop as gb
from gpubackprop.backend import select
from gpubackprop.errors import ArgumentError, DataError
from tests.bench.samples import result

SIZES = [1, 16, 256]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if GPU 0 worked, and no other."""
    monkeypatch.setattr(select, "_cuda_problem", lambda index: None if index == 0 else "not there")


@pytest.fixture
def measurement(tmp_path: Path) -> Path:
    """The CPU wins up to 10 rows; on a large network it never does."""
    small = result(
        {
            "cpu@1": [2e-5 * n for n in SIZES],
            "cpu@2": [1e-5 * n for n in SIZES],
            "cuda:0": [1e-4] * 3,
            "strict": [1e-9] * 3,
            "cuda:0:tf32": [5e-6] * 3,
        },
        SIZES,
    )
    large = result({"cpu@2": [1.0, 2.0, 3.0], "cuda:0": [0.1, 0.1, 0.1]}, SIZES, network="800-900-100")
    small.cases += large.cases
    small.save(tmp_path / "bench.json")
    return tmp_path / "bench.json"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("batch_size", "device"), [(1, "cpu"), (9, "cpu"), (11, "cuda:0"), (10_000, "cuda:0")])
def test_the_faster_one_with_interpolation(measurement: Path, batch_size: int, device: str) -> None:
    assert gb.choose_device(measurement, [8, 4, 2], batch_size) == device
    assert gb.choose_device(str(measurement), [8, 6, 2], batch_size) == device, "the nearest network stands for others"
    assert gb.choose_device(measurement, [1000, 1000, 10], batch_size) == "cuda:0"


@pytest.mark.usefixtures("gpu")
def test_what_decides_must_be_said_and_nothing_else(measurement: Path) -> None:
    assert gb.choose_device(measurement, [800, 900, 100]) == "cuda:0"
    assert gb.choose_device(measurement, batch_size=256) == "cuda:0"
    with pytest.raises(ArgumentError, match=r"depends on the batch_size.*@1024"):
        gb.choose_device(measurement)
    with pytest.raises(ArgumentError, match=r"depends on the layers.*\[784, 512, 10\], 1\)"):
        gb.choose_device(measurement, batch_size=1)


@pytest.mark.usefixtures("gpu")
def test_only_what_was_measured_in_this_type_counts(measurement: Path) -> None:
    assert gb.choose_device(measurement, [8, 4, 2], 1, precision="tf32") == "cuda:0"
    with pytest.raises(DataError, match="measured no device that works here in float64"):
        gb.choose_device(measurement, [8, 4, 2], 1, dtype="float64")


def test_a_device_that_does_not_work_here_is_not_chosen(measurement: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_cuda_problem", lambda index: "no GPU")
    assert gb.choose_device(measurement) == "cpu"
    net = gb.mlp([8, 4, 2], device=f"auto:{measurement}@256")
    assert net.backend.name == "cpu"
    assert gb.get_backend(f"auto:{measurement}").name == "cpu"


@pytest.mark.usefixtures("gpu")
def test_auto_with_a_measurement_and_a_batch_size(measurement: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, str]] = []
    monkeypatch.setattr(select, "_cuda", lambda index, precision: made.append((index, precision)))
    select.get_backend(f"auto:{measurement}@256")
    assert made == [(0, "native")]
    with pytest.raises(ArgumentError, match="depends on the"):
        select.get_backend(f"auto:{measurement}")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("size", [2**63, 2**64, 10**400])
def test_numbers_of_any_size_are_compared(measurement: Path, size: int) -> None:
    stored = json.loads(measurement.read_text())
    for case in stored["cases"]:
        if case["batch_size"] == SIZES[-1]:
            case["batch_size"] = size
            for cell in case["cells"].values():
                cell["timings"]["step"]["median"] *= 1e300
    measurement.write_text(json.dumps(stored))
    assert gb.choose_device(measurement, [8, 4, 2], size) == "cuda:0"
    assert gb.choose_device(measurement, [8, 4, 2], 1) == "cpu"


def test_failed_contenders_have_no_say(measurement: Path) -> None:
    stored = json.loads(measurement.read_text())
    for case in stored["cases"]:
        for cell in case["cells"].values():
            cell["failed"] = "wrong result"
    measurement.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="measured no device"):
        gb.choose_device(measurement)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "gpubackprop-benchmark"}', '{"format": "x"}'])
def test_files_that_are_no_measurements(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read as what gpubackprop bench"):
        gb.get_backend(f"auto:{tmp_path / 'x.json'}")
    with pytest.raises(DataError, match="cannot be read"):
        gb.choose_device(tmp_path / "missing.json")


@pytest.mark.usefixtures("gpu")
def test_arguments_are_looked_at(measurement: Path) -> None:
    with pytest.raises(ArgumentError, match="batch_size"):
        gb.choose_device(measurement, [8, 4, 2], 0)
    with pytest.raises(ArgumentError, match="inputs and outputs"):
        gb.choose_device(measurement, [8], 4)
