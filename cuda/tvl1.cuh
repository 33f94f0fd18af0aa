// What the TV-L1 kernels share: the state of a pair and the extents of a pyramid level.
#pragma once
#include "common/types.cuh"

// Most iterations of a launch: one for each lane of a warp.
#define MOST 32

// Phases of a pair within a warp: iterating; repeating iterations of the last launch from the previous copy; done.
#define RUNNING 0u
#define AGAIN 1u
#define DONE 2u

// What a warp starts from: the result of the previous warp on the level, the flow of the coarser level, or zero.
#define GO_ON 0
#define FROM_COARSER 1
#define FROM_REST 2

// A pair's state in one word: the phase, which copies of the flow and of the dual variables are the present ones, and of
// the last launch (RUNNING) or the one to be run again (AGAIN), whether it began with the median and its iterations.
__device__ __forceinline__ u32 pack_state(u32 phase, u32 flow, u32 dual, u32 median, u32 count) {
    return phase | flow << 2 | dual << 3 | median << 4 | count << 5;
}
__device__ __forceinline__ u32 phase(u32 s) {
    return s & 3;
}
__device__ __forceinline__ u32 flow_copy(u32 s) {
    return s >> 2 & 1;
}
__device__ __forceinline__ u32 dual_copy(u32 s) {
    return s >> 3 & 1;
}
__device__ __forceinline__ u32 median_of(u32 s) {
    return s >> 4 & 1;
}
__device__ __forceinline__ u32 count_of(u32 s) {
    return s >> 5;
}

// Arguments of tvl1_resample_f32, as in ops/tvl1/cuda.rs: source pixels per target pixel; planes of a pair; the source's
// extents; the target's, and its planes from one pair to the next; the factor; planes of the first source.
struct Resample {
    double ratio_x, ratio_y;
    int planes, h, w, pitch;
    int to_h, to_w, to_pitch, to_step;
    float gain;
    int first;
};

// A level of the pyramid, as in ops/tvl1/cuda.rs.
struct Level {
    // Extents, and numbers from row to row of the solver's planes.
    int h, w, pitch;
    // Tiles of tvl1_iterate_f32 in a row and in all.
    int tiles_x, tiles;
    // Pixels that a tile reads beyond its own on each side: at least the iterations of a launch.
    int halo;
    // A pair stops where the sum of squared changes of an iteration is at most this.
    float stop;
    // lambda theta, theta, tau / theta.
    float threshold, theta, step;
};

// The state of a pair after what its last launch left is looked at: `change[pair][tile][MOST]` holds the sum of squared
// changes of each of its iterations. Every thread of the block calls this and gets the same.
__device__ __forceinline__ u32 resolve(u32 state, const float* change, int pair, const Level& e) {
    __shared__ u32 shared_state;
    const u32 count = count_of(state);
    if (phase(state) != RUNNING || count == 0) return state;
    if (threadIdx.x < 32) {
        float sum = 0.0f;
        if (threadIdx.x < count) {
            const float* c = change + (size_t)pair * e.tiles * MOST + threadIdx.x;
#pragma unroll 4
            for (int i = 0; i < e.tiles; ++i) sum += c[i * MOST];
        }
        const u32 met = __ballot_sync(~0u, threadIdx.x < count && sum <= e.stop);
        if (threadIdx.x == 0) {
            const u32 ran = __ffs(met);
            const u32 next = met == 0 ? RUNNING : ran == count ? DONE : AGAIN;
            shared_state =
                pack_state(next, flow_copy(state), dual_copy(state), median_of(state), next == AGAIN ? ran : 0);
        }
    }
    __syncthreads();
    return shared_state;
}
