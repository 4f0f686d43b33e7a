// Optimizers over flat buffers: one kernel reads gradient, parameters and state once and writes them once.
//
// Definitions as in torch.optim. What changes from step to step is computed by the host in float64, one row of `table` a step,
// so that the launch itself never changes: row *row + ahead of the table (row null: 0) is `Optimizer.scalars` and then the
// factor of decoupled weight decay, 1 - lr wd, or 1. In the rules: t counts from 1, c1 = 1 - b1^t, c2 = 1 - b2^t,
// mu as in torch.optim.NAdam.

// Writes one row of the table, count <= 4 numbers, and the same as P into h (count,), for the rules that are no kernels; h may be
// null. The numbers travel as arguments, so that no host memory has to outlive the launch. One block.
template <typename P>
__global__ void set_scalars(double* table, P* h, int count, double h0, double h1, double h2, double h3) {
    const double values[4] = {h0, h1, h2, h3};
    if (threadIdx.x >= count) return;
    table[threadIdx.x] = values[threadIdx.x];
    if (h) h[threadIdx.x] = P(values[threadIdx.x]);
}

template <int COUNT> __device__ __forceinline__ const double* scalars_of_step(const double* table, const unsigned* row, unsigned ahead) {
    return table + ((row ? (index_t)*row : 0) + ahead) * (COUNT + 1);
}

// A rule: made from a row of scalars h and three constants; (p, g, s) updates p and the states s. registry.py reads above each
// rule whose it is: the class of optimizers/ with its attributes that are the constants (a pair is two; unused ones are 0), and
// the names of its states, which start at 0.

// Rule of SGD(): states none; scalars lr
template <typename A> struct SGD {
    static constexpr int states = 0, scalars = 1;
    A lr;
    __device__ SGD(const double* h, double, double, double) : lr(A(h[0])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A*) const { p -= lr * g; }
};
// Rule of SGD(momentum, nesterov): states velocity; scalars lr
template <typename A> struct Momentum {
    static constexpr int states = 1, scalars = 1;
    A lr, momentum;
    bool nesterov;
    __device__ Momentum(const double* h, double c0, double c1, double) : lr(A(h[0])), momentum(A(c0)), nesterov(c1 != 0) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        s[0] = momentum * s[0] + g;
        p -= lr * (nesterov ? g + momentum * s[0] : s[0]);
    }
};
template <typename A, bool HAS_MOMENTUM, bool CENTERED> struct RMSpropRule {
    static constexpr int states = 1 + HAS_MOMENTUM + CENTERED, scalars = 1;
    A lr, alpha, rest, eps, momentum;
    __device__ RMSpropRule(const double* h, double c0, double c1, double c2)
        : lr(A(h[0])), alpha(A(c0)), rest(A(1 - c0)), eps(A(c1)), momentum(A(c2)) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        s[0] = alpha * s[0] + rest * g * g;
        A spread = s[0];
        if constexpr (CENTERED) {
            A& mean = s[1 + HAS_MOMENTUM];
            mean += rest * (g - mean);
            spread -= mean * mean;
            spread = spread < A(0) ? A(0) : spread;  // rounding may take a zero variance below zero
        }
        const A step = g / (sqrt(spread) + eps);
        if constexpr (HAS_MOMENTUM) {
            s[1] = momentum * s[1] + step;
            p -= lr * s[1];
        } else {
            p -= lr * step;
        }
    }
};
// Rule of RMSprop(alpha, eps, momentum): states square_average; scalars lr
template <typename A> using RMSprop = RMSpropRule<A, false, false>;
// Rule of RMSprop(alpha, eps, momentum): states square_average, velocity; scalars lr
template <typename A> using RMSpropMomentum = RMSpropRule<A, true, false>;
// Rule of RMSprop(alpha, eps, momentum): states square_average, gradient_average; scalars lr
template <typename A> using RMSpropCentered = RMSpropRule<A, false, true>;
// Rule of RMSprop(alpha, eps, momentum): states square_average, velocity, gradient_average; scalars lr
template <typename A> using RMSpropCenteredMomentum = RMSpropRule<A, true, true>;

// Rule of Adagrad(eps): states square_sum; scalars lr / (1 + (t - 1) lr_decay)
template <typename A> struct Adagrad {
    static constexpr int states = 1, scalars = 1;
    A rate, eps;
    __device__ Adagrad(const double* h, double c0, double, double) : rate(A(h[0])), eps(A(c0)) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        s[0] += g * g;
        p -= rate * g / (sqrt(s[0]) + eps);
    }
};
// Rule of Adadelta(rho, eps): states square_average, delta_average; scalars lr
template <typename A> struct Adadelta {
    static constexpr int states = 2, scalars = 1;
    A lr, rho, rest, eps;
    __device__ Adadelta(const double* h, double c0, double c1, double) : lr(A(h[0])), rho(A(c0)), rest(A(1 - c0)), eps(A(c1)) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        s[0] = rho * s[0] + rest * g * g;
        const A step = sqrt(s[1] + eps) / sqrt(s[0] + eps) * g;
        s[1] = rho * s[1] + rest * step * step;
        p -= lr * step;
    }
};
template <typename A> struct Moments {  // b1, b2, eps of the Adam family
    A b1, rest1, b2, rest2, eps;
    __device__ Moments(double c0, double c1, double c2) : b1(A(c0)), rest1(A(1 - c0)), b2(A(c1)), rest2(A(1 - c1)), eps(A(c2)) {}
    __device__ __forceinline__ void first(A& m, A g) const { m = b1 * m + rest1 * g; }
    __device__ __forceinline__ void second(A& v, A g) const { v = b2 * v + rest2 * g * g; }
};
// Rule of Adam(betas, eps), AdamW(betas, eps): states m, v; scalars lr / c1, sqrt(c2)
template <typename A> struct Adam : Moments<A> {
    static constexpr int states = 2, scalars = 2;
    A rate, root;
    __device__ Adam(const double* h, double c0, double c1, double c2)
        : Moments<A>(c0, c1, c2), rate(A(h[0])), root(A(1 / h[1])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        this->first(s[0], g);
        this->second(s[1], g);
        p -= rate * s[0] / (sqrt(s[1]) * root + this->eps);
    }
};
// Rule of Adamax(betas, eps): states m, u; scalars lr / c1
template <typename A> struct Adamax : Moments<A> {
    static constexpr int states = 2, scalars = 1;
    A rate;
    __device__ Adamax(const double* h, double c0, double c1, double c2) : Moments<A>(c0, c1, c2), rate(A(h[0])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        this->first(s[0], g);
        s[1] = Larger()(fabs(g) + this->eps, this->b2 * s[1]);
        p -= rate * s[0] / s[1];
    }
};
// Rule of NAdam(betas, eps): states m, v; scalars lr (1 - mu_t) / (1 - prod mu), lr mu_{t+1} / (1 - prod mu mu_{t+1}), sqrt(c2)
template <typename A> struct NAdam : Moments<A> {
    static constexpr int states = 2, scalars = 3;
    A gradient_rate, moment_rate, root;
    __device__ NAdam(const double* h, double c0, double c1, double c2)
        : Moments<A>(c0, c1, c2), gradient_rate(A(h[0])), moment_rate(A(h[1])), root(A(1 / h[2])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        this->first(s[0], g);
        this->second(s[1], g);
        p -= (gradient_rate * g + moment_rate * s[0]) / (sqrt(s[1]) * root + this->eps);
    }
};
// Rule of RAdam(betas, eps): states m, v; scalars lr / c1 and 0, or 0 and lr r_t sqrt(c2) / c1
template <typename A> struct RAdam : Moments<A> {
    static constexpr int states = 2, scalars = 2;
    A plain, adaptive;
    __device__ RAdam(const double* h, double c0, double c1, double c2)
        : Moments<A>(c0, c1, c2), plain(A(h[0])), adaptive(A(h[1])) {}
    __device__ __forceinline__ void operator()(A& p, A g, A* s) const {
        this->first(s[0], g);
        this->second(s[1], g);
        p -= s[0] * (plain + adaptive / (sqrt(s[1]) + this->eps));
    }
};

// One update of n parameters p with gradients g. s0, s1, s2: the rule's states, null where the rule has fewer. copy: (n,) of H,
// gets the new parameters for half-precision products; null for none. skip: one int, null for none: where it is not 0 nothing is
// written. weight_decay: the coupled one, g += weight_decay p; 0 where there is none or it is decoupled. decays: 0 where these
// parameters do not decay, so that the table's factor is left out. Launch: flat(n).
template <template <typename> class Rule, typename P, typename H>
__global__ void optimizer_step(P* p, const P* g, P* s0, P* s1, P* s2, H* copy, index_t n, const double* table, const unsigned* row,
                               unsigned ahead, const int* skip, double c0, double c1, double c2, double weight_decay,
                               int decays) {
    typedef Rule<P> R;
    constexpr int V = vector_width<P>, states = R::states;
    if (skip && *skip) return;
    const double* scalars = scalars_of_step<R::scalars>(table, row, ahead);
    const R rule(scalars, c0, c1, c2);
    const P decay = P(weight_decay), kept = decays ? P(scalars[R::scalars]) : P(1);
    P* const buffers[3] = {s0, s1, s2};
    grid_stride<V>(n, aligned<V>(p, g, s0, s1, s2) && aligned<V>(copy), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<P, W> parameters = load<W>(p, i), state[states + 1];
        const Pack<P, W> gradients = load<W>(g, i);
        Pack<H, W> copies;
#pragma unroll
        for (int j = 0; j < states; ++j) state[j] = load<W>(buffers[j], i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            P& w = parameters.v[k];
            P s[states + 1], slope = gradients.v[k] + decay * w;
#pragma unroll
            for (int j = 0; j < states; ++j) s[j] = state[j].v[k];
            w *= kept;
            rule(w, slope, s);
#pragma unroll
            for (int j = 0; j < states; ++j) state[j].v[k] = s[j];
            copies.v[k] = narrow<H>(w);
        }
#pragma unroll
        for (int j = 0; j < states; ++j) store(buffers[j], i, state[j]);
        store(p, i, parameters);
        if (copy) store(copy, i, copies);
    });
}
