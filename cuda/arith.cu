// a + b, a - b, a * b, a / b with broadcasting, and factor * a. `elementwise` kernels: equal shapes, 16 bytes of `a` a
// thread. `broadcast` kernels: up to five axes with a stride for each argument, one element a thread. Grid: blocks of
// 256 threads over the elements of y. Launched by `ops::arith::cuda`.
#include "common/elements.cuh"

// Up to five joined axes, innermost first: extent, and the step of each argument along it (0 where it is broadcast).
// The layout of ops::arith::cuda::Axes.
struct Axes {
    u32 extent[5], a[5], b[5];
};

// One of the four operations; the branch is uniform over the grid.
__device__ __forceinline__ float combine(u32 op, float p, float q) {
    switch (op) {
    case 0: return p + q;
    case 1: return p - q;
    case 2: return p * q;
    default: return __fdiv_rn(p, q);
    }
}

// Same shapes: both arguments run along.
template <class T, class U>
struct Elementwise {
    const T* __restrict__ a;
    const U* __restrict__ b;
    T* __restrict__ y;
    u32 op;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float p[W], q[W];
        load<W>(a + i, p);
        load<W>(b + i, q);
#pragma unroll
        for (int j = 0; j < W; ++j) {
            p[j] = combine(op, p[j], q[j]);
        }
        store<W>(y + i, p);
    }
};

// Any shapes: one element a thread.
template <class T, class U>
__device__ __forceinline__ void broadcast(const T* __restrict__ a, const U* __restrict__ b, T* __restrict__ y,
                                          Axes axes, u32 op, u32 n) {
    u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= n) {
        return;
    }
    u32 at_a = 0, at_b = 0, left = i;
#pragma unroll
    for (int axis = 0; axis < 5; ++axis) {
        u32 extent = axes.extent[axis], index = left % extent;
        at_a += index * axes.a[axis], at_b += index * axes.b[axis], left /= extent;
    }
    y[i] = from_f32<T>(combine(op, to_f32(a[at_a]), to_f32(b[at_b])));
}

template <class T>
struct Scale {
    const T* __restrict__ a;
    T* __restrict__ y;
    float factor;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float v[W];
        load<W>(a + i, v);
#pragma unroll
        for (int j = 0; j < W; ++j) {
            v[j] *= factor;
        }
        store<W>(y + i, v);
    }
};

#define ARITH(NAME, T, U)                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        arith_elementwise_##NAME(const T* __restrict__ a, const U* __restrict__ b, T* __restrict__ y, u32 op, u32 n) { \
        for_elements<WIDE<T>>(n, Elementwise<T, U>{a, b, y, op});                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) arith_broadcast_##NAME(                                        \
        const T* __restrict__ a, const U* __restrict__ b, T* __restrict__ y, Axes axes, u32 op, u32 n) {               \
        broadcast(a, b, y, axes, op, n);                                                                               \
    }

ARITH(f32, float, float)
ARITH(bf16, bf16, bf16)
ARITH(f32_bf16, float, bf16)
ARITH(bf16_f32, bf16, float)

extern "C" __global__ void __launch_bounds__(BLOCK)
    arith_scale_f32(const float* __restrict__ a, float* __restrict__ y, float factor, u32 n) {
    for_elements<WIDE<float>>(n, Scale<float>{a, y, factor});
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    arith_scale_bf16(const bf16* __restrict__ a, bf16* __restrict__ y, float factor, u32 n) {
    for_elements<WIDE<bf16>>(n, Scale<bf16>{a, y, factor});
}
