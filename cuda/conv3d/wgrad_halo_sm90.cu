// wgrad with TMA and wgmma, where the stride is 1 and the filter has three lines: the pixels of x with the halo around
// them are copied once for all taps within a frame. Launched by `ops::conv3d::cuda`.
//
// A tile has FILTERS filters, CHANNELS channels, and all taps of one frame of the filter. K counts positions of lines of dy of
// `pitch` pixels, which are zero behind the end of a line, in units of some lines. The operand of a tap is the lines of
// x, moved on by (line, pixel) of the tap, as in `halo_sm90.cuh`: a consumer warpgroup computes the taps of one line of
// the filter: TAPS taps of 64 channels, which are neighbours in its operand at a distance of one pixel, or one tap with
// any number of channels, in blocks of 64.
#include "conv3d/halo_sm90.cuh"

template <int FILTERS_, int TAPS_, int CHANNELS_>
struct WgradHaloTile {
    static constexpr int FILTERS = FILTERS_, TAPS = TAPS_, CHANNELS = CHANNELS_;
    static constexpr int ROWS = FILTERS / 64, BLOCKS = (CHANNELS + 63) / 64, WIDTH = TAPS * CHANNELS;
    static_assert(TAPS == 1 || CHANNELS == 64, "columns follow each other at one distance");
    static constexpr int CONSUMERS = 3, THREADS = (1 + CONSUMERS) * 128, MOST_STAGES = 8;

    struct Accumulators {
        float at[ROWS][WIDTH / 2];
    };
};

// A tile of the product, and its units of K.
struct UnitTile {
    int split, k0, c0, tap_t, first, end;
};

// `split` units make a split; tiles are channel blocks of all frames of the filter, then filters, then splits.
template <class T>
__device__ __forceinline__ UnitTile unit_tile(const Conv& p, int tile, int units) {
    UnitTile at;
    const int row = tile / p.column_tiles, column = tile - row * p.column_tiles,
              blocks = (p.c_row + T::CHANNELS - 1) / T::CHANNELS;
    at.tap_t = column / blocks, at.c0 = (column - at.tap_t * blocks) * T::CHANNELS;
    at.split = row / p.group_tiles, at.k0 = (row - at.split * p.group_tiles) * T::FILTERS;
    at.first = at.split * p.split, at.end = min(at.first + p.split, units);
    return at;
}

// A unit of K: its frame of dy, its lines and its part of them.
struct Unit {
    int n, t, line0, pixel0;
};

__device__ __forceinline__ Unit unit_of(const GatherMap& map, const Halo& halo, int unit, int lines) {
    const int part = unit / halo.part_tiles, frame = part / halo.parts, frames = map.grid[0].by;
    const int n = frame / frames;
    return {n, frame - n * frames, (unit - part * halo.part_tiles) * lines, (part - frame * halo.parts) * halo.pitch};
}

template <class T>
__device__ __forceinline__ void wgrad(const TensorMap& x, const TensorMap& dy, float* __restrict__ dw, const Conv& p,
                                      const Halo& halo, int tiles) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * T::MOST_STAGES];
    const GatherMap map = gather_map_fprop(p);
    const u32 stages = (smem_address(smem) + 1023) & ~1023u, full = smem_address(barriers),
              freed = full + 8 * T::MOST_STAGES;
    // Lines of dy in a unit, bytes of 64 of its filters, and of the lines of x.
    const int lines = halo.lines - (map.taps[1] - 1) * map.step[1];
    const int dy_bytes = lines * halo.pitch * 128, x_bytes = halo.lines * halo.pitch * 128;
    // The last taps of a line reach as many pixels beyond the lines of x, where dy is zero, and x must be a number.
    const int guard_bytes = T::TAPS == 1 ? 0 : (T::TAPS - 1) * map.step[2] * 128;
    const int block_bytes = (x_bytes + guard_bytes + 1023) & ~1023;
    const int stage_bytes = T::ROWS * dy_bytes + T::BLOCKS * block_bytes;
    // Of operands: where the next tap begins, or the next 64 channels.
    const u32 next_columns = T::TAPS == 1 ? block_bytes : map.step[2] * 128;
    const int units = p.n * (int)map.grid[0].by * halo.parts * halo.part_tiles;
    if (threadIdx.x == 0) {
        for (int s = 0; s < halo.filter_stages; ++s) {
            barrier_init(full + 8 * s, 1), barrier_init(freed + 8 * s, 4 * T::CONSUMERS);
        }
    }
    u8* guards = smem + (stages - smem_address(smem)) + T::ROWS * dy_bytes + x_bytes;
    for (int s = 0; s < halo.filter_stages; ++s) {
        for (int i = threadIdx.x * 16; i < guard_bytes; i += T::THREADS * 16) {
            *(uint4*)(guards + s * stage_bytes + i) = make_uint4(0, 0, 0, 0);
        }
    }
    barrier_init_done();
    __syncthreads();
    // Units whose frame of x is outside are left out.
    auto frame_of = [&](const Unit& unit, const UnitTile& at) {
        return unit.t + map.offset[0] + at.tap_t * map.step[0];
    };
    auto outside = [&](int frame) { return (u32)frame >= (u32)map.extent[0]; };
    RingStage stage;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        prefetch_map(&x);
        prefetch_map(&dy);
#pragma unroll 1
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const UnitTile at = unit_tile<T>(p, tile, units);
#pragma unroll 1
            for (int u = at.first; u < at.end; ++u) {
                const Unit unit = unit_of(map, halo, u, lines);
                const int frame = frame_of(unit, at);
                if (outside(frame)) continue;
                const u32 to = stages + stage.index * stage_bytes, arrived = full + 8 * stage.index;
                barrier_wait(freed + 8 * stage.index, stage.parity ^ 1);
                barrier_arrive_expect(arrived, T::ROWS * dy_bytes + T::BLOCKS * x_bytes);
#pragma unroll
                for (int i = 0; i < T::ROWS; ++i) {
                    tma_load(to + i * dy_bytes, &dy, arrived, at.k0 + i * 64, unit.pixel0, unit.line0, unit.t, unit.n);
                }
#pragma unroll
                for (int i = 0; i < T::BLOCKS; ++i) {
                    tma_load(to + T::ROWS * dy_bytes + i * block_bytes, &x, arrived, at.c0 + i * 64,
                             unit.pixel0 + map.offset[2], unit.line0 + map.offset[1], frame, unit.n);
                }
                stage.next(halo.filter_stages);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
    const int tap_h = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const bool arrives = lane == 0;
    const u32 moved = tap_h * map.step[1] * halo.pitch * 128;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const UnitTile at = unit_tile<T>(p, tile, units);
        typename T::Accumulators acc;
        clear<T>(acc);
        int used = -1;
#pragma unroll 1
        for (int u = at.first; u < at.end; ++u) {
            if (outside(frame_of(unit_of(map, halo, u, lines), at))) continue;
            barrier_wait(full + 8 * stage.index, stage.parity);
            const u32 a = stages + stage.index * stage_bytes, b = a + T::ROWS * dy_bytes + moved;
            int k = 0;
#pragma unroll 1
            do {
                const u64 of_b = operand<true>(b + k, next_columns);
                wgmma_fence();
#pragma unroll
                for (int i = 0; i < T::ROWS; ++i) {
                    Wgmma<T::WIDTH, true, true>::multiply(acc.at[i], operand<true>(a + i * dy_bytes + k, 8192), of_b);
                }
                wgmma_commit();
                if (k == 0) {
                    // The products of the unit before are done when only the first of this one are pending.
                    wgmma_wait<1>();
                    if (arrives && used >= 0) barrier_arrive(freed + 8 * used);
                }
            } while ((k += 2048) < dy_bytes);
            used = stage.index;
            stage.next(halo.filter_stages);
        }
        wgmma_wait<0>();
        if (arrives && used >= 0) barrier_arrive(freed + 8 * used);
        const int row = at.k0 + warp * 16 + (lane >> 2);
        const int first_tap = (at.tap_t * map.taps[1] + tap_h) * map.taps[2];
        const int width = map.taps[0] * map.taps[1] * map.taps[2] * p.c_row;
#pragma unroll
        for (int j = 0; j < T::WIDTH / 8; ++j) {
            constexpr int EIGHTS = T::CHANNELS / 8;
            const int c = at.c0 + j % EIGHTS * 8 + (lane & 3) * 2;
            if (c >= p.c_row) continue;
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
                const int k = row + i * 64;
                const float* v = acc.at[i] + j * 4;
                float* to = dw + ((size_t)at.split * p.k + k) * width + (first_tap + j / EIGHTS) * p.c_row + c;
                if (k < p.k) *(float2*)to = make_float2(v[0], v[1]);
                if (k + 8 < p.k) *(float2*)(to + (size_t)8 * width) = make_float2(v[2], v[3]);
            }
        }
    }
}

// As `WGRAD_SM90` of `wgrad_sm90.cu`, but `x` takes `lines` lines and `dy` those of a unit, of 64 channels or filters;
// p.split counts units, of which there are `part_tiles` in a part of a frame.
#define WGRAD_HALO_SM90(NAME, TILE)                                                                                    \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 1)                                                     \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, float* __restrict__ dw,        \
             const __grid_constant__ Conv p, const __grid_constant__ Halo halo, int tiles) {                           \
        wgrad<TILE>(x, dy, dw, p, halo, tiles);                                                                        \
    }

// Three taps on each of three lines, and one; with 144 channels for an R(2+1)D network's first stage, and multiples.
using Tile64x576 = WgradHaloTile<64, 3, 64>;
using Tile128x192 = WgradHaloTile<128, 1, 64>;
using Tile64x432 = WgradHaloTile<64, 1, 144>;

// shared: conv3d_wgrad_halo_sm90_64x576_bf16 232192
// shared: conv3d_wgrad_halo_sm90_128x192_bf16 232192
// shared: conv3d_wgrad_halo_sm90_64x432_bf16 232192
WGRAD_HALO_SM90(conv3d_wgrad_halo_sm90_64x576_bf16, Tile64x576)
WGRAD_HALO_SM90(conv3d_wgrad_halo_sm90_128x192_bf16, Tile128x192)
WGRAD_HALO_SM90(conv3d_wgrad_halo_sm90_64x432_bf16, Tile64x432)
