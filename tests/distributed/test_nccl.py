"""GPUs that train together through NCCL, and processes that meet without MPI, with stand-ins for CuPy and for NCCL."""

from __future__ import annotations

import gc
import socket
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda import cublaslt
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.cupy_backend import CupyBackend
from gpubackprop.backend.cuda.nccl import NcclAllReduce, is_captured
from gpubackprop.distributed.sockets import SocketCommunicator
from gpubackprop.errors import DeviceError, DisagreementError
from gpubackprop.network import engine
from tests.cuda import fake_cupy
from tests.cuda.stand_in import put_in_place, shim  # noqa: F401 - a fixture
from tests.distributed import fake_nccl
from tests.distributed.cases import ROWS, data, network


def together(size: int, do: Callable[[SocketCommunicator], Any]) -> list[Any]:
    """What `do` gives, or raises, in each of so many ranks, which are threads here."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    answers: list[Any] = [None] * size

    def be(rank: int) -> None:
        try:
            answers[rank] = do(SocketCommunicator(rank, size, rank, "localhost", port))
        except Exception as error:
            answers[rank] = error

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
        assert not thread.is_alive(), f"a rank never ends; the others: {answers}"
    return answers


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cupy.install(monkeypatch, devices=3, deferred=False)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", fake_nccl)


def _fitted(device: Any, ranks: SocketCommunicator | None) -> dict[str, np.ndarray]:
    layers = [gb.Dense(4, 8, activation="tanh"), gb.Dropout(0.3), gb.Dense(8, 3)]
    net = gb.Network(layers, loss="cross_entropy", dtype="float64", device=device, seed=3)
    x, y, _ = data()
    trainer = gb.Trainer(net, gb.Adam(1e-2, clip_norm=0.5), distributed=ranks)
    # Two fits are done over the same connection.
    trainer.fit(x, y, epochs=1, batch_size=10)
    history = trainer.fit(x, y, epochs=2, batch_size=10)
    return {**net.get_weights(), "losses": np.array(history["loss"])}


@pytest.mark.usefixtures("gpus")
def test_gpus_train_as_one_cpu_does() -> None:
    before = len(fake_nccl.cliques())
    found = together(3, lambda ranks: _fitted(CupyBackend(ranks.rank), ranks))
    wanted = _fitted("cpu", None)
    for answer in found:
        assert isinstance(answer, dict), answer
        for name, value in wanted.items():
            np.testing.assert_allclose(answer[name], value, rtol=1e-11, atol=1e-12, err_msg=name)
            assert np.array_equal(answer[name], found[0][name]), "not the same bits everywhere"

    # Two calls a step: all gradients at once, and the loss.
    (clique,) = fake_nccl.cliques()[before:]
    size = gb.Network([gb.Dense(4, 8), gb.Dense(8, 3)], dtype="float64", device="cpu").engine.parameters.G.size
    assert clique.calls == [(size, fake_nccl.NCCL_FLOAT64), (1, fake_nccl.NCCL_FLOAT64)] * 3 * 4


def on(device: Any) -> dict[str, Any]:
    """In float32, whose kernels are built for other tests too."""
    return {"device": device, "dtype": "float32"}


Case = Callable[[Any], gb.Network]
GRAPHS: dict[str, tuple[Case, dict[str, Any]]] = {
    "dropout": (
        lambda device: network([gb.Dense(4, 8, "leaky_relu"), gb.Dropout(0.4)], l2=0.01, **on(device)),
        {"batch_size": 10},
    ),
    "normalised over all": (
        lambda device: network([gb.Dense(4, 8, "leaky_relu"), gb.BatchNorm(8, synchronized=True)], **on(device)),
        {"batch_size": 13},
    ),
    "weights": (lambda device: network(**on(device)), {"batch_size": 8, "sample_weight": np.linspace(0, 2, ROWS)}),
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, shim: Any) -> Any:  # noqa: F811
    """Three GPUs with all that this library does on one."""
    machine = put_in_place(monkeypatch, shim, tmp_path / "cache", devices=3, deferred=False)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", fake_nccl)
    # Builds the kernels, where that was not done before, once and not in each thread.
    CudaBackend(0)
    yield machine
    cublaslt.library.cache_clear()
    assert not machine.library.violations, machine.library.violations[0]


def _fit(case: str, device: Any, ranks: SocketCommunicator | None, **options: Any) -> tuple[gb.Network, gb.History]:
    return _twice(GRAPHS[case][0](device), ranks, **{**GRAPHS[case][1], **options})


def _seen(size: int, do: Callable[[SocketCommunicator], Any]) -> tuple[list[Any], Any]:
    """What the ranks give, and what their communicator saw."""
    before = len(fake_nccl.cliques())
    found = together(size, do)
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    (clique,) = fake_nccl.cliques()[before:]
    return found, clique


@pytest.mark.parametrize("case", GRAPHS)
def test_the_sums_are_a_part_of_the_graph_of_a_step(graphs: Any, case: str) -> None:
    found, clique = _seen(3, lambda ranks: _fit(case, CudaBackend(ranks.rank), ranks))
    wanted, history = _fit(case, "cpu", None)
    for net, other in found:
        for name, value in wanted.get_weights().items():
            np.testing.assert_allclose(net.get_weights()[name], value, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-5)
        assert "outside" not in net.engine.describe()
    # Of each fit the first full batch and the first short one are done launch by launch; every other step is one graph.
    steps = 2 * -(-ROWS // GRAPHS[case][1]["batch_size"])
    assert clique.captured == len(clique.calls) * (steps - 2) // steps
    with_sums = [g for g in graphs.launched if any("add_up" in node.work.__qualname__ for node in g.nodes)]
    assert len(with_sums) == 3 * 2 * (steps - 2)


def _deep(device: Any) -> gb.Network:
    layers = [
        gb.Dense(4, 8, "leaky_relu"),
        gb.Residual([gb.Dense(8, 8, "leaky_relu"), gb.Dropout(0.2)]),
        gb.Dense(8, 8),
    ]
    return network(layers, **on(device))


def _frozen(device: Any) -> gb.Network:
    net = _deep(device)
    net.layers[0].trainable = False
    return net


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(
    ("case", "buckets"),
    [(_deep, [128, 80, 48]), (_frozen, [128, 80, 48]), (GRAPHS["normalised over all"][0], None)],
)
def test_large_gradients_are_added_up_in_buckets_beside_the_backward_pass(
    monkeypatch: pytest.MonkeyPatch, case: Case, buckets: list[int] | None
) -> None:
    monkeypatch.setattr(engine, "IN_BUCKETS_FROM", 0)
    begun: list[int] = []
    original = NcclAllReduce.begin
    monkeypatch.setattr(NcclAllReduce, "begin", lambda self, array: begun.append(array.size) or original(self, array))

    def fit(device: Any, ranks: SocketCommunicator | None) -> gb.Network:
        net = case(device)
        x, y, _ = data()
        gb.Trainer(net, gb.Adam(1e-2, clip_norm=0.3), distributed=ranks).fit(x, y, epochs=3, batch_size=13)
        return net

    found, clique = _seen(3, lambda ranks: fit(CudaBackend(ranks.rank), ranks))
    wanted = fit("cpu", None)
    for net in found:
        for name, value in wanted.get_weights().items():
            np.testing.assert_allclose(net.get_weights()[name], value, atol=1e-5, err_msg=name)
            assert np.array_equal(net.get_weights()[name], found[0].get_weights()[name])
    G = [count for count, _ in clique.calls if count > 1]
    if buckets is None:
        assert not begun
        return
    assert buckets * 9 == G
    assert clique.captured == len(clique.calls) * 7 // 9
    # Each of the two graphs has them beside it; those of a layer that is not trained come after.
    assert sorted(begun) == sorted((buckets[:2] if case is _frozen else buckets) * 3 * 2)


class _NoCapture(CudaBackend):
    """Cannot record sums: on a GPU of which the driver is older, say."""

    def capture(self, step: Any) -> Any:
        raise RuntimeError("not permitted")


def _halved(ranks: SocketCommunicator) -> tuple[gb.Network, gb.History]:
    """Rank 1 had memory for one row at a time."""
    net = GRAPHS["dropout"][0](CudaBackend(ranks.rank))
    net.engine.rows_at_once = 1 if ranks.rank == 1 else None
    return _twice(net, ranks)


def _not_recorded(ranks: SocketCommunicator) -> tuple[gb.Network, gb.History]:
    """Rank 2 was told to record nothing."""
    net = GRAPHS["dropout"][0](CudaBackend(ranks.rank))
    net.engine.capture = ranks.rank != 2
    return _twice(net, ranks)


def _twice(net: gb.Network, ranks: SocketCommunicator | None, **options: Any) -> tuple[gb.Network, gb.History]:
    x, y, _ = data()
    trainer = gb.Trainer(net, gb.Adam(1e-2, clip_norm=0.3), distributed=ranks)
    options = {"batch_size": 10, **options}
    trainer.fit(x, y, epochs=2, **options)
    return net, trainer.fit(x, y, epochs=2, **options)


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(
    ("do", "reason"),
    [
        (
            lambda ranks: _fit("dropout", (_NoCapture if ranks.rank == 1 else CudaBackend)(ranks.rank), ranks),
            "rank 1: RuntimeError: not permitted",
        ),
        (_halved, "rank 1: DeviceError: its rows go through in parts"),
        (lambda ranks: _fit("dropout", CudaBackend(ranks.rank, graphs=ranks.rank == 1), ranks), ""),
        (_not_recorded, "rank 2: DeviceError: its steps are not recorded"),
        (lambda ranks: _fit("dropout", CudaBackend(ranks.rank), ranks, on_nan="skip"), ""),
        (lambda ranks: _fit("dropout", CudaBackend(ranks.rank), ranks, micro_batch_size=2), ""),
    ],
)
def test_where_one_rank_cannot_record_them_none_does(do: Callable[[SocketCommunicator], Any], reason: str) -> None:
    found, clique = _seen(3, do)
    wanted, _ = _fit("dropout", "cpu", None)
    for net, _ in found:
        for name, value in wanted.get_weights().items():
            np.testing.assert_allclose(net.get_weights()[name], value, atol=1e-5, err_msg=name)
        assert ("outside" in net.engine.describe()) is bool(reason)
        assert reason in net.engine.describe()
        assert all(v.first_row == 0 for batch in net.engine.training._batches.values() for v in batch.tensors)
    assert clique.captured == 0


@pytest.mark.parametrize(
    ("nccl", "cuda", "captured"), [(20900, 11030, True), (2804, 12090, False), (22105, 11020, False)]
)
def test_the_versions_that_record_sums(graphs: Any, monkeypatch: Any, nccl: int, cuda: int, captured: bool) -> None:
    monkeypatch.setattr(fake_nccl, "get_version", lambda: nccl)
    monkeypatch.setattr(graphs.cupy.cuda.runtime, "driverGetVersion", lambda: cuda)
    assert is_captured(CudaBackend(0)) is captured
    assert not is_captured(CupyBackend(0))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("device_of", "message"),
    [
        (lambda rank: CupyBackend(0), "ranks 0 and 1 have the same GPU"),
        (lambda rank: CupyBackend(1) if rank else "cpu", "all processes must train on GPUs, or all on CPUs"),
        (lambda rank: "cpu", r"trains on 'cpu'. On CPUs start them by MPI: pip install .*mpiexec -n 2"),
    ],
)
def test_devices_that_cannot_add_up(device_of: Callable[[int], Any], message: str) -> None:
    for error in together(2, lambda ranks: _fitted(device_of(ranks.rank), ranks)):
        with pytest.raises(DeviceError, match=message):
            raise error


@pytest.mark.usefixtures("graphs")
def test_a_communicator_outlives_its_graphs() -> None:
    found, clique = _seen(2, lambda ranks: _fit("dropout", CudaBackend(ranks.rank), ranks))
    assert clique.captured > 0
    del found
    gc.collect()
    assert not fake_nccl.ended


@pytest.mark.usefixtures("gpus")
def test_processes_that_see_one_gpu_each_all_call_it_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    places = threading.local()
    monkeypatch.setattr(fake_cupy.device.Device, "pci_bus_id", property(lambda self: places.here))

    def attached(ranks: SocketCommunicator) -> Any:
        places.here = f"0000:{ranks.rank}8:00.0"
        be = CupyBackend(0)
        ranks.attach(be)
        with be:
            total = be.asarray(np.arange(3.0) + ranks.rank)
            ranks.sum(be, total)
            return be.to_host(total).tolist()

    assert together(2, attached) == [[1.0, 3.0, 5.0]] * 2


def test_no_nccl(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise RuntimeError("nccl is not available")

    def fails_with(message: str) -> None:
        for error in together(2, lambda ranks: _fitted(CupyBackend(ranks.rank), ranks)):
            with pytest.raises(DeviceError, match=message):
                raise error

    monkeypatch.setattr(fake_nccl, "get_version", missing)
    fails_with(r"pip install nvidia-nccl-cu12\): nccl is not available")
    # Without the library CuPy's module has nothing but this.
    without = ModuleType("cupy.cuda.nccl")
    without.available = False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", without)
    fails_with(r"libnccl.so.2 is missing \(pip install nvidia-nccl-cu12\)")


def test_values_and_arrays_go_around() -> None:
    def talk(ranks: SocketCommunicator) -> tuple[Any, ...]:
        array = np.arange(6.0).reshape(2, 3) * (ranks.rank == 0)
        ranks.share(array)
        return ranks.gather({"rank": ranks.rank}), ranks.broadcast([ranks.rank, None, 0.1]), array.tolist()

    wanted = [{"rank": r} for r in range(3)], [0, None, 0.1], np.arange(6.0).reshape(2, 3).tolist()
    assert together(3, talk) == [wanted] * 3


def test_the_rank_that_differs_is_named_and_of_two_it_is_not_rank_0() -> None:
    for error in together(2, lambda ranks: ranks.agree({"seed": ranks.rank, "size": 1})):
        with pytest.raises(DisagreementError, match=r"rank 1 has another seed than the others: 1, theirs 0$"):
            raise error


def test_a_rank_that_is_waited_for_and_has_gone_is_named() -> None:
    def leave(ranks: SocketCommunicator) -> Any:
        if ranks.rank == 1:
            ranks._links[0].close()
            return None
        return ranks.gather(0)

    left, gone = together(2, leave)
    assert gone is None
    with pytest.raises(DeviceError, match="rank 1 has gone"):
        raise left
