// fprop with TMA and wgmma, bf16 in and out, and the column sums of its result that a batch norm needs. Channels per row
// are a multiple of 8. Launched by `ops::conv3d::cuda`, which chooses the threadblock tile (pixels x filters).
#include "conv3d/gemm_sm90.cuh"

template <class T>
__device__ __forceinline__ void fprop(const TensorMap& x, const TensorMap& w, const float* __restrict__ bias,
                                      bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,
                                      const Conv& p, int tiles) {
    using Part = StagedTile<typename T::Part>;
    auto row = [&](const TilePlace& at) { return sums + (size_t)(at.group * p.group_tiles + at.within) * 2 * p.k; };
    auto finish = [&](u8* smem, const TilePlace& at, int n0) {
        Part::store(smem, y, at.m0, at.m_end, n0, p.k, InOrder());
        if (sums) Part::column_sums(smem, row(at), shift, at.m0, at.m_end, n0, p.k, InOrder());
    };
    // The last tile of a pair may have no rows.
    auto empty = [&](const TilePlace& at) {
        if (T::CLUSTER > 1 && sums) zero_sums<T>(row(at), at.n0, p.k);
    };
    gemm<T, false>(x, w, gather_map_fprop(p), p, tiles, p.group_rows, bias, p.k, PlainProduct<T, false>(), finish,
                   empty);
}

// As `FPROP` of `fprop.cuh`, with `x` and `w` as tensors of TMA: `x` by im2col, as many pixels as the tile has rows and
// 64 channels; `w` as `k taps c_row`, 64 channels of one tap of as many filters as the tile has columns.
// Grid: any number of whole clusters of one block, or of two if the name has `pair`; `tiles` of pixels times `column_tiles`.
#define FPROP_SM90(NAME, TILE, ...)                                                                                    \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* __restrict__ bias, \
             bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,                          \
             const __grid_constant__ Conv p, int tiles) {                                                              \
        fprop<TILE>(x, w, bias, y, sums, shift, p, tiles);                                                             \
    }

using Tile128x256 = WarpgroupTile<128, 256, 4, 64>;
using Tile128x256Pair = WarpgroupTile<128, 256, 4, 64, 2>;
using Tile256x128 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile256x64 = WarpgroupTile<256, 64, 4, 32>;

// shared: conv3d_fprop_sm90_128x256_bf16 216064
// shared: conv3d_fprop_sm90_256x128_bf16 218112
// shared: conv3d_fprop_sm90_128x128_bf16 216064
// shared: conv3d_fprop_sm90_128x256_pair_bf16 216064
// shared: conv3d_fprop_sm90_256x64_bf16 185344
FPROP_SM90(conv3d_fprop_sm90_128x256_bf16, Tile128x256)
FPROP_SM90(conv3d_fprop_sm90_256x128_bf16, Tile256x128)
FPROP_SM90(conv3d_fprop_sm90_128x128_bf16, Tile128x128)
FPROP_SM90(conv3d_fprop_sm90_256x64_bf16, Tile256x64)
FPROP_SM90(conv3d_fprop_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
