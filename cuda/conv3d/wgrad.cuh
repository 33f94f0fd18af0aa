// wgrad on tensor cores, bf16 in and f32 out, for `wgrad.cu` and `stem.cu`.
//
// The implicit GEMM has rows (filter), columns (tap, channel) and K (pixel of y). Split-K: block y of the grid sums
// `split` pixels. Both operands are [k][..] in gmem and in smem, and ldmatrix transposes them.
#pragma once
#include "conv3d/iterators.cuh"
#include "conv3d/mainloop.cuh"

template <class T, int ALIGN>
__device__ __forceinline__ void wgrad(const bf16* __restrict__ x, const bf16* __restrict__ dy, float* __restrict__ part,
                                      const Conv& p) {
    extern __shared__ __align__(128) u8 smem[];
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * T::N, m0 = tile * T::M;
    const GatherMap map = gather_map_fprop(p);
    const int width = map.taps[0] * map.taps[1] * map.taps[2] * p.c_row;
    const int first = blockIdx.y * p.split, end = min(first + p.split, map.rows);
    GradientIterator<T> gradients(dy, m0, first, end, p.k_row, threadIdx.x);
    WindowTransposedIterator<T, ALIGN> windows(map, x, n0, first, end, p.c_row, threadIdx.x);
    typename T::Accumulators acc;
    mainloop<T, true, true>(acc, smem_address(smem), (end - first + 31) >> 5, gradients, windows);

    // Epilogue: four lanes write 32 neighbouring bytes. `width` is a multiple of 4, so a pair never straddles its end.
    const int lane = threadIdx.x & 31;
    part += (size_t)blockIdx.y * p.k * width;
#pragma unroll
    for (int i = 0; i < T::WARP_M / 16; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int m = m0 + T::warp_m() + i * 16 + half * 8 + (lane >> 2);
#pragma unroll
            for (int j = 0; j < T::WARP_N / 8; ++j) {
                const int n = n0 + T::warp_n() + j * 8 + (lane & 3) * 2;
                if (m < p.k && n < width) {
                    *(float2*)(part + (u32)(m * width + n)) =
                        make_float2(acc.at[i][j][half * 2], acc.at[i][j][half * 2 + 1]);
                }
            }
        }
    }
}

// `part[s, k, (tap, c)] = Σ over the pixels of split s of dy[pixel, k] · x[pixel under tap, c]`: x is `n t h w c_row`,
// dy `n to ho wo k_row`, part `splits k taps c_row`. `c_row` is a multiple of ALIGN, `k_row` of 8. With one split and
// no padded channels `part` is the gradient itself, otherwise `conv3d_merge_splits_f32` follows.
// Grid: x = tiles of filters times `column_tiles`, y = splits. Launched by `ops::conv3d::cuda`.
#define WGRAD(NAME, TILE, ALIGN, BLOCKS)                                                                               \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                \
        NAME(const bf16* __restrict__ x, const bf16* __restrict__ dy, float* __restrict__ part, const Conv p) {        \
        wgrad<TILE, ALIGN>(x, dy, part, p);                                                                            \
    }
