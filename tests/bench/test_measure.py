"""One network on one device, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.base import Backend
from gpubackprop.backend.cpu.recorder import PART
from gpubackprop.backend.select import get_backend
from gpubackprop.bench import measure
from gpubackprop.bench.cases import PHASES
from gpubackprop.bench.measure import Measurement, disagreement, has_kinks
from gpubackprop.bench.subject import describe, descriptions

GRADIENTS = [f"gradient {i}.{k}" for i in "01" for k in ("weight", "bias")]


def measurement(
    backend: Backend, n: int = 6, dtype: str = "float32", compile: bool = False, **options: Any
) -> Measurement:
    (described,) = descriptions([5, 4, 3], **options)
    return Measurement(described, backend, dtype, "native", n, "sgd", seed=1, compile=compile)


def test_machine_code_runs_only_where_it_is_asked_for() -> None:
    assert "Numba" not in measurement(get_backend("cpu")).engine.describe()
    assert measurement(get_backend("strict"), compile=True).net.compile


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
    scratch = 4 * 4 * PART
    assert 4 * parameters < small.memory < 4 * parameters + scratch
    batch = 4 * 1024 * (256 + 2 * 512 + 2 * 8)
    assert 4 * parameters + batch < large.memory < 4 * parameters + scratch + 2 * batch
    assert small.work()["memory"] == small.memory


# -- who computes the same --------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
REFERENCE = {
    "outputs": RNG.standard_normal((8, 3)),
    "loss": np.asarray(1.5),
    "gradient 0.weight": RNG.standard_normal((5, 3)),
    "gradient 0.bias": RNG.standard_normal(3) * 1e-9,
}


def off(name: str, share: float) -> dict[str, np.ndarray]:
    """The reference with one tensor off by a share of its norm."""
    return {k: v * (1 + share) if k == name else v for k, v in REFERENCE.items()}


@pytest.mark.parametrize("name", ["outputs", "loss", "gradient 0.weight"])
@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [("float64", "native", 1e-12), ("float32", "native", 1e-5), ("float32", "tf32", 2e-3), ("float32", "bf16", 2e-2)],
)
def test_each_type_has_its_tolerance(name: str, dtype: str, precision: str, tolerance: float) -> None:
    assert disagreement(off(name, 0.5 * tolerance), REFERENCE, dtype, precision, kinks=False) is None
    said = disagreement(off(name, 2 * tolerance), REFERENCE, dtype, precision, kinks=False)
    assert said is not None
    assert said.startswith(name)


def test_kinks_widen_what_gradients_may_be_off_by_and_nothing_else() -> None:
    assert disagreement(off("gradient 0.weight", 1e-3), REFERENCE, "float32", "native", kinks=True) is None
    assert disagreement(off("gradient 0.weight", 1e-2), REFERENCE, "float32", "native", kinks=True)
    assert disagreement(off("outputs", 1e-3), REFERENCE, "float32", "native", kinks=True)


def test_a_gradient_that_is_nothing_but_rounding_is_no_disagreement() -> None:
    assert disagreement(off("gradient 0.bias", 0.5), REFERENCE, "float32", "native", kinks=False) is None
    wrong = {**REFERENCE, "gradient 0.bias": np.full(3, 0.1)}
    assert disagreement(wrong, REFERENCE, "float32", "native", kinks=False)


def test_the_first_wrong_tensor_is_named() -> None:
    both = {**off("outputs", 0.1), "loss": np.asarray(9.0)}
    assert str(disagreement(both, REFERENCE, "float32", "native", kinks=False)).startswith("outputs")
    nan = {**REFERENCE, "loss": np.asarray(np.nan)}
    assert disagreement(nan, REFERENCE, "float32", "native", kinks=False) == "loss is not finite"
    shape = {**REFERENCE, "outputs": np.zeros((3, 8))}
    assert "shape (3, 8) instead of (8, 3)" in str(disagreement(shape, REFERENCE, "float32", "native", kinks=False))


def test_which_networks_have_kinks() -> None:
    assert has_kinks(descriptions([3, 4, 2], activation="relu")[0])
    assert not has_kinks(descriptions([3, 4, 2], activation="tanh")[0])
    inside = gb.Residual([gb.Dense(4, 8, "relu"), gb.Dense(8, 4)])
    for layer in (inside, gb.PReLU(4), gb.Activation(gb.activations.LeakyReLU(0.2))):
        assert has_kinks(describe(gb.Network([gb.Dense(4, 4), layer, gb.Dense(4, 2)], device="cpu"))), layer
    smooth = gb.Activation(gb.activations.Softplus(2.0))
    assert not has_kinks(describe(gb.Network([gb.Dense(4, 4), smooth], device="cpu")))


# -- seconds a call, with a clock that is known ------------------------------------------------------------------------


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, seconds: float, first: float = 0.0) -> Callable[[], None]:
        """A function that takes `seconds`, and `first` more when it is called for the first time."""
        pending = [first]

        def work() -> None:
            self.now += seconds + (pending.pop() if pending else 0.0)

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure, "perf_counter", clock)
    return clock


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 3e-3, 0.5])
def test_a_call_takes_what_it_takes_without_its_first_time(clock: Clock, seconds: float) -> None:
    work = clock.worker(seconds, first=0.02)
    assert measure.seconds_a_call(work, lambda: None, 0.04) == pytest.approx(seconds)


def test_it_stops_when_the_budget_is_spent(clock: Clock) -> None:
    measure.seconds_a_call(clock.worker(1e-4), lambda: None, 0.1)
    assert 0.1 < clock.now < 0.2


def test_waiting_for_the_device_is_part_of_it_once_a_group(clock: Clock) -> None:
    found = measure.seconds_a_call(clock.worker(1e-5), clock.worker(1e-3), 0.1)
    assert 1e-5 < found < 1e-5 + 2 * 1e-3 / (measure.GROUP / 2e-5)


def test_launching_is_timed_without_what_runs_on(clock: Clock) -> None:
    assert measure.seconds_to_launch(clock.worker(2e-5), clock.worker(1e-2), 0.05) == pytest.approx(2e-5)
