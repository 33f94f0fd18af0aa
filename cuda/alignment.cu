// Channel maps of the alignment losses and the adjoints of the map, in f32. Features are `[rows area c]`: frames,
// positions, channels.
//
// map_weights: `w [rows c]`, the mean of g over the positions of each frame. map_forward: `m [rows area]`, the dot
// product of w and f at each position. map_backward_g and map_backward_f: the adjoints of the map for g and f.
//
// Grid of map_weights, map_backward_g and map_backward_f: one block of 256 for each frame and tile of at most 64
// channels. The block has the means of its channels before it writes, so each adjoint is one launch. Grid of
// map_forward: one warp a position. All are memory-bound and read each feature once, 16 bytes a thread. Launched by
// `ops::alignment::cuda`.
#include "common/elements.cuh"
#include "common/reduce.cuh"

enum Pass { WEIGHTS, BACKWARD_G, BACKWARD_F };

// The means over a frame of `x`, times `d` for g; written as they are, at every position for g, times `d` there for f.
template <int W, Pass PASS>
__device__ __forceinline__ void columns(const float* __restrict__ x, const float* __restrict__ d,
                                        float* __restrict__ to, u32 area, u32 c, u32 tiles, u32 shift) {
    __shared__ __align__(16) float space[WARPS * ROOM];
    u32 row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    Lane lane = lane_of<W>(tile, shift);
    u64 first = (u64)row * area * c + lane.channel;
    const float* factor = d + row * area;
    float sum[1][W] = {}, total[1], v[W];
    if (lane.channel < c) {
#pragma unroll 4
        for (u32 q = lane.row; q < area; q += lane.step) {
            load<W>(x + first + (u64)q * c, v);
            float by = PASS == BACKWARD_G ? factor[q] : 1.0f;
#pragma unroll
            for (int k = 0; k < W; ++k) {
                sum[0][k] = PASS == BACKWARD_G ? fmaf(v[k], by, sum[0][k]) : sum[0][k] + v[k];
            }
        }
    }
    sum_rows<1, W>(sum, total, space, shift);
    float mean = total[0] / (float)area;
    u32 width = W << shift;
    if constexpr (PASS == WEIGHTS) {
        u32 channel = tile * width + threadIdx.x;
        if (threadIdx.x < width && channel < c) {
            to[row * c + channel] = mean;
        }
    } else {
        __syncthreads();
        if (threadIdx.x < width) {
            space[slot<W>(threadIdx.x)] = mean;
        }
        __syncthreads();
        if (lane.channel < c) {
            float w[W];
            get<W>(space, threadIdx.x & ((1u << shift) - 1), w);
#pragma unroll 4
            for (u32 q = lane.row; q < area; q += lane.step) {
                float by = PASS == BACKWARD_F ? factor[q] : 1.0f;
#pragma unroll
                for (int k = 0; k < W; ++k) {
                    v[k] = PASS == BACKWARD_F ? w[k] * by : w[k];
                }
                store<W>(to + first + (u64)q * c, v);
            }
        }
    }
}

// A warp a cell.
template <int W>
__device__ __forceinline__ void map(const float* __restrict__ w, const float* __restrict__ f, float* __restrict__ m,
                                    u32 cells, u32 area, u32 c) {
    u32 cell = blockIdx.x * WARPS + threadIdx.x / 32;
    if (cell >= cells) {
        return;  // the whole warp
    }
    const float *weights = w + cell / area * c, *from = f + (u64)cell * c;
    float sum[W] = {}, a[W], b[W];
#pragma unroll 4
    for (u32 k = threadIdx.x % 32 * W; k < c; k += 32 * W) {
        load<W>(weights + k, a);
        load<W>(from + k, b);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            sum[i] = fmaf(a[i], b[i], sum[i]);
        }
    }
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < W; ++i) {
        all += sum[i];
    }
    all = sum_warp(all);
    if (threadIdx.x % 32 == 0) {
        m[cell] = all;
    }
}

// map_weights: `w[rows c]`, the means over the `area` positions of each frame of g. map_backward_g: the mean over
// positions of d f, at each of them. map_backward_f: the mean of g times d. Grid: a block of 256 for each of `tiles`
// runs of channels of every row; 2^shift threads lie along the channels. Wide: c is a multiple of 4. Launched by
// `ops::alignment::{map_forward, map_backward_g, map_backward_f}`.
#define COLUMNS(NAME, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) alignment_map_weights_##NAME(                                    \
        const float* __restrict__ g, float* __restrict__ w, u32 area, u32 c, u32 tiles, u32 shift) {                   \
        columns<W, WEIGHTS>(g, nullptr, w, area, c, tiles, shift);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        alignment_map_backward_g_##NAME(const float* __restrict__ f, const float* __restrict__ d,                      \
                                        float* __restrict__ dg, u32 area, u32 c, u32 tiles, u32 shift) {               \
        columns<W, BACKWARD_G>(f, d, dg, area, c, tiles, shift);                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        alignment_map_backward_f_##NAME(const float* __restrict__ g, const float* __restrict__ d,                      \
                                        float* __restrict__ df, u32 area, u32 c, u32 tiles, u32 shift) {               \
        columns<W, BACKWARD_F>(g, d, df, area, c, tiles, shift);                                                       \
    }

// `m = Σ_c w f` for each of the cells. Grid: a block of 256 for every 8 cells. Wide: c is a multiple of 4. Launched by
// `ops::alignment::map_forward`.
#define MAP(NAME, W)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) alignment_map_forward_##NAME(                                    \
        const float* __restrict__ w, const float* __restrict__ f, float* __restrict__ m, u32 cells, u32 area, u32 c) { \
        map<W>(w, f, m, cells, area, c);                                                                               \
    }

COLUMNS(wide_f32, 4)
COLUMNS(single_f32, 1)
MAP(wide_f32, 4)
MAP(single_f32, 1)
