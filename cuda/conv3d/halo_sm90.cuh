// fprop and dgrad with TMA and wgmma where the stride is 1: the pixels of a tile with the halo around them are copied
// once for all taps within a frame, instead of once for each tap. For `compute_90a` only.
//
// The rows of a tile are consecutive positions of lines of `pitch` pixels: the pixels of a line of the result, and as
// many behind them as the window reaches beyond (those rows are computed, but are nothing). Long lines are cut into
// several parts of `pitch` pixels where no tap reaches along them: a convolution over time alone is passed as one whose
// lines are frames. In smem lie the lines of the
// gathered grid that they meet, of the same pitch, zero where they are outside. The operand of a tap is then the same
// rows, moved on by (line, pixel) of the tap: the descriptor begins there. A row of 128 bytes is at its place in the
// swizzle by the address in smem alone, so an operand may begin at any row.
#pragma once
#include "conv3d/mainloop_sm90.cuh"

// How frames are cut, from the host: field for field as `Halo` of `ops::conv3d::cuda::halo`.
struct Halo {
    int pitch;       // pixels of a line with its halo
    int lines;       // lines that the rows of one tile meet
    int parts;       // parts of a line; several only where pitch has no halo
    int part_tiles;  // tiles of one part of a frame of the result
    int filter_stages;
};

// Tiles of this kernel: two stages of lines, and `filter_stages` of filters of one tap. Blocks of a cluster copy filters for each
// other, and lines for themselves; the number of tiles of a group of samples is then a multiple of them.
template <int M_, int N_, int COLUMNS_, int CLUSTER_ = 1>
struct HaloTile : WarpgroupTile<M_, N_, 2, COLUMNS_, CLUSTER_> {
    static constexpr int FILTER_BYTES = N_ * 128, MOST_STAGES = 8;
    static constexpr int STAGED_BYTES = M_ * (COLUMNS_ * 2 + 16);
};

// The place of a tile: a frame of the result, and the first row of the tile among its positions.
struct FramePlace {
    int n, t, group, within, n0, row0, rows, frame0, pixel0;
    int t_first, t_last;  // of the tiles of the cluster
};

template <class T>
__device__ __forceinline__ FramePlace frame_place(const Conv& p, const GatherMap& map, const Halo& halo, int tile,
                                                  int rank) {
    FramePlace at;
    const int row = tile / p.column_tiles, row_tile = row * T::CLUSTER + rank;
    at.n0 = (tile - row * p.column_tiles) * T::N;
    const int part = row_tile / halo.part_tiles, frame = part / halo.parts, frames = map.grid[0].by;
    at.group = row_tile / p.group_tiles, at.within = row_tile - at.group * p.group_tiles;
    at.n = frame / frames, at.t = frame - at.n * frames;
    at.row0 = (row_tile - part * halo.part_tiles) * T::M;
    at.rows = min(T::M, (int)map.grid[1].by * halo.pitch - at.row0);
    at.pixel0 = (part - frame * halo.parts) * halo.pitch;
    at.frame0 = frame * (int)(map.grid[1].by * map.grid[2].by);
    auto t_of = [&](int tile) { return tile / halo.part_tiles / halo.parts % frames; };
    at.t_first = T::CLUSTER == 1 ? at.t : t_of(row * T::CLUSTER);
    at.t_last = T::CLUSTER == 1 ? at.t : t_of(row * T::CLUSTER + T::CLUSTER - 1);
    return at;
}

// Where position `m` of a part of a frame is stored; behind the end of a line there is nothing.
struct InFrame {
    static constexpr bool GAPS = true;
    int frame0, pixel0, pitch, width;
    __device__ __forceinline__ int operator()(int m) const {
        const int line = m / pitch, w = pixel0 + m - line * pitch;
        return w < width ? frame0 + line * width + w : -1;
    }
};

// The two rings: halos, and filters of one tap, whose stages are free after all consumer warps of the cluster.
template <class T>
struct HaloRing {
    u32 halos, filters, full[2], freed[2];
    int rank;
    int line_bytes, halo_bytes, filter_stages;

    __device__ __forceinline__ HaloRing(u32 smem, u32 barriers, const Halo& halo) {
        line_bytes = halo.pitch * halo.lines * 128, halo_bytes = (line_bytes + 1023) & ~1023;
        filter_stages = halo.filter_stages;
        halos = (smem + T::STAGED_BYTES + 1023) & ~1023u;
        filters = halos + 2 * halo_bytes;
        full[0] = barriers, freed[0] = barriers + 16;
        full[1] = barriers + 32, freed[1] = full[1] + 8 * T::MOST_STAGES;
        if (threadIdx.x == 0) {
            for (int s = 0; s < 2; ++s) barrier_init(full[0] + 8 * s, 1), barrier_init(freed[0] + 8 * s, 8);
            for (int s = 0; s < filter_stages; ++s) {
                barrier_init(full[1] + 8 * s, 1), barrier_init(freed[1] + 8 * s, 8 * T::CLUSTER);
            }
            barrier_init_done();
        }
        rank = begin_cluster<T::CLUSTER>();
    }

    // A consumer warp is done with a stage of filters, and with one of lines if `lines` is not negative.
    __device__ __forceinline__ void release(int stage, int lines) const {
        const int lane = threadIdx.x & 31;
        barrier_arrive_at_all<T::CLUSTER>(freed[1] + 8 * stage, lane);
        if (lane == 0 && lines >= 0) barrier_arrive(freed[0] + 8 * lines);
    }
};

// A stage of a ring whose length is known at run time.
struct RingStage {
    int index = 0;
    u32 parity = 0;

    __device__ __forceinline__ void next(int stages) {
        if (++index == stages) index = 0, parity ^= 1;
    }
};

// Where taps are, of a frame of the gathered grid and in it.
struct HaloTaps {
    const GatherMap& map;
    int lowest[3];

    __device__ __forceinline__ explicit HaloTaps(const GatherMap& map) : map(map) {
#pragma unroll
        for (int a = 0; a < 3; ++a) lowest[a] = map.offset[a] + min(0, (map.taps[a] - 1) * map.step[a]);
    }

    // The frame that tap `tap_t` reads for frame `t` of the result.
    __device__ __forceinline__ int frame(int t, int tap_t) const { return t + map.offset[0] + tap_t * map.step[0]; }

    // All taps of a frame that is outside for all tiles of the cluster are left out. Where it is outside for this one alone,
    // its lines are zeros.
    __device__ __forceinline__ bool outside(const FramePlace& at, int tap_t) const {
        const u32 extent = map.extent[0];
        return (u32)frame(at.t_first, tap_t) >= extent && (u32)frame(at.t_last, tap_t) >= extent;
    }
};

// The producer's thread. `of_lines` takes lines of `pitch` pixels and 64 channels of one frame of the gathered grid.
// `of_filters` takes 64 channels of one tap of this block's share of T::N filters (fprop), or of its share of 64 filters
// (dgrad, where T::N / 64 copies side by side make an operand [k][column]).
template <class T, bool DGRAD>
__device__ __forceinline__ void produce(const HaloRing<T>& ring, const TensorMap& of_lines, const TensorMap& of_filters,
                                        const HaloTaps& taps, const Conv& p, const Halo& halo, int tiles) {
    constexpr int SHARE = (DGRAD ? 64 : T::N) / T::CLUSTER;
    const GatherMap& map = taps.map;
    const int channels = DGRAD ? p.k_row : p.c_row, share = ring.rank * SHARE;
    RingStage lines, filters;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const FramePlace at = frame_place<T>(p, map, halo, tile, ring.rank);
        const int line0 = at.row0 / halo.pitch;
#pragma unroll 1
        for (int c = 0; c < channels; c += T::K_BLOCK) {
#pragma unroll 1
            for (int tap_t = 0; tap_t < map.taps[0]; ++tap_t) {
                if (taps.outside(at, tap_t)) continue;
                barrier_wait(ring.freed[0] + 8 * lines.index, lines.parity ^ 1);
                barrier_arrive_expect(ring.full[0] + 8 * lines.index, ring.line_bytes);
                tma_load(ring.halos + lines.index * ring.halo_bytes, &of_lines, ring.full[0] + 8 * lines.index, c,
                         at.pixel0 + taps.lowest[2], line0 + taps.lowest[1], taps.frame(at.t, tap_t), at.n);
                lines.next(2);
#pragma unroll 1
                for (int tap = 0; tap < map.taps[1] * map.taps[2]; ++tap) {
                    const int tap_h = tap / map.taps[2], tap_w = tap - tap_h * map.taps[2];
                    const int filter_tap = map.filter_first + tap_t * map.filter_step[0] + tap_h * map.filter_step[1] +
                                           tap_w * map.filter_step[2];
                    const u32 b = ring.filters + filters.index * T::FILTER_BYTES + share * 128;
                    const u32 arrived = ring.full[1] + 8 * filters.index;
                    barrier_wait(ring.freed[1] + 8 * filters.index, filters.parity ^ 1);
                    barrier_arrive_expect(arrived, T::FILTER_BYTES);
                    if (DGRAD) {
#pragma unroll
                        for (int n = 0; n < T::N; n += 64) {
                            tma_load_to_all<T::CLUSTER>(b + n * 128, &of_filters, arrived, at.n0 + n, filter_tap,
                                                        c + share);
                        }
                    } else {
                        tma_load_to_all<T::CLUSTER>(b, &of_filters, arrived, c, filter_tap, at.n0 + share);
                    }
                    filters.next(ring.filter_stages);
                }
            }
        }
    }
}

// The whole kernel, with the operands of `produce`. `finish(smem, at, n0, place)` stores the part of a tile that is staged,
// whose columns begin at `n0`.
template <class T, bool DGRAD, class Finish>
__device__ __forceinline__ void halo_gemm(const TensorMap& of_lines, const TensorMap& of_filters, const GatherMap& map,
                                          const Conv& p, const Halo& halo, int tiles, const float* __restrict__ bias,
                                          int width, Finish finish) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[4 + 2 * T::MOST_STAGES];
    const HaloRing<T> ring(smem_address(smem), smem_address(barriers), halo);
    const int channels = DGRAD ? p.k_row : p.c_row;
    const HaloTaps taps(map);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            prefetch_map(&of_lines);
            prefetch_map(&of_filters);
            produce<T, DGRAD>(ring, of_lines, of_filters, taps, p, halo, tiles);
        }
        return leave_cluster<T::CLUSTER>();
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1;
    RingStage lines, filters, used_filters;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const FramePlace at = frame_place<T>(p, map, halo, tile, ring.rank);
        const u32 first = (at.row0 % halo.pitch + T::consumer_m(consumer)) * 128;
        typename T::Accumulators acc;
        clear<T>(acc);
        // Products are released one k-block late, and lines with the last of their products.
        bool pending = false;
        int used_lines = -1;
#pragma unroll 1
        for (int c = 0; c < channels; c += T::K_BLOCK) {
#pragma unroll 1
            for (int tap_t = 0; tap_t < map.taps[0]; ++tap_t) {
                if (taps.outside(at, tap_t)) continue;
                barrier_wait(ring.full[0] + 8 * lines.index, lines.parity);
                int offset_h = map.offset[1] - taps.lowest[1];
#pragma unroll 1
                for (int tap_h = 0; tap_h < map.taps[1]; ++tap_h, offset_h += map.step[1]) {
                    int offset_w = map.offset[2] - taps.lowest[2];
#pragma unroll 1
                    for (int tap_w = 0; tap_w < map.taps[2]; ++tap_w, offset_w += map.step[2]) {
                        barrier_wait(ring.full[1] + 8 * filters.index, filters.parity);
                        const u32 a = ring.halos + lines.index * ring.halo_bytes + first +
                                      (offset_h * halo.pitch + offset_w) * 128;
                        multiply_begun<T, false, DGRAD>(acc, a, ring.filters + filters.index * T::FILTER_BYTES,
                                                        channels - c);
                        wgmma_wait<1>();
                        if (pending) {
                            ring.release(used_filters.index, used_lines);
                            used_filters.next(ring.filter_stages);
                            used_lines = -1;
                        }
                        pending = true;
                        filters.next(ring.filter_stages);
                    }
                }
                used_lines = lines.index;
                lines.next(2);
            }
        }
        wgmma_wait<0>();
        if (pending) {
            ring.release(used_filters.index, used_lines);
            used_filters.next(ring.filter_stages);
        }
        const InFrame place = {at.frame0, at.pixel0, halo.pitch, (int)map.grid[2].by};
#pragma unroll 1
        for (int part = 0; part < T::N / T::COLUMNS; ++part) {
            const int n0 = at.n0 + part * T::COLUMNS;
            if (n0 >= width) break;
            T::Part::synchronize();
            stage_part<T>(smem, acc, consumer, part, bias, n0, width);
            T::Part::synchronize();
            finish(smem, at, n0, place);
        }
    }
    leave_cluster<T::CLUSTER>();
}
