// dgrad with TMA and wgmma: the gradient of a convolution for its input, bf16 in and out. Launched by
// `ops::conv3d::cuda`, which chooses the threadblock tile (pixels x channels), once for each residue class of x modulo
// the stride.
#include "conv3d/gemm_sm90.cuh"

template <class T>
__device__ __forceinline__ void dgrad(const TensorMap& dy, const TensorMap& w, bf16* __restrict__ dx,
                                      float* __restrict__ sums, const NormRelu& norm_relu, const Conv& p, int tiles,
                                      int z, int classes) {
    using Part = StagedTile<typename T::Part>;
    const GatherMap map = gather_map_dgrad(p, z);
    const int group_rows = p.group_rows * (int)(map.grid[0].by * map.grid[1].by * map.grid[2].by);
    auto row = [&](const TilePlace& at) {
        return sums + ((size_t)(at.group * classes + z) * p.group_tiles + at.within) * 2 * p.c;
    };
    const InClass place = {p, map};
    auto finish = [&](u8* smem, const TilePlace& at, int n0) {
        if (norm_relu.normed) {
            Part::norm_relu(smem, dx, row(at), norm_relu, at.group, at.m0, at.m_end, n0, p.c, place);
        } else {
            Part::store(smem, dx, at.m0, at.m_end, n0, p.c, place);
        }
    };
    // Tiles are counted for the largest class, and others have fewer rows. The sums of a tile without rows are 0.
    auto empty = [&](const TilePlace& at) {
        if (norm_relu.normed) zero_sums<T>(row(at), at.n0, p.c);
    };
    gemm<T, true>(dy, w, map, p, tiles, group_rows, nullptr, p.c, PlainProduct<T, true>(), finish, empty);
}

// As `DGRAD` of `dgrad.cu`, for residue class `z` of `classes`, with `dy` and `w` as tensors of TMA: `dy` by im2col of
// that class, as many pixels as the tile has rows and 64 filters; `w` as `k taps c_row`, 64 channels of one tap of 64
// filters.
// Grid: any number of whole clusters of one block, or of two if the name has `pair`; `tiles` of pixels of the largest class times `column_tiles`.
#define DGRAD_SM90(NAME, TILE, ...)                                                                                    \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap dy, const __grid_constant__ TensorMap w, bf16* __restrict__ dx,         \
             float* __restrict__ sums, const bf16* __restrict__ add, const u8* __restrict__ signs,                     \
             const bf16* __restrict__ normed, const float* __restrict__ mean, const float* __restrict__ inv_std,       \
             const float* __restrict__ gamma, const float* __restrict__ beta, const __grid_constant__ Conv p,          \
             int tiles, int z, int classes) {                                                                          \
        dgrad<TILE>(dy, w, dx, sums, NormRelu{add, signs, normed, mean, inv_std, gamma, beta}, p, tiles, z, classes);  \
    }

using Tile128x256 = WarpgroupTile<128, 256, 4, 64>;
using Tile128x256Pair = WarpgroupTile<128, 256, 4, 64, 2>;
using Tile256x128 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile256x64 = WarpgroupTile<256, 64, 4, 32>;

// shared: conv3d_dgrad_sm90_128x256_bf16 216064
// shared: conv3d_dgrad_sm90_256x128_bf16 218112
// shared: conv3d_dgrad_sm90_128x128_bf16 216064
// shared: conv3d_dgrad_sm90_256x64_bf16 185344
// shared: conv3d_dgrad_sm90_128x256_pair_bf16 216064
DGRAD_SM90(conv3d_dgrad_sm90_128x256_bf16, Tile128x256)
DGRAD_SM90(conv3d_dgrad_sm90_256x128_bf16, Tile256x128)
DGRAD_SM90(conv3d_dgrad_sm90_128x128_bf16, Tile128x128)
DGRAD_SM90(conv3d_dgrad_sm90_256x64_bf16, Tile256x64)
DGRAD_SM90(conv3d_dgrad_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
