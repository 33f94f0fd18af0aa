// Rows of `x [n d]` scaled to unit length, and the gradient. One warp a row, blocks of 256. Sums are in f64, so that
// squares neither overflow nor underflow. Rows of up to 512 elements are read once and kept in registers. Launched by
// `ops::l2_norm::cuda`.
#include "common/elements.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

// Elements of a row that a lane holds.
constexpr int HELD = 16;

// Rows no longer than this are divided by it.
constexpr double EPS = 1e-12f;

template <int W>
__device__ __forceinline__ double dot(const float (&a)[W], const float (&b)[W], double sum) {
#pragma unroll
    for (int k = 0; k < W; ++k) {
        sum = fma((double)a[k], (double)b[k], sum);
    }
    return sum;
}

// `a · b`, in every lane.
template <class T, int W>
__device__ __forceinline__ double dot(const Row<T, W, HELD>& a, const Row<T, W, HELD>& b) {
    double sum = 0.0;
#pragma unroll
    for (int p = 0; p < Row<T, W, HELD>::PARTS; ++p) {
        sum = dot(a.held[p], b.held[p], sum);
    }
#pragma unroll 1
    for (u32 p = Row<T, W, HELD>::PARTS; p * 32 * W < a.d; ++p) {
        float u[W], v[W];
        a.read(p, u);
        b.read(p, v);
        sum = dot(u, v, sum);
    }
    return sum_warp(sum);
}

template <class T, int W>
__device__ __forceinline__ void forward(const T* __restrict__ x, T* __restrict__ y, u32 n, u32 d) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= n) {
        return;  // the whole warp
    }
    Row<T, W, HELD> row(x + (u64)r * d, d);
    double scale = 1.0 / fmax(sqrt(dot(row, row)), EPS);
    T* to = y + (u64)r * d;
    auto write = [&](float(&v)[W], u32 i) {
        if (i < d) {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                v[k] = (float)((double)v[k] * scale);
            }
            store<W>(to + i, v);
        }
    };
#pragma unroll
    for (int p = 0; p < Row<T, W, HELD>::PARTS; ++p) {
        write(row.held[p], row.place(p));
    }
#pragma unroll 1
    for (u32 p = Row<T, W, HELD>::PARTS; p * 32 * W < d; ++p) {
        float v[W];
        row.read(p, v);
        write(v, row.place(p));
    }
}

template <class T, int W>
__device__ __forceinline__ void backward(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, u32 n,
                                         u32 d) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= n) {
        return;  // the whole warp
    }
    Row<T, W, HELD> row(x + (u64)r * d, d), grad(dy + (u64)r * d, d);
    double square = dot(row, row), norm = sqrt(square);
    bool whole = norm > EPS;  // below, the map is the linear x / ε
    double along = whole ? dot(row, grad) / square : 0.0, scale = 1.0 / (whole ? norm : EPS);
    T* to = dx + (u64)r * d;
    auto write = [&](const float(&u)[W], const float(&g)[W], u32 i) {
        if (i < d) {
            float v[W];
#pragma unroll
            for (int k = 0; k < W; ++k) {
                v[k] = (float)(((double)g[k] - (double)u[k] * along) * scale);
            }
            store<W>(to + i, v);
        }
    };
#pragma unroll
    for (int p = 0; p < Row<T, W, HELD>::PARTS; ++p) {
        write(row.held[p], grad.held[p], row.place(p));
    }
#pragma unroll 1
    for (u32 p = Row<T, W, HELD>::PARTS; p * 32 * W < d; ++p) {
        float u[W], g[W];
        row.read(p, u);
        grad.read(p, g);
        write(u, g, row.place(p));
    }
}

// `unit = 1, floor = 0` for rows longer than ε, `0, ε` for the others.
template <class T, int W>
__device__ __forceinline__ void split(const T* __restrict__ x, float* __restrict__ unit, float* __restrict__ floor,
                                      u32 n, u32 d) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r >= n) {
        return;  // the whole warp
    }
    Row<T, W, HELD> row(x + (u64)r * d, d);
    bool whole = sqrt(dot(row, row)) > EPS;
    if (threadIdx.x % 32 == 0) {
        unit[r] = whole ? 1.0f : 0.0f;
        floor[r] = whole ? 0.0f : (float)EPS;
    }
}

// `y = x / max(‖x‖, ε)` for the n rows of d. Grid: a block of 256 for every 8 rows. Wide: d is a multiple of 16 bytes.
// Launched by `ops::l2_norm::forward`.
#define FORWARD(NAME, T, W)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        l2_norm_forward_##NAME(const T* __restrict__ x, T* __restrict__ y, u32 n, u32 d) {                             \
        forward<T, W>(x, y, n, d);                                                                                     \
    }

// `dx = (dy - y·(y·dy)) / ‖x‖`. Grid as forward. Launched by `ops::l2_norm::backward`.
#define BACKWARD(NAME, T, W)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        l2_norm_backward_##NAME(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, u32 n, u32 d) { \
        backward<T, W>(x, dy, dx, n, d);                                                                               \
    }

// What the recorded gradient multiplies and adds per row. Grid as forward. Launched by the tape under `Mode::Keep`.
#define SPLIT(NAME, T, W)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) l2_norm_split_##NAME(                                            \
        const T* __restrict__ x, float* __restrict__ unit, float* __restrict__ floor, u32 n, u32 d) {                  \
        split<T, W>(x, unit, floor, n, d);                                                                             \
    }

#define ALL(PASS)                                                                                                      \
    PASS(wide_f32, float, 4)                                                                                           \
    PASS(single_f32, float, 1)                                                                                         \
    PASS(wide_bf16, bf16, 8)                                                                                           \
    PASS(single_bf16, bf16, 1)

ALL(FORWARD)
ALL(BACKWARD)
ALL(SPLIT)
