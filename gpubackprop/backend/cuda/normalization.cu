// Batch normalisation (columns) and layer normalisation (rows), forward and backward: y = gamma xhat + beta.
// Statistics, gamma and beta (cols,) are of type acc_t<T>; xhat = (x - mean) * rstd, rstd = 1 / sqrt(variance + eps). Variances
// divide by the count (biased), as torch.nn does.

// Count, mean and sum of squared deviations, merged as by Chan, Golub and LeVeque 1983.
template <typename A> struct Spread {
    A count, mean, squares;
    __device__ __forceinline__ void add(A x, A inverse) {  // inverse = 1 / the new count (Welford 1962)
        const A d = x - mean;
        mean += d * inverse;
        squares += d * (x - mean);
    }
    __device__ __forceinline__ void merge(const Spread& other) {
        const A total = count + other.count;
        if (total == A(0)) return;
        const A d = other.mean - mean, share = other.count / total;
        mean += d * share;
        squares += other.squares + d * d * count * share;
        count = total;
    }
};
// Merges a block's spreads along y, by a power of two; the result is in the threads with threadIdx.y == 0.
template <int V, typename A> __device__ __forceinline__ void merge_along_y(Spread<A>* own) {
    __shared__ A slots[3 * V * column_threads];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y >= half && threadIdx.y < 2 * half)  // slots of their own in each turn: no one overwrites what is being read
            for (int v = 0; v < V; ++v) {
                slots[(3 * v) * column_threads + thread] = own[v].count;
                slots[(3 * v + 1) * column_threads + thread] = own[v].mean;
                slots[(3 * v + 2) * column_threads + thread] = own[v].squares;
            }
        __syncthreads();
        if (threadIdx.y < half)
            for (int v = 0; v < V; ++v) {
                const A* slot = slots + 3 * v * column_threads + thread + half * blockDim.x;
                own[v].merge(Spread<A>{slot[0], slot[column_threads], slot[2 * column_threads]});
            }
    }
}

// First stage of the column statistics, of x less its own first row: the means are small then, and keep their digits where
// the columns lie far from zero. partial (2 splits + 1, cols): the means of the rows [s chunk, (s + 1) chunk), chunk =
// ceil(rows / splits); their squares; the first row. Launch: columns(rows, cols, V), V dividing cols, V <= 4.
template <typename T, int V> __global__ void column_spreads(const T* x, acc_t<T>* partial, index_t rows, int cols) {
    typedef acc_t<T> A;
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    const index_t chunk = (rows + gridDim.y - 1) / gridDim.y, start = blockIdx.y * chunk;
    const index_t end = start + chunk < rows ? start + chunk : rows;
    Spread<A> own[V] = {};
    if (column < cols) {
        A count = 0;
        const Pack<T, V> shift = load<V>(x, column);
        for (index_t row = start + threadIdx.y; row < end; row += blockDim.y) {
            const Pack<T, V> values = load<V>(x, row * cols + column);
            const A inverse = A(1) / (count += A(1));
#pragma unroll
            for (int v = 0; v < V; ++v) own[v].add(A(widen(values.v[v])) - A(widen(shift.v[v])), inverse);
        }
        for (int v = 0; v < V; ++v) own[v].count = count;
    }
    merge_along_y<V>(own);
    if (threadIdx.y == 0 && column < cols)
        for (int v = 0; v < V; ++v) {
            const index_t i = (index_t)blockIdx.y * cols + column + v;
            partial[i] = own[v].mean;
            partial[(index_t)gridDim.y * cols + i] = own[v].squares;
            if (blockIdx.y == 0) partial[2 * (index_t)gridDim.y * cols + column + v] = A(widen(x[column + v]));
        }
}

// Second stage: mean, variance, rstd, (cols,) each. Block (32, 8), grid (ceil(cols / 32)).
template <typename A>
__global__ void finish_spreads(const A* partial, int splits, index_t rows, int cols, double eps, A* mean, A* variance, A* rstd) {
    const int column = blockIdx.x * 32 + threadIdx.x;
    const index_t chunk = (rows + splits - 1) / splits;
    Spread<A> own[1] = {};
    if (column < cols)
        for (int s = threadIdx.y; s < splits; s += 8) {
            const index_t left = rows - s * chunk, i = (index_t)s * cols + column;
            const A count = A(left < 0 ? 0 : left < chunk ? left : chunk);
            own[0].merge(Spread<A>{count, partial[i], partial[(index_t)splits * cols + i]});
        }
    merge_along_y<1>(own);
    if (threadIdx.y != 0 || column >= cols) return;
    const A spread = own[0].squares / A(rows);
    mean[column] = own[0].mean + partial[2 * (index_t)splits * cols + column];
    variance[column] = spread;
    rstd[column] = A(1) / sqrt(spread + A(eps));
}

// xhat and y by columns; x, xhat, y: (rows, cols), x may be xhat or y; mean, rstd: (cols,). Launch: flat(rows * cols).
template <typename T>
__global__ void batch_norm_apply(const T* x, const acc_t<T>* mean, const acc_t<T>* rstd, const acc_t<T>* gamma, const acc_t<T>* beta,
                                 T* xhat, T* y, index_t rows, int cols) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    column_stride<V>(rows, cols, aligned<V>(x, xhat, y), [&](index_t i, int column, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<T, W> values = load<W>(x, i), outputs;
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const int j = column + k;
            const A h = (A(widen(values.v[k])) - mean[j]) * rstd[j];
            values.v[k] = narrow<T>(h);
            outputs.v[k] = narrow<T>(h * gamma[j] + beta[j]);
        }
        store(xhat, i, values);
        store(y, i, outputs);
    });
}

// First stage of sum dy and sum dy xhat over rows: partial (2, splits, cols). Launch: columns(rows, cols, V).
template <typename T, int V>
__global__ void norm_gradient_sums(const T* xhat, const T* dy, acc_t<T>* partial, index_t rows, int cols) {
    typedef acc_t<T> A;
    column_partial_sums<2, V>(rows, cols, partial, [&](index_t row, int column, A* sums) {
        const index_t i = row * cols + column;
        const Pack<T, V> values = load<V>(xhat, i), slopes = load<V>(dy, i);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const A slope = widen(slopes.v[v]);
            sums[v] += slope;
            sums[V + v] += slope * A(widen(values.v[v]));
        }
    });
}

// dx = gamma rstd (dy - sum_dy / n - xhat sum_dy_xhat / n), n = rows: sums (2, cols) of finish_column_sums, of this very batch.
// dx may be dy. Launch: flat(rows * cols).
template <typename T>
__global__ void batch_norm_backward(const T* xhat, const T* dy, const acc_t<T>* gamma, const acc_t<T>* rstd, const acc_t<T>* sums,
                                    T* dx, index_t rows, int cols) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    const A inverse = A(1) / A(rows);
    column_stride<V>(rows, cols, aligned<V>(xhat, dy, dx), [&](index_t i, int column, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<T, W> values = load<W>(xhat, i);
        Pack<T, W> slopes = load<W>(dy, i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const int j = column + k;
            const A rest = (sums[j] + A(widen(values.v[k])) * sums[cols + j]) * inverse;
            slopes.v[k] = narrow<T>(gamma[j] * rstd[j] * (widen(slopes.v[k]) - rest));
        }
        store(dx, i, slopes);
    });
}

// Layer norm: x, xhat, y (rows, cols), x may be xhat or y; mean, variance, rstd (rows,). mean null: 0 takes its place (RMS norm,
// Zhang and Sennrich 2019); beta null: likewise. The variance is a second pass over the row, which is in cache by then.
// Launch: rows(rows, GROUP).
template <typename T, int GROUP>
__global__ void layer_norm_forward(const T* x, T* xhat, T* y, const acc_t<T>* gamma, const acc_t<T>* beta, acc_t<T>* mean,
                                   acc_t<T>* variance, acc_t<T>* rstd, index_t rows, int cols, double eps) {
    typedef acc_t<T> A;
    for_each_row<GROUP>(rows, [&](index_t row, int lane, bool active) {
        const T* in = x + row * cols;
        const int count = active ? cols : 0;
        A sum = 0, squares = 0;
        for (int c = lane; mean && c < count; c += GROUP) sum += widen(in[c]);
        const A m = group_sum<GROUP>(sum) / A(cols);
        for (int c = lane; c < count; c += GROUP) squares += (widen(in[c]) - m) * (widen(in[c]) - m);
        const A v = group_sum<GROUP>(squares) / A(cols), r = A(1) / sqrt(v + A(eps));
        for (int c = lane; c < count; c += GROUP) {
            const A h = (A(widen(in[c])) - m) * r;
            xhat[row * cols + c] = narrow<T>(h);
            y[row * cols + c] = narrow<T>(beta ? h * gamma[c] + beta[c] : h * gamma[c]);
        }
        if (active && lane == 0) {
            if (mean) mean[row] = m;
            variance[row] = v;
            rstd[row] = r;
        }
    });
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = gamma dy, means over the row; dx may be dy.
// centered: 0 where no mean was taken out, and mean(dy) is left out. Launch: rows(rows, GROUP).
template <typename T, int GROUP>
__global__ void layer_norm_backward(const T* xhat, const T* dy, const acc_t<T>* gamma, const acc_t<T>* rstd, T* dx, index_t rows,
                                    int cols, int centered) {
    typedef acc_t<T> A;
    for_each_row<GROUP>(rows, [&](index_t row, int lane, bool active) {
        const T *values = xhat + row * cols, *slopes = dy + row * cols;
        const int count = active ? cols : 0;
        const A r = active ? rstd[row] : A(0);
        A plain = 0, along = 0;
        for (int c = lane; c < count; c += GROUP) {
            const A g = A(widen(slopes[c])) * gamma[c];
            plain += g;
            along += g * A(widen(values[c]));
        }
        plain = centered ? group_sum<GROUP>(plain) / A(cols) : A(0);
        along = group_sum<GROUP>(along) / A(cols);
        for (int c = lane; c < count; c += GROUP)
            dx[row * cols + c] = narrow<T>(r * (A(widen(slopes[c])) * gamma[c] - plain - A(widen(values[c])) * along));
    });
}
