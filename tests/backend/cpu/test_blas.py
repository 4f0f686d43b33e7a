from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu import blas
from gpubackprop.backend.cpu.blas import DirectBlas, direct_blas, layout
from gpubackprop.backend.cpu.numpy_backend import DIRECT, NumpyBackend


@pytest.fixture
def direct() -> DirectBlas:
    """NumPy's own BLAS; skipped where this NumPy has none that is known."""
    found = direct_blas()
    if found is None:
        pytest.skip("this NumPy's BLAS has no symbols that are known here")
    return found


def matrices(n: int, m: int, dtype: Any, seed: int) -> list[np.ndarray]:
    """(n, m) matrices of every layout that BLAS takes: by rows, by columns, and parts of larger ones."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(n, m)).astype(dtype),
        rng.normal(size=(m, n)).astype(dtype).T,
        rng.normal(size=(n, m + 3)).astype(dtype)[:, 1 : m + 1],
        rng.normal(size=(m, n + 2)).astype(dtype)[:, :n].T,
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k", "m"), [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.9])
def test_gemm_and_gemv(direct: DirectBlas, dtype: Any, n: int, k: int, m: int, beta: float) -> None:
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for a in matrices(n, k, dtype, 1):
        for b in matrices(k, m, dtype, 2):
            c = np.ones((n, m), dtype)
            call = direct.gemm(a, b, beta, c)
            assert call is not None
            call()
            np.testing.assert_allclose(c, a @ b + beta, rtol=tolerance, atol=tolerance)
        x, y = np.arange(1.0, k + 1).astype(dtype), np.ones(n, dtype)
        call = direct.gemv(a, x, beta, y)
        assert call is not None
        call()
        np.testing.assert_allclose(y, a @ x + beta, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axpy_reads_its_factor_at_each_call(direct: DirectBlas, dtype: Any) -> None:
    alpha, x, y = np.full((), 2, dtype), np.arange(3, dtype=dtype), np.ones(3, dtype)
    call = direct.axpy(alpha, x, y)
    assert call is not None
    call()
    alpha[...] = -1
    call()
    np.testing.assert_array_equal(y, [1, 2, 3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axpby(direct: DirectBlas, dtype: Any) -> None:
    x, y = np.arange(3, dtype=dtype), np.ones(3, dtype)
    call = direct.axpby(0.5, x, 2.0, y)
    if call is None:
        pytest.skip("this BLAS has no axpby")
    call()
    np.testing.assert_array_equal(y, [2, 2.5, 3])
    assert direct.axpby(0.5, np.ones(6, dtype)[::2], 2.0, y) is None
    assert direct.axpby(0.5, x.astype(np.complex128), 2.0, y.astype(np.complex128)) is None


def test_an_axpby_that_computes_something_else_is_done_without(
    direct: DirectBlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    axpby = DirectBlas.axpby
    if direct.axpby(1.0, np.ones(2), 1.0, np.ones(2)) is None:
        pytest.skip("this BLAS has no axpby")
    monkeypatch.setattr(DirectBlas, "axpby", lambda self, alpha, x, beta, y: axpby(self, alpha, x, beta + 1, y))
    found = direct_blas.__wrapped__()
    assert found is not None
    assert found.axpby(1.0, np.ones(2), 1.0, np.ones(2)) is None
    assert found.gemm(np.ones((2, 2)), np.ones((2, 2)), 1.0, np.ones((2, 2))) is not None


class WithoutExtensions:
    """A library that has BLAS and no more."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getitem__(self, name: str) -> Any:
        if "axpby" in name:
            raise AttributeError(name)
        return self.library[name]


def test_a_library_without_axpby_serves_for_the_rest(direct: DirectBlas, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = blas._libraries()
    monkeypatch.setattr(blas, "_libraries", lambda: [WithoutExtensions(library) for library in opened])
    found = direct_blas.__wrapped__()
    assert found is not None
    assert found.axpby(0.5, np.ones(3), 2.0, np.ones(3)) is None
    be = NumpyBackend()
    monkeypatch.setattr(be, "_blas", found)
    average = np.ones(2 * DIRECT)
    be.decaying_average(average, 0.5, np.zeros(2 * DIRECT), np.empty(2 * DIRECT))
    assert (average == 0.5).all()


def test_a_call_keeps_its_arrays_alive(direct: DirectBlas) -> None:
    c = np.zeros((300, 300))
    call = direct.gemm(np.ones((300, 300)), np.ones((300, 300)), 0.0, c)
    assert call is not None
    junk = [np.full((300, 300), 7.0) for _ in range(4)]
    call()
    assert (c == 300).all()
    assert len(junk) == 4


def test_what_it_cannot_take_is_refused(direct: DirectBlas) -> None:
    a = np.ones((4, 4), np.float32)
    assert direct.gemm(a, a.astype(np.float64), 0.0, a) is None
    assert direct.gemm(a.astype(np.complex128), a.astype(np.complex128), 0.0, a.astype(np.complex128)) is None
    assert direct.gemm(np.ones((8, 8), np.float32)[::2, ::2], a, 0.0, a.copy()) is None
    assert direct.gemm(a, a, 0.0, a.T.copy(order="F")) is None
    assert direct.gemv(a, np.ones(8, np.float32)[::2], 0.0, np.ones(4, np.float32)) is None
    assert direct.axpy(np.ones((), np.float32), np.ones(8, np.float32)[::2], np.ones(4, np.float32)) is None
    assert layout(np.ones((0, 3))) is None
    assert layout(np.ones((3, 3))[::-1]) is None


def test_a_library_that_computes_something_else_is_not_used(
    direct: DirectBlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectBlas, "gemm", lambda self, a, b, beta, c: lambda: None)
    direct_blas.cache_clear()
    try:
        assert direct_blas() is None
    finally:
        direct_blas.cache_clear()


def test_without_symbols_there_is_no_direct_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_NAMES", (("no_such_", "", ctypes.c_int),))
    direct_blas.cache_clear()
    try:
        assert direct_blas() is None
        be = NumpyBackend()
        assert "ndarray.dot alone" in be.describe()
        assert not be.adds_in_products(np.zeros(10 * DIRECT, np.float32))
    finally:
        direct_blas.cache_clear()


def trained(direct: bool, dtype: str, **options: Any) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and weights of ten steps on a network that is large enough for direct calls."""
    net = gb.mlp([96, 128, 10], loss="cross_entropy", device=NumpyBackend(direct=direct), dtype=dtype, seed=3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 96)), rng.integers(0, 10, 128)
    optimizer = gb.SGD(0.1, **options)
    losses = [float(net.train_step(x, y, optimizer)) for _ in range(10)]
    return losses, net.get_weights()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {}, {"momentum": 0.9, "weight_decay": 0.01}])
def test_both_routes_give_the_same_results(
    direct: DirectBlas, dtype: str, tolerance: float, options: dict[str, Any]
) -> None:
    losses, weights = trained(True, dtype, **options)
    expected_losses, expected = trained(False, dtype, **options)
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    assert losses[-1] < losses[0]
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


def test_which_route_is_taken_is_said(direct: DirectBlas) -> None:
    net = gb.mlp([2, 2], device="cpu")
    assert direct.name in net.backend.describe()
    assert direct.name in net.summary()
    assert direct.name.endswith(("gemm64_", "gemm"))


def _chain(kind: str) -> list[gb.Layer]:
    inside: dict[str, list[gb.Layer]] = {
        "plain": [],
        "batch_norm": [gb.BatchNorm(128)],
        "layer_norm": [gb.LayerNorm(128)],
        "rms_norm": [gb.RMSNorm(128)],
        "prelu": [gb.PReLU(128)],
        "residual": [gb.Residual([gb.LayerNorm(128), gb.Dense(128, 128, "tanh"), gb.PReLU(128, shared=True)])],
    }
    return [gb.Dense(96, 128, "relu"), *inside[kind], gb.Dense(128, 10)]


@pytest.mark.parametrize("kind", ["plain", "batch_norm", "layer_norm", "rms_norm", "prelu", "residual"])
def test_momentum_goes_into_the_products(direct: DirectBlas, kind: str) -> None:
    be = NumpyBackend()
    net = gb.Network(_chain(kind), loss="cross_entropy", device=be, seed=3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 96)).astype(np.float32), rng.integers(0, 10, 128)
    optimizer = gb.SGD(0.1, momentum=0.9)
    net.train_step(x, y, optimizer)
    before = net.engine.parameters.G.copy()
    _, gradients = net.loss_and_gradients(x, y, training=True)
    velocity = {k: v.copy() for k, v in zip(gradients, _views(net, optimizer.state["velocity"]), strict=True)}
    net.engine.parameters.G[...] = before
    net.train_step(x, y, optimizer)
    # v <- mu v + g, without g having been written anywhere else.
    np.testing.assert_array_equal(net.engine.parameters.G, before)
    for (name, g), v in zip(gradients.items(), _views(net, optimizer.state["velocity"]), strict=True):
        np.testing.assert_allclose(v, 0.9 * velocity[name] + g, rtol=1e-4, atol=1e-7, err_msg=name)


def _views(net: gb.Network, flat: np.ndarray) -> list[np.ndarray]:
    return [s.of(flat) for s in net.engine.parameters.segments]
