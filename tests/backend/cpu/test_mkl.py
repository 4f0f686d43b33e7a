"""The CPU with MKL's products: the same results to rounding, the same bits again, and clear words where it is missing."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cpu import mkl
from gpubackprop.errors import DeviceError, MissingExtraError
from tests.small import assert_same_bits, make_data

needs_mkl = pytest.mark.skipif(mkl.problem() is not None, reason=f"no MKL: {mkl.problem()}")

WIDTHS = ([40, 128, 128, 4], 128), ([5, 6, 4], 7), ([300, 1, 300], 64), ([64, 10, 600], 512)
"""Networks with products on both sides of the size from which MKL takes them, and their batch sizes."""


def network(widths: list[int], **options: Any) -> gb.Network:
    return gb.mlp(
        widths, **{"loss": "mean_squared_error", "dtype": "float64", "seed": 1, "device": "cpu:mkl", **options}
    )


@needs_mkl
@pytest.mark.parametrize(("widths", "n"), WIDTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_parity_with_numpys_products(widths: list[int], n: int, dtype: str) -> None:
    x, y = make_data(n, widths[0], widths[-1])
    assert gb.check_parity(network(widths, dtype=dtype, dropout=0.2), x, y, devices=("cpu", "cpu:mkl"), steps=4)


@needs_mkl
@pytest.mark.parametrize(("widths", "n"), WIDTHS)
def test_gradients(widths: list[int], n: int) -> None:
    x, y = make_data(min(n, 40), widths[0], widths[-1])
    assert gb.gradcheck(network(widths, activation="tanh"), x, y, max_entries=50)


@needs_mkl
def test_the_same_bits_again_recorded_or_not_and_from_any_thread() -> None:
    x, y = make_data(300, 40, 4)
    found: list[dict[str, np.ndarray]] = []

    def fit(**options: Any) -> None:
        # Arrays at other addresses.
        held = np.empty(1 + len(found))
        net = network([40, 128, 128, 4], dropout=0.1, **options)
        gb.Trainer(net, gb.SGD(0.01, momentum=0.9)).fit(x, y, epochs=3, batch_size=128)
        found.append({**net.get_weights(), "predictions": net.predict(x)})
        del held

    fit()
    fit()
    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    fit(capture=False)
    for other in found[1:3]:
        assert_same_bits(found[0], other)
    for name, array in found[0].items():
        np.testing.assert_allclose(found[3][name], array, rtol=1e-11, atol=1e-13)


@needs_mkl
def test_large_products_are_mkls(monkeypatch: pytest.MonkeyPatch) -> None:
    be = mkl.MklBackend()
    taken: list[tuple[int, ...]] = []
    original = be._large.gemm
    monkeypatch.setattr(
        be._large, "gemm", lambda a, b, *rest: (taken.append((*a.shape, b.shape[1])), original(a, b, *rest))[1]
    )
    for n, k, m in ((4, 5, 6), (64, 64, 64), (65, 64, 64), (128, 256, 10)):
        a, b = np.random.default_rng(0).random((n, k)), np.random.default_rng(1).random((k, m))
        for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b))):
            out = np.full((n, m), np.nan)
            be.dot(left, right, out)
            np.testing.assert_allclose(out, a @ b, rtol=1e-13)
    assert {*taken} == {(65, 64, 64), (128, 256, 10)}
    # What no BLAS takes goes to NumPy.
    odd = np.random.default_rng(2).random((256, 512))[::2, ::2]
    out = np.empty((128, 10))
    be.dot(odd, np.ones((256, 10)), out)
    np.testing.assert_allclose(out, odd @ np.ones((256, 10)))


@needs_mkl
def test_one_thread_where_the_products_are_small() -> None:
    limit = mkl._library().MKL_Set_Num_Threads_Local
    limit(0)  # PyTorch sets it, where it is told its number of threads
    library, seen = mkl._library(), []
    before = library.MKL_Get_Max_Threads()
    be = mkl.MklBackend()
    a, out = np.ones((80, 80)), np.empty((80, 80))

    def step() -> None:
        be.dot(a, a, out)
        be.call(lambda: seen.append(library.MKL_Get_Max_Threads()))

    be.record(step)()
    large, result = np.ones((256, 256)), np.empty((256, 256))

    def heavy() -> None:
        be.dot(large, large, result)
        be.call(lambda: seen.append(library.MKL_Get_Max_Threads()))

    be.record(heavy)()
    assert seen == [1, before]
    assert limit(0) == 0, "put back"


@needs_mkl
def test_a_run_says_what_it_was_made_with(tmp_path: Any) -> None:
    net = network([5, 6, 4])
    assert "mkl 2" in net.summary()
    x, y = make_data(20, 5, 4)
    gb.Trainer(net, "adam", callbacks=[gb.Checkpoints(tmp_path)]).fit(x, y, epochs=2)
    assert net.engine.backend.blas.startswith("mkl ")
    with pytest.warns(RuntimeWarning, match="blas 'mkl "):
        gb.Trainer.resume(tmp_path, device="cpu")
    assert pickle.loads(pickle.dumps(net)).backend.name == "cpu:mkl"
    with pytest.raises(DeviceError, match="compile=True"):
        network([5, 6, 4], compile=True)


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    held = pickle.dumps(network([5, 6, 4])) if mkl.problem() is None else None
    monkeypatch.setattr("importlib.metadata.distribution", missing)
    mkl._library.cache_clear()
    mkl._mkl.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r'pip install "gpubackprop\[mkl\]"'):
            gb.get_backend("cpu:mkl")
        listed = next(d for d in gb.devices() if d.name == "cpu:mkl")
        assert not listed.working
        assert "gpubackprop[mkl]" in listed.reason
        if held is not None:
            assert pickle.loads(held).backend.name == "cpu"
    finally:
        mkl._library.cache_clear()
        mkl._mkl.cache_clear()


@needs_mkl
def test_a_library_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mkl, "multiplies", lambda blas: False)
    mkl._mkl.cache_clear()
    try:
        with pytest.raises(DeviceError, match="came out wrong"):
            gb.get_backend("cpu:mkl")
    finally:
        mkl._mkl.cache_clear()


_LOADED = """
from gpubackprop.backend.cpu import blas_info, mkl
before = blas_info.blas_library()[1]
be = mkl.MklBackend()
blas_info.blas_library.cache_clear()
assert blas_info.blas_library()[1] == before, "the threads that are set must be NumPy's"
threads, mkls = blas_info.blas_threads(), mkl._library().MKL_Get_Max_Threads()
with be:
    assert blas_info.blas_threads() == 1
    assert mkl._library().MKL_Get_Max_Threads() == mkls
assert blas_info.blas_threads() == threads
"""


@needs_mkl
def test_numpys_blas_is_not_taken_for_mkl_and_keeps_still_meanwhile() -> None:
    subprocess.run(
        [sys.executable, "-c", _LOADED], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
