// Dense layers of up to W columns in one launch: all of a forward pass, or all of a backward pass with its gradients.
//
// A warp has 16 rows, whose activations (deltas) stay in registers from layer to layer; the weights of a layer go through shared
// memory. Products are m16n8k16 of f16 and bf16, and m16n8k8 of tf32, with float sums, by mma.sync of compute capability 8.0.
// A matrix in shared memory lies as (outer, k) with k contiguous, which is how both operands of a product are read.
// Launch: narrow(rows). All arrays are contiguous; those of a layer are in `layers`, in device memory.
struct NarrowLayer {
    const void *weights, *bias;        // (inputs, outputs); (outputs,) or null
    void *a, *z, *delta;               // (rows, outputs): a null in front of others where it is not wanted; z null where it is a;
                                       // delta written, except the last layer's, which is read; null where it is not wanted
    index_t inputs, outputs, function; // function: 0 identity, 1 ReLU, 2 sigmoid, 3 tanh
    index_t dW, db;                    // where the gradients lie among a block's partial sums; db -1: there is no bias
};

template <typename T> struct Mma {  // f16, bf16: a word of a fragment has two elements that follow each other
    static constexpr int depth = 16;
    static __device__ __forceinline__ unsigned word(const T* p, int pair, int half) {
        return *reinterpret_cast<const unsigned*>(p + 8 * half + 2 * pair);
    }
    static __device__ __forceinline__ unsigned both(float low, float high) {
        return narrow<T>(low).bits | (unsigned)narrow<T>(high).bits << 16;
    }
    // Two tiles of 8 columns are one fragment 16 columns deep.
    static __device__ __forceinline__ void pack(const float (*c)[4], int step, unsigned* a) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = both(c[2 * step + i / 2][i % 2 * 2], c[2 * step + i / 2][i % 2 * 2 + 1]);
    }
};
template <> struct Mma<float> {  // tf32: an element a word; of its 8 columns, the even ones come first
    static constexpr int depth = 8;
    static __device__ __forceinline__ unsigned word(const float* p, int pair, int half) {
        return float_to_tf32(p[2 * pair + half]);
    }
    static __device__ __forceinline__ void pack(const float (*c)[4], int step, unsigned* a) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = float_to_tf32(c[step][i % 2 * 2 + i / 2]);
    }
};

// Rows of a block's tile, depth of a chunk of weights, and the distance of two rows in shared memory: without bank conflicts.
template <typename T> constexpr int narrow_rows = 128 / sizeof(T);
template <typename T> constexpr int narrow_pitch = narrow_rows<T> + 8;
template <typename T, int W> constexpr int narrow_words = W * narrow_pitch<T> * sizeof(T) / 4;

__device__ __noinline__ float narrow_value(int function, float z) {
    return function == 1 ? ReLU::value(z) : function == 2 ? Sigmoid::value(z) : function == 3 ? Tanh::value(z) : z;
}
__device__ __forceinline__ float narrow_derivative(int function, float saved) {
    return function == 1   ? ReLU::derivative(saved)
           : function == 2 ? Sigmoid::derivative(saved)
           : function == 3 ? Tanh::derivative(saved)
                           : 1.0f;
}

// body(row, column, element) for this lane's elements of the (16, W) tile of its warp; rows count from the tile of the block.
template <int W, typename Body> __device__ __forceinline__ void for_each_element(float (&c)[W / 8][4], Body body) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < W / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) body(row + e / 2 * 8, 8 * j + lane % 4 * 2 + e % 2, c[j][e]);
}

template <int W, typename T>
__device__ __forceinline__ void read_tile(const T* p, index_t rows, int cols, float (&c)[W / 8][4]) {
    for_each_element<W>(c, [&](int row, int column, float& element) {
        element = row < rows && column < cols ? widen(p[(index_t)row * cols + column]) : 0.0f;
    });
}

// s (W, k) = element (outer, k) of p, 0 behind `outers` and `depth`. K_FAST: it lies at outer pitch + k, else at k pitch + outer.
template <int W, bool K_FAST, typename T>
__device__ __forceinline__ void stage(T* s, const T* p, int pitch, int outers, index_t depth) {
    constexpr int D = narrow_rows<T>;
    for (int i = threadIdx.x; i < W * D; i += blockDim.x) {
        const int outer = K_FAST ? i / D : i % W, k = K_FAST ? i % D : i / W;
        s[outer * narrow_pitch<T> + k] =
            outer < outers && k < depth ? p[K_FAST ? (index_t)outer * pitch + k : (index_t)k * pitch + outer] : narrow<T>(0.0f);
    }
}

// c = a B for the rows of the warp, B (depth, outers) as `stage` takes it. The barriers keep whoever used s before and after apart.
template <int W, bool K_FAST, typename T>
__device__ __forceinline__ void multiply(float (&c)[W / 8][4], const unsigned (&a)[W / Mma<T>::depth][4], T* s, const T* B,
                                         int pitch, int outers, int depth) {
    constexpr int K = Mma<T>::depth, D = narrow_rows<T> < W ? narrow_rows<T> : W;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < W / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] = 0;
#pragma unroll
    for (int chunk = 0; chunk < W / D; ++chunk) {
        if (chunk * D >= depth) break;
        __syncthreads();
        stage<W, K_FAST>(s, B + (index_t)chunk * D * (K_FAST ? 1 : pitch), pitch, outers, depth - chunk * D);
        __syncthreads();
#pragma unroll
        for (int step = 0; step < D / K; ++step)
#pragma unroll
            for (int j = 0; j < W / 8; ++j) {
                const T* b = s + (8 * j + lane / 4) * narrow_pitch<T> + step * K;
                mma_sync<T>(c[j], a[chunk * D / K + step], Mma<T>::word(b, lane % 4, 0), Mma<T>::word(b, lane % 4, 1));
            }
    }
    __syncthreads();
}

// x (rows, inputs of the first layer) -> the a and z of all layers.
template <typename T, int W> __global__ void narrow_forward(const T* x, const long long* layers, int count, index_t rows) {
    constexpr int K = Mma<T>::depth;
    __shared__ unsigned words[narrow_words<T, W>];
    const NarrowLayer* layer = reinterpret_cast<const NarrowLayer*>(layers);
    for (index_t first = (index_t)blockIdx.x * narrow_rows<T>; first < rows; first += (index_t)gridDim.x * narrow_rows<T>) {
        float c[W / 8][4];
        unsigned a[W / K][4];
        read_tile<W>(x + first * layer->inputs, rows - first, layer->inputs, c);
        for (int l = 0; l < count; ++l) {
            const NarrowLayer L = layer[l];
            const int m = L.outputs;
#pragma unroll
            for (int step = 0; step < W / K; ++step) Mma<T>::pack(c, step, a[step]);
            multiply<W, false>(c, a, reinterpret_cast<T*>(words), (const T*)L.weights, m, m, L.inputs);
            for_each_element<W>(c, [&](int row, int column, float& element) {
                const bool inside = column < m;
                const float z = inside && L.bias ? element + widen(((const T*)L.bias)[column]) : element;
                element = inside ? narrow_value(L.function, z) : 0.0f;
                if (!inside || first + row >= rows) return;
                const index_t at = (first + row) * m + column;
                if (L.z) ((T*)L.z)[at] = narrow<T>(z);
                if (L.a) ((T*)L.a)[at] = narrow<T>(element);
            });
        }
    }
}

// The gradients of all layers, and their deltas, from the last one's. partial: (blocks, size), all of it written; finished by
// finish_column_sums. Each of its elements is added to by one thread, tile after tile.
template <typename T, int W>
__global__ void narrow_backward(const T* x, const long long* layers, int count, index_t rows, float* partial, int size) {
    constexpr int K = Mma<T>::depth, R = narrow_rows<T>, S = narrow_pitch<T>, N = W < 64 ? W / 8 : 8;
    __shared__ unsigned delta_words[narrow_words<T, W>], other_words[narrow_words<T, W>];
    T *const deltas = reinterpret_cast<T*>(delta_words), *const other = reinterpret_cast<T*>(other_words);
    const NarrowLayer* layer = reinterpret_cast<const NarrowLayer*>(layers);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float* sums = partial + (index_t)blockIdx.x * size;
    for (int i = threadIdx.x; i < size; i += blockDim.x) sums[i] = 0;
    __syncthreads();
    for (index_t first = (index_t)blockIdx.x * R; first < rows; first += (index_t)gridDim.x * R) {
        float c[W / 8][4];
        unsigned a[W / K][4];
        const int last = layer[count - 1].outputs;
        read_tile<W>((const T*)layer[count - 1].delta + first * last, rows - first, last, c);
        for (int l = count - 1; l >= 0; --l) {
            const NarrowLayer L = layer[l];
            const int d = L.inputs, m = L.outputs;
            const T* below = l ? (const T*)layer[l - 1].a : x;
#pragma unroll
            for (int step = 0; step < W / K; ++step) Mma<T>::pack(c, step, a[step]);
            for_each_element<W>(c, [&](int row, int column, float& element) { deltas[column * S + row] = narrow<T>(element); });
            stage<W, false>(other, below + first * d, d, d, rows - first);
            __syncthreads();
            for (int i0 = 16 * warp; i0 < d; i0 += 16 * warps)
                for (int j0 = 0; j0 < m; j0 += 8 * N) {
                    float g[N][4] = {};
                    for (int k = 0; k < R; k += K) {
                        unsigned xs[4];
#pragma unroll
                        for (int i = 0; i < 4; ++i)
                            xs[i] = Mma<T>::word(other + (i0 + lane / 4 + i % 2 * 8) * S + k, lane % 4, i / 2);
#pragma unroll
                        for (int j = 0; j < N; ++j) {
                            const T* b = deltas + (j0 + 8 * j + lane / 4) * S + k;
                            mma_sync<T>(g[j], xs, Mma<T>::word(b, lane % 4, 0), Mma<T>::word(b, lane % 4, 1));
                        }
                    }
#pragma unroll
                    for (int j = 0; j < N; ++j)
#pragma unroll
                        for (int e = 0; e < 4; ++e) {
                            const int i = i0 + lane / 4 + e / 2 * 8, column = j0 + 8 * j + lane % 4 * 2 + e % 2;
                            if (i < d && column < m) sums[L.dW + (index_t)i * m + column] += g[j][e];
                        }
                }
            for (int column = threadIdx.x; L.db >= 0 && column < m; column += blockDim.x) {
                float sum = 0;
                for (int k = 0; k < R; ++k) sum += widen(deltas[column * S + k]);
                sums[L.db + column] += sum;
            }
            __syncthreads();
            if (l == 0) break;
            multiply<W, true>(c, a, other, (const T*)L.weights, m, d, m);
            const NarrowLayer B = layer[l - 1];
            const T* saved = (const T*)(B.z ? B.z : B.a);
            for_each_element<W>(c, [&](int row, int column, float& element) {
                const bool inside = column < d && first + row < rows;
                const index_t at = (first + row) * d + column;
                element = inside ? element * narrow_derivative(B.function, widen(saved[at])) : 0.0f;
                if (inside && B.delta) ((T*)B.delta)[at] = narrow<T>(element);
            });
        }
    }
}
