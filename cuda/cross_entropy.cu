// Softmax, and the cross-entropy of logits `[n c]` against labels. One warp a row, blocks of 256. A row is read once if
// it fits in the registers of a warp. Launched by `ops::cross_entropy::cuda`.
//
// All in f32. The difference from the largest logit is kept as a number and its rounding error, so the relative error
// of an exponential does not grow with its argument: with u = 2^-24 it is 5 u (of expf: 2 ulp, 4 u). A sum of c
// exponentials has the relative error (c + 4) u, a probability (c + 10) u. The logarithm of the sum has the absolute
// error (c + 4) u plus 2 u of itself.
#include "common/elements.cuh"
#include "common/reduce.cuh"
#include "common/row.cuh"

// A row of logits, of which up to 128 (wide bf16: 256) are kept in registers.
template <class T, int W>
using Logits = Row<T, W, W == 8 ? 8 : 4>;

// `exp(x - top)` for x up to top.
__device__ __forceinline__ float power(float x, float top) {
    float d = x - top, e = expf(d);
    // The rounding error of d (Knuth's two-sum); exp(d + error) = exp(d) (1 + error) to second order.
    float z = d - x, error = (x - (d - z)) - (top + z);
    return e > 0.0f ? fmaf(e, error, e) : e;
}

// The largest logit of a row and `Σ exp(x - it)`, in each lane.
template <class T, int W>
__device__ __forceinline__ void log_sum(const Logits<T, W>& row, float& top, float& sum) {
    constexpr int PARTS = Logits<T, W>::PARTS;
    top = __int_as_float(0xff800000), sum = 0.0f;
    float v[W];
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
#pragma unroll
        for (int k = 0; k < W; ++k) {
            top = row.place(p) < row.d ? fmaxf(top, row.held[p][k]) : top;
        }
    }
#pragma unroll 1
    for (u32 p = PARTS; row.place(p) < row.d; ++p) {
        row.read(p, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            top = fmaxf(top, v[k]);
        }
    }
    top = max_warp(top);
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum += row.place(p) < row.d ? power(row.held[p][k], top) : 0.0f;
        }
    }
#pragma unroll 1
    for (u32 p = PARTS; row.place(p) < row.d; ++p) {
        row.read(p, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum += power(v[k], top);
        }
    }
    sum = sum_warp(sum);
}

// Writes `scale · (exp(x - top) / sum - hit)` for one row, where hit is 1 at the label.
template <class T, int W>
__device__ __forceinline__ void write(const Logits<T, W>& row, T* __restrict__ to, float top, float sum, float scale,
                                      u32 label) {
    constexpr int PARTS = Logits<T, W>::PARTS;
    float v[W];
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        if (row.place(p) < row.d) {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                float hit = row.place(p) + k == label ? 1.0f : 0.0f;
                v[k] = scale * (power(row.held[p][k], top) / sum - hit);
            }
            store<W>(to + row.place(p), v);
        }
    }
#pragma unroll 1
    for (u32 p = PARTS; row.place(p) < row.d; ++p) {
        row.read(p, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            float hit = row.place(p) + k == label ? 1.0f : 0.0f;
            v[k] = scale * (power(v[k], top) / sum - hit);
        }
        store<W>(to + row.place(p), v);
    }
}

template <class T, int W>
__device__ __forceinline__ void softmax(const T* __restrict__ x, T* __restrict__ y, u32 n, u32 c) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r < n) {
        float top, sum;
        Logits<T, W> row(x + (u64)r * c, c);
        log_sum(row, top, sum);
        write(row, y + (u64)r * c, top, sum, 1.0f, 0xffffffffu);
    }
}

template <class T, int W>
__device__ __forceinline__ void loss(const T* __restrict__ x, const u32* __restrict__ labels,
                                     float* __restrict__ losses, u32 n, u32 c) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r < n) {
        float top, sum;
        Logits<T, W> row(x + (u64)r * c, c);
        log_sum(row, top, sum);
        if (threadIdx.x % 32 == 0) {
            losses[r] = logf(sum) + (top - to_f32(row.from[labels[r]]));
        }
    }
}

template <class T, int W>
__device__ __forceinline__ void backward(const T* __restrict__ x, const u32* __restrict__ labels,
                                         const float* __restrict__ dy, T* __restrict__ dx, u32 n, u32 c) {
    u32 r = blockIdx.x * WARPS + threadIdx.x / 32;
    if (r < n) {
        float top, sum;
        Logits<T, W> row(x + (u64)r * c, c);
        log_sum(row, top, sum);
        write(row, dx + (u64)r * c, top, sum, *dy / (float)n, labels[r]);
    }
}

// `y`, the rows of `x [n c]` as probabilities. Grid: a block of 256 for every 8 rows. Wide: c is a multiple of 16
// bytes.
// Launched by `ops::cross_entropy::probabilities`.
#define SOFTMAX(NAME, T, W)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        cross_entropy_softmax_##NAME(const T* __restrict__ x, T* __restrict__ y, u32 n, u32 c) {                       \
        softmax<T, W>(x, y, n, c);                                                                                     \
    }

// The loss of each row, `[n]`. Grid as softmax. Launched by `ops::cross_entropy::loss`.
#define LOSS(NAME, T, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 1) cross_entropy_loss_##NAME(                                    \
        const T* __restrict__ x, const u32* __restrict__ labels, float* __restrict__ losses, u32 n, u32 c) {           \
        loss<T, W>(x, labels, losses, n, c);                                                                           \
    }

// The gradient of the mean of the losses, times `*dy`. Grid as softmax. Launched by `ops::cross_entropy::backward`.
#define BACKWARD(NAME, T, W)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        cross_entropy_backward_##NAME(const T* __restrict__ x, const u32* __restrict__ labels,                         \
                                      const float* __restrict__ dy, T* __restrict__ dx, u32 n, u32 c) {                \
        backward<T, W>(x, labels, dy, dx, n, c);                                                                       \
    }

#define ALL(PASS)                                                                                                      \
    PASS(wide_f32, float, 4)                                                                                           \
    PASS(single_f32, float, 1)                                                                                         \
    PASS(wide_bf16, bf16, 8)                                                                                           \
    PASS(single_bf16, bf16, 1)

ALL(SOFTMAX)
ALL(LOSS)
ALL(BACKWARD)
