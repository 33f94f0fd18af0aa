// Fixed-width integers, the storage type bf16, and conversions between stored numbers and f32. No CUDA header is
// needed.
//
// Arithmetic is always f32 (or f64); f32 and bf16 are types of storage. Rounding to bf16 is to nearest, ties to even.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// bfloat16 as it is stored: the upper half of an f32.
struct bf16 {
    u16 bits;
};

// Two bf16 of one 32-bit word as f32; `lo` comes first in memory. Exact.
__device__ __forceinline__ float bf16_lo(u32 pair) {
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float bf16_hi(u32 pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

// Rounds two f32 to one 32-bit word of bf16.
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

// A stored number as f32. Exact.
__device__ __forceinline__ float to_f32(float v) {
    return v;
}
__device__ __forceinline__ float to_f32(bf16 v) {
    return __uint_as_float((u32)v.bits << 16);
}

// f32 as a stored number.
template <class T>
__device__ __forceinline__ T from_f32(float v);
template <>
__device__ __forceinline__ float from_f32<float>(float v) {
    return v;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
