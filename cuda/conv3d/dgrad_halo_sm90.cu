// dgrad with TMA and wgmma, where the stride is 1 and the filter has several taps within a frame. Launched by
// `ops::conv3d::cuda`, which chooses the threadblock tile (positions x channels).
#include "conv3d/halo_sm90.cuh"

template <class T>
__device__ __forceinline__ void dgrad(const TensorMap& dy, const TensorMap& w, bf16* __restrict__ dx,
                                      float* __restrict__ sums, const NormRelu& norm_relu, const Conv& p,
                                      const Halo& halo, int tiles) {
    using Part = StagedTile<typename T::Part>;
    auto finish = [&](u8* smem, const FramePlace& at, int n0, const InFrame& place) {
        const int m_end = at.row0 + at.rows;
        if (norm_relu.normed) {
            float* row = sums + (size_t)(at.group * p.group_tiles + at.within) * 2 * p.c;
            Part::norm_relu(smem, dx, row, norm_relu, at.group, at.row0, m_end, n0, p.c, place);
        } else {
            Part::store(smem, dx, at.row0, m_end, n0, p.c, place);
        }
    };
    halo_gemm<T, true>(dy, w, gather_map_dgrad(p, 0), p, halo, tiles, nullptr, p.c, finish);
}

// As `DGRAD_SM90` of `dgrad_sm90.cu`, but `dy` takes lines of one frame, and there is one residue class. `group_tiles`
// counts the tiles of all frames of a group of samples.
#define DGRAD_HALO_SM90(NAME, TILE, ...)                                                                               \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap dy, const __grid_constant__ TensorMap w, bf16* __restrict__ dx,         \
             float* __restrict__ sums, const bf16* __restrict__ add, const u8* __restrict__ signs,                     \
             const bf16* __restrict__ normed, const float* __restrict__ mean, const float* __restrict__ inv_std,       \
             const float* __restrict__ gamma, const float* __restrict__ beta, const __grid_constant__ Conv p,          \
             const __grid_constant__ Halo halo, int tiles) {                                                           \
        dgrad<TILE>(dy, w, dx, sums, NormRelu{add, signs, normed, mean, inv_std, gamma, beta}, p, halo, tiles);        \
    }

using Tile128x256 = HaloTile<128, 256, 64>;
using Tile256x128 = HaloTile<256, 128, 32>;
using Tile128x128 = HaloTile<128, 128, 64>;
using Tile256x64 = HaloTile<256, 64, 32>;
using Tile128x128Pair = HaloTile<128, 128, 64, 2>;
using Tile256x64Pair = HaloTile<256, 64, 32, 2>;

// shared: conv3d_dgrad_halo_sm90_128x256_bf16 232192
// shared: conv3d_dgrad_halo_sm90_256x128_bf16 232192
// shared: conv3d_dgrad_halo_sm90_128x128_bf16 232192
// shared: conv3d_dgrad_halo_sm90_256x64_bf16 232192
// shared: conv3d_dgrad_halo_sm90_128x128_pair_bf16 232192
// shared: conv3d_dgrad_halo_sm90_256x64_pair_bf16 232192
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_128x256_bf16, Tile128x256)
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_256x128_bf16, Tile256x128)
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_128x128_bf16, Tile128x128)
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_256x64_bf16, Tile256x64)
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_128x128_pair_bf16, Tile128x128Pair, __cluster_dims__(2, 1, 1))
DGRAD_HALO_SM90(conv3d_dgrad_halo_sm90_256x64_pair_bf16, Tile256x64Pair, __cluster_dims__(2, 1, 1))
