// wgrad with TMA and wgmma: the gradient of a convolution for its filters, bf16 in and f32 out. Launched by
// `ops::conv3d::cuda`, which chooses the threadblock tile (filters x columns) and the split of the pixels.
//
// The implicit GEMM has rows (filter), columns (tap, channel) and K (pixel of dy). Columns are in blocks of 64 channels
// of one tap; the last block of a tap may have fewer.
#include "conv3d/mainloop_sm90.cuh"
#include "conv3d/problem.cuh"

// A tile of the product: its pixels, filters, and blocks of columns.
struct SplitTile {
    int split, k0, block0, first, k_blocks;
};

template <class T>
__device__ __forceinline__ SplitTile split_tile(const Conv& p, int tile, int pixels) {
    SplitTile at;
    // Tiles of the same pixels are neighbours.
    const int row = tile / p.column_tiles;
    at.block0 = (tile - row * p.column_tiles) * (T::N / 64);
    at.split = row / p.group_tiles, at.k0 = (row - at.split * p.group_tiles) * T::M;
    at.first = at.split * p.split;
    at.k_blocks = (min(p.split, pixels - at.first) + T::K_BLOCK - 1) / T::K_BLOCK;
    return at;
}

template <class T>
__device__ __forceinline__ void wgrad(const TensorMap& x, const TensorMap& dy, float* __restrict__ dw, const Conv& p,
                                      int tiles) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * T::STAGES];
    const Ring<T> ring(smem_address(smem), smem_address(barriers));
    const GatherMap map = gather_map_fprop(p);
    const int taps_hw = map.taps[1] * map.taps[2], taps = map.taps[0] * taps_hw, channel_blocks = (p.c_row + 63) / 64;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        prefetch_map(&x);
        prefetch_map(&dy);
        Stage<T::STAGES> write;
#pragma unroll 1
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const SplitTile at = split_tile<T>(p, tile, map.rows);
#pragma unroll 1
            for (int k_block = 0; k_block < at.k_blocks; ++k_block) {
                const int m = at.first + k_block * T::K_BLOCK;
                const Pixel q = pixel_of(m, map.grid);
                const u32 a = ring.acquire(write), b = a + T::A_BYTES, arrived = ring.arrived(write);
#pragma unroll
                for (int i = 0; i < T::M; i += 64) tma_load(a + i * 128, &dy, arrived, at.k0 + i, m);
#pragma unroll 1
                for (int j = 0; j < T::N / 64; ++j) {
                    // Behind the last tap there are no channels, which makes zeros.
                    const int block = at.block0 + j, tap = min(block / channel_blocks, taps - 1);
                    const int t = tap / taps_hw, h = tap % taps_hw / map.taps[2], w = tap % map.taps[2];
                    tma_load_im2col(b + j * 64 * 128, &x, arrived, (block - tap * channel_blocks) * 64,
                                    q.w * map.mul[2] + map.offset[2], q.h * map.mul[1] + map.offset[1],
                                    q.t * map.mul[0] + map.offset[0], q.n, w * map.step[2], h * map.step[1],
                                    t * map.step[0]);
                }
                write.next();
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    Stage<T::STAGES> read;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const SplitTile at = split_tile<T>(p, tile, map.rows);
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
}

// Of each split of the pixels the part of `dw` (`splits k kt kh kw c_row`), from `x` and `dy` as tensors of TMA: `x` by
// im2col, 64 pixels and 64 channels; `dy` as `pixels k_row`, 64 of each. p.split is a multiple of 64; there are
// `group_tiles` tiles of filters.
// Grid: any number of blocks; `tiles` of columns times filters times splits.
#define WGRAD_SM90(NAME, TILE)                                                                                         \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 1)                                                     \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, float* __restrict__ dw,        \
             const __grid_constant__ Conv p, int tiles) {                                                              \
        wgrad<TILE>(x, dy, dw, p, tiles);                                                                              \
    }

using Tile128x256 = WarpgroupTile<128, 256, 4, 64>;
using Tile256x128 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile64x256 = WarpgroupTile<64, 256, 5, 64>;

// shared: conv3d_wgrad_sm90_128x256_bf16 197632
// shared: conv3d_wgrad_sm90_256x128_bf16 197632
// shared: conv3d_wgrad_sm90_128x128_bf16 197632
// shared: conv3d_wgrad_sm90_64x256_bf16 205824
WGRAD_SM90(conv3d_wgrad_sm90_128x256_bf16, Tile128x256)
WGRAD_SM90(conv3d_wgrad_sm90_256x128_bf16, Tile256x128)
WGRAD_SM90(conv3d_wgrad_sm90_128x128_bf16, Tile128x128)
WGRAD_SM90(conv3d_wgrad_sm90_64x256_bf16, Tile64x256)
