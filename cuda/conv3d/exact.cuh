// All three passes in f32 arithmetic, for any channels and groups, from f32 or bf16 storage.
//
// A block of 128 threads computes 64 x 64 of the product over blocks of 8 of the depth, each thread 8 x 4. The next
// blocks of both operands travel through registers while the current ones are multiplied. Rows, columns and depth are:
// fprop (pixel, k, (tap, c)); dgrad (pixel of a residue class, c, (tap, k)); wgrad (k, (tap, c), pixel). Each group of
// channels is a product of its own.
#pragma once
#include "common/elements.cuh"
#include "conv3d/problem.cuh"

enum Pass { FPROP, DGRAD, WGRAD };

// Operands lie in shared memory as [depth][64 rows or columns]. The row's length, a multiple of four, makes stores free
// of bank conflicts: DEEP_PITCH ones by lanes of 8 depths x 4 rows, WIDE_PITCH ones by lanes of 2 depths x 16 columns.
constexpr int DEEP_PITCH = 68, WIDE_PITCH = 80;

// Up to four neighbours; `quads`: rows of the result begin at multiples of four elements.
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

// Four elements of an operand for one block of the depth. Pixels gathered along the depth: fprop's x and dgrad's dy.
template <class T>
struct Gathered {
    Row row[4];
    Depth at, step;
    int radix, channels;

    __device__ __forceinline__ Gathered(const Walk& walk, int m0, int tid, int radix, int channels)
        : at(depth_of(tid & 7, walk.taps, radix)),
          step(depth_of(8, walk.taps, radix)),
          radix(radix),
          channels(channels) {
#pragma unroll
        for (int i = 0; i < 4; ++i) row[i] = row_of(walk, m0 + (tid >> 3) + 16 * i, channels);
    }
    __device__ __forceinline__ void next(float (&v)[4], const Walk& walk, const T* __restrict__ from) {
        const Tap tap = tap_of(walk, at, channels);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (inside(walk, row[i], tap)) v[i] = to_f32(from[(u32)(row[i].at + tap.at)]);
        }
        advance(at, step, walk.taps, radix);
    }
};

// fprop's filters, contiguous along the depth.
template <class T>
struct Along {
    int at[4], left, depth;

    __device__ __forceinline__ Along(int n0, int n_end, int tid, int depth) : left(depth - (tid & 7)), depth(depth) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = n0 + (tid >> 3) + 16 * i;
            at[i] = n < n_end ? n * depth + (tid & 7) : -1;
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

// dgrad's filters: a depth (tap, k) is a row of channels.
template <class T>
struct Across {
    Depth at, step;
    int radix, taps, width, n;

    __device__ __forceinline__ Across(const Walk& walk, int n0, int tid, int radix, int taps, int width)
        : at(depth_of(tid >> 4, walk.taps, radix)),
          step(depth_of(8, walk.taps, radix)),
          radix(radix),
          taps(taps),
          width(width),
          n(n0 + (tid & 15)) {}
    __device__ __forceinline__ void next(float (&v)[4], const Walk& walk, const T* __restrict__ from) {
        const int tap =
            walk.filter_first + at.t * walk.filter_step[0] + at.h * walk.filter_step[1] + at.w * walk.filter_step[2];
        const int row = (at.c * taps + tap) * width;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (at.t < walk.taps[0] && n + 16 * i < width) v[i] = to_f32(from[(u32)(row + n + 16 * i)]);
        }
        advance(at, step, walk.taps, radix);
    }
};

// wgrad's dy: a depth is a pixel's channels.
template <class T>
struct Pixels {
    int at, left, channels, m, m_end;

    __device__ __forceinline__ Pixels(int first, int end, int m0, int m_end, int tid, int channels)
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

// wgrad's x: a depth is a pixel, a column a channel of the window there.
template <class T>
struct Windows {
    Tap tap[4];
    int pixel, end, channels;

    __device__ __forceinline__ Windows(const Walk& walk, int first, int end, int n0, int tid, int radix, int channels)
        : pixel(first + (tid >> 4)), end(end), channels(channels) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = n0 + (tid & 15) + 16 * i, place = n / radix;
            Depth d;
            d.c = n - place * radix;
            d.t = place / (walk.taps[1] * walk.taps[2]);
            d.h = place / walk.taps[2] % walk.taps[1];
            d.w = place % walk.taps[2];
            tap[i] = tap_of(walk, d, channels);
        }
    }
    __device__ __forceinline__ void next(float (&v)[4], const Walk& walk, const T* __restrict__ from) {
        const Row row = row_of(walk, pixel < end ? pixel : walk.rows, channels);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            v[i] = 0.0f;
            if (inside(walk, row, tap[i])) v[i] = to_f32(from[(u32)(row.at + tap[i].at)]);
        }
        pixel += 8;
    }
};

// acc[8 x 4] += the product of one block of the depth; rows are r*4 .. and 32 + r*4 .., columns c*4 ...
template <int A, int B>
__device__ __forceinline__ void multiply_8(float (&acc)[8][4], const float* a, const float* b, int r, int c) {
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

// `first` and `second` give the next four elements of either operand; A and B are DEEP_PITCH or WIDE_PITCH after their lanes.
template <int A, int B, class First, class Second>
__device__ __forceinline__ void product(float (&acc)[8][4], int blocks, First first, Second second) {
    __shared__ __align__(16) float a[2][8 * A], b[2][8 * B];
    const int tid = threadIdx.x;
    float va[4], vb[4];
    auto put = [&](int at) {
        float* pa = A == DEEP_PITCH ? &a[at][(tid & 7) * A + (tid >> 3)] : &a[at][(tid >> 4) * A + (tid & 15)];
        float* pb = B == DEEP_PITCH ? &b[at][(tid & 7) * B + (tid >> 3)] : &b[at][(tid >> 4) * B + (tid & 15)];
#pragma unroll
        for (int i = 0; i < 4; ++i) pa[16 * i] = va[i], pb[16 * i] = vb[i];
    };
    if (blocks <= 0) return;
    first(va), second(vb);
    put(0);
    __syncthreads();
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
        const bool more = block + 1 < blocks;
        if (more) first(va), second(vb);
        multiply_8<A, B>(acc, a[block & 1], b[block & 1], tid >> 4, tid & 15);
        // The other halves were last read before the previous barrier.
        if (more) put(~block & 1);
        __syncthreads();
    }
}

template <class T, Pass PASS>
__device__ __forceinline__ void exact(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ bias,
                                      T* __restrict__ out, float* __restrict__ part, const Conv& p) {
    const int tid = threadIdx.x, group = blockIdx.z;
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * 64, m0 = tile * 64;
    const int taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
    const Walk walk = PASS == DGRAD ? walk_backward(p, blockIdx.y) : walk_forward(p);
    float acc[8][4] = {};
    const int r = (tid >> 4) * 4, n = n0 + (tid & 15) * 4;
    if constexpr (PASS == WGRAD) {
        const int first = blockIdx.y * p.split, end = min(first + p.split, walk.rows), width = taps * p.c_group;
        Windows<T> x(walk, first, end, n0, tid, p.c_group, p.c);
        Pixels<T> dy(first, end, m0, p.k_group, tid, p.k);
        a += group * p.c_group, b += group * p.k_group;
        product<WIDE_PITCH, WIDE_PITCH>(
            acc, (end - first + 7) >> 3, [&](float(&v)[4]) { dy.next(v, b); },
            [&](float(&v)[4]) { x.next(v, walk, a); });
        part += ((size_t)blockIdx.y * p.k + group * p.k_group) * width;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int m = m0 + r + (i & 3) + (i >> 2) * 32;
            if (m < p.k_group) store_row(part, (u32)(m * width + n), acc[i], width - n, width % 4 == 0);
        }
    } else {
        if (m0 >= walk.rows) return;
        const int radix = PASS == DGRAD ? p.k_group : p.c_group, channels = PASS == DGRAD ? p.k : p.c;
        const int columns = PASS == DGRAD ? p.c_group : p.k_group, width = PASS == DGRAD ? p.c : p.k;
        const int depth = walk.taps[0] * walk.taps[1] * walk.taps[2] * radix;
        Gathered<T> pixels(walk, m0, tid, radix, channels);
        a += group * radix, b += (size_t)group * p.k_group * taps * p.c_group;
        if constexpr (PASS == DGRAD) {
            Across<T> filters(walk, n0, tid, radix, taps, p.c_group);
            product<DEEP_PITCH, WIDE_PITCH>(
                acc, (depth + 7) >> 3, [&](float(&v)[4]) { pixels.next(v, walk, a); },
                [&](float(&v)[4]) { filters.next(v, walk, b); });
        } else {
            Along<T> filters(n0, columns, tid, depth);
            product<DEEP_PITCH, DEEP_PITCH>(
                acc, (depth + 7) >> 3, [&](float(&v)[4]) { pixels.next(v, walk, a); },
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
            if (m < walk.rows) {
                const int row = PASS == DGRAD ? scattered(p, walk, m) : m;
                store_row(out, (u32)(row * width + group * columns + n), acc[i], columns - n, quads);
            }
        }
    }
}

// The passes of `docs/math/conv3d.md`; x is `n t h w c`, w `k kt kh kw c_group`, y and dy `n to ho wo k`; `bias`, one
// number a filter, may be null. 64 x 64 tiles.
// Grid: x tiles of rows times `column_tiles`; y residue classes (dgrad) or splits of the pixels (wgrad); z groups.
// wgrad writes `part` (`splits k taps c_group`): the gradient itself with one split, else `conv3d_parts_splits_f32` follows.
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
