// The gradient's norm, clipping, and dynamic loss scaling, all without the host.

// Of the sum of squares of g (n elements): *sum = scale times it; *norm = its root; *clip = min(1, max_norm / (norm + 1e-6)), as
// torch.nn.utils.clip_grad_norm_. Each null where not wanted. Squares are double: those of floats may be beyond float. partial, counter: as in grid_sum. Launch: flat(n).
template <typename G, typename R>
__global__ void squared_norm(const G* g, index_t n, double* partial, unsigned* counter, double scale, double max_norm, R* sum,
                             R* norm, R* clip) {
    constexpr int V = vector_width<G>;
    double squares = 0;
    grid_stride<V>(n, aligned<V>(g), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<G, W> values = load<W>(g, i);
#pragma unroll
        for (int k = 0; k < W; ++k) squares += double(widen(values.v[k])) * widen(values.v[k]);
    });
    grid_sum(squares, partial, counter, [&](double total) {
        const double length = sqrt(total), factor = max_norm / (length + 1e-6);
        if (sum) *sum = R(scale * total);
        if (norm) *norm = R(length);
        if (clip) *clip = factor > 1.0 ? R(1) : R(factor);  // a NaN stays visible
    });
}

// g *= *inverse_scale, n elements, and *skip = 1 where one of them is infinite or NaN, else 0. Launch: flat(n).
template <typename G>
__global__ void unscale(G* g, index_t n, const float* inverse_scale, double* partial, unsigned* counter, int* skip) {
    typedef acc_t<G> A;
    const A factor = A(*inverse_scale);
    bool bad = false;
    const auto scaled = [&](G x) {
        const A value = A(widen(x)) * factor;
        bad |= !isfinite(value);
        return narrow<G>(value);
    };
    transform<vector_width<G>>(n, scaled, g, g);
    grid_sum(bad ? 1.0 : 0.0, partial, counter, [&](double count) { *skip = count != 0; });
}

// out = saved where *skip, n elements: takes back an update that must not have been made. Launch: flat(n).
template <typename P> __global__ void restore(const P* saved, P* out, index_t n, const int* skip) {
    if (*skip) transform<vector_width<P>>(n, [](P x) { return x; }, out, saved);
}

// The end of a training step under loss scaling: where it was skipped the scale halves, after `interval` steps in a row that
// were not it doubles, within [smallest, largest]. One thread block.
__global__ void update_loss_scale(float* scale, float* inverse_scale, int* good_steps, const int* skip, int interval,
                                  double smallest, double largest) {
    if (threadIdx.x != 0) return;
    double value = *scale;
    if (*skip) {
        value *= 0.5;
        *good_steps = 0;
    } else if (++*good_steps == interval) {
        value *= 2.0;
        *good_steps = 0;
    }
    value = value < smallest ? smallest : value > largest ? largest : value;
    *scale = float(value);
    *inverse_scale = float(1.0 / value);
}
