// Sums across the threads of a warp and of a block, in a fixed order.
#pragma once

#include "common/elements.cuh"

constexpr u32 ALL_LANES = 0xffffffffu;

// The sum over groups of 2^shift neighbouring lanes, in each lane of the group; all lanes of the warp take part.
template <class T>
__device__ __forceinline__ T sum_group(T v, u32 shift) {
    for (u32 mask = 1u << shift >> 1; mask != 0; mask >>= 1) {
        v += __shfl_xor_sync(ALL_LANES, v, mask);
    }
    return v;
}

// The sum over a warp, in each lane.
template <class T>
__device__ __forceinline__ T sum_warp(T v) {
#pragma unroll
    for (int mask = 16; mask != 0; mask >>= 1) {
        v += __shfl_xor_sync(ALL_LANES, v, mask);
    }
    return v;
}

// The maximum over a warp, in each lane. NaNs are ignored where there is a number.
__device__ __forceinline__ float max_warp(float v) {
#pragma unroll
    for (int mask = 16; mask != 0; mask >>= 1) {
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, mask));
    }
    return v;
}

// A block of 256 threads on a matrix of rows and channels: 2^shift threads along the channels, W channels each, times
// 256 >> shift rows at once. A block has at most TILE channels.

constexpr u32 LANES = 256;
constexpr u32 WARPS = LANES / 32;
constexpr u32 TILE = 64;
// Floats of smem for one row of a block's channels.
constexpr u32 ROOM = TILE + 16;

// The place of a channel in such a row. With W = 8, the two halves of a thread's channels are stored apart, which
// avoids bank conflicts of both 16-byte accesses by threads and accesses by channel.
template <int W>
__device__ __forceinline__ u32 slot(u32 channel) {
    return W == 8 ? (channel >> 3) * 4 + (channel & 3) + (channel & 4) * 12 : channel;
}

// Stores (`put`) and loads (`get`) the W channels of thread `across` along the channels.
template <int W>
__device__ __forceinline__ void put(float* row, u32 across, const float (&v)[W]) {
    if constexpr (W == 8) {
        store<4>(row + across * 4, {v[0], v[1], v[2], v[3]});
        store<4>(row + 48 + across * 4, {v[4], v[5], v[6], v[7]});
    } else {
        store<W>(row + across * W, v);
    }
}

template <int W>
__device__ __forceinline__ void get(const float* row, u32 across, float (&v)[W]) {
    if constexpr (W == 8) {
        float low[4], high[4];
        load<4>(row + across * 4, low);
        load<4>(row + 48 + across * 4, high);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            v[k] = low[k], v[k + 4] = high[k];
        }
    } else {
        load<W>(row + across * W, v);
    }
}

// The channels and the first row of a thread.
struct Lane {
    u32 channel;  // first of its W
    u32 row;      // of the rows the block reads at once
    u32 step;     // how many those are
};

template <int W>
__device__ __forceinline__ Lane lane_of(u32 tile, u32 shift) {
    u32 across = threadIdx.x & ((1u << shift) - 1);
    return {((tile << shift) + across) * W, threadIdx.x >> shift, LANES >> shift};
}

// Sums S values of W channels over the rows of a block: within a warp by shuffles, across warps through `space` (smem),
// in order. Thread i < (W << shift) gets the S sums of channel i of the block, the others zeros. All threads call it;
// `space` may be reused after the next barrier.
template <int S, int W>
__device__ __forceinline__ void sum_rows(float (&v)[S][W], float (&sum)[S], float* space, u32 shift) {
#pragma unroll
    for (int s = 0; s < S; ++s) {
#pragma unroll
        for (int k = 0; k < W; ++k) {
            for (u32 mask = 16; mask >> shift != 0; mask >>= 1) {
                v[s][k] += __shfl_xor_sync(ALL_LANES, v[s][k], mask);
            }
        }
    }
    u32 width = W << shift, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane >> shift == 0) {
#pragma unroll
        for (int s = 0; s < S; ++s) {
            put<W>(space + (warp * S + s) * ROOM, lane, v[s]);
        }
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < S; ++s) {
        sum[s] = 0.0f;
        if (threadIdx.x < width) {
#pragma unroll
            for (u32 w = 0; w < WARPS; ++w) {
                sum[s] += space[(w * S + s) * ROOM + slot<W>(threadIdx.x)];
            }
        }
    }
}
