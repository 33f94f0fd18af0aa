// wgrad with TMA and wgmma: the gradient of a convolution for its filters, bf16 in and f32 out. Launched by
// `ops::conv3d::cuda`, which chooses the threadblock tile (filters x columns) and the split of the pixels.
#include "conv3d/wgrad_sm90.cuh"

template <class T>
__device__ __forceinline__ void wgrad(const TensorMap& x, const TensorMap& dy, float* __restrict__ dw, const Conv& p,
                                      int tiles) {
    using Tiles = Division<T, false>;
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * T::STAGES];
    const Ring<T> ring(smem_address(smem), smem_address(barriers));
    const GatherMap map = gather_map_fprop(p);
    const int taps_hw = map.taps[1] * map.taps[2], taps = map.taps[0] * taps_hw, channel_blocks = (p.c_row + 63) / 64;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            prefetch_map(&x);
            prefetch_map(&dy);
            Tiles::produce(ring, x, dy, map, p, tiles);
        }
        return leave_cluster<T::CLUSTER>();
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    Stage<T::STAGES> read;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const SplitTile at = Tiles::place(p, tile, ring.rank, map.rows);
        typename T::Accumulators acc;
        multiply<T, true, true>(acc, ring, read, at.k_blocks, consumer);
        const int row = at.k0 + T::consumer_m(consumer) + warp * 16 + (lane >> 2);
        const int width = taps * p.c_row;
#pragma unroll
        for (int j = 0; j < T::WIDTH / 8; ++j) {
            const int column = T::consumer_n(consumer) + j * 8, block = at.block0 + column / 64;
            const int tap = block / channel_blocks;
            const int c = (block - tap * channel_blocks) * 64 + column % 64 + (lane & 3) * 2;
            if (tap >= taps || c >= p.c_row) continue;
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
                const int k = row + i * 64;
                const float* v = acc.at[i] + j * 4;
                float* to = dw + ((size_t)at.split * p.k + k) * width + tap * p.c_row + c;
                if (k < p.k) *(float2*)to = make_float2(v[0], v[1]);
                if (k + 8 < p.k) *(float2*)(to + (size_t)8 * width) = make_float2(v[2], v[3]);
            }
        }
    }
    leave_cluster<T::CLUSTER>();
}

// Of each split of the pixels the part of `dw` (`splits k kt kh kw c_row`), from `x` and `dy` as tensors of TMA: `x` by
// im2col, 64 pixels and 64 channels; `dy` as `pixels k_row`, 64 of each. p.split is a multiple of 64; there are
// `group_tiles` tiles of filters.
// Grid: any number of whole clusters of one block, or of two if the name has `pair`; `tiles` of columns times filters times splits.
#define WGRAD_SM90(NAME, TILE, ...)                                                                                    \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, float* __restrict__ dw,        \
             const __grid_constant__ Conv p, int tiles) {                                                              \
        wgrad<TILE>(x, dy, dw, p, tiles);                                                                              \
    }

using Tile128x256 = WarpgroupTile<128, 256, 4, 64>;
using Tile128x256Pair = WarpgroupTile<128, 256, 4, 64, 2>;
using Tile256x128 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile64x256 = WarpgroupTile<64, 256, 5, 64>;

// shared: conv3d_wgrad_sm90_128x256_bf16 197632
// shared: conv3d_wgrad_sm90_256x128_bf16 197632
// shared: conv3d_wgrad_sm90_128x128_bf16 197632
// shared: conv3d_wgrad_sm90_64x256_bf16 205824
// shared: conv3d_wgrad_sm90_128x256_pair_bf16 197632
WGRAD_SM90(conv3d_wgrad_sm90_128x256_bf16, Tile128x256)
WGRAD_SM90(conv3d_wgrad_sm90_256x128_bf16, Tile256x128)
WGRAD_SM90(conv3d_wgrad_sm90_128x128_bf16, Tile128x128)
WGRAD_SM90(conv3d_wgrad_sm90_64x256_bf16, Tile64x256)
WGRAD_SM90(conv3d_wgrad_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
