// The batch: rows of a device-resident data set in the order of a permutation, converted on the way.

template <typename S, typename T>
__device__ __forceinline__ void copy_row(const S* from, T* to, int cols, bool vector) {
    constexpr int V = 4;
    const auto converted = [](S value) { return narrow<T>(acc_t<T>(widen(value))); };
    const auto copy = [&](int column, auto width) {
        store(to, column, each<T>(converted, load<decltype(width)::value>(from, column)));
    };
    if (vector && cols % V == 0)
        for (int c = threadIdx.x * V; c < cols; c += 32 * V) copy(c, Width<V>());
    else
        for (int c = threadIdx.x; c < cols; c += 32) copy(c, Width<1>());
}

// With i = permutation[*offset + ahead + r], or *offset + ahead + r where permutation is null:
// x[r] = all_x[i], rows of `cols` elements, and y[r] = all_y[i], rows of `targets` elements (1 for labels). Either of cols and
// targets may be 0, with null pointers. offset: null for 0. All i must be rows of all_x and all_y. Launch: gather(rows).
template <typename S, typename T, typename Q, typename R>
__global__ void gather_rows(const S* all_x, T* x, int cols, const Q* all_y, R* y, int targets, const index_t* permutation,
                            const index_t* offset, index_t ahead, index_t rows) {
    const index_t first = (offset ? *offset : 0) + ahead;
    const bool vector = aligned<4>(all_x) && aligned<4>(x);
    for (index_t r = (index_t)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += (index_t)gridDim.x * blockDim.y) {
        const index_t i = permutation ? permutation[first + r] : first + r;
        copy_row(all_x + i * cols, x + r * cols, cols, vector);
        for (int c = threadIdx.x; c < targets; c += 32) y[r * targets + c] = R(all_y[i * targets + c]);
    }
}

// out = source, n elements, in another type: the half-precision copies of the parameters. Launch: flat(n).
template <typename S, typename T> __global__ void convert(const S* source, T* out, index_t n) {
    transform<16 / sizeof(S)>(n, [](S value) { return narrow<T>(widen(value)); }, out, source);
}
