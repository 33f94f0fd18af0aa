// Stored numbers, f32 or bf16, read and written as f32: one at a time, or sixteen bytes where a run of them is aligned.
// Rounding to bf16 is to nearest even. Arithmetic is always f32.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

/// bfloat16 as it lies in memory.
struct bf16 {
    unsigned short bits;
};

/// Elements of type T in sixteen bytes.
template <class T> constexpr int WIDE = 16 / sizeof(T);

__device__ __forceinline__ float widen(float v) { return v; }

__device__ __forceinline__ float widen(bf16 v) { return __uint_as_float((unsigned)v.bits << 16); }

/// Two numbers as bf16, `low` in the lower half.
__device__ __forceinline__ unsigned narrow_pair(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <class T> __device__ __forceinline__ T narrow(float v);

template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }

template <> __device__ __forceinline__ bf16 narrow<bf16>(float v) { return {(unsigned short)narrow_pair(v, 0.0f)}; }

/// The W elements at `from`, which is aligned to all of them: W is 1, 4 or 8.
template <int W> __device__ __forceinline__ void load(const float *__restrict__ from, float (&v)[W]) {
    if constexpr (W == 1) {
        v[0] = *from;
    } else {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            float4 q = *reinterpret_cast<const float4 *>(from + i);
            v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
        }
    }
}

__device__ __forceinline__ void widen_pair(unsigned pair, float &low, float &high) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}

template <int W> __device__ __forceinline__ void load(const bf16 *__restrict__ from, float (&v)[W]) {
    if constexpr (W == 1) {
        v[0] = widen(*from);
    } else if constexpr (W == 4) {
        uint2 q = *reinterpret_cast<const uint2 *>(from);
        widen_pair(q.x, v[0], v[1]), widen_pair(q.y, v[2], v[3]);
    } else {
        static_assert(W == 8, "sixteen bytes");
        uint4 q = *reinterpret_cast<const uint4 *>(from);
        widen_pair(q.x, v[0], v[1]), widen_pair(q.y, v[2], v[3]);
        widen_pair(q.z, v[4], v[5]), widen_pair(q.w, v[6], v[7]);
    }
}

/// Writes W elements to `to`, which is aligned to all of them.
template <int W> __device__ __forceinline__ void store(float *to, const float (&v)[W]) {
    if constexpr (W == 1) {
        *to = v[0];
    } else {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            *reinterpret_cast<float4 *>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        }
    }
}

template <int W> __device__ __forceinline__ void store(bf16 *to, const float (&v)[W]) {
    if constexpr (W == 1) {
        *to = narrow<bf16>(v[0]);
    } else if constexpr (W == 4) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(narrow_pair(v[0], v[1]), narrow_pair(v[2], v[3]));
    } else {
        static_assert(W == 8, "sixteen bytes");
        *reinterpret_cast<uint4 *>(to) = make_uint4(narrow_pair(v[0], v[1]), narrow_pair(v[2], v[3]),
                                                    narrow_pair(v[4], v[5]), narrow_pair(v[6], v[7]));
    }
}

/// Threads of a block of every kernel that goes element by element.
constexpr unsigned BLOCK = 256;

/// Has each thread work on its W neighbours of `n` elements by `f.at<W>(first)`; the thread that meets the end works one
/// by one, `f.at<1>(i)`. Launched with a block for every `BLOCK * W` elements.
template <int W, class F> __device__ __forceinline__ void for_elements(unsigned n, const F &f) {
    unsigned first = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (first >= n) {
        return;
    }
    if (n - first >= W) {
        f.template at<W>(first);
        return;
    }
#pragma unroll 1
    for (unsigned i = first; i < n; ++i) {
        f.template at<1>(i);
    }
}
