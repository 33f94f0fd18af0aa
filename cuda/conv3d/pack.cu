// Pixels and filters of a stem as the kernels for Hopper read them (`stem_sm90.cuh`). Blocks of 256 threads. Launched by
// `ops::conv3d::cuda`.
#include "common/divisor.cuh"

__device__ __forceinline__ u32 bits_of(bf16 v) {
    return v.bits;
}
__device__ __forceinline__ u32 bits_of(float v) {
    return from_f32<bf16>(v).bits;
}

// A pixel, or a tap of a filter, as four channels; one that is not there is zero.
template <class T>
__device__ __forceinline__ uint2 packed(const T* __restrict__ pixel, bool there, int channels) {
    u32 v[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) v[c] = there && c < channels ? bits_of(pixel[c]) : 0;
    return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
}

// `dst` (`lines pitch 4`) = `src` (`lines width channels`) rounded to bf16, where `pitch` is the even number that is `width`
// or one more. A thread has two pixels; `pairs.by` is half of the pitch.
template <class T>
__device__ __forceinline__ void pack_pixels(const T* __restrict__ src, bf16* __restrict__ dst, int lines, int width,
                                            int channels, const Divisor& pairs) {
    const u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= (u32)lines * pairs.by) return;
    const u32 line = quotient(i, pairs), w = (i - line * pairs.by) * 2;
    const T* from = src + (size_t)(line * (u32)width + w) * channels;
    const uint2 a = packed(from, true, channels), b = packed(from + channels, (int)w + 1 < width, channels);
    *(uint4*)(dst + (size_t)i * 8) = make_uint4(a.x, a.y, b.x, b.y);
}

extern "C" __global__ void __launch_bounds__(256)
    conv3d_pack_pixels_bf16(const bf16* __restrict__ src, bf16* __restrict__ dst, int lines, int width, int channels,
                            const Divisor pairs) {
    pack_pixels(src, dst, lines, width, channels, pairs);
}

extern "C" __global__ void __launch_bounds__(256)
    conv3d_pack_pixels_f32_bf16(const float* __restrict__ src, bf16* __restrict__ dst, int lines, int width,
                                int channels, const Divisor pairs) {
    pack_pixels(src, dst, lines, width, channels, pairs);
}

// `dst` = the filters `src` (`k lines taps channels`, `lines` are those of all frames) as core matrices: for each line
// `pairs` pairs of taps, of each `rows` filters, of each eight numbers. What is beyond the taps, channels and filters is
// zero. One thread for each such eight.
extern "C" __global__ void __launch_bounds__(256)
    conv3d_pack_filters_bf16(const bf16* __restrict__ src, bf16* __restrict__ dst, int k, int rows, int lines, int taps,
                             int channels, int pairs) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= lines * pairs * rows) return;
    const int chunk = i / rows, filter = i - chunk * rows, line = chunk / pairs, tap = (chunk - line * pairs) * 2;
    const bf16* from = src + (size_t)((filter * lines + line) * taps + tap) * channels;
    const uint2 a = packed(from, filter < k && tap < taps, channels),
                b = packed(from + channels, filter < k && tap + 1 < taps, channels);
    *(uint4*)(dst + (size_t)i * 8) = make_uint4(a.x, a.y, b.x, b.y);
}
