"""The shim itself: it must fail where a GPU would go wrong without a word."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from gpubackprop.backend.cuda.kernel_table import Launch, Parameter
from tests.cuda.harness import Runner, to_float64, to_storage

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here to run kernels on the CPU")

KERNELS = """
__global__ void transpose_lanes(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1); }
__global__ void early_leave(int* out) { if (threadIdx.x == 0) return; __syncthreads(); out[threadIdx.x] = 1; }
__global__ void split_shuffle(int* out) {
    if (threadIdx.x < 5) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void two_shuffles(int* out) {
    out[threadIdx.x] = threadIdx.x < 16 ? __shfl_xor_sync(0xffffffffu, 1, 1) : __shfl_xor_sync(0xffffffffu, 1, 2);
}
__global__ void partial_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1, 1); }
__global__ void race(int* out) {
    __shared__ int slot[64];
    slot[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = slot[(threadIdx.x + 1) % blockDim.x];
}
__global__ void reuse(int* out) {  // the second write may overtake the read of a slower warp
    __shared__ int slot;
    for (int k = 1; k < 3; ++k) {
        if (threadIdx.x == 0) slot = k;
        __syncthreads();
        out[threadIdx.x] += slot;
    }
}
__global__ void overrun(int* out) { out[blockDim.x] = 1; }
__global__ void underrun(int* out) { out[-1] = 1; }
__global__ void indices(int* out) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, block = blockIdx.y * gridDim.x + blockIdx.x;
    out[block * blockDim.x * blockDim.y + thread] = block * 1000 + threadIdx.x * 10 + threadIdx.y;
}
struct alignas(16) Four { int v[4]; };
__global__ void reads_four(int* out) { out[threadIdx.x] = reinterpret_cast<Four*>(out + 1)->v[0]; }
__global__ void writes_four(int* out) { *reinterpret_cast<Four*>(out + 1) = Four{}; }
__global__ void nothing(int* out) {}
__global__ void writes_input(const int* in) { const_cast<int*>(in)[0] = 7; }
"""
OUT = (Parameter("out", "int", True, False),)
IN = (Parameter("in", "int", True, True),)
NAMES = ("transpose_lanes", "early_leave", "split_shuffle", "two_shuffles", "partial_mask", "race", "reuse", "overrun",
         "underrun", "indices", "reads_four", "writes_four", "nothing")  # fmt: skip


@pytest.fixture(scope="module")
def kernels(pytestconfig):
    folder = pytestconfig.cache.mkdir("cuda_kernels")
    return Runner(folder, KERNELS, [*((name, OUT) for name in NAMES), ("writes_input", IN)])


def launch(kernels, name, threads=32):
    out = np.zeros(threads, np.int32)
    kernels(name, (), Launch((1, 1, 1), (threads, 1, 1)), out)
    return out


def test_shuffle_exchanges_lanes(kernels):
    np.testing.assert_array_equal(launch(kernels, "transpose_lanes", 64), np.arange(64) ^ 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("early_leave", "divergent barrier"),
        ("split_shuffle", "divergent shuffle"),
        ("two_shuffles", "divergent shuffle"),
        ("partial_mask", "partial mask"),
    ],
)
def test_divergence_is_an_error(kernels, name, message):
    with pytest.raises(RuntimeError, match=message):
        launch(kernels, name)


def test_block_must_be_whole_warps(kernels):
    with pytest.raises(RuntimeError, match="multiple of 32"):
        launch(kernels, "indices", 31)


@pytest.mark.parametrize("name", ["reads_four", "writes_four"])
def test_misaligned_vectors_are_an_error(kernels, name):
    with pytest.raises(RuntimeError, match="misaligned address at"):
        launch(kernels, name)


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1, 65536, 1), (32, 1, 1), "65535 blocks"),
        ((1, 1, 65536), (32, 1, 1), "65535 blocks"),
        ((2**31, 1, 1), (32, 1, 1), "2.31-1"),
        ((1, 1, 1), (1, 1, 128), "64 threads"),
        ((0, 1, 1), (32, 1, 1), "empty"),
        ((1, 1, 1), (2048, 1, 1), "1024"),
    ],
)
def test_a_geometry_that_no_device_takes(kernels, grid, block, message):
    with pytest.raises(RuntimeError, match=message):
        kernels("nothing", (), Launch(grid, block), np.zeros(32, np.int32))


@pytest.mark.parametrize("name", ["race", "reuse"])
def test_missing_barrier_is_a_race(kernels, name):
    with pytest.raises(AssertionError, match="race"):
        launch(kernels, name, 64)


@pytest.mark.parametrize("name", ["overrun", "underrun"])
def test_writes_outside_are_noticed(kernels, name):
    with pytest.raises(AssertionError, match="outside"):
        launch(kernels, name)


def test_changed_input_is_noticed(kernels):
    with pytest.raises(AssertionError, match="changed its input"):
        kernels("writes_input", (), Launch((1, 1, 1), (32, 1, 1)), np.zeros(4, np.int32))


def test_indices(kernels):
    out = np.zeros(6 * 64, np.int32)
    kernels("indices", (), Launch((3, 2, 1), (16, 4, 1)), out)
    block, y, x = np.meshgrid(np.arange(6), np.arange(4), np.arange(16), indexing="ij")
    np.testing.assert_array_equal(out, (block * 1000 + x * 10 + y).reshape(-1))


def test_wrong_declaration_does_not_build(tmp_path):
    with pytest.raises(RuntimeError, match="g\\+\\+ refused"):
        Runner(tmp_path, "__global__ void f(float* x) {}", [("f", OUT)])


# The shim's conversions and matrix products against NumPy's; fragments as the PTX ISA has them, element by element.
CONVERSIONS = """
struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };
__global__ void to_tf32(const float* in, unsigned* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    out[i] = float_to_tf32(in[i]);
}
template <typename T> __global__ void product_of_halves(const T* a, const T* b, float* c) {
    const int lane = threadIdx.x, group = lane >> 2, own = lane % 4;
    unsigned short as[8], bs[4];
    for (int i = 0; i < 8; ++i) as[i] = a[(group + (i / 2 % 2 ? 8 : 0)) * 16 + own * 2 + (i & 1) + (i < 4 ? 0 : 8)].bits;
    for (int i = 0; i < 4; ++i) bs[i] = b[(own * 2 + (i & 1) + (i < 2 ? 0 : 8)) * 8 + group].bits;
    unsigned words[4], b0, b1;
    memcpy(words, as, 16), memcpy(&b0, bs, 4), memcpy(&b1, bs + 2, 4);
    float cs[4] = {};
    mma_sync<T>(cs, words, b0, b1);
    for (int i = 0; i < 4; ++i) c[(group + (i < 2 ? 0 : 8)) * 8 + own * 2 + (i & 1)] = cs[i];
}
__global__ void product_of_tf32(const float* a, const float* b, float* c) {
    const int lane = threadIdx.x, group = lane >> 2, own = lane % 4;
    unsigned as[4], bs[2];
    for (int i = 0; i < 4; ++i) as[i] = __float_as_uint(a[(group + i % 2 * 8) * 8 + own + i / 2 * 4]);
    for (int i = 0; i < 2; ++i) bs[i] = __float_as_uint(b[(own + i * 4) * 8 + group]);
    float cs[4] = {};
    mma_sync<float>(cs, as, bs[0], bs[1]);
    for (int i = 0; i < 4; ++i) c[(group + (i < 2 ? 0 : 8)) * 8 + own * 2 + (i & 1)] = cs[i];
}
__global__ void widen(const f16* in, float* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    out[i] = half_bits_to_float(in[i].bits);
}
__global__ void narrow(const float* in, f16* out) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    out[i].bits = float_to_half_bits(in[i]);
}"""


@pytest.fixture(scope="module")
def convert(pytestconfig):
    wide = (Parameter("in", "f16", True, True), Parameter("out", "float", True, False))
    thin = (Parameter("in", "float", True, True), Parameter("out", "f16", True, False))
    tf32 = (Parameter("in", "float", True, True), Parameter("out", "unsigned", True, False))
    products = [
        (name, tuple(Parameter(p, "float" if p == "c" else t, True, p != "c") for p in "abc")) for name, t in PRODUCTS
    ]
    all_ = [("widen", wide), ("narrow", thin), ("to_tf32", tf32), *products]
    return Runner(pytestconfig.cache.mkdir("cuda_kernels"), CONVERSIONS, all_)


PRODUCTS = [("product_of_halves<f16>", "f16"), ("product_of_halves<bf16>", "bf16"), ("product_of_tf32", "float")]


@pytest.mark.parametrize(("name", "c_type"), PRODUCTS)
def test_a_warps_product_is_numpys(convert, name, c_type):
    depth, rng = 8 if c_type == "float" else 16, np.random.default_rng(0)
    a, b = (to_storage(c_type, rng.normal(size=shape)) for shape in ((16, depth), (depth, 8)))
    c = np.zeros((16, 8), np.float32)
    convert(name, (), Launch((1, 1, 1), (32, 1, 1)), a, b, c)
    if c_type == "float":  # a device does not look at the lower 13 bits
        a, b = ((v.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for v in (a, b))
    np.testing.assert_allclose(c, to_float64(c_type, a) @ to_float64(c_type, b), rtol=1e-6, atol=1e-6)


def test_tf32_is_rounded_to_nearest_with_ties_away_from_zero(convert):
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.uniform(-2, 2, 65536), rng.integers(-100, 100, 65536)).astype(np.float32)
    values[:1000] = np.float32(1) + np.arange(1000, dtype=np.float32) * np.float32(2.0**-11)  # every other one is a tie
    values[1000:2000] = -values[:1000]
    out = np.zeros(65536, np.uint32)
    convert("to_tf32", (), Launch((256, 1, 1), (256, 1, 1)), values, out)
    fraction, exponent = np.frexp(values.astype(np.float64))
    want = np.ldexp(np.copysign(np.floor(np.abs(fraction) * 2**11 + 0.5), fraction), exponent - 11)
    np.testing.assert_array_equal(out.view(np.float32), want.astype(np.float32))


def test_every_half_widens_exactly(convert):
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    out = np.zeros(65536, np.float32)
    convert("widen", (), Launch((256, 1, 1), (256, 1, 1)), half, out)
    np.testing.assert_array_equal(out, half.astype(np.float32))


def test_floats_narrow_as_in_numpy(convert):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 65536, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values[:30000] = np.ldexp(rng.uniform(-2, 2, 30000), rng.integers(-28, 17, 30000))
    half = np.arange(31000, dtype=np.uint16).view(np.float16).astype(np.float32)
    values[30000:61000] = np.float32(0.5) * (
        half + np.nextafter(half.astype(np.float16), np.float16(65504)).astype(np.float32)
    )
    out = np.zeros(65536, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        want = values.astype(np.float16)
    convert("narrow", (), Launch((256, 1, 1), (256, 1, 1)), values, out)
    np.testing.assert_array_equal(out, want)
