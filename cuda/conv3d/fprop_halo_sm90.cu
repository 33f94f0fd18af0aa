// fprop with TMA and wgmma, where the stride is 1 and the filter has several taps within a frame. Launched by
// `ops::conv3d::cuda`, which chooses the threadblock tile (positions x filters).
#include "conv3d/halo_sm90.cuh"

template <class T>
__device__ __forceinline__ void fprop(const TensorMap& x, const TensorMap& w, const float* __restrict__ bias,
                                      bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,
                                      const Conv& p, const Halo& halo, int tiles) {
    using Part = StagedTile<typename T::Part>;
    auto finish = [&](u8* smem, const FramePlace& at, int n0, const InFrame& place) {
        const int m_end = at.row0 + at.rows;
        Part::store(smem, y, at.row0, m_end, n0, p.k, place);
        if (!sums) return;
        float* row = sums + (size_t)(at.group * p.group_tiles + at.within) * 2 * p.k;
        Part::column_sums(smem, row, shift, at.row0, m_end, n0, p.k, place);
    };
    halo_gemm<T, false>(x, w, gather_map_fprop(p), p, halo, tiles, bias, p.k, finish);
}

// As `FPROP_SM90` of `fprop_sm90.cu`, but `x` takes lines of one frame. `group_tiles` counts the tiles of all frames of
// a group of samples.
#define FPROP_HALO_SM90(NAME, TILE, ...)                                                                               \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* __restrict__ bias, \
             bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,                          \
             const __grid_constant__ Conv p, const __grid_constant__ Halo halo, int tiles) {                           \
        fprop<TILE>(x, w, bias, y, sums, shift, p, halo, tiles);                                                       \
    }

using Tile128x256 = HaloTile<128, 256, 64>;
using Tile256x128 = HaloTile<256, 128, 32>;
using Tile128x128 = HaloTile<128, 128, 64>;
using Tile256x64 = HaloTile<256, 64, 32>;
using Tile128x128Pair = HaloTile<128, 128, 64, 2>;
using Tile256x64Pair = HaloTile<256, 64, 32, 2>;
// For the 144 filters of an R(2+1)D network's first stage, and multiples.
using Tile256x144 = HaloTile<256, 144, 16>;

// shared: conv3d_fprop_halo_sm90_128x256_bf16 232192
// shared: conv3d_fprop_halo_sm90_256x128_bf16 232192
// shared: conv3d_fprop_halo_sm90_128x128_bf16 232192
// shared: conv3d_fprop_halo_sm90_256x64_bf16 232192
// shared: conv3d_fprop_halo_sm90_256x144_bf16 232192
// shared: conv3d_fprop_halo_sm90_128x128_pair_bf16 232192
// shared: conv3d_fprop_halo_sm90_256x64_pair_bf16 232192
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_128x256_bf16, Tile128x256)
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_256x128_bf16, Tile256x128)
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_128x128_bf16, Tile128x128)
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_256x64_bf16, Tile256x64)
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_256x144_bf16, Tile256x144)
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_128x128_pair_bf16, Tile128x128Pair, __cluster_dims__(2, 1, 1))
FPROP_HALO_SM90(conv3d_fprop_halo_sm90_256x64_pair_bf16, Tile256x64Pair, __cluster_dims__(2, 1, 1))
