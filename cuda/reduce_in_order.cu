// y[i] = ((x[0][i] + x[1][i]) + x[2][i]) + ..: the rows of x [rows n] added one after another in f32, then rounded. A thread
// has 16 bytes of each row (`wide`: n is a multiple of those) or one element (`single`). Grid: blocks of 256 threads over n.
// Launched by `ops::reduce::cuda`.
#include "common/elements.cuh"

template <class T, class U, int W>
__device__ __forceinline__ void in_order(const T* __restrict__ x, U* __restrict__ y, u32 rows, u32 n) {
    u32 first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= n) {
        return;
    }
    float sum[W], next[W];
    load<W>(x + first, sum);
    // Loads of four rows are under way at a time; additions stay in order.
#pragma unroll 4
    for (u32 row = 1; row < rows; ++row) {
        load<W>(x + (u64)row * n + first, next);
#pragma unroll
        for (int j = 0; j < W; ++j) {
            sum[j] += next[j];
        }
    }
    store<W>(y + first, sum);
}

#define IN_ORDER(NAME, T, U)                                                                                           \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        reduce_in_order_wide_##NAME(const T* __restrict__ x, U* __restrict__ y, u32 rows, u32 n) {                     \
        in_order<T, U, WIDE<T>>(x, y, rows, n);                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        reduce_in_order_single_##NAME(const T* __restrict__ x, U* __restrict__ y, u32 rows, u32 n) {                   \
        in_order<T, U, 1>(x, y, rows, n);                                                                              \
    }

IN_ORDER(f32, float, float)
IN_ORDER(f32_bf16, float, bf16)
IN_ORDER(bf16_f32, bf16, float)
IN_ORDER(bf16, bf16, bf16)
