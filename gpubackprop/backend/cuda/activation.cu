// a = f(z + b), delta * f'(z), and the bias gradient.
//
// An activation is a struct with the name of its class in activations.py, value(x) and derivative(s), where s is what the
// forward pass kept: the output a (from_output), or the pre-activation z. Its constants have the names of the class's and its
// values: registry.py reads them, and takes the kernel for no other. Definitions as in torch.nn.

struct Identity {
    static constexpr bool from_output = true, is_identity = true;
    template <typename A> static __device__ A value(A x) { return x; }
    template <typename A> static __device__ A derivative(A) { return A(1); }
};

template <typename A> __device__ __forceinline__ A stable_sigmoid(A x) {
    const A e = exp(-fabs(x)), r = A(1) / (A(1) + e);
    return x >= A(0) ? r : e * r;
}
struct Sigmoid {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x) { return stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A a) { return a * (A(1) - a); }
};
struct Tanh {
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x) { return tanh(x); }
    template <typename A> static __device__ A derivative(A a) { return (A(1) - a) * (A(1) + a); }
};
struct ReLU {  // written so that a NaN stays a NaN
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x) { return x < A(0) ? A(0) : x; }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(1) : A(0); }
};
struct LeakyReLU {
    static constexpr bool from_output = true, is_identity = false;
    static constexpr double slope = 0.01;
    template <typename A> static __device__ A value(A x) { return x > A(0) ? x : A(slope) * x; }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(1) : A(slope); }
};
struct ELU {
    static constexpr bool from_output = true, is_identity = false;
    static constexpr double alpha = 1.0, scale = 1.0;
    template <typename A> static __device__ A value(A x) { return x > A(0) ? x : expm1(x); }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(1) : a + A(1); }
};
struct SELU {  // Klambauer et al. 2017
    static constexpr bool from_output = true, is_identity = false;
    static constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
    template <typename A> static __device__ A value(A x) {
        return x > A(0) ? A(scale) * x : A(scale * alpha) * expm1(x);
    }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(scale) : a + A(scale * alpha); }
};
struct GELU {
    static constexpr bool from_output = false, is_identity = false;
    template <typename A> static __device__ A cdf(A x) { return A(0.5) * erfc(x * A(-0.70710678118654752440)); }
    template <typename A> static __device__ A value(A x) { return x * cdf(x); }
    template <typename A> static __device__ A derivative(A x) {
        return cdf(x) + x * A(0.39894228040143267794) * exp(A(-0.5) * x * x);
    }
};
struct GELUTanh {
    static constexpr bool from_output = false, is_identity = false;
    static constexpr double c = 0.79788456080286535588, k = 0.044715;  // sqrt(2 / pi)
    template <typename A> static __device__ A squashed(A x) { return tanh(A(c) * (x + A(k) * x * x * x)); }
    template <typename A> static __device__ A value(A x) { return A(0.5) * x * (A(1) + squashed(x)); }
    template <typename A> static __device__ A derivative(A x) {
        const A t = squashed(x);
        return A(0.5) * (A(1) + t) + A(0.5) * x * (A(1) - t * t) * A(c) * (A(1) + A(3 * k) * x * x);
    }
};
struct Softplus {  // f' = sigmoid(z) = 1 - exp(-a)
    static constexpr bool from_output = true, is_identity = false;
    template <typename A> static __device__ A value(A x) { return (x > A(0) ? x : A(0)) + log1p(exp(-fabs(x))); }
    template <typename A> static __device__ A derivative(A a) { return -expm1(-a); }
};
struct SiLU {
    static constexpr bool from_output = false, is_identity = false;
    template <typename A> static __device__ A value(A x) { return x * stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A x) {
        const A s = stable_sigmoid(x);
        return s * (A(1) + x * (A(1) - s));
    }
};

// a = f(z + bias). z, a: (rows, cols), may be the same array; bias: (cols,).
// saved: (rows, cols) gets z + bias, for the activations whose derivative needs it; null otherwise; may be z.
// Launch: flat(rows * cols).
template <typename T, typename F>
__global__ void bias_activation(const T* z, const T* bias, T* a, T* saved, index_t rows, int cols) {
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
            value.v[k] = narrow<T>(F::value(s));
        }
        if (saved) store(saved, i, sum);
        store(a, i, value);
    });
}

// a = f(z), n elements; may be the same array. Launch: flat(n).
template <typename T, typename F> __global__ void activation(const T* z, T* a, index_t n) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    grid_stride<V>(n, aligned<V>(z, a), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<T, W> x = load<W>(z, i);
#pragma unroll
        for (int k = 0; k < W; ++k) x.v[k] = narrow<T>(F::value(A(widen(x.v[k]))));
        store(a, i, x);
    });
}

// delta *= f'(saved), n elements. saved: the output a, or z where F::from_output is false. Launch: flat(n).
template <typename T, typename F>
__global__ void activation_derivative(T* delta, const T* saved, index_t n) {
    typedef acc_t<T> A;
    constexpr int V = vector_width<T>;
    grid_stride<V>(n, aligned<V>(delta, saved), [&](index_t i, auto width) {
        constexpr int W = decltype(width)::value;
        Pack<T, W> d = load<W>(delta, i);
        const Pack<T, W> s = load<W>(saved, i);
#pragma unroll
        for (int k = 0; k < W; ++k) d.v[k] = narrow<T>(widen(d.v[k]) * F::derivative(A(widen(s.v[k]))));
        store(delta, i, d);
    });
}

// delta *= f'(saved), and the column sums of the new delta, unrounded; finish_column_sums follows. With Identity nothing is
// written to delta and saved may be null: plain column sums. delta, saved: (rows, cols). partial: (1, splits, cols).
// V: 1, or vector_width<T> where that divides cols and both arrays are aligned to 16 bytes. Launch: columns(rows, cols, V).
template <typename T, typename F, int V>
__global__ void derivative_column_sums(T* delta, const T* saved, acc_t<T>* partial, index_t rows, int cols) {
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
                const A value = widen(d.v[v]) * F::derivative(A(widen(s.v[v])));
                d.v[v] = narrow<T>(value);
                sums[v] += value;
            }
            store(delta, i, d);
        }
    });
}
