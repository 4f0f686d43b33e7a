// Philox4x64-10 (Salmon, Moraes, Dror, Shaw 2011) and dropout. Same bits as gpubackprop/random.py:
// element e of a layer's array in a step has bits 16 (e % 4) and up of word (e / 4) % 4 of the block with
// counter = (e / 16, step, layer, 0), key = (seed, 0).

typedef unsigned long long step_t;  // the network's step counter, on the device

struct Words {
    unsigned long long w[4];
};
__device__ __forceinline__ Words philox4x64(unsigned long long c0, unsigned long long c1, unsigned long long c2,
                                            unsigned long long c3, unsigned long long k0, unsigned long long k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long high0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), low0 = 0xD2E7470EE14C6C93ull * c0;
        const unsigned long long high1 = __umul64hi(0xCA5A826395121157ull, c2), low1 = 0xCA5A826395121157ull * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    return Words{{c0, c1, c2, c3}};
}

// out = x * mask, mask = scale where the element is kept (its 16 bits < threshold), else 0; threshold = keep probability * 2^16,
// up to 2^16. x, out: n elements, those of the layer's array from `first` on; may be the same. mask: (n,), for the backward pass
// too. Launch: flat(ceil(n / 16) + 1).
template <typename T>
__global__ void dropout(const T* x, T* mask, T* out, index_t n, unsigned long long first, double scale, unsigned threshold,
                        const step_t* step, unsigned long long layer, unsigned long long seed) {
    typedef acc_t<T> A;
    const int skipped = (int)(first % 16);
    const bool vector = skipped % 4 == 0 && aligned<4>(x, mask, out);
    grid_stride<1>((skipped + n + 15) / 16, false, [&](index_t block, auto) {
        const Words words = philox4x64(first / 16 + block, *step, layer, 0, seed, 0);
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            const index_t i = 16 * block + 4 * word - skipped;
            const auto factor = [&](int k) {
                return ((unsigned)(words.w[word] >> (16 * k)) & 0xffffu) < threshold ? A(scale) : A(0);
            };
            if (vector && i >= 0 && i + 4 <= n) {
                Pack<T, 4> values = load<4>(x, i), factors;
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const A f = factor(k);
                    factors.v[k] = narrow<T>(f);
                    values.v[k] = narrow<T>(widen(values.v[k]) * f);
                }
                store(out, i, values);
                store(mask, i, factors);
            } else {
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (i + k >= 0 && i + k < n) {
                        const A f = factor(k);
                        out[i + k] = narrow<T>(widen(x[i + k]) * f);
                        mask[i + k] = narrow<T>(f);
                    }
            }
        }
    });
}

// The end of a graph of several steps: where the next one begins in the optimizer's table and in the order of the rows.
__global__ void advance(unsigned* row, index_t* offset, unsigned steps, index_t rows) {
    if (threadIdx.x != 0) return;
    *row += steps;
    *offset += rows;
}
