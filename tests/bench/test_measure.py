"""One network on one device, in this process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu import numpy_backend
from gpubackprop.backend.cpu.numpy_backend import BLOCK
from gpubackprop.backend.select import get_backend
from gpubackprop.bench import ceilings, measure
from gpubackprop.bench.agreement import disagreement
from gpubackprop.bench.measure import PHASES, Measurement
from gpubackprop.bench.subject import descriptions

GRADIENTS = [f"gradient {i}.{k}" for i in "01" for k in ("weight", "bias")]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling a step takes seconds."""
    monkeypatch.setattr(numpy_backend, "installed", lambda: False)


def measurement(backend: Backend, n: int = 6, dtype: str = "float32", **options: Any) -> Measurement:
    (described,) = descriptions([5, 4, 3], **options)
    return Measurement(described, backend, dtype, "native", n, "sgd", seed=1)


def test_a_block_has_every_part_of_a_step(backend: Backend) -> None:
    m = measurement(backend)
    parts = m.block(0.002, phases=True)
    expected = {"step", "step_with_transfer", "transfer", "host", "device", *PHASES}
    assert parts.keys() == expected
    assert all(seconds > 0 for seconds in parts.values())
    assert not set(PHASES) & measurement(backend).block(0.001, phases=False).keys()


def test_what_is_compared_is_what_the_network_computes(backend: Backend) -> None:
    m = measurement(backend, n=7)
    found, expected = m.tensors(), measurement(get_backend("cpu"), n=7, dtype="float64").tensors()
    assert list(expected) == ["outputs", "loss", *GRADIENTS, "losses of training"]
    assert disagreement(found, expected, "float32", "native", kinks=False) is None
    net = gb.mlp([5, 4, 3], activation="relu", loss="cross_entropy", device="cpu", dtype="float64")
    net.set_weights({k: v.astype(np.float32) for k, v in net.get_weights().items()})
    loss, gradients = net.loss_and_gradients(m._x, m._y)
    assert expected["loss"] == pytest.approx(loss, rel=1e-12)
    assert np.allclose(expected["gradient 0.weight"], gradients["0.weight"], rtol=1e-12)


def test_the_losses_of_training_are_those_of_its_steps() -> None:
    m = measurement(get_backend("cpu"), n=3000, dtype="float64")
    assert m.stretch == 2
    total = float(m.tensors()["losses of training"])
    m._restart()
    order = m.rows.permutation
    parts = [(m.rows.x[order[i : i + 3000]], m.rows.y[order[i : i + 3000]]) for i in (0, 3000)]
    losses = [float(m.net.train_step(x, y, m.optimizer)) for x, y in parts]
    assert total == pytest.approx(3000 * sum(losses), rel=1e-12)
    assert losses[0] != losses[1]


def test_plain_runs_nothing_recorded() -> None:
    (described,) = descriptions([5, 4, 3])
    plain = Measurement(described, get_backend("cpu"), "float64", "native", 6, "adam", 1, plain=True)
    recorded = Measurement(described, get_backend("cpu"), "float64", "native", 6, "adam", 1)
    assert not hasattr(plain._program, "calls")
    assert hasattr(recorded._program, "calls")
    assert disagreement(recorded.tensors(), plain.tensors(), "float64", "native", kinks=False) is None


def test_blocks_begin_with_the_same_weights() -> None:
    m = measurement(get_backend("cpu"))
    first = m.tensors()
    m.block(0.01, phases=True)
    assert not np.array_equal(m.tensors()["outputs"], first["outputs"]), "it trains"
    m._restart()
    assert np.array_equal(m.tensors()["outputs"], first["outputs"])


def test_many_rows_are_compared_by_some_of_their_outputs() -> None:
    m = measurement(get_backend("cpu"), n=measure.SAMPLE_ROWS + 10)
    assert m.tensors()["outputs"].shape == (measure.SAMPLE_ROWS, 3)


def test_memory_is_what_the_arrays_take() -> None:
    (described,) = descriptions([256, 512, 8])
    small, large = (Measurement(described, get_backend("cpu"), "float32", "native", n, "adam", 0) for n in (4, 1024))
    parameters = 4 * small.net.parameter_count
    # parameters, gradients and Adam's two states; some scratch for a block of the update
    scratch = 4 * 4 * BLOCK
    assert 4 * parameters < small.memory < 4 * parameters + scratch
    batch = 4 * 1024 * (256 + 2 * 512 + 2 * 8)
    assert 4 * parameters + batch < large.memory < 4 * parameters + scratch + 2 * batch
    assert small.work()["memory"] == small.memory


def test_ceilings_are_a_second_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "PRODUCTS", {False: (8, 64)})
    monkeypatch.setattr(ceilings, "COPY", {False: 1 << 16})
    monkeypatch.setattr(ceilings, "BUDGET", 0.005)
    monkeypatch.setattr(ceilings, "_product_seconds", lambda be, k, dtype: {8: 1e-6, 64: 1e-5}[k])
    found = ceilings.ceilings(get_backend("cpu"), "float32")
    assert found["flops"] == pytest.approx(2 * 64**3 / 1e-5)
    assert found["bytes"] > 0


def test_ceilings_run_on_each_device(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "PRODUCTS", {False: (16,), True: (16,)})
    monkeypatch.setattr(ceilings, "COPY", {False: 1 << 12, True: 1 << 12})
    monkeypatch.setattr(ceilings, "BUDGET", 0.001)
    assert all(rate > 0 for rate in ceilings.ceilings(backend, "float64").values())
