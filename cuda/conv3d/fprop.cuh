// fprop on tensor cores, bf16 in and out, for `fprop.cu` and `stem.cu`.
//
// The implicit GEMM has rows (pixel of y), columns (filter) and K (tap, channel).
#pragma once
#include "conv3d/epilogue.cuh"
#include "conv3d/iterators.cuh"

template <class T, int ALIGN>
__device__ __forceinline__ void fprop(const bf16* __restrict__ x, const bf16* __restrict__ w,
                                      const float* __restrict__ bias, bf16* __restrict__ y, float* __restrict__ sums,
                                      const float* __restrict__ shift, const Conv& p) {
    using Out = Epilogue<T>;
    extern __shared__ __align__(128) u8 smem[];
    // Tiles of columns are neighbours in the grid: they read the same pixels at the same time.
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * T::N;
    // A tile ends where its group of samples ends, so that its statistics are of one group.
    const int group = tile / p.group_tiles;
    const int m0 = group * p.group_rows + (tile - group * p.group_tiles) * T::M;
    const int m_end = min(m0 + T::M, (group + 1) * p.group_rows);
    const GatherMap map = gather_map_fprop(p);
    const int length = map.taps[0] * map.taps[1] * map.taps[2] * p.c_row;
    WindowIterator<T, ALIGN> pixels(map, x, m0, m_end, p.c_row, threadIdx.x);
    FilterIterator<T, ALIGN> filters(w, n0, p.k, length, p.c_row, threadIdx.x);
    typename T::Accumulators acc;
    mainloop<T, false, false>(acc, smem_address(smem), (length + 31) >> 5, pixels, filters);
    Out::add_bias(acc, bias, n0, p.k);
    Out::stage(smem, acc);
    Out::store(smem, y, m0, m_end, n0, p.k, InOrder());
    if (sums) Out::column_sums(smem, sums + (size_t)tile * 2 * p.k, shift, m0, m_end, n0, p.k, InOrder());
}

// The convolution of `x` (`n t h w c_row`) with `w` (`k kt kh kw c_row`): `y` is `n to ho wo k`. `bias [k]` may be
// null. Where `sums` (`tiles 2 k`) is not null, its row `tile` receives Σ (y - shift) and Σ (y - shift)² of the rounded
// y of the tile, per channel. `c_row` is a multiple of ALIGN.
// Grid: x = tiles of pixels times `column_tiles`. Launched by `ops::conv3d::cuda`.
#define FPROP(NAME, TILE, ALIGN, BLOCKS)                                                                               \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                \
        NAME(const bf16* __restrict__ x, const bf16* __restrict__ w, const float* __restrict__ bias,                   \
             bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift, const Conv p) {          \
        fprop<TILE, ALIGN>(x, w, bias, y, sums, shift, p);                                                             \
    }
