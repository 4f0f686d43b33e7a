// LARS (You, Gitman, Ginsburg 2017) and LAMB (You et al. 2020, Algorithm 2): a learning rate for each tensor, from norms.
//
// The flat buffer is cut into segments, one a tensor: offsets, lengths (segments,). Two stages of norms, then the update;
// blockIdx.y is the segment. table, row, ahead, skip, copy: as in optimizer_step.

// Sums of squares of two values over the block: partial (segments, gridDim.x, 2). The squares of floats may be beyond float.
__device__ __forceinline__ void store_squares(double first, double second, double* partial) {
    const double a = block_sum(first), b = block_sum(second);
    if (threadIdx.x != 0) return;
    double* out = partial + 2 * ((index_t)blockIdx.y * gridDim.x + blockIdx.x);
    out[0] = a;
    out[1] = b;
}

// |w|^2 and |g|^2, for LARS. Launch: segments(longest, segments).
template <typename P>
__global__ void segment_norms(const P* p, const P* g, const index_t* offsets, const index_t* lengths, double* partial) {
    const index_t start = offsets[blockIdx.y];
    double weights = 0, gradients = 0;
    grid_stride<1>(lengths[blockIdx.y], false, [&](index_t i, auto) {
        const double w = p[start + i], slope = g[start + i];
        weights += w * w;
        gradients += slope * slope;
    });
    store_squares(weights, gradients, partial);
}

// ratios[s] = trust |w| / (|u| + decay |w|), u being what the second sum was taken of; 1 where numerator or denominator is 0,
// and where adapt[s] is 0. LARS: trust and the coupled weight decay; LAMB: 1 and 0. adapt: (segments,). Grid (segments),
// block 32; partial: (segments, blocks, 2).
template <typename P>
__global__ void segment_ratios(const double* partial, int blocks, const int* adapt, double trust, double decay, P* ratios) {
    double weights = 0, updates = 0;
    for (int b = threadIdx.x; b < blocks; b += 32) {
        weights += partial[2 * ((index_t)blockIdx.x * blocks + b)];
        updates += partial[2 * ((index_t)blockIdx.x * blocks + b) + 1];
    }
    weights = sqrt(lane_reduce<32>(weights, Add()));
    updates = sqrt(lane_reduce<32>(updates, Add()));
    if (threadIdx.x != 0) return;
    updates += decay * weights;
    const double ratio = weights == 0 || updates == 0 ? 1.0 : trust * weights / updates;
    ratios[blockIdx.x] = adapt[blockIdx.x] ? P(ratio) : P(1);
}

// velocity = momentum velocity + lr ratio g; p -= velocity. weight_decay: the coupled one. Scalars: lr.
// Launch: segments(longest, segments).
template <typename P, typename H>
__global__ void lars_step(P* p, const P* g, P* velocity, H* copy, const index_t* offsets, const index_t* lengths, const P* ratios,
                          const double* table, const unsigned* row, unsigned ahead, const int* skip, double momentum,
                          double weight_decay) {
    if (skip && *skip) return;
    const double* scalars = scalars_of_step<1>(table, row, ahead);
    const index_t start = offsets[blockIdx.y];
    const P rate = P(scalars[0]) * ratios[blockIdx.y], kept = P(scalars[1]);
    grid_stride<1>(lengths[blockIdx.y], false, [&](index_t offset, auto) {
        const index_t i = start + offset;
        const P slope = g[i] + P(weight_decay) * p[i], v = P(momentum) * velocity[i] + rate * slope;
        const P w = p[i] * kept - v;
        velocity[i] = v;
        p[i] = w;
        if (copy) copy[i] = narrow<H>(w);
    });
}

// LAMB's update u = m / c1 / (sqrt(v) / sqrt(c2) + eps) + weight_decay w. Scalars: lr, 1 / c1, sqrt(c2). The factor of decoupled
// decay is not used: the decay belongs to u.
template <typename A> struct LambUpdate {
    A inverse1, root, eps, decay;
    __device__ LambUpdate(const double* h, double eps, double weight_decay)
        : inverse1(A(h[1])), root(A(1 / h[2])), eps(A(eps)), decay(A(weight_decay)) {}
    __device__ __forceinline__ A operator()(A w, A m, A v) const { return m * inverse1 / (sqrt(v) * root + eps) + decay * w; }
};

// First pass: m, v, and |w|^2, |u|^2. Launch: segments(longest, segments).
template <typename P>
__global__ void lamb_moments(const P* p, const P* g, P* m, P* v, const index_t* offsets, const index_t* lengths, double* partial,
                             const double* table, const unsigned* row, unsigned ahead, const int* skip, double b1, double b2,
                             double eps, double weight_decay) {
    if (skip && *skip) return;
    const index_t start = offsets[blockIdx.y];
    const Moments<P> moments(b1, b2, eps);
    const LambUpdate<P> update(scalars_of_step<3>(table, row, ahead), eps, weight_decay);
    double weights = 0, updates = 0;
    grid_stride<1>(lengths[blockIdx.y], false, [&](index_t offset, auto) {
        const index_t i = start + offset;
        const P w = p[i], slope = g[i];
        P first = m[i], second = v[i];
        moments.first(first, slope);
        moments.second(second, slope);
        m[i] = first;
        v[i] = second;
        const P u = update(w, first, second);
        weights += double(w) * w;
        updates += double(u) * u;
    });
    store_squares(weights, updates, partial);
}

// Second pass, after segment_ratios: p -= lr ratio u. Launch: segments(longest, segments).
template <typename P, typename H>
__global__ void lamb_step(P* p, const P* m, const P* v, H* copy, const index_t* offsets, const index_t* lengths, const P* ratios,
                          const double* table, const unsigned* row, unsigned ahead, const int* skip, double eps,
                          double weight_decay) {
    if (skip && *skip) return;
    const double* scalars = scalars_of_step<3>(table, row, ahead);
    const index_t start = offsets[blockIdx.y];
    const LambUpdate<P> update(scalars, eps, weight_decay);
    const P rate = P(scalars[0]) * ratios[blockIdx.y];
    grid_stride<1>(lengths[blockIdx.y], false, [&](index_t offset, auto) {
        const index_t i = start + offset;
        const P w = p[i] - rate * update(p[i], m[i], v[i]);
        p[i] = w;
        if (copy) copy[i] = narrow<H>(w);
    });
}
