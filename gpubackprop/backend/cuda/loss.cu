// Loss value and delta in one pass. inverse_count is 1 / n or 1 / (n m), where n counts the samples of the whole batch, of
// which this launch may see a part. loss_scale (null: 1) multiplies delta only, for float16 gradients.
// delta: null where only the value is wanted. The value is added up in double (partial, counter: as in grid_sum).

// Where a loss goes: *value = it, and, unless sum is null, *sum += weight times it.
struct Value {
    double *value, *sum;
    double weight, inverse_count;
    __device__ void operator()(double total) const {
        *value = total * inverse_count;
        if (sum) *sum += weight * *value;
    }
};

template <typename Y> struct IsLabel { static constexpr bool value = false; };
template <> struct IsLabel<int> { static constexpr bool value = true; };
template <> struct IsLabel<long long> { static constexpr bool value = true; };

template <typename A> __device__ __forceinline__ A not_a_number() { return A(__uint_as_float(0x7fc00000u)); }
template <typename A> __device__ __forceinline__ A infinite() { return A(__uint_as_float(0x7f800000u)); }

// max and sum of exp(z - max) over one row, for the whole group.
template <int GROUP, typename T, typename A>
__device__ __forceinline__ void softmax_terms(const T* z, int lane, int count, A& largest, A& sum) {
    largest = -infinite<A>();
    for (int c = lane; c < count; c += GROUP) largest = Larger()(A(widen(z[c])), largest);
    largest = group_reduce<GROUP>(largest, -infinite<A>(), Larger());
    sum = 0;
    for (int c = lane; c < count; c += GROUP) sum += exp(widen(z[c]) - largest);
    sum = group_sum<GROUP>(sum);
}

// Softmax + cross-entropy from logits z (rows, classes); delta (rows, classes) may be z.
// Y integer: y (rows,) labels in [0, classes); one outside makes the loss and that row of delta NaN.
// Y floating: y (rows, classes), C = sum_c y_c (log sum exp z - z_c), delta = softmax sum(y) - y.
// Launch: rows(rows, GROUP).
template <typename T, typename Y, int GROUP>
__global__ void cross_entropy(const T* z, const Y* y, T* delta, index_t rows, int classes, double inverse_count,
                              const float* loss_scale, double* partial, unsigned* counter, double* value, double* sum,
                              double weight) {
    typedef acc_t<T> A;
    const A scale = A(inverse_count * (loss_scale ? *loss_scale : 1.0f));
    double loss = 0;
    for_each_row<GROUP>(rows, [&](index_t row, int lane, bool active) {
        const T* logits = z + row * classes;
        const int count = active ? classes : 0;
        A largest, exponentials, mass = 1, dot = 0;  // mass = sum of y, dot = sum of y (z - max), or half of it
        softmax_terms<GROUP>(logits, lane, count, largest, exponentials);
        index_t label = 0;
        if constexpr (IsLabel<Y>::value) {
            if (active) label = y[row];
            if (label < 0 || label >= classes) mass = not_a_number<A>();
            for (int c = lane; c < count; c += GROUP)
                if (c == label) dot = widen(logits[c]) - largest;
        } else {
            mass = 0;
            // Half of z less half of its maximum is finite for every finite z, so that a target of 0 takes out whatever it is.
            for (int c = lane; c < count; c += GROUP) {
                const A target = A(widen(y[row * classes + c]));
                mass += target;
                dot += target * (A(0.5) * widen(logits[c]) - A(0.5) * largest);
            }
            mass = group_sum<GROUP>(mass);
        }
        dot = group_sum<GROUP>(dot);
        for (int c = lane; delta && c < count; c += GROUP) {
            A target;
            if constexpr (IsLabel<Y>::value) target = c == label ? A(1) : A(0);
            else target = A(widen(y[row * classes + c]));
            delta[row * classes + c] = narrow<T>((exp(widen(logits[c]) - largest) / exponentials * mass - target) * scale);
        }
        if (active && lane == 0) loss += double(mass * log(exponentials)) - (IsLabel<Y>::value ? 1.0 : 2.0) * double(dot);
    });
    grid_sum(loss, partial, counter, Value{value, sum, weight, inverse_count});
}

// Losses that are a sum over elements, by the names of their classes in losses.py: the term and its derivative by a (by the
// logit, for BinaryCrossEntropy). over_outputs: whether C is a mean over the outputs too, and not over the samples alone.
struct HalfSquaredError {
    static constexpr bool over_outputs = false;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        slope = a - y;
        return A(0.5) * slope * slope;
    }
};
struct MeanSquaredError {
    static constexpr bool over_outputs = true;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        const A d = a - y;
        slope = A(2) * d;
        return d * d;
    }
};
struct MeanAbsoluteError {
    static constexpr bool over_outputs = true;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        const A d = a - y;
        slope = d > A(0) ? A(1) : d < A(0) ? A(-1) : d;  // 0 at 0, NaN at NaN
        return fabs(d);
    }
};
struct Huber {
    static constexpr bool over_outputs = true;
    static constexpr double delta = 1.0;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        const A d = a - y;
        slope = d > A(delta) ? A(delta) : d < A(-delta) ? A(-delta) : d;
        return slope * (d - A(0.5) * slope);
    }
};
struct Poisson {
    static constexpr bool over_outputs = true;
    template <typename A> static __device__ A term(A a, A y, A& slope) {
        const A rate = exp(a);
        slope = rate - y;
        return rate - y * a;
    }
};
struct BinaryCrossEntropy {
    static constexpr bool over_outputs = true;
    template <typename A> static __device__ A term(A z, A y, A& slope) {
        slope = stable_sigmoid(z) * (A(1) - y) - stable_sigmoid(-z) * y;  // p - y, with all its digits where y is 0 or 1
        return z * ((z > A(0) ? A(1) : A(0)) - y) + log1p(exp(-fabs(z)));
    }
};

// a, y, delta: n elements; delta may be a. Launch: flat(n).
template <typename T, typename Y, typename L>
__global__ void elementwise_loss(const T* a, const Y* y, T* delta, index_t n, double inverse_count, const float* loss_scale,
                                 double* partial, unsigned* counter, double* value, double* sum, double weight) {
    typedef acc_t<T> A;
    constexpr int V = 4;
    const A scale = A(inverse_count * (loss_scale ? *loss_scale : 1.0f));
    double loss = 0;
    const auto added = [&](T output, Y target) {
        A slope;
        loss += double(L::term(A(widen(output)), A(widen(target)), slope));
        return narrow<T>(slope * scale);
    };
    grid_stride<V>(n, aligned<V>(a, y, delta), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<T, W> d = each<T>(added, load<W>(a, i), load<W>(y, i));
        if (delta) store(delta, i, d);
    });
    grid_sum(loss, partial, counter, Value{value, sum, weight, inverse_count});
}

// *value += l1 sum |w| + l2/2 sum w^2 over n weights. Launch: flat(n).
template <typename P>
__global__ void penalty(const P* w, index_t n, double l1, double l2, double* partial, unsigned* counter, double* value) {
    constexpr int V = vector_width<P>;
    P magnitudes = 0, squares = 0;
    grid_stride<V>(n, aligned<V>(w), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<P, W> weights = load<W>(w, i);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            magnitudes += fabs(weights.v[k]);
            squares += weights.v[k] * weights.v[k];
        }
    });
    const double share = l1 * double(magnitudes) + 0.5 * l2 * double(squares);
    grid_sum(share, partial, counter, [&](double total) { *value += total; });
}

// slope += l1 sign(w) + l2 w, n elements. Launch: flat(n).
template <typename P> __global__ void penalty_gradient(const P* w, P* slope, index_t n, double l1, double l2) {
    const auto added = [=](P x, P before) {
        const P sign = x > P(0) ? P(1) : x < P(0) ? P(-1) : x;  // 0 at 0, NaN at NaN
        return before + (P(l1) * sign + P(l2) * x);
    };
    transform<vector_width<P>>(n, added, slope, w, slope);
}
