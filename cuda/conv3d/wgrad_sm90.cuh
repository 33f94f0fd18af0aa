// What wgrad with TMA and wgmma does with a norm of x or without one: how the product is divided, and its producer. For
// `compute_90a` only.
//
// The implicit GEMM has filters, columns (tap, channel) and K (pixel of dy). Columns are in blocks of 64 channels of one tap;
// the last block of a tap may have fewer.
#pragma once
#include "conv3d/mainloop_sm90.cuh"
#include "conv3d/problem.cuh"

// A tile of the product: its pixels, filters, and blocks of columns.
struct SplitTile {
    int split, k0, block0, first, k_blocks;
};

// X_FIRST: the rows of the product are columns (tap, channel), so that x is the first operand, and dy the second.
template <class T, bool X_FIRST>
struct Division {
    static constexpr int FILTERS = X_FIRST ? T::N : T::M, COLUMNS = X_FIRST ? T::M : T::N;

    // Tiles of the same pixels are neighbours, those of a cluster have the same columns.
    static __device__ __forceinline__ SplitTile place(const Conv& p, int tile, int rank, int pixels) {
        SplitTile at;
        const int row = tile / p.column_tiles, filter_tile = row * T::CLUSTER + rank;
        at.block0 = (tile - row * p.column_tiles) * (COLUMNS / 64);
        at.split = filter_tile / p.group_tiles, at.k0 = (filter_tile - at.split * p.group_tiles) * FILTERS;
        at.first = at.split * p.split;
        at.k_blocks = (min(p.split, pixels - at.first) + T::K_BLOCK - 1) / T::K_BLOCK;
        return at;
    }

    // The producer's thread: copies all k-blocks of all tiles of this block. `dy` takes 64 pixels and 64 filters, `x` by
    // im2col 64 pixels and 64 channels of one tap, of which each block of a cluster copies a share to all.
    static __device__ __forceinline__ void produce(const Ring<T>& ring, const TensorMap& x, const TensorMap& dy,
                                                   const GatherMap& map, const Conv& p, int tiles) {
        constexpr int SHARE = COLUMNS / 64 / T::CLUSTER;
        const int taps_hw = map.taps[1] * map.taps[2], taps = map.taps[0] * taps_hw;
        const int channel_blocks = (p.c_row + 63) / 64, first = ring.rank * SHARE;
        Stage<T::STAGES> write;
#pragma unroll 1
        for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
            const SplitTile at = place(p, tile, ring.rank, map.rows);
#pragma unroll 1
            for (int k_block = 0; k_block < at.k_blocks; ++k_block) {
                const int m = at.first + k_block * T::K_BLOCK;
                const Pixel q = pixel_of(m, map.grid);
                const u32 a = ring.acquire(write), b = a + T::A_BYTES, arrived = ring.arrived(write);
                const u32 to_dy = X_FIRST ? b : a, to_x = X_FIRST ? a : b;
#pragma unroll
                for (int i = 0; i < FILTERS; i += 64) tma_load(to_dy + i * 128, &dy, arrived, at.k0 + i, m);
#pragma unroll 1
                for (int j = first; j < first + SHARE; ++j) {
                    // Behind the last tap there are no channels, which makes zeros.
                    const int block = at.block0 + j, tap = min(block / channel_blocks, taps - 1);
                    const int t = tap / taps_hw, h = tap % taps_hw / map.taps[2], w = tap % map.taps[2];
                    tma_load_im2col_to_all<T::CLUSTER>(
                        to_x + j * 64 * 128, &x, arrived, (block - tap * channel_blocks) * 64,
                        q.w * map.mul[2] + map.offset[2], q.h * map.mul[1] + map.offset[1],
                        q.t * map.mul[0] + map.offset[0], q.n, w * map.step[2], h * map.step[1], t * map.step[0]);
                }
                write.next();
            }
        }
    }
};
