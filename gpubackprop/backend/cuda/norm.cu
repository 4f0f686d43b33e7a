// The gradient's norm, clipping, and dynamic loss scaling, all without the host.

// What stands between the stored gradient and an update: g * inverse_scale, cut to [-limit, limit], times clip.
template <typename A> struct Gradient {
    A inverse_scale, limit, clip;
    // clip, inverse_scale: one element each, null for 1. limit: infinity for none.
    __device__ Gradient(const float* inverse_scale, double limit, const float* clip)
        : inverse_scale(A(inverse_scale ? *inverse_scale : 1.0f)), limit(A(limit)), clip(A(clip ? *clip : 1.0f)) {}
    template <typename G> __device__ __forceinline__ A operator()(G stored) const {
        const A g = A(widen(stored)) * inverse_scale;
        return (g > limit ? limit : g < -limit ? -limit : g) * clip;  // a NaN stays a NaN
    }
};

// partial[block] = sum of squares of the block's share of the gradient g (n elements), unscaled and cut to the limit.
// Launch: flat(n).
template <typename G>
__global__ void squared_norm(const G* g, index_t n, const float* inverse_scale, double limit, double* partial) {
    typedef acc_t<G> A;
    const Gradient<A> gradient(inverse_scale, limit, nullptr);
    constexpr int V = vector_width<G>;
    A sum = 0;
    grid_stride<V>(n, aligned<V>(g), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<G, W> values = load<W>(g, i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const A slope = gradient(values.v[k]);
            sum += slope * slope;
        }
    });
    const double total = block_sum(double(sum));
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// norm = sqrt(sum of partial), clip = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
// norm, clip: one float each, null where not wanted. One block of 256 threads.
__global__ void finish_norm(const double* partial, int count, double max_norm, float* norm, float* clip) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const double value = sqrt(sum), factor = max_norm / (value + 1e-6);
    if (norm) *norm = float(value);
    if (clip) *clip = factor > 1.0 ? 1.0f : float(factor);  // a NaN norm stays visible
}

// *found = 1 if any of n elements is infinite or NaN; otherwise *found stays. Every writer writes the same value.
// Launch: flat(n).
template <typename G> __global__ void find_nonfinite(const G* g, index_t n, int* found) {
    constexpr int V = vector_width<G>;
    bool bad = false;
    grid_stride<V>(n, aligned<V>(g), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<G, W> values = load<W>(g, i);
#pragma unroll
        for (int k = 0; k < W; ++k) bad |= !isfinite(widen(values.v[k]));
    });
    if (bad) *found = 1;
}

// The last kernel of a step under loss scaling: after a step with non-finite gradients (*found) the scale halves, after
// `interval` good ones in a row it doubles, within [smallest, largest]; *found is cleared for the next step. One thread block.
__global__ void update_loss_scale(float* scale, float* inverse_scale, int* good_steps, int* found, int interval,
                                  double smallest, double largest) {
    if (threadIdx.x != 0) return;
    double value = *scale;
    if (*found) {
        value *= 0.5;
        *good_steps = 0;
    } else if (++*good_steps == interval) {
        value *= 2.0;
        *good_steps = 0;
    }
    value = value < smallest ? smallest : value > largest ? largest : value;
    *scale = float(value);
    *inverse_scale = float(1.0 / value);
    *found = 0;
}
