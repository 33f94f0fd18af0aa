// Rows of a matrix, a warp a row: read once and held in registers as far as they go.
#pragma once

#include "common/elements.cuh"

/// One row, spread over a warp: lane l works on W elements from every (l + 32 k) W on, and holds the first HELD of them.
template <class T, int W, int HELD> struct Row {
    static constexpr int PARTS = HELD / W;
    const T *__restrict__ from;
    unsigned d;
    float held[PARTS][W];

    __device__ __forceinline__ Row(const T *__restrict__ from, unsigned d) : from(from), d(d) {
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            read(p, held[p]);
        }
    }

    __device__ __forceinline__ unsigned place(unsigned part) const { return (part * 32 + threadIdx.x % 32) * W; }

    /// Part `part` of the lane; zeros past the end.
    __device__ __forceinline__ void read(unsigned part, float (&v)[W]) const {
        unsigned i = place(part);
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
