// Element-wise kernels: loads and stores of f32 or bf16 as f32, one at a time or up to sixteen bytes at once, and the
// grid that goes over the elements of a tensor.
#pragma once
#include "common/types.cuh"

// Elements of type T in sixteen bytes.
template <class T>
constexpr int WIDE = 16 / sizeof(T);

// The W elements at `from`, which is aligned to all of them: W is 1, 4 or 8.
template <int W>
__device__ __forceinline__ void load(const float* __restrict__ from, float (&v)[W]) {
    if constexpr (W == 1) {
        v[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            float4 q = *reinterpret_cast<const float4*>(from + i);
            v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
        }
    }
}

template <int W>
__device__ __forceinline__ void load(const bf16* __restrict__ from, float (&v)[W]) {
    if constexpr (W == 1) {
        v[0] = to_f32(*from);
    } else if constexpr (W == 4) {
        uint2 q = *reinterpret_cast<const uint2*>(from);
        v[0] = bf16_lo(q.x), v[1] = bf16_hi(q.x), v[2] = bf16_lo(q.y), v[3] = bf16_hi(q.y);
    } else {
        static_assert(W == 8, "sixteen bytes");
        uint4 q = *reinterpret_cast<const uint4*>(from);
        v[0] = bf16_lo(q.x), v[1] = bf16_hi(q.x), v[2] = bf16_lo(q.y), v[3] = bf16_hi(q.y);
        v[4] = bf16_lo(q.z), v[5] = bf16_hi(q.z), v[6] = bf16_lo(q.w), v[7] = bf16_hi(q.w);
    }
}

// Writes W elements to `to`, which is aligned to all of them.
template <int W>
__device__ __forceinline__ void store(float* to, const float (&v)[W]) {
    if constexpr (W == 1) {
        *to = v[0];
    } else {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        }
    }
}

template <int W>
__device__ __forceinline__ void store(bf16* to, const float (&v)[W]) {
    if constexpr (W == 1) {
        *to = from_f32<bf16>(v[0]);
    } else if constexpr (W == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
    } else {
        static_assert(W == 8, "sixteen bytes");
        *reinterpret_cast<uint4*>(to) =
            make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
}

// Threads of a block of every kernel that goes element by element.
constexpr u32 BLOCK = 256;

// Has each thread work on its W neighbours of `n` elements by `f.at<W>(first)`; the thread that meets the end works one
// by one, `f.at<1>(i)`. Launched with a block for every `BLOCK * W` elements.
template <int W, class F>
__device__ __forceinline__ void for_elements(u32 n, const F& f) {
    u32 first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= n) {
        return;
    }
    if (n - first >= W) {
        f.template at<W>(first);
        return;
    }
#pragma unroll 1
    for (u32 i = first; i < n; ++i) {
        f.template at<1>(i);
    }
}
