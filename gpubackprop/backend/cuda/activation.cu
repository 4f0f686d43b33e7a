// a = f(z + b), delta * f'(z), and the bias gradient.
//
// An activation is a struct with value(x, p) and derivative(s, p), where s is what the forward pass kept: the output a
// (from_output), or the pre-activation z. p is its parameter: leaky_relu's slope >= 0, elu's alpha >= 0, unused by the
// others. Definitions and constants as in torch.nn.

struct Identity {
    static constexpr bool from_output = true, is_identity = true;
    template <typename A> static __device__ A value(A x, A) { return x; }
    template <typename A> static __device__ A derivative(A, A) { return A(1); }
};

template <typename A> __device__ __forceinline__ A stable_sigmoid(A x) {
    const A e = exp(-fabs(x)), r = A(1) / (A(1) + e);
    return x >= A(0) ? r : e * r;
}
struct Sigmoid {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A) { return stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A a, A) { return a * (A(1) - a); }
};
struct Tanh {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A) { return tanh(x); }
    template <typename A> static __device__ A derivative(A a, A) { return (A(1) - a) * (A(1) + a); }
};
struct Relu {  // written so that a NaN stays a NaN
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A) { return x < A(0) ? A(0) : x; }
    template <typename A> static __device__ A derivative(A a, A) { return a > A(0) ? A(1) : A(0); }
};
struct LeakyRelu {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A slope) { return x > A(0) ? x : slope * x; }
    template <typename A> static __device__ A derivative(A a, A slope) { return a > A(0) ? A(1) : slope; }
};
struct Elu {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A alpha) { return x > A(0) ? x : alpha * expm1(x); }
    template <typename A> static __device__ A derivative(A a, A alpha) { return a > A(0) ? A(1) : a + alpha; }
};
struct Selu {  // Klambauer et al. 2017
    static constexpr bool from_output = true, is_identity = false;
    static constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
    template <typename A> static __device__ A value(A x, A) {
        return x > A(0) ? A(scale) * x : A(scale * alpha) * expm1(x);
    }
    template <typename A> static __device__ A derivative(A a, A) { return a > A(0) ? A(scale) : a + A(scale * alpha); }
};
struct Gelu {
    static constexpr bool from_output = false, is_identity = false;
    template <typename A> static __device__ A cdf(A x) { return A(0.5) * (A(1) + erf(x * A(0.70710678118654752440))); }
    template <typename A> static __device__ A value(A x, A) { return x * cdf(x); }
    template <typename A> static __device__ A derivative(A x, A) {
        return cdf(x) + x * A(0.39894228040143267794) * exp(A(-0.5) * x * x);
    }
};
struct GeluTanh {
    static constexpr bool from_output = false, is_identity = false;
    static constexpr double root = 0.79788456080286535588, cubic = 0.044715;  // sqrt(2 / pi)
    template <typename A> static __device__ A squashed(A x) { return tanh(A(root) * (x + A(cubic) * x * x * x)); }
    template <typename A> static __device__ A value(A x, A) { return A(0.5) * x * (A(1) + squashed(x)); }
    template <typename A> static __device__ A derivative(A x, A) {
        const A t = squashed(x);
        return A(0.5) * (A(1) + t) + A(0.5) * x * (A(1) - t * t) * A(root) * (A(1) + A(3 * cubic) * x * x);
    }
};
struct Softplus {  // beta 1, threshold 20; f' = sigmoid(z) = 1 - exp(-a)
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x, A) { return x > A(20) ? x : log1p(exp(x)); }
    template <typename A> static __device__ A derivative(A a, A) { return -expm1(-a); }
};
struct Silu {
    static constexpr bool from_output = false, is_identity = false;
    template <typename A> static __device__ A value(A x, A) { return x * stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A x, A) {
        const A s = stable_sigmoid(x);
        return s * (A(1) + x * (A(1) - s));
    }
};

// a = f(z + bias). z, a: (rows, cols), may be the same array; bias: (cols,).
// saved: (rows, cols) gets z + bias, for the activations whose derivative needs it; null otherwise; may be z.
// Launch: flat(rows * cols).
template <typename T, typename F>
__global__ void bias_activation(const T* z, const T* bias, T* a, T* saved, index_t rows, int cols, double parameter) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    column_stride<V>(rows, cols, aligned<V>(z, bias, a, saved), [&](index_t i, int column, auto width) {
        constexpr int W = decltype(width)::value;
        const Pack<T, W> x = load<W>(z, i), b = load<W>(bias, column);
        Pack<T, W> value, sum;
#pragma unroll
        for (int k = 0; k < W; ++k) {
            const A s = widen(x.v[k]) + widen(b.v[k]);
            sum.v[k] = narrow<T>(s);
            value.v[k] = narrow<T>(F::value(s, A(parameter)));
        }
        if (saved) store(saved, i, sum);
        store(a, i, value);
    });
}

// a = f(z), n elements; may be the same array. Launch: flat(n).
template <typename T, typename F> __global__ void activation(const T* z, T* a, index_t n, double parameter) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    grid_stride<V>(n, aligned<V>(z, a), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<T, W> x = load<W>(z, i);
#pragma unroll
        for (int k = 0; k < W; ++k) x.v[k] = narrow<T>(F::value(A(widen(x.v[k])), A(parameter)));
        store(a, i, x);
    });
}

// delta *= f'(saved), n elements. saved: the output a, or z where F::from_output is false. Launch: flat(n).
template <typename T, typename F>
__global__ void activation_derivative(T* delta, const T* saved, index_t n, double parameter) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    grid_stride<V>(n, aligned<V>(delta, saved), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<T, W> d = load<W>(delta, i);
        const Pack<T, W> s = load<W>(saved, i);
#pragma unroll
        for (int k = 0; k < W; ++k) d.v[k] = narrow<T>(widen(d.v[k]) * F::derivative(A(widen(s.v[k])), A(parameter)));
        store(delta, i, d);
    });
}

// delta *= f'(saved), and the column sums of the new delta, unrounded; finish_column_sums follows. With Identity nothing is
// written to delta and saved may be null: plain column sums. delta, saved: (rows, cols). partial: (1, splits, cols).
// V: 1, or vector_width<T> where that divides cols and both arrays are aligned to 16 bytes. Launch: columns(rows, cols, V).
template <typename T, typename F, int V>
__global__ void derivative_column_sums(T* delta, const T* saved, acc_t<T>* partial, index_t rows, int cols, double parameter) {
    typedef acc_t<T> A;
    column_partial_sums<1, V>(rows, cols, partial, [&](index_t row, int column, A* sums) {
        const index_t i = row * cols + column;
        Pack<T, V> d = load<V>(delta, i);
        if constexpr (F::is_identity) {
#pragma unroll
            for (int v = 0; v < V; ++v) sums[v] += widen(d.v[v]);
        } else {
            const Pack<T, V> s = load<V>(saved, i);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const A value = widen(d.v[v]) * F::derivative(A(widen(s.v[v])), A(parameter));
                d.v[v] = narrow<T>(value);
                sums[v] += value;
            }
            store(delta, i, d);
        }
    });
}
