// fprop and dgrad with TMA and wgmma, bf16 in and out: the implicit GEMM of a gathered operand (pixels, by im2col) and
// the filters. For `compute_90a` only.
//
// K counts blocks of 64 channels, and the taps of each block: a tile of pixels reads the same channels of neighbouring
// pixels again and again, so they are in L2. The grid is persistent: a block computes every gridDim.x-th tile, and its
// producer copies for the next tile while the consumers store the last one. A cluster of blocks computes tiles of neighbouring
// rows, whose filters are the same; `group_tiles` is then a multiple of its blocks.
#pragma once
#include "conv3d/epilogue.cuh"
#include "conv3d/mainloop_sm90.cuh"
#include "conv3d/problem.cuh"

// A tile of the product: its group of samples, the tile within the group, rows and columns.
struct TilePlace {
    int group, within, m0, m_end, n0;
    bool computed;  // a tile of the cluster has rows
};

template <class T>
__device__ __forceinline__ TilePlace tile_place(const Conv& p, int tile, int rank, int group_rows) {
    TilePlace at;
    // Tiles of columns are neighbours: they read the same pixels at the same time.
    const int row = tile / p.column_tiles, row_tile = row * T::CLUSTER + rank;
    at.n0 = (tile - row * p.column_tiles) * T::N;
    at.group = row_tile / p.group_tiles, at.within = row_tile - at.group * p.group_tiles;
    // A tile ends where its group of samples ends, so that its statistics are of one group.
    at.m0 = at.group * group_rows + at.within * T::M;
    at.m_end = min(at.m0 + T::M, (at.group + 1) * group_rows);
    at.computed = at.m0 - rank * T::M < at.m_end;
    return at;
}

// The producer's thread: copies all k-blocks of all tiles of this block. `of_rows` takes T::M pixels and 64 channels of
// the gathered grid. `of_filters` takes 64 channels of one tap of this block's share of T::N filters (fprop), or of 64
// filters (dgrad, where T::N / 64 copies side by side make an operand [k][column]). Where a stage has room for two tiles of
// rows, the second is that of `beside`, which takes what `of_rows` does.
template <class T, bool DGRAD>
__device__ __forceinline__ void produce(const Ring<T>& ring, const TensorMap& of_rows, const TensorMap* beside,
                                        const TensorMap& of_filters, const GatherMap& map, const Conv& p, int tiles,
                                        int group_rows) {
    const int channels = DGRAD ? p.k_row : p.c_row;
    int lowest[3];
#pragma unroll
    for (int a = 0; a < 3; ++a) lowest[a] = map.offset[a] + min(0, (map.taps[a] - 1) * map.step[a]);
    constexpr int SHARE = T::N / T::CLUSTER;
    const int first = ring.rank * SHARE;
    Stage<T::STAGES> write;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const TilePlace at = tile_place<T>(p, tile, ring.rank, group_rows);
        if (!at.computed) continue;
        const Pixel q = pixel_of(at.m0, map.grid);
        const int t = q.t * map.mul[0] + lowest[0], h = q.h * map.mul[1] + lowest[1], w = q.w * map.mul[2] + lowest[2];
#pragma unroll 1
        for (int c = 0; c < channels; c += T::K_BLOCK) {
            int tap_t = 0, tap_h = 0, tap_w = 0;
#pragma unroll 1
            for (int tap = map.taps[0] * map.taps[1] * map.taps[2]; tap > 0; --tap) {
                const u32 a = ring.acquire(write), b = a + T::A_BYTES + first * 128, arrived = ring.arrived(write);
                tma_load_im2col(a, &of_rows, arrived, c, w, h, t, q.n, map.offset[2] + tap_w * map.step[2] - lowest[2],
                                map.offset[1] + tap_h * map.step[1] - lowest[1],
                                map.offset[0] + tap_t * map.step[0] - lowest[0]);
                if constexpr (T::A_BYTES > T::M * 128) {
                    tma_load_im2col(a + T::M * 128, beside, arrived, c, w, h, t, q.n,
                                    map.offset[2] + tap_w * map.step[2] - lowest[2],
                                    map.offset[1] + tap_h * map.step[1] - lowest[1],
                                    map.offset[0] + tap_t * map.step[0] - lowest[0]);
                }
                const int filter_tap = map.filter_first + tap_t * map.filter_step[0] + tap_h * map.filter_step[1] +
                                       tap_w * map.filter_step[2];
                if (DGRAD) {
#pragma unroll
                    for (int n = 0; n < SHARE; n += 64) {
                        tma_load_to_all<T::CLUSTER>(b + n * 128, &of_filters, arrived, at.n0 + first + n, filter_tap,
                                                    c);
                    }
                } else {
                    tma_load_to_all<T::CLUSTER>(b, &of_filters, arrived, c, filter_tap, at.n0 + first);
                }
                write.next();
                if (++tap_w == map.taps[2]) {
                    tap_w = 0;
                    if (++tap_h == map.taps[1]) tap_h = 0, ++tap_t;
                }
            }
        }
    }
}

// The mainloop of operands that are multiplied as they are.
template <class T, bool DGRAD>
struct PlainProduct {
    __device__ __forceinline__ void operator()(typename T::Accumulators& acc, const Ring<T>& ring,
                                               Stage<T::STAGES>& read, int k_blocks, int consumer, u8*,
                                               const TilePlace&) const {
        multiply<T, false, DGRAD>(acc, ring, read, k_blocks, consumer);
    }
};

// The sums of a tile without rows.
template <class T>
__device__ __forceinline__ void zero_sums(float* __restrict__ row, int n0, int width) {
    static_assert(T::N <= T::Part::THREADS, "a column each");
    const int c = n0 + T::Part::thread();
    if (c < min(n0 + T::N, width)) row[c] = row[width + c] = 0.0f;
}

// The whole kernel. `product(acc, ring, read, k_blocks, consumer, staged, at)` multiplies a consumer's part of the tile
// `at`; smem behind what is staged is free for it. `finish(smem, at, n0)` stores the part of the tile that is staged,
// whose columns begin at `n0`. `empty(at)` is called for a tile without rows.
template <class T, bool DGRAD, class Product, class Finish, class Empty>
__device__ __forceinline__ void gemm(const TensorMap& of_rows, const TensorMap& of_filters, const GatherMap& map,
                                     const Conv& p, int tiles, int group_rows, const float* __restrict__ bias,
                                     int width, Product product, Finish finish, Empty empty,
                                     const TensorMap* beside = nullptr) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * T::STAGES];
    const Ring<T> ring(smem_address(smem), smem_address(barriers));
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(T::COPY_REGISTERS));
        if (threadIdx.x == 0) {
            prefetch_map(&of_rows);
            prefetch_map(&of_filters);
            produce<T, DGRAD>(ring, of_rows, beside, of_filters, map, p, tiles, group_rows);
        }
        return leave_cluster<T::CLUSTER>();
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(T::MULTIPLY_REGISTERS));
    const int consumer = (threadIdx.x >> 7) - 1;
    const int channels = DGRAD ? p.k_row : p.c_row;
    const int k_blocks = map.taps[0] * map.taps[1] * map.taps[2] * ((channels + T::K_BLOCK - 1) / T::K_BLOCK);
    u8* staged = smem + (ring.stages - smem_address(smem)) + T::STAGED;
    Stage<T::STAGES> read;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const TilePlace at = tile_place<T>(p, tile, ring.rank, group_rows);
        if (!at.computed) {
            empty(at);
            continue;
        }
        typename T::Accumulators acc;
        product(acc, ring, read, k_blocks, consumer, staged, at);
        // The other block of the cluster had rows, and waited for this one to give back what it copied here.
        if (T::CLUSTER > 1 && at.m0 >= at.m_end) {
            empty(at);
            continue;
        }
#pragma unroll 1
        for (int part = 0; part < T::N / T::COLUMNS; ++part) {
            const int n0 = at.n0 + part * T::COLUMNS;
            if (n0 >= width) break;
            // What was staged before has been read.
            T::Part::synchronize();
            stage_part<T>(staged, acc, consumer, part, bias, n0, width);
            T::Part::synchronize();
            finish(staged, at, n0);
        }
    }
    leave_cluster<T::CLUSTER>();
}
