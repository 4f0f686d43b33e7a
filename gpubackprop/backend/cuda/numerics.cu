// Storage types, vector access, grid loops and reductions that the kernels share.

typedef long long index_t;

// ---- storage types: own 16-bit types, so that a plain install needs no toolkit header ----
struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

#ifdef __CUDA_ARCH__  // the CPU shim brings its own pair
__device__ __forceinline__ float half_bits_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ __forceinline__ unsigned short float_to_half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#if __CUDA_ARCH__ >= 800
// The bits of a float as tensor cores take it: 10 bits of fraction, rounded to nearest, ties away from zero.
__device__ __forceinline__ unsigned float_to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}
// c += a b by one warp, with the fragments of PTX's m16n8k16 for f16 and bf16, m16n8k8 for float (tf32).
#define MMA_SYNC(T, shape, type)                                                                                      \
    template <> __device__ __forceinline__ void mma_sync<T>(float* c, const unsigned* a, unsigned b0, unsigned b1) {   \
        asm("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "        \
            "{%8, %9}, {%0, %1, %2, %3};"                                                                             \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                          \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                          \
    }
template <typename T> __device__ __forceinline__ void mma_sync(float* c, const unsigned* a, unsigned b0, unsigned b1);
MMA_SYNC(f16, "m16n8k16", "f16")
MMA_SYNC(bf16, "m16n8k16", "bf16")
MMA_SYNC(float, "m16n8k8", "tf32")
#else  // instantiated for no older device
template <typename T> __device__ void mma_sync(float*, const unsigned*, unsigned, unsigned);
__device__ unsigned float_to_tf32(float);
#endif
#endif

__device__ __forceinline__ unsigned short float_to_bfloat_bits(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    if (value != value) return 0x7fff;
    const unsigned bits = __float_as_uint(value);
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // nearest, ties to even
#endif
}

template <typename T> struct Accumulator { typedef float type; };
template <> struct Accumulator<double> { typedef double type; };
template <typename T> using acc_t = typename Accumulator<T>::type;

template <typename T> __device__ __forceinline__ T widen(T value) { return value; }
__device__ __forceinline__ float widen(f16 value) { return half_bits_to_float(value.bits); }
__device__ __forceinline__ float widen(bf16 value) { return __uint_as_float((unsigned)value.bits << 16); }

template <typename T> struct Narrow {
    template <typename A> static __device__ __forceinline__ T from(A value) { return T(value); }
};
template <> struct Narrow<f16> {
    static __device__ __forceinline__ f16 from(float value) { return f16{float_to_half_bits(value)}; }
};
template <> struct Narrow<bf16> {
    static __device__ __forceinline__ bf16 from(float value) { return bf16{float_to_bfloat_bits(value)}; }
};
template <typename T, typename A> __device__ __forceinline__ T narrow(A value) { return Narrow<T>::from(value); }

// ---- vector access ----
constexpr int vector_bytes = 16;
template <typename T> constexpr int vector_width = vector_bytes / sizeof(T);

template <typename T, int V> struct alignas(sizeof(T) * V < vector_bytes ? sizeof(T) * V : vector_bytes) Pack {
    T v[V];
};
template <int V, typename T> __device__ __forceinline__ Pack<T, V> load(const T* p, index_t i) {
    return *reinterpret_cast<const Pack<T, V>*>(p + i);
}
template <typename T, int V> __device__ __forceinline__ void store(T* p, index_t i, const Pack<T, V>& pack) {
    *reinterpret_cast<Pack<T, V>*>(p + i) = pack;
}
// Whether packs of V can be read from and written to all of these; null pointers count as aligned.
template <int V, typename... T> __device__ __forceinline__ bool aligned(const T*... p) {
    return (... && (reinterpret_cast<unsigned long long>(p) % alignof(Pack<T, V>) == 0));
}

template <int V> struct Width {
    static constexpr int value = V;
};

// body(i, Width<W>) for packs of W elements that start at i: W = V where `vector` allows, 1 for the rest.
template <int V, typename Body> __device__ __forceinline__ void grid_stride(index_t n, bool vector, Body body) {
    const index_t thread = (index_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (index_t)gridDim.x * blockDim.x;
    const index_t packed = vector ? n / V * V : 0;
    for (index_t i = thread * V; i < packed; i += threads * V) body(i, Width<V>());
    for (index_t i = packed + thread; i < n; i += threads) body(i, Width<1>());
}

// out[i] = f(in[i], ...) for n elements, in packs of V where all are aligned; an input may be the output.
template <typename T, int W, typename F, typename... S>
__device__ __forceinline__ Pack<T, W> each(const F& f, const Pack<S, W>&... in) {
    Pack<T, W> result;
#pragma unroll
    for (int k = 0; k < W; ++k) result.v[k] = f(in.v[k]...);
    return result;
}
template <int V, typename T, typename F, typename... S>
__device__ __forceinline__ void transform(index_t n, F f, T* out, const S*... in) {
    grid_stride<V>(n, aligned<V>(out, in...), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        store(out, i, each<T>(f, load<W>(in, i)...));
    });
}

// grid_stride over a rows x cols matrix, with the column: body(i, column, Width<W>). One division a thread, none in the loop.
template <int W, typename Body>
__device__ __forceinline__ void column_stride_of_width(index_t n, int cols, Body body) {
    const index_t thread = (index_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (index_t)gridDim.x * blockDim.x;
    int column = (int)(thread * W % cols);
    const int advance = (int)(threads * W % cols);
    for (index_t i = thread * W; i < n; i += threads * W) {
        body(i, column, Width<W>());
        column += advance;
        if (column >= cols) column -= cols;
    }
}
template <int V, typename Body>
__device__ __forceinline__ void column_stride(index_t rows, int cols, bool vector, Body body) {
    if (vector && cols % V == 0) column_stride_of_width<V>(rows * cols, cols, body);
    else column_stride_of_width<1>(rows * cols, cols, body);
}

// ---- reductions: the order of the additions is fixed by the launch ----
struct Add {
    template <typename A> __device__ __forceinline__ A operator()(A a, A b) const { return a + b; }
};
struct Larger {  // a NaN wins, so that it reaches the result
    template <typename A> __device__ __forceinline__ A operator()(A a, A b) const { return a > b || a != a ? a : b; }
};

// Over aligned groups of LANES (a power of two up to 32) lanes; every lane gets the result.
template <int LANES, typename A, typename Op> __device__ __forceinline__ A lane_reduce(A value, Op op) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

// Over the whole block; every thread gets the result. All threads must call it.
template <typename A, typename Op> __device__ A block_reduce(A value, A identity, Op op) {
    __shared__ A slots[32];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, lane = thread % 32;
    const int warps = blockDim.x * blockDim.y / 32;
    value = lane_reduce<32>(value, op);
    __syncthreads();  // whoever still reads the slots of the reduction before
    if (lane == 0) slots[thread / 32] = value;
    __syncthreads();
    return lane_reduce<32>(lane < warps ? slots[lane] : identity, op);
}
template <typename A> __device__ __forceinline__ A block_sum(A value) { return block_reduce(value, A(0), Add()); }

// Over GROUP threads that share a row: part of a warp (GROUP <= 32), or the whole block (GROUP == blockDim.x).
template <int GROUP, typename A, typename Op> __device__ __forceinline__ A group_reduce(A value, A identity, Op op) {
    if constexpr (GROUP <= 32) return lane_reduce<GROUP>(value, op);
    else return block_reduce(value, identity, op);
}
template <int GROUP, typename A> __device__ __forceinline__ A group_sum(A value) {
    return group_reduce<GROUP>(value, A(0), Add());
}

// body(row, lane, active) for all rows, GROUP threads a row. Every thread of the block takes every turn, so that body
// may reduce over its group; where `active` is false it must touch no memory. Block: 256 threads, grid: (any).
template <int GROUP, typename Body> __device__ __forceinline__ void for_each_row(index_t rows, Body body) {
    const int groups = blockDim.x / GROUP, lane = threadIdx.x % GROUP;
    for (index_t first = (index_t)blockIdx.x * groups; first < rows; first += (index_t)gridDim.x * groups) {
        const index_t row = first + threadIdx.x / GROUP;
        body(row, lane, row < rows);
    }
}

// Column sums, first stage. Block (bx, by), both powers of two, bx <= 32, bx * by = 256; grid (ceil(cols / (bx V)), splits);
// V divides cols. add(row, column, sums) adds K * V values of the V columns from `column`: sums[k * V + v].
// partial: (K, splits, cols).
constexpr int column_threads = 256;
template <int K, int V, typename A, typename Add_>
__device__ __forceinline__ void column_partial_sums(index_t rows, int cols, A* partial, Add_ add) {
    __shared__ A slots[K * V * column_threads];
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * V, thread = threadIdx.y * blockDim.x + threadIdx.x;
    A sums[K * V] = {};
    if (column < cols)
        for (index_t row = (index_t)blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += (index_t)gridDim.y * blockDim.y)
            add(row, column, sums);
#pragma unroll
    for (int k = 0; k < K * V; ++k) slots[k * column_threads + thread] = sums[k];
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half)
#pragma unroll
            for (int k = 0; k < K * V; ++k)
                slots[k * column_threads + thread] += slots[k * column_threads + thread + half * blockDim.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && column < cols)
        for (int k = 0; k < K; ++k)
            for (int v = 0; v < V; ++v)
                partial[((index_t)k * gridDim.y + blockIdx.y) * cols + column + v] = slots[(k * V + v) * column_threads + thread];
}

// The first stage for plain sums: partial (1, splits, cols) of values (rows, cols), unrounded.
// V: 1, or vector_width<T> where that divides cols and `values` is aligned to 16 bytes. Launch: columns(rows, cols, V).
template <typename T, int V> __global__ void column_sums(const T* values, acc_t<T>* partial, index_t rows, int cols) {
    column_partial_sums<1, V>(rows, cols, partial, [&](index_t row, int column, acc_t<T>* sums) {
        const Pack<T, V> pack = load<V>(values, row * cols + column);
#pragma unroll
        for (int v = 0; v < V; ++v) sums[v] += widen(pack.v[v]);
    });
}

// The second stage: partial (K, splits, cols) -> out (K, cols) = sum over splits + beta out. With beta = 0 the old out is not read.
// Block (32, 8), grid (ceil(cols / 32), K).
template <typename A, typename G>
__global__ void finish_column_sums(const A* partial, int splits, int cols, G* out, double beta) {
    __shared__ A slots[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    A sum = 0;
    if (column < cols)
        for (int s = threadIdx.y; s < splits; s += 8) sum += partial[((index_t)blockIdx.y * splits + s) * cols + column];
    slots[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= cols) return;
    for (int k = 1; k < 8; ++k) sum += slots[k][threadIdx.x];
    G& result = out[(index_t)blockIdx.y * cols + column];
    result = narrow<G>(beta == 0 ? sum : sum + A(beta) * A(widen(result)));
}

// Adds up `value` over all threads of a one-dimensional grid; one thread of the block that finishes last calls finish(sum). The
// order of the additions depends on the launch alone. partial: a double a block; *counter: 0 before the launch and after it.
template <typename Finish> __device__ void grid_sum(double value, double* partial, unsigned* counter, Finish finish) {
    __shared__ bool last;
    value = block_sum(value);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = value;
        __threadfence();  // what this block wrote is there before it is counted
        last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    const volatile double* const written = partial;
    double sum = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += written[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) finish(sum);
}
