// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) and dropout. Same words as gpubackprop/random.py:
// element e of a layer's array in a step is word e % 4 of the block with
// counter = (e / 4 low 32 bits, step low 32 bits, layer, e / 4 high 32 bits), key = (seed low, seed high).

typedef unsigned long long step_t;  // the network's step counter, on the device

struct Words {
    unsigned w[4];
};
__device__ __forceinline__ Words philox4x32(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        c0 = (unsigned)(p1 >> 32) ^ c1 ^ k0;
        c1 = (unsigned)p1;
        c2 = (unsigned)(p0 >> 32) ^ c3 ^ k1;
        c3 = (unsigned)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}
__device__ __forceinline__ Words words_of(unsigned long long quad, step_t step, unsigned layer, unsigned key0, unsigned key1) {
    return philox4x32((unsigned)quad, (unsigned)step, layer, (unsigned)(quad >> 32), key0, key1);
}

// The raw words, for checks: out (n,) of unsigned, out[i] is the word of element 4 first_quad + i. Launch: flat(ceil(n / 4)).
template <typename U>
__global__ void philox_words(U* out, index_t n, unsigned long long first_quad, const step_t* step, unsigned layer, unsigned key0,
                             unsigned key1) {
    grid_stride<1>((n + 3) / 4, false, [&](index_t quad, auto) {
        const Words words = words_of(first_quad + quad, *step, layer, key0, key1);
#pragma unroll
        for (int k = 0; k < 4; ++k)
            if (4 * quad + k < n) out[4 * quad + k] = words.w[k];
    });
}

// out = x * scale where the element is kept (word < threshold), 0 elsewhere; threshold = keep probability * 2^32, up to 2^32.
// x, out: n elements, those of the layer's array from `first` on; may be the same. mask: (n,) gets scale or 0, for the backward
// pass; null where it is not wanted. Launch: flat(ceil(n / 4) + 1).
template <typename T>
__global__ void dropout(const T* x, T* mask, T* out, index_t n, unsigned long long first, double scale,
                        unsigned long long threshold, const step_t* step, unsigned layer, unsigned key0, unsigned key1) {
    typedef acc_t<T> A;
    const int skipped = (int)(first % 4);
    const bool vector = skipped == 0 && aligned<4>(x, mask, out);
    grid_stride<1>((skipped + n + 3) / 4, false, [&](index_t quad, auto) {
        const Words words = words_of(first / 4 + quad, *step, layer, key0, key1);
        const index_t i = 4 * quad - skipped;
        const auto factor = [&](int k) { return words.w[k] < threshold ? A(scale) : A(0); };
        if (vector && i + 4 <= n) {
            Pack<T, 4> values = load<4>(x, i), factors;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const A f = factor(k);
                factors.v[k] = narrow<T>(f);
                values.v[k] = f == A(0) ? narrow<T>(f) : narrow<T>(widen(values.v[k]) * f);
            }
            store(out, i, values);
            if (mask) store(mask, i, factors);
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (i + k >= 0 && i + k < n) {
                    const A f = factor(k);
                    out[i + k] = f == A(0) ? narrow<T>(f) : narrow<T>(widen(x[i + k]) * f);
                    if (mask) mask[i + k] = narrow<T>(f);
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
