"""The real thing, where there is a GPU: every level of the chain, every precision, held to the CPU and to each other."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gb
from gpubackprop.backend.cuda.cuda_backend import CudaBackend
from gpubackprop.backend.cuda.streams import StreamedRows
from gpubackprop.backend.select import fallback_reason
from gpubackprop.optimizers.schedules import Cosine
from tests.cuda.test_cuda_backend import (
    KINKS,
    LEVELS,
    OPTIMIZERS,
    PRECISIONS,
    assert_same_steps,
    data,
    network,
    relative,
    smooth,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(fallback_reason() is not None, reason=f"no GPU to test on: {fallback_reason()}"),
]


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_trains_as_the_cpu_does(level):
    net, reference = network(LEVELS[level](), l1=1e-3, l2=1e-3), network("cpu", l1=1e-3, l2=1e-3)
    assert_same_steps(net, reference, lambda: gb.AdamW(0.01, clip_norm=1.0, schedule=Cosine(total=9)), 1e-4)


def test_cuda_is_the_best_level():
    backend = gb.get_backend("cuda")
    assert type(backend) is CudaBackend, backend.describe()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_in_a_graph(name):
    backend = CudaBackend(0)
    assert_same_steps(network(backend), network("cpu"), OPTIMIZERS[name], 1e-3)
    assert backend.recorder.failure is None
    assert backend.recorder.graphs >= 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kinks", [False, True])
def test_gradients_in_lower_precision(precision, kinks):
    tolerance = PRECISIONS[precision] * (KINKS if kinks else 1)
    net, reference = (network(d, False) if kinks else smooth(d) for d in (CudaBackend(0, precision), "cpu"))
    x, y = data()
    gradients, want = (n.loss_and_gradients(x, y)[1] for n in (net, reference))
    errors = {name: relative(gradients[name], want[name]) for name in want}
    assert max(errors.values()) < tolerance, errors
    assert max(errors.values()) > 1e-5


def test_float32_is_not_tf32():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 256)).astype(np.float32), rng.normal(size=(512, 128)).astype(np.float32)
    gradients = [gb.mlp([256, 128], device=d).loss_and_gradients(x, y)[1]["0.weight"] for d in ("cuda", "cpu")]
    assert relative(*gradients) < 2e-6


def test_float64():
    net, reference = network(CudaBackend(0), dtype="float64"), network("cpu", dtype="float64")
    assert_same_steps(net, reference, lambda: gb.Adam(0.01), 1e-11)


def run_once(n, **options):
    x, y = data(n)
    net, optimizer = network(CudaBackend(0), **options), gb.Adam(0.01)
    for _ in range(6):
        net.train_step(x, y, optimizer)
    return net.get_weights()


@pytest.mark.parametrize("n", [33, 1000, 4096])
def test_the_same_run_gives_the_same_bits(n):
    first, second, eager = run_once(n), run_once(n), run_once(n, capture=False)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        np.testing.assert_array_equal(array, eager[name])


@pytest.mark.parametrize("precision", ["native", "bf16"])
@pytest.mark.parametrize("n", [33, 1000])
def test_kernels_that_overlap_give_the_same_bits(precision, n):
    x, y = data(20 * n)
    weights = []
    for overlap in (False, True, True):
        backend = CudaBackend(0, precision, overlap=overlap)
        net = gb.mlp([7, 64, 64, 5], activation="tanh", loss="cross_entropy", device=backend, seed=1)
        gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=3, batch_size=n)
        weights.append(net.get_weights())
    if "own kernels overlap" not in backend.describe():
        pytest.skip(backend.describe())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])
        np.testing.assert_array_equal(array, weights[2][name])


def test_dropout_draws_the_bits_of_the_cpu():
    outputs = []
    for device in ("cpu", "cuda"):
        net = gb.Network([gb.Dense(8, 64), gb.Dropout(0.4)], device=device, seed=5)
        outputs.append(net.backend.to_host(net.forward(np.ones((100, 8), np.float32), training=True)) == 0)
    np.testing.assert_array_equal(*outputs)


def test_a_steady_step_allocates_nothing():
    import cupy

    x, y = (gb.get_backend("cuda").asarray(a) for a in data(512))
    net, optimizer = network("cuda"), gb.Adam(0.01)
    for _ in range(4):
        net.train_step(x, y, optimizer)
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes(), pool.total_bytes()
    for _ in range(20):
        net.train_step(x, y, optimizer)
    assert (pool.used_bytes(), pool.total_bytes()) == before


@pytest.mark.parametrize("shuffle", [True, False])
def test_many_steps_in_one_launch(shuffle):
    x, y = data(20 * 64 + 3)
    weights = []
    for loops in (True, False):
        backend = CudaBackend(0)
        backend.loops = loops
        net = network(backend)
        gb.Trainer(net, gb.AdamW(0.01, schedule=Cosine())).fit(x, y, epochs=3, batch_size=64, shuffle=shuffle)
        weights.append(net.get_weights())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


@pytest.mark.parametrize("precision", ["native", "bf16"])
def test_streamed_rows_train_as_resident_ones(precision):
    x, y = data(5000)
    weights = []
    for share in (0.5, 0.0):
        backend = CudaBackend(0, precision)
        backend.data_share = share
        assert isinstance(backend.stream(x, y), StreamedRows) == (share == 0.0)
        net = network(backend, False)
        gb.Trainer(net, gb.Adam(0.01)).fit(x, y, epochs=3, batch_size=512)
        weights.append(net.get_weights())
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name])


def test_out_of_memory_halves_the_batch():
    import cupy

    n = 1 << 16
    x, y = data(n)
    pool = cupy.get_default_memory_pool()
    net, reference = network("cuda", False), network("cpu", False)
    rules = gb.SGD(0.1), gb.SGD(0.1)
    net.train_step(x[:64], y[:64], rules[0])
    reference.train_step(x[:64], y[:64], rules[1])
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 64 * 2**20)
    try:
        with pytest.warns(RuntimeWarning, match="no memory"):
            net.train_step(x, y, rules[0])
    finally:
        pool.set_limit(size=0)
    reference.train_step(x, y, rules[1])
    for name, want in reference.get_weights().items():
        assert relative(net.get_weights()[name], want) < 1e-4, name


@pytest.mark.parametrize("devices", [("cpu", "cuda"), *(("cpu", ("cuda", p)) for p in PRECISIONS)])
def test_parity_report(devices):
    x, y = data(256)
    assert gb.check_parity(smooth("cpu"), x, y, devices=devices, steps=10)


def test_an_overflow_is_left_out():
    backend = CudaBackend(0, "fp16")
    net, rule = network(backend, False), gb.SGD(0.1)
    net.train_step(*data(), rule)
    before = net.get_weights()
    backend.fill(backend.loss_scale.scale, 2.0**40)
    net.train_step(*data(), rule)
    for name, array in net.get_weights().items():
        np.testing.assert_array_equal(array, before[name])
