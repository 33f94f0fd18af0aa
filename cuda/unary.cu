// exp, ln, square root and reciprocal, element by element. Grid: blocks of 256 threads, 16 bytes of x a thread.
// Launched by `ops::unary::cuda`.
//
// Errors in ulp of f32: exp 2, ln 1 (NVIDIA's bounds for expf and logf); square root and reciprocal are correctly
// rounded. Rounding to bf16 is added where that is stored.
#include "common/elements.cuh"

struct Exp {
    static __device__ __forceinline__ float of(float v) { return expf(v); }
};
struct Ln {
    static __device__ __forceinline__ float of(float v) { return logf(v); }
};
struct Sqrt {
    static __device__ __forceinline__ float of(float v) { return sqrtf(v); }
};
struct Recip {
    static __device__ __forceinline__ float of(float v) { return 1.0f / v; }
};

template <class F, class T>
struct Map {
    const T* __restrict__ x;
    T* __restrict__ y;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float v[W];
        load<W>(x + i, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = F::of(v[k]);
        }
        store<W>(y + i, v);
    }
};

// `y = f(x)` for n elements. Grid: a block for every 256 threads of 16 bytes. Launched by `ops::unary::cuda`.
#define UNARY(NAME, F, T, SUFFIX)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        unary_##NAME##_##SUFFIX(const T* __restrict__ x, T* __restrict__ y, u32 n) {                                   \
        for_elements<WIDE<T>>(n, Map<F, T>{x, y});                                                                     \
    }

UNARY(exp, Exp, float, f32)
UNARY(exp, Exp, bf16, bf16)
UNARY(ln, Ln, float, f32)
UNARY(ln, Ln, bf16, bf16)
UNARY(sqrt, Sqrt, float, f32)
UNARY(sqrt, Sqrt, bf16, bf16)
UNARY(recip, Recip, float, f32)
UNARY(recip, Recip, bf16, bf16)
