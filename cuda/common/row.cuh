// Rows of a matrix, one warp a row: read once, and kept in registers as far as they fit.
#pragma once

#include "common/elements.cuh"

// One row, spread over a warp: lane l works on W elements from every (l + 32 k) W on, and holds the first HELD of them.
template <class T, int W, int HELD>
struct Row {
    static constexpr int PARTS = HELD / W;
    const T* __restrict__ from;
    u32 d;
    float held[PARTS][W];

    __device__ __forceinline__ Row(const T* __restrict__ from, u32 d) : from(from), d(d) {
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            read(p, held[p]);
        }
    }

    __device__ __forceinline__ u32 place(u32 part) const { return (part * 32 + threadIdx.x % 32) * W; }

    // Part `part` of the lane; zeros past the end.
    __device__ __forceinline__ void read(u32 part, float (&v)[W]) const {
        u32 i = place(part);
        if (i < d) {
            load<W>(from + i, v);
        } else {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                v[k] = 0.0f;
            }
        }
    }
};
