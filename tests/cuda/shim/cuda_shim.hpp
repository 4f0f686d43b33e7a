// CUDA C++ on the CPU: enough of it to run kernels.cu under g++ and to notice what a GPU would do wrong silently.
//
// Each CUDA thread is a fiber. Blocks run one after another, and within a block each warp runs as far ahead of the others as
// barriers let it. A launch fails, naming the reason, where
//   * some threads of a block wait at a barrier and others have left or wait elsewhere (stricter than the hardware, which
//     tolerates threads that have returned);
//   * the lanes of a warp do not all meet at the same shuffle;
//   * an address is no multiple of what is read or written there at once (g++ -fsanitize=alignment);
//   * the grid or the block is larger than a device allows.
// `reversed` runs the warps of a block, and their lanes, from last to first: a result that depends on the order has a race.
// Not modelled: weak memory order, concurrent blocks, dynamic shared memory, other shuffles than xor.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float normcdff(float x) { return float(0.5 * erfc(double(x) * -0.70710678118654752440)); }
static inline double normcdf(double x) { return double(0.5L * erfcl((long double)(x) * -0.707106781186547524400844362104849039L)); }

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// IEEE binary16, rounded to nearest, ties to even: what cvt.rn.f16.f32 and cvt.f32.f16 do.
static inline float half_bits_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, fraction = bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * ldexpf(float(fraction), -24);
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
static inline unsigned short float_to_half_bits(float value) {
    const unsigned sign = __float_as_uint(value) >> 16 & 0x8000u;
    const float magnitude = fabsf(value);
    if (value != value) return sign | 0x7fffu;
    if (magnitude >= 65520.0f) return sign | 0x7c00u;
    if (magnitude < 6.103515625e-5f) return sign | (unsigned)nearbyintf(ldexpf(magnitude, 24));
    const unsigned bits = __float_as_uint(magnitude) - (112u << 23);
    return sign | (bits + 0xfffu + (bits >> 13 & 1u)) >> 13;
}
// What cvt.rna.tf32.f32 does: 10 bits of fraction, ties away from zero.
static inline unsigned float_to_tf32(float value) {
    if (value != value) return 0x7fffffffu;
    return (__float_as_uint(value) + 0x1000u) & ~0x1fffu;
}

// ---- fibers ----
#if !defined(__x86_64__)
#include <ucontext.h>
struct Context {
    ucontext_t state;
};
static inline void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
static void prepare(Context& c, char* stack, size_t size, void (*entry)()) {
    getcontext(&c.state);
    c.state.uc_stack.ss_sp = stack;
    c.state.uc_stack.ss_size = size;
    makecontext(&c.state, entry, 0);
}
#else
// swapcontext asks the kernel for the signal mask each time, which would take nearly all of the run time.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.hidden shim_switch
.globl shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
struct Context {
    void* top;
};
static inline void switch_context(Context& from, Context& to) { shim_switch(&from.top, to.top); }
static void prepare(Context& c, char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + size) & ~uintptr_t(15));
    *--top = nullptr;  // entry never returns; this keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    c.top = top;
}
#endif

namespace shim {

enum State { running, at_barrier, at_shuffle, finished };
constexpr size_t stack_bytes = 32768, warp = 32;

struct Fiber {
    Context context;
    std::vector<char> stack;
    State state;
    Dim3 index;
    uint64_t value;  // what this lane offers in a shuffle
    int offset;      // the shuffle's lane offset and size of its value
    unsigned a[4], b[2];  // this lane's fragments in an mma
};

static std::vector<Fiber> fibers;
static Context scheduler;
static Fiber* current;
static std::function<void()> body;
static const char* failure;

// The limits of CUDA's programming guide, the same from compute capability 3.0 on.
static const char* too_large(Dim3 grid, Dim3 block) {
    if (grid.x > 2147483647u || grid.y > 65535u || grid.z > 65535u) return "a grid has at most 2^31-1, 65535, 65535 blocks";
    if (block.x > 1024u || block.y > 1024u || block.z > 64u) return "a block has at most 1024, 1024, 64 threads";
    return grid.x && grid.y && grid.z && block.x && block.y && block.z ? nullptr : "a grid or a block is empty";
}

static void wait(State state) {
    Fiber* self = current;
    self->state = state;
    switch_context(self->context, scheduler);
}
static void entry() {
    body();
    wait(finished);
}

// Lets a warp go on whose lanes have all arrived at the same shuffle; false where it cannot.
static bool release_shuffle(Fiber* lanes) {
    for (size_t lane = 0; lane < warp; ++lane)
        if (lanes[lane].state != at_shuffle || lanes[lane].offset != lanes[0].offset) return false;
    for (size_t lane = 0; lane < warp; ++lane) lanes[lane].state = running;
    return true;
}

// Runs a warp as far as it gets: to a barrier, to its end, or to a shuffle that not all of its lanes reach.
static void run_warp(Fiber* lanes, bool reversed) {
    do {
        for (size_t k = 0; k < warp; ++k) {
            Fiber& fiber = lanes[reversed ? warp - 1 - k : k];
            if (fiber.state != running) continue;
            current = &fiber;
            threadIdx = fiber.index;
            switch_context(scheduler, fiber.context);
        }
    } while (release_shuffle(lanes));
}

static void run_block(bool reversed) {
    const size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    if (threads % warp || threads > 1024) {
        failure = "a block must have a multiple of 32 threads, up to 1024";
        return;
    }
    if (fibers.size() < threads) fibers.resize(threads);
    for (size_t i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.stack.resize(stack_bytes);
        prepare(fiber.context, fiber.stack.data(), stack_bytes, entry);
        fiber.state = running;
        fiber.index = Dim3{unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y), unsigned(i / blockDim.x / blockDim.y)};
    }
    for (;;) {
        for (size_t first = 0; first < threads; first += warp)
            run_warp(fibers.data() + (reversed ? threads - warp - first : first), reversed);
        if (failure) return;
        size_t waiting = 0, done = 0;
        for (size_t i = 0; i < threads; ++i) {
            waiting += fibers[i].state == at_barrier;
            done += fibers[i].state == finished;
        }
        if (done == threads) return;
        if (waiting != threads) {
            failure = waiting ? "divergent barrier: not every thread of the block reaches __syncthreads"
                              : "divergent shuffle: not every lane of a warp reaches the same shuffle";
            return;
        }
        for (size_t i = 0; i < threads; ++i) fibers[i].state = running;
    }
}

// Runs the grid; null, or the reason why the launch is invalid.
static const char* launch(Dim3 grid, Dim3 block, bool reversed, std::function<void()> kernel) {
    body = std::move(kernel);
    gridDim = grid;
    blockDim = block;
    failure = too_large(grid, block);
    for (unsigned z = 0; z < grid.z && !failure; ++z)
        for (unsigned y = 0; y < grid.y && !failure; ++y)
            for (unsigned x = 0; x < grid.x && !failure; ++x) {
                blockIdx = Dim3{x, y, z};
                run_block(reversed);
            }
    return failure;
}

// A kernel behind the interface of cuLaunchKernel: parameters[k] points to the value of argument k.
template <typename... A, size_t... K>
static const char* call(void (*kernel)(A...), Dim3 grid, Dim3 block, bool reversed, void** parameters, std::index_sequence<K...>) {
    std::tuple<A...> arguments(*static_cast<A*>(parameters[K])...);
    return launch(grid, block, reversed, [=] { std::apply(kernel, arguments); });
}
template <typename... A>
static const char* call(void (*kernel)(A...), const unsigned* geometry, bool reversed, void** parameters) {
    const Dim3 grid{geometry[0], geometry[1], geometry[2]}, block{geometry[3], geometry[4], geometry[5]};
    return call(kernel, grid, block, reversed, parameters, std::index_sequence_for<A...>());
}

}  // namespace shim

// What g++ calls for an access that is not aligned, on which a GPU stops with "misaligned address".
extern "C" inline void __attribute__((used)) __ubsan_handle_type_mismatch_v1(void* place, void*) {
    static char text[256];
    struct Place {
        const char* file;
        unsigned line, column;
    };
    const Place& at = *static_cast<Place*>(place);
    snprintf(text, sizeof text, "misaligned address at %s:%u", at.file, at.line);
    shim::failure = text;
    shim::wait(shim::finished);  // the access itself may trap
}

static inline void __syncthreads() { shim::wait(shim::at_barrier); }
static inline void __threadfence() {}
static inline unsigned atomicInc(unsigned* counter, unsigned limit) {
    const unsigned before = *counter;
    *counter = before >= limit ? 0 : before + 1;
    return before;
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int offset) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    shim::Fiber* self = shim::current;
    const size_t lane = self - shim::fibers.data();
    if (mask != 0xffffffffu) shim::failure = "shuffle with a partial mask";
    self->offset = offset * 16 + (int)sizeof(T);
    memcpy(&self->value, &value, sizeof(T));
    shim::wait(shim::at_shuffle);  // every lane has written
    T result;
    memcpy(&result, &shim::fibers[lane ^ (size_t)offset].value, sizeof(T));
    shim::wait(shim::at_shuffle);  // every lane has read
    return result;
}

// mma.sync of m16n8k16 (f16, bf16) and m16n8k8 (tf32, whose lower 13 bits are not looked at), with the fragments of the PTX ISA,
// "Matrix Fragments for mma.m16n8k16" and "... m16n8k8". The sum is exact to a rounding; a device's may be off by a few.
struct f16;
struct bf16;
template <typename T> static inline float element(unsigned word, int half);
template <> inline float element<f16>(unsigned word, int half) { return half_bits_to_float(word >> 16 * half & 0xffffu); }
template <> inline float element<bf16>(unsigned word, int half) { return __uint_as_float((word >> 16 * half & 0xffffu) << 16); }
template <> inline float element<float>(unsigned word, int) { return __uint_as_float(word & ~0x1fffu); }

template <typename T> static inline void mma_sync(float* c, const unsigned* a, unsigned b0, unsigned b1) {
    constexpr int per_word = std::is_same<T, float>::value ? 1 : 2, depth = 8 * per_word;
    shim::Fiber* self = shim::current;
    const size_t lane = self - shim::fibers.data();
    const shim::Fiber* warp = self - lane % 32;
    memcpy(self->a, a, sizeof self->a);
    self->b[0] = b0, self->b[1] = b1;
    self->offset = 1 << 20;
    shim::wait(shim::at_shuffle);  // every lane has written
    for (int e = 0; e < 4; ++e) {
        const int row = lane % 32 / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        double sum = c[e];
        for (int k = 0; k < depth; ++k) {
            const int high = k >= depth / 2, from = k % (depth / 2) / per_word, half = k % per_word;
            sum += double(element<T>(warp[row % 8 * 4 + from].a[row / 8 + 2 * high], half)) *
                   element<T>(warp[column * 4 + from].b[high], half);
        }
        c[e] = float(sum);
    }
    shim::wait(shim::at_shuffle);  // every lane has read
}
