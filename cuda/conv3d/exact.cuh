// fprop, dgrad and wgrad with FFMA in f32, for any channels and groups, from f32 (`exact.cu`) or bf16 (`grouped.cu`).
//
// The implicit GEMMs have rows, columns and K: fprop (pixel of y), (filter), (tap, channel); dgrad (pixel of one
// residue class of x modulo the stride), (channel), (tap, filter); wgrad (filter), (tap, channel), (pixel of y). Each
// group of channels is a GEMM of its own.
//
// A block of 128 threads computes a 64 x 64 tile, 8 x 4 a thread, over k-blocks of 8. While a k-block is multiplied
// from smem, the next one is loaded into registers; smem is double-buffered.
#pragma once
#include "common/elements.cuh"
#include "conv3d/problem.cuh"

enum Pass { FPROP, DGRAD, WGRAD };

// The operands in smem are [k][64 rows or columns]. The pitch, a multiple of 4, keeps stores free of bank conflicts:
// K_MINOR_PITCH for warps that load 8 of K x 4 rows (K is contiguous in gmem), K_MAJOR_PITCH for 2 of K x 16 columns.
constexpr int K_MINOR_PITCH = 68, K_MAJOR_PITCH = 80;

// Stores up to four neighbours. `quads`: rows of the result begin at multiples of four elements.
template <class T>
__device__ __forceinline__ void store_row(T* __restrict__ to, u32 at, const float (&v)[4], int left, bool quads) {
    if (quads && left >= 4) {
        store<4>(to + at, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if (i < left) (to + at)[i] = from_f32<T>(v[i]);
    }
}

// Iterators: `next` gives a thread its four elements of the operand's next k-block, and advances. `radix` is the number
// of channels in one tap of K, `channels` that of a stored row.

// Operand A of fprop (from x) and dgrad (from dy): rows are pixels, K is (tap, channel).
template <class T>
struct WindowIterator {
    Window row[4];
    KIndex at, step;
    int radix, channels;

    __device__ __forceinline__ WindowIterator(const GatherMap& map, int m0, int tid, int radix, int channels)
        : at(k_index_of(tid & 7, map.taps, radix)),
          step(k_index_of(8, map.taps, radix)),
          radix(radix),
          channels(channels) {
#pragma unroll
        for (int i = 0; i < 4; ++i) row[i] = window_of(map, m0 + (tid >> 3) + 16 * i, channels);
    }
    __device__ __forceinline__ void next(float (&v)[4], const GatherMap& map, const T* __restrict__ from) {
        const Tap tap = tap_of(map, at, channels);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (inside(map, row[i], tap)) v[i] = to_f32(from[(u32)(row[i].at + tap.at)]);
        }
        advance(at, step, map.taps, radix);
    }
};

// Operand B of fprop: columns are filters, contiguous along K. `length`: all of K.
template <class T>
struct FilterIterator {
    int at[4], left, length;

    __device__ __forceinline__ FilterIterator(int n0, int n_end, int tid, int length)
        : left(length - (tid & 7)), length(length) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = n0 + (tid >> 3) + 16 * i;
            at[i] = n < n_end ? n * length + (tid & 7) : -1;
        }
    }
    __device__ __forceinline__ void next(float (&v)[4], const T* __restrict__ from) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (at[i] >= 0 && left > 0) v[i] = to_f32(from[(u32)at[i]]);
            at[i] += at[i] >= 0 ? 8 : 0;
        }
        left -= 8;
    }
};

// Operand B of dgrad: columns are input channels, K is (tap, filter).
template <class T>
struct FilterTransposedIterator {
    KIndex at, step;
    int radix, taps, width, n;

    __device__ __forceinline__ FilterTransposedIterator(const GatherMap& map, int n0, int tid, int radix, int taps,
                                                        int width)
        : at(k_index_of(tid >> 4, map.taps, radix)),
          step(k_index_of(8, map.taps, radix)),
          radix(radix),
          taps(taps),
          width(width),
          n(n0 + (tid & 15)) {}
    __device__ __forceinline__ void next(float (&v)[4], const GatherMap& map, const T* __restrict__ from) {
        const int tap =
            map.filter_first + at.t * map.filter_step[0] + at.h * map.filter_step[1] + at.w * map.filter_step[2];
        const int row = (at.c * taps + tap) * width;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (at.t < map.taps[0] && n + 16 * i < width) v[i] = to_f32(from[(u32)(row + n + 16 * i)]);
        }
        advance(at, step, map.taps, radix);
    }
};

// Operand A of wgrad, from dy: rows are filters, K is pixels `first .. end`.
template <class T>
struct GradientIterator {
    int at, left, channels, m, m_end;

    __device__ __forceinline__ GradientIterator(int first, int end, int m0, int m_end, int tid, int channels)
        : at((first + (tid >> 4)) * channels),
          left(end - first - (tid >> 4)),
          channels(channels),
          m(m0 + (tid & 15)),
          m_end(m_end) {}
    __device__ __forceinline__ void next(float (&v)[4], const T* __restrict__ from) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (left > 0 && m + 16 * i < m_end) v[i] = to_f32(from[(u32)(at + m + 16 * i)]);
        }
        at += 8 * channels;
        left -= 8;
    }
};

// Operand B of wgrad, from x: columns are (tap, channel), K is pixels `first .. end`.
template <class T>
struct WindowTransposedIterator {
    Tap tap[4];
    int pixel, end, channels;

    __device__ __forceinline__ WindowTransposedIterator(const GatherMap& map, int first, int end, int n0, int tid,
                                                        int radix, int channels)
        : pixel(first + (tid >> 4)), end(end), channels(channels) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            tap[i] = tap_of(map, column_index_of(n0 + (tid & 15) + 16 * i, map.taps, radix), channels);
        }
    }
    __device__ __forceinline__ void next(float (&v)[4], const GatherMap& map, const T* __restrict__ from) {
        const Window row = window_of(map, pixel < end ? pixel : map.rows, channels);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (inside(map, row, tap[i])) v[i] = to_f32(from[(u32)(row.at + tap[i].at)]);
        }
        pixel += 8;
    }
};

// acc[8 x 4] += the product of one k-block: rows 4r .. 4r+3 and 32+4r .. 35+4r, columns 4c .. 4c+3.
template <int A, int B>
__device__ __forceinline__ void mma_k_block(float (&acc)[8][4], const float* a, const float* b, int r, int c) {
#pragma unroll 2
    for (int k = 0; k < 8; ++k) {
        const float4 lo = *(const float4*)(a + k * A + r * 4), hi = *(const float4*)(a + k * A + 32 + r * 4);
        const float4 q = *(const float4*)(b + k * B + c * 4);
        const float x[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}, y[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(x[i], y[j], acc[i][j]);
        }
    }
}

// `first` and `second` are the `next` of the iterators of A and B, whose pitches in smem are A and B.
template <int A, int B, class First, class Second>
__device__ __forceinline__ void mainloop(float (&acc)[8][4], int k_blocks, First first, Second second) {
    __shared__ __align__(16) float a[2][8 * A], b[2][8 * B];
    const int tid = threadIdx.x;
    float va[4], vb[4];
    auto put = [&](int at) {
        float* pa = A == K_MINOR_PITCH ? &a[at][(tid & 7) * A + (tid >> 3)] : &a[at][(tid >> 4) * A + (tid & 15)];
        float* pb = B == K_MINOR_PITCH ? &b[at][(tid & 7) * B + (tid >> 3)] : &b[at][(tid >> 4) * B + (tid & 15)];
#pragma unroll
        for (int i = 0; i < 4; ++i) pa[16 * i] = va[i], pb[16 * i] = vb[i];
    };
    if (k_blocks <= 0) return;
    first(va), second(vb);
    put(0);
    __syncthreads();
#pragma unroll 1
    for (int k_block = 0; k_block < k_blocks; ++k_block) {
        const bool more = k_block + 1 < k_blocks;
        if (more) first(va), second(vb);
        mma_k_block<A, B>(acc, a[k_block & 1], b[k_block & 1], tid >> 4, tid & 15);
        // The other buffer was last read before the previous barrier.
        if (more) put(~k_block & 1);
        __syncthreads();
    }
}

template <class T, Pass PASS>
__device__ __forceinline__ void exact(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ bias,
                                      T* __restrict__ out, float* __restrict__ part, const Conv& p) {
    const int tid = threadIdx.x, group = blockIdx.z;
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * 64, m0 = tile * 64;
    const int taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const GatherMap map = PASS == DGRAD ? gather_map_dgrad(p, blockIdx.y) : gather_map_fprop(p);
    float acc[8][4] = {};
    const int r = (tid >> 4) * 4, n = n0 + (tid & 15) * 4;
    if constexpr (PASS == WGRAD) {
        const int first = blockIdx.y * p.split, end = min(first + p.split, map.rows), width = taps * p.c_group;
        WindowTransposedIterator<T> x(map, first, end, n0, tid, p.c_group, p.c);
        GradientIterator<T> dy(first, end, m0, p.k_group, tid, p.k);
        a += group * p.c_group, b += group * p.k_group;
        mainloop<K_MAJOR_PITCH, K_MAJOR_PITCH>(
            acc, (end - first + 7) >> 3, [&](float(&v)[4]) { dy.next(v, b); },
            [&](float(&v)[4]) { x.next(v, map, a); });
        part += ((size_t)blockIdx.y * p.k + group * p.k_group) * width;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int m = m0 + r + (i & 3) + (i >> 2) * 32;
            if (m < p.k_group) store_row(part, (u32)(m * width + n), acc[i], width - n, width % 4 == 0);
        }
    } else {
        if (m0 >= map.rows) return;
        const int radix = PASS == DGRAD ? p.k_group : p.c_group, channels = PASS == DGRAD ? p.k : p.c;
        const int columns = PASS == DGRAD ? p.c_group : p.k_group, width = PASS == DGRAD ? p.c : p.k;
        const int length = map.taps[0] * map.taps[1] * map.taps[2] * radix;
        WindowIterator<T> pixels(map, m0, tid, radix, channels);
        a += group * radix, b += (size_t)group * p.k_group * taps * p.c_group;
        if constexpr (PASS == DGRAD) {
            FilterTransposedIterator<T> filters(map, n0, tid, radix, taps, p.c_group);
            mainloop<K_MINOR_PITCH, K_MAJOR_PITCH>(
                acc, (length + 7) >> 3, [&](float(&v)[4]) { pixels.next(v, map, a); },
                [&](float(&v)[4]) { filters.next(v, map, b); });
        } else {
            FilterIterator<T> filters(n0, columns, tid, length);
            mainloop<K_MINOR_PITCH, K_MINOR_PITCH>(
                acc, (length + 7) >> 3, [&](float(&v)[4]) { pixels.next(v, map, a); },
                [&](float(&v)[4]) { filters.next(v, b); });
        }
        if (PASS == FPROP && bias) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float addend = n + j < columns ? bias[group * columns + n + j] : 0.0f;
#pragma unroll
                for (int i = 0; i < 8; ++i) acc[i][j] += addend;
            }
        }
        const bool quads = width % 4 == 0 && columns % 4 == 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int m = m0 + r + (i & 3) + (i >> 2) * 32;
            if (m < map.rows) {
                const int row = PASS == DGRAD ? input_pixel(p, map, m) : m;
                store_row(out, (u32)(row * width + group * columns + n), acc[i], columns - n, quads);
            }
        }
    }
}

// The passes of `docs/math/conv3d.md`; x is `n t h w c`, w `k kt kh kw c_group`, y and dy `n to ho wo k`; `bias`, one
// number a filter, may be null.
// Grid: x tiles of rows times `column_tiles`; y residue classes (dgrad) or splits of the pixels (wgrad); z groups.
// Split-K: wgrad writes `part` (`splits k taps c_group`), the gradient itself with one split; otherwise
// `conv3d_merge_splits_f32` follows.
// Launched by `ops::conv3d::cuda`.
#define EXACT(T, NAME)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                               \
        conv3d_fprop_exact_##NAME(const T* __restrict__ x, const T* __restrict__ w, const float* __restrict__ bias,    \
                                  T* __restrict__ y, const Conv p) {                                                   \
        exact<T, FPROP>(x, w, bias, y, nullptr, p);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 4) conv3d_dgrad_exact_##NAME(                                    \
        const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, const Conv p) {                         \
        exact<T, DGRAD>(dy, w, nullptr, dx, nullptr, p);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 4) conv3d_wgrad_exact_##NAME(                                    \
        const T* __restrict__ x, const T* __restrict__ dy, float* __restrict__ part, const Conv p) {                   \
        exact<T, WGRAD>(x, dy, nullptr, nullptr, part, p);                                                             \
    }
