// a = f(z + b), and delta * f'(z).
//
// An activation is a struct with the name of its class in activations.py, value(x) and derivative(s), where s is what the
// forward pass kept: the output a (from_output), or the pre-activation z. Its constants have the names of the class's and its
// values: registry.py reads them, and takes the kernel for no other. Definitions as in torch.nn. Both functions are right to a
// few units in the last place wherever they are normal numbers (GELUTanh: times its exponent), and finite for every finite x.

template <typename A> __device__ __forceinline__ A stable_sigmoid(A x) {
    const A e = exp(-fabs(x)), r = A(1) / (A(1) + e);
    return x >= A(0) ? r : e * r;
}
__device__ __forceinline__ float normal_distribution(float x) { return normcdff(x); }
__device__ __forceinline__ double normal_distribution(double x) { return normcdf(x); }
// exp(-x^2 / 2) / sqrt(2 pi) as exp(-h^2 / 2) exp(-(t - h) (t + h) / 2), with t = |x| rounded to eighths: the square of h is exact.
template <typename A> __device__ __forceinline__ A normal_density(A x) {
    const A t = fmin(fabs(x), A(40)), h = rint(t * A(8)) * A(0.125);
    return A(0.39894228040143267794) * exp(A(-0.5) * h * h) * exp(A(-0.5) * (t - h) * (t + h));
}

struct Identity {
    static constexpr bool from_output = true;
    template <typename A> static __device__ A value(A x) { return x; }
    template <typename A> static __device__ A derivative(A) { return A(1); }
};
struct Sigmoid {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A x) {
        const A e = exp(-fabs(x)), r = A(1) / (A(1) + e);
        return e * r * r;
    }
};
struct Tanh {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return tanh(x); }
    template <typename A> static __device__ A derivative(A x) {
        const A e = exp(A(-2) * fabs(x)), r = A(2) / (A(1) + e);
        return e * r * r;
    }
};
struct ReLU {  // written so that a NaN stays a NaN
    static constexpr bool from_output = true;
    template <typename A> static __device__ A value(A x) { return x < A(0) ? A(0) : x; }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(1) : A(0); }
};
struct LeakyReLU {
    static constexpr bool from_output = true;
    static constexpr double slope = 0.01;
    template <typename A> static __device__ A value(A x) { return x > A(0) ? x : A(slope) * x; }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) ? A(1) : A(slope); }
};
struct ELU {
    static constexpr bool from_output = false;
    static constexpr double alpha = 1.0, scale = 1.0;
    template <typename A> static __device__ A value(A x) { return x > A(0) ? x : expm1(x); }
    template <typename A> static __device__ A derivative(A x) { return x > A(0) ? A(1) : exp(x); }
};
struct SELU {  // Klambauer et al. 2017
    static constexpr bool from_output = false;
    static constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
    template <typename A> static __device__ A value(A x) {
        return x > A(0) ? A(scale) * x : A(scale * alpha) * expm1(x);
    }
    template <typename A> static __device__ A derivative(A x) {
        return x > A(0) ? A(scale) : A(scale * alpha) * exp(x);
    }
};
struct CELU {  // Barron 2017
    static constexpr bool from_output = false;
    static constexpr double alpha = 1.0;
    template <typename A> static __device__ A value(A x) { return x > A(0) ? x : expm1(x); }
    template <typename A> static __device__ A derivative(A x) { return x > A(0) ? A(1) : exp(x); }
};
struct GELU {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return x * normal_distribution(x); }
    template <typename A> static __device__ A derivative(A x) { return normal_distribution(x) + x * normal_density(x); }
};
struct GELUTanh {  // x s with s = (1 + tanh(c (x + k x^3))) / 2 = sigmoid(2 c (x + k x^3)), c = sqrt(2 / pi)
    static constexpr bool from_output = false;
    static constexpr double c = 0.79788456080286535588, k = 0.044715;
    template <typename A> static __device__ A exponent(A x) { return A(2 * c) * x * (A(1) + A(k) * x * x); }
    template <typename A> static __device__ A value(A x) { return x * stable_sigmoid(exponent(x)); }
    template <typename A> static __device__ A derivative(A x) {
        const A t = x > A(30) ? A(30) : x < A(-30) ? A(-30) : x, u = exponent(t);  // s is 0 or 1 beyond
        return stable_sigmoid(u) * (A(1) + A(2 * c) * t * stable_sigmoid(-u) * (A(1) + A(3 * k) * t * t));
    }
};
struct Softplus {
    static constexpr bool from_output = false;
    static constexpr double beta = 1.0;
    template <typename A> static __device__ A value(A x) { return (x > A(0) ? x : A(0)) + log1p(exp(-fabs(x))); }
    template <typename A> static __device__ A derivative(A x) { return stable_sigmoid(x); }
};
struct SiLU {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return x * stable_sigmoid(x); }
    template <typename A> static __device__ A derivative(A x) { return stable_sigmoid(x) * (A(1) + x * stable_sigmoid(-x)); }
};

struct Mish {  // x tanh(softplus(x)) = x w / (w + 2), w = e (e + 2), e = exp(x)
    static constexpr bool from_output = false;
    template <typename A> static __device__ A e(A x) { return exp(x < A(40) ? x : A(40)); }  // beyond, the value is x
    template <typename A> static __device__ A value(A x) {
        const A w = e(x) * (e(x) + A(2));
        return x != x ? x : x * (w / (w + A(2)));
    }
    template <typename A> static __device__ A derivative(A x) {
        const A t = x < A(40) ? x : A(40), u = e(x), w = u * (u + A(2)), r = A(1) / (w + A(2));
        return x != x ? x : w * r + t * u * r * (u + A(1)) * r * A(4);
    }
};
struct Softsign {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return x / (A(1) + fabs(x)); }
    template <typename A> static __device__ A derivative(A x) {
        const A r = A(1) / (A(1) + fabs(x));
        return r * r;
    }
};
struct HardSigmoid {
    static constexpr bool from_output = true;
    template <typename A> static __device__ A value(A x) {
        const A h = (x + A(3)) * A(1.0 / 6.0);
        return h < A(0) ? A(0) : h > A(1) ? A(1) : h;
    }
    template <typename A> static __device__ A derivative(A a) { return a > A(0) && a < A(1) ? A(1.0 / 6.0) : A(0); }
};
struct HardSwish {
    static constexpr bool from_output = false;
    template <typename A> static __device__ A value(A x) { return x * HardSigmoid::value(x); }
    template <typename A> static __device__ A derivative(A x) {
        const A h = HardSigmoid::value(x);
        return h + x * HardSigmoid::derivative(h);
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
    transform<vector_width<T>>(n, [](T x) { return narrow<T>(F::value(acc_t<T>(widen(x)))); }, a, z);
}

// delta *= f'(saved), n elements. saved: the output a, or z where F::from_output is false. Launch: flat(n).
template <typename T, typename F>
__global__ void activation_derivative(T* delta, const T* saved, index_t n) {
    const auto f = [](T d, T s) { return narrow<T>(widen(d) * F::derivative(acc_t<T>(widen(s)))); };
    transform<vector_width<T>>(n, f, delta, delta, saved);
}
