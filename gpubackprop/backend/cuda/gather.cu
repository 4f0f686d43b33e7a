// The batch: rows of a device-resident data set in the order of a permutation, converted and scaled on the way.

// S and T meet in double where either is double, in float otherwise.
template <typename S, typename T> struct Common { typedef acc_t<T> type; };
template <typename T> struct Common<double, T> { typedef double type; };

// out[r, j] = (source[permutation[*offset + r], j] - mean_j) * scale_j. source: (any, cols) of S; out: (rows, cols) of T.
// permutation: (any,), null for rows in their order; offset: one element, null for 0; *offset + rows must not pass its end,
// and its entries must be rows of source. mean, scale: null for 0 and 1; `per_column` 1: (cols,) arrays, 0: one element each.
// S: unsigned char, f16, float, double. Block (32, 8), grid (ceil(rows / 8) or less).
template <typename S, typename I, typename T>
__global__ void gather_rows(const S* source, const I* permutation, const index_t* offset, T* out, index_t rows, int cols,
                            const acc_t<T>* mean, const acc_t<T>* scale, int per_column) {
    typedef typename Common<S, T>::type A;
    constexpr int V = 4;
    const index_t first = offset ? *offset : 0;
    const bool vector = cols % V == 0 && aligned<V>(source) && aligned<V>(out);
    const auto copy = [&](const S* from, T* to, int column, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<S, W> values = load<W>(from, column);
        Pack<T, W> result;
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const int j = per_column ? column + k : 0;
            A value = A(widen(values.v[k]));
            if (mean) value -= A(mean[j]);
            if (scale) value *= A(scale[j]);
            result.v[k] = narrow<T>(acc_t<T>(value));
        }
        store(to, column, result);
    };
    for (index_t r = (index_t)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (index_t)gridDim.x * blockDim.y) {
        const S* from = source + (permutation ? (index_t)permutation[first + r] : first + r) * cols;
        T* to = out + r * cols;
        if (vector)
            for (int c = threadIdx.x * V; c < cols; c += 32 * V) copy(from, to, c, Width<V>());
        else
            for (int c = threadIdx.x; c < cols; c += 32) copy(from, to, c, Width<1>());
    }
}

// out[r] = source[permutation[*offset + r]] for integer labels; the same contract. Launch: flat(rows).
template <typename S, typename I, typename T>
__global__ void gather_labels(const S* source, const I* permutation, const index_t* offset, T* out, index_t rows) {
    const index_t first = offset ? *offset : 0;
    grid_stride<1>(rows, false, [&](index_t r, auto) {
        out[r] = T(source[permutation ? (index_t)permutation[first + r] : first + r]);
    });
}

// out = source, n elements, in another type: the half-precision copies of the parameters. Launch: flat(n).
template <typename S, typename T> __global__ void convert(const S* source, T* out, index_t n) {
    constexpr int V = 16 / sizeof(S);
    grid_stride<V>(n, aligned<V>(source) && aligned<V>(out), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<S, W> values = load<W>(source, i);
        Pack<T, W> result;
#pragma unroll
        for (int k = 0; k < W; ++k) result.v[k] = narrow<T>(widen(values.v[k]));
        store(out, i, result);
    });
}
