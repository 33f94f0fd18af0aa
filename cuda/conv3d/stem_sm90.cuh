// Stems (at most 4 input channels, stride 2 along a line) with TMA and wgmma. For `compute_90a` only.
//
// Pixels are packed to 4 channels of bf16: 8 bytes. In smem lie lines of x as they are in gmem, from the first pixel of
// the padding on, and zero where they are outside. The window of an output begins 16 bytes behind that of its
// neighbour, and two taps of it are 16 bytes: the rows of a core matrix of wgmma are the pairs of taps of eight outputs
// that follow each other, and the next pair is 16 bytes further. So operands without swizzle, whose core matrices
// overlap, are the windows of a line, and no window is copied apart. A line of the filter has an even number of taps
// here, the last of which may be one of zeros: the pixel behind a window must be finite.
#pragma once
#include "common/wgmma_plain.cuh"
#include "conv3d/epilogue.cuh"
#include "conv3d/problem.cuh"

// How frames are cut, from the host: field for field as `Stem` of `ops::conv3d::cuda::stem`.
struct Stem {
    int columns;       // outputs of a line in a tile
    int lines;         // lines of the result in a tile
    int width;         // pixels of a line of x in smem
    int height;        // lines of x in smem
    int column_tiles;  // tiles of a line, and of the lines of a frame
    int line_tiles;
    int steps;  // sixteen k are four taps: how many of them a line of the filter has
    int stages;
};

constexpr int PIXEL_BYTES = 8, TAP_PAIR_BYTES = 16, MOST_STEM_STAGES = 8;

// A tile of the result, or of wgrad a unit of K: part of the lines of a frame.
struct StemPlace {
    int n, t, h, w;
};

__device__ __forceinline__ StemPlace stem_place(const Stem& stem, int frames, int tile) {
    StemPlace at;
    const int row = tile / stem.column_tiles, frame = row / stem.line_tiles;
    at.w = (tile - row * stem.column_tiles) * stem.columns;
    at.h = (row - frame * stem.line_tiles) * stem.lines;
    at.n = frame / frames, at.t = frame - at.n * frames;
    return at;
}

// The ring of stages: one is full after the producer's arrival and its bytes, and free after one arrival of each warp
// that reads it.
struct StemRing {
    u32 stages, full, freed;
    int bytes, count, index = 0;
    u32 parity = 0;

    // By all threads of the block, of which `readers` warps read; `others` barriers behind those of the ring are
    // initialised for one arrival each.
    __device__ __forceinline__ StemRing(u32 stages, u32 barriers, int bytes, int count, int readers, int others)
        : stages(stages), full(barriers), freed(barriers + 8 * MOST_STEM_STAGES), bytes(bytes), count(count) {
        if (threadIdx.x == 0) {
            for (int s = 0; s < count; ++s) barrier_init(full + 8 * s, 1), barrier_init(freed + 8 * s, readers);
            for (int i = 0; i < others; ++i) barrier_init(freed + 8 * (MOST_STEM_STAGES + i), 1);
            barrier_init_done();
        }
        __syncthreads();
    }

    __device__ __forceinline__ u32 stage() const { return stages + index * bytes; }
    __device__ __forceinline__ u32 arrived() const { return full + 8 * index; }
    __device__ __forceinline__ void wait_full() const { barrier_wait(full + 8 * index, parity); }

    // The producer: waits until the stage is free, and announces what it copies there.
    __device__ __forceinline__ void acquire(u32 copied) const {
        barrier_wait(freed + 8 * index, parity ^ 1);
        barrier_arrive_expect(full + 8 * index, copied);
    }

    // A warp is done with a stage.
    __device__ __forceinline__ void release(int stage) const {
        if ((threadIdx.x & 31) == 0) barrier_arrive(freed + 8 * stage);
    }

    __device__ __forceinline__ void next() {
        if (++index == count) index = 0, parity ^= 1;
    }
};

__device__ __forceinline__ int aligned(int bytes, int to) {
    return (bytes + to - 1) & -to;
}

// The frame of x that tap `tap` of a frame of the result reads, and whether it is outside: then it is left out.
__device__ __forceinline__ int frame_of(const Conv& p, int t, int tap) {
    return t * p.stride[0] - p.pad[0] + tap * p.dilation[0];
}
__device__ __forceinline__ bool outside(const Conv& p, int frame) {
    return (u32)frame >= (u32)p.in[0];
}
