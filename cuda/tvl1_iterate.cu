// The iterations of TV-L1 with the median filter before some of them, several for each time the planes are read. Grid:
// x = tiles, y = pairs. Launched by `ops::tvl1::cuda`.
//
// A block has a tile of 64 x 64 pixels in registers: sixteen warps of four rows, two neighbouring columns a lane.
// Horizontal neighbours are exchanged by shuffles, vertical ones between warps through smem. The dependence on
// neighbours grows by one pixel an iteration, and by half a window with the median, so pixels within that of a tile edge
// (not the image's) are wrong and are not written. Tiles overlap by twice `halo`, which is at least that and a multiple
// of 4, so that tiles start at whole sectors.

#include "tvl1.cuh"
#include "tvl1_median.cuh"

#define SIDE 64
#define ROWS 4
#define WARPS (SIDE / ROWS)

// x rounded by at most 2^-22 of it, for x = 0 or normal.
__device__ __forceinline__ float root(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x within 2^-22 of it, for normal x.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The medians of a thread's pixels, those of the tile being exchanged through `plane` (smem: a row's even columns, then
// its odd ones). Pixels beyond the image's edge are those at its edge; beyond the tile's edge it does not matter. `last`
// is the image's last row and column, counted from the tile's first.
template <int K>
__device__ __forceinline__ void median(float (&v)[ROWS][2], float (*plane)[SIDE], int last_row, int last_column) {
    constexpr int R = K / 2, HIGH = ROWS + 2 * R;
    const int lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * ROWS;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) plane[first + r][lane] = v[r][0], plane[first + r][32 + lane] = v[r][1];
    __syncthreads();
    float strip[HIGH][2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        const int column = min(2 * lane + c, last_column), at = (column & 1) * 32 + (column >> 1);
#pragma unroll
        for (int i = 0; i < HIGH; ++i) strip[i][c] = plane[min(max(first + i - R, 0), min(last_row, SIDE - 1))][at];
    }
    __syncthreads();  // the plane is the next component's
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        // The sorted columns from R left of the thread's first to R right of its second.
        float ranks[K][2 + 2 * R];
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            float column[K];
#pragma unroll
            for (int k = 0; k < K; ++k) column[k] = strip[r + k][c];
            sort(column);
#pragma unroll
            for (int k = 0; k < K; ++k) ranks[k][R + c] = column[k];
        }
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const float left = __shfl_up_sync(~0u, ranks[k][2 + j], 1);
                const float right = __shfl_down_sync(~0u, ranks[k][R + j], 1);
                ranks[k][j] = lane > 0 ? left : ranks[k][R];
                ranks[k][R + 2 + j] = lane < 31 ? right : ranks[k][R + 1];
            }
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const bool inside = first + r <= last_row && 2 * lane + c <= last_column;
            v[r][c] = inside ? median_of_columns(ranks, c) : 0.0f;
        }
    }
}

// `most` iterations of every running pair (or those to be run again, or none where the pair is done), from the present
// copies of flow and dual variables into the other ones (the other way round when run again); the sums of squared
// changes of each. If `filter`, the flow is replaced by its medians over K x K pixels first.
template <int K>
__device__ __forceinline__ void iterate(float* __restrict__ flow, float* __restrict__ dual,
                                        const float* __restrict__ fixed, const u32* __restrict__ state,
                                        u32* __restrict__ next, const float* __restrict__ change,
                                        float* __restrict__ next_change, const Level& e, int most, u32 filter) {
    // The flow of each warp's first row, for the warp above; vertical dual variables of its last, for the warp below.
    __shared__ float2 top[WARPS][2][32], bottom[WARPS][2][32];
    __shared__ float sums[MOST][WARPS + 1];
    const int pair = blockIdx.y, tile = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 now = resolve(state[pair], change, pair, e);
    const bool run = phase(now) == RUNNING && most > 0, again = phase(now) == AGAIN;
    if (tile == 0 && threadIdx.x == 0)
        next[pair] = run     ? pack_state(RUNNING, flow_copy(now) ^ 1, dual_copy(now) ^ 1, K > 1 ? filter : 0, most)
                     : again ? pack_state(DONE, flow_copy(now), dual_copy(now), 0, 0)
                             : now;
    if (!run && !again) return;
    const int count = run ? most : count_of(now);
    const u32 from_u = flow_copy(now) ^ again, from_p = dual_copy(now) ^ again;

    const size_t size = (size_t)e.h * e.pitch;
    const int tx = tile % e.tiles_x, ty = tile / e.tiles_x, apart = SIDE - 2 * e.halo;
    const int left = tx * apart, above = ty * apart;
    const int x = left + 2 * lane, y = above + warp * ROWS;
    // What the tile writes: up to the image's edges, elsewhere less the halo.
    const int x_from = tx == 0 ? 0 : left + e.halo, x_to = tx + 1 == e.tiles_x ? e.pitch : left + SIDE - e.halo;
    const int y_from = ty == 0 ? 0 : above + e.halo,
              y_to = (ty + 1) * e.tiles_x == e.tiles ? e.h : above + SIDE - e.halo;

    // In one register: which of the thread's rows the tile writes, which have nothing below them in the image, which of
    // its columns nothing to their right, and which copies are written.
    u32 flags = (from_u ^ 1) << 10 | (from_p ^ 1) << 11 | (u32)run << 12;
    if (x + 1 >= e.w - 1) flags |= 2u << 8;
    if (x >= e.w - 1) flags |= 1u << 8;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (x >= x_from && x < x_to && y + r >= y_from && y + r < y_to) flags |= 1u << r;
        if (y + r >= e.h - 1) flags |= 16u << r;
    }

    const int place = y * e.pitch + x;
    float u[2][ROWS][2], p[4][ROWS][2], g[2][ROWS][2], slope[ROWS][2], rho[ROWS][2];
    auto fetch = [&](float(&v)[2], const float* plane, int r) {
        const bool inside = x < e.pitch && y + r < e.h;
        const float2 q = inside ? *(const float2*)(plane + place + r * e.pitch) : make_float2(0.0f, 0.0f);
        v[0] = q.x, v[1] = q.y;
    };
    {
        const float* us = flow + (size_t)(pair * 2 + from_u) * 2 * size;
        const float* ps = dual + (size_t)(pair * 2 + from_p) * 4 * size;
        const float* fs = fixed + (size_t)pair * 4 * size;
        if constexpr (K > 1) {
            __shared__ float plane[SIDE][SIDE];
            const bool filters = run ? filter : median_of(now);
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) fetch(u[k][r], us + k * size, r);
                if (filters) median<K>(u[k], plane, e.h - 1 - above, e.w - 1 - left);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                if constexpr (K == 1) fetch(u[k][r], us + k * size, r);
                fetch(g[k][r], fs + k * size, r);
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) fetch(p[k][r], ps + k * size, r);
            fetch(slope[r], fs + 2 * size, r);
            fetch(rho[r], fs + 3 * size, r);
        }
    }
#pragma unroll
    for (int k = 0; k < 2; ++k)
        bottom[warp][k][lane] = make_float2(p[2 * k + 1][ROWS - 1][0], p[2 * k + 1][ROWS - 1][1]);
    __syncthreads();

#pragma unroll 1
    for (int i = 0; i < count; ++i) {
        // The primal step. Left of and above the image the dual variables are zero; in tiles further in, what stands
        // there is wrong anyway.
        float moved = 0.0f;
        float2 over[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) over[k] = warp > 0 ? bottom[warp - 1][k][lane] : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            float shift[2];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const float residual = fmaf(g[1][r][c], u[1][r][c], fmaf(g[0][r][c], u[0][r][c], rho[r][c]));
                shift[c] = fmaxf(fminf(residual * slope[r][c], e.threshold), -e.threshold);
            }
            const bool counts = flags & 1u << r;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                float before = __shfl_up_sync(~0u, p[2 * k][r][1], 1);
                if (lane == 0) before = 0.0f;
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float along = p[2 * k][r][c] - (c == 0 ? before : p[2 * k][r][0]);
                    const float up = r == 0 ? (c == 0 ? over[k].x : over[k].y) : p[2 * k + 1][r > 0 ? r - 1 : 0][c];
                    const float down = p[2 * k + 1][r][c] - up;
                    const float old = u[k][r][c], fresh = fmaf(e.theta, along + down, fmaf(shift[c], g[k][r][c], old));
                    u[k][r][c] = fresh;
                    if (counts) moved = fmaf(fresh - old, fresh - old, moved);
                }
            }
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) top[warp][k][lane] = make_float2(u[k][0][0], u[k][0][1]);
#pragma unroll
        for (int o = 16; o > 0; o /= 2) moved += __shfl_xor_sync(~0u, moved, o);
        if (lane == 0) sums[i][warp] = moved;
        __syncthreads();

        // The dual step: forward differences, zero across the image's last column and row. Below the tile's last row
        // the flow goes on unchanged, which is wrong or does not matter.
        float2 under[2];
#pragma unroll
        for (int k = 0; k < 2; ++k)
            under[k] = warp + 1 < WARPS ? top[warp + 1][k][lane] : make_float2(u[k][ROWS - 1][0], u[k][ROWS - 1][1]);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            float gx[2][2], gy[2][2];
            const bool last_row = flags & 16u << r;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const float after = __shfl_down_sync(~0u, u[k][r][0], 1);
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float right = c == 0 ? u[k][r][1] : after;
                    const float below =
                        r + 1 < ROWS ? u[k][r + 1 < ROWS ? r + 1 : 0][c] : (c == 0 ? under[k].x : under[k].y);
                    gx[k][c] = flags & 256u << c ? 0.0f : right - u[k][r][c];
                    gy[k][c] = last_row ? 0.0f : below - u[k][r][c];
                }
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                // One reciprocal for both: 1/a = b · 1/(ab).
                const float a = fmaf(e.step, root(fmaf(gx[0][c], gx[0][c], gy[0][c] * gy[0][c])), 1.0f);
                const float b = fmaf(e.step, root(fmaf(gx[1][c], gx[1][c], gy[1][c] * gy[1][c])), 1.0f);
                const float both = reciprocal(a * b), shrink[2] = {b * both, a * both};
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    p[2 * k][r][c] = fmaf(e.step, gx[k][c], p[2 * k][r][c]) * shrink[k];
                    p[2 * k + 1][r][c] = fmaf(e.step, gy[k][c], p[2 * k + 1][r][c]) * shrink[k];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < 2; ++k)
            bottom[warp][k][lane] = make_float2(p[2 * k + 1][ROWS - 1][0], p[2 * k + 1][ROWS - 1][1]);
        __syncthreads();
    }

    float* us = flow + (size_t)(pair * 2 + (flags >> 10 & 1)) * 2 * size;
    float* ps = dual + (size_t)(pair * 2 + (flags >> 11 & 1)) * 4 * size;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (!(flags & 1u << r)) continue;
        const int at = place + r * e.pitch;
#pragma unroll
        for (int k = 0; k < 2; ++k) *(float2*)(us + k * size + at) = make_float2(u[k][r][0], u[k][r][1]);
#pragma unroll
        for (int k = 0; k < 4; ++k) *(float2*)(ps + k * size + at) = make_float2(p[k][r][0], p[k][r][1]);
    }
    if (flags >> 12 & 1 && threadIdx.x < count) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) sum += sums[threadIdx.x][i];
        next_change[((size_t)pair * e.tiles + tile) * MOST + threadIdx.x] = sum;
    }
}

// Grids: tiles, pairs. Without a median, and with that of each size.
#define ITERATE(NAME, K)                                                                                               \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)                                                        \
        NAME(float* __restrict__ flow, float* __restrict__ dual, const float* __restrict__ fixed,                      \
             const u32* __restrict__ state, u32* __restrict__ next, const float* __restrict__ change,                  \
             float* __restrict__ next_change, const Level e, int most, u32 filter) {                                   \
        iterate<K>(flow, dual, fixed, state, next, change, next_change, e, most, filter);                              \
    }

ITERATE(tvl1_iterate_f32, 1)
ITERATE(tvl1_iterate_3x3_f32, 3)
ITERATE(tvl1_iterate_5x5_f32, 5)
