// The gmem to smem iterators of the tensor-core convolutions. Each copies one operand, a k-block of 32 at a time.
//
// A cp.async moves ALIGN neighbouring channels: 8, or 4 in the stem. Channels of a row are a multiple of ALIGN, so a
// copy never leaves its tap. K is dense: a k-block may contain several taps or end inside of one. Where channels are a
// multiple of 32 it is of one tap, and the taps of 32 channels follow each other (`taps_first`).
#pragma once
#include "common/mma.cuh"
#include "conv3d/problem.cuh"

// `copy` counts the cp.async of a row; these are the 16-byte chunk it writes and its byte offset there.
template <int ALIGN>
__device__ __forceinline__ int chunk_of(int copy) {
    return ALIGN == 8 ? copy : copy >> 1;
}
template <int ALIGN>
__device__ __forceinline__ int within_chunk(int copy) {
    return ALIGN == 8 ? 0 : (copy & 1) * 8;
}

// Operand A of fprop (from x) and dgrad (from dy): rows are pixels, K is (tap, channel). smem: [pixel][k].
template <class T, int ALIGN>
struct WindowIterator {
    static constexpr int COPIES = 32 / ALIGN, ROW_STEP = T::THREADS / COPIES, ROWS = T::M / ROW_STEP;
    static_assert(ROWS * ROW_STEP == T::M && ROW_STEP % 8 == 0, "the copies must cover the tile exactly");
    const GatherMap& map;
    const bf16* __restrict__ from;
    const int channels;
    u32 to;  // byte offset of the first copy in smem
    Window window[ROWS];
    KIndex at;
    const KIndex step;

    // Rows `m0 .. m_end`; rows past the end are zeros.
    __device__ __forceinline__ WindowIterator(const GatherMap& map, const bf16* __restrict__ from, int m0, int m_end,
                                              int channels, int tid)
        : map(map),
          from(from),
          channels(channels),
          to(swizzle_k_block(tid / COPIES, chunk_of<ALIGN>(tid % COPIES)) + within_chunk<ALIGN>(tid % COPIES)),
          at(k_index_of(tid % COPIES * ALIGN, map.taps, channels)),
          step(k_index_of(32, map.taps, channels)) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int m = m0 + tid / COPIES + i * ROW_STEP;
            window[i] = window_of(map, m < m_end ? m : map.rows, channels);
        }
    }

    __device__ __forceinline__ void load(u32 smem) {
        const Tap tap = tap_of(map, at, channels);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            cp_async<ALIGN * 2, true>(smem + to + i * ROW_STEP * 64, from + (u32)(window[i].at + tap.at),
                                      inside(map, window[i], tap));
        }
        next_k_block(at, step, map.taps, channels);
    }
};

// Operand B of fprop: columns are filters, `k taps c_row` in gmem, contiguous along K. smem: [filter][k].
template <class T, int ALIGN>
struct FilterIterator {
    static constexpr int COPIES = 32 / ALIGN, COLUMN_STEP = T::THREADS / COPIES, COLUMNS = T::N / COLUMN_STEP;
    static_assert(COLUMNS * COLUMN_STEP == T::N && COLUMN_STEP % 8 == 0, "the copies must cover the tile exactly");
    const bf16* __restrict__ filters;
    const int n, n_end, length, channels;
    u32 to;  // byte offset of the first copy in smem
    int k;

    // `length`: all of K.
    __device__ __forceinline__ FilterIterator(const bf16* __restrict__ filters, int n0, int n_end, int length,
                                              int channels, int tid)
        : filters(filters),
          n(n0 + tid / COPIES),
          n_end(n_end),
          length(length),
          channels(channels),
          to(swizzle_k_block(tid / COPIES, chunk_of<ALIGN>(tid % COPIES)) + within_chunk<ALIGN>(tid % COPIES)),
          k(tid % COPIES * ALIGN) {}

    __device__ __forceinline__ void load(u32 smem) {
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) {
            const int column = n + i * COLUMN_STEP;
            cp_async<ALIGN * 2>(smem + to + i * COLUMN_STEP * 64, filters + (u32)(column * length + k),
                                column < n_end && k < length);
        }
        if (taps_first(channels)) {
            k += channels;
            k -= k >= length ? length - 32 : 0;
        } else {
            k += 32;
        }
    }
};

// Operand B of dgrad: columns are input channels, K is (tap, filter), so gmem is read across K. smem: [k][channel].
template <class T>
struct FilterTransposedIterator {
    static constexpr int ACROSS = T::THREADS / 32, COPIES = T::N / 8 / ACROSS;
    static_assert(COPIES * ACROSS * 8 == T::N, "the copies must cover the tile exactly");
    const GatherMap& map;
    const bf16* __restrict__ filters;
    const Conv& p;
    const int n0, across, row, taps;
    u32 to;  // byte offset of the first copy in smem; the i-th is at `to ^ (i * ACROSS * 16)`
    KIndex at;
    const KIndex step;

    __device__ __forceinline__ FilterTransposedIterator(const GatherMap& map, const bf16* __restrict__ filters,
                                                        const Conv& p, int n0, int tid)
        : map(map),
          filters(filters),
          p(p),
          n0(n0),
          across(tid % ACROSS),
          row(copy_row<T::THREADS, 16>(tid)),
          taps(p.kernel[0] * p.kernel[1] * p.kernel[2]),
          to(swizzle_row<T::N>(row, across)),
          at(k_index_of(row, map.taps, p.k_row)),
          step(k_index_of(32, map.taps, p.k_row)) {
        opaque(to);
    }

    __device__ __forceinline__ void load(u32 smem) {
        const int tap =
            map.filter_first + at.t * map.filter_step[0] + at.h * map.filter_step[1] + at.w * map.filter_step[2];
        const int from = (at.c * taps + tap) * p.c_row + n0;
        const bool exists = at.t < map.taps[0] && at.c < p.k;
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int chunk = across + i * ACROSS;
            cp_async<16>(smem + (to ^ (i * ACROSS * 16)), filters + (u32)(from + chunk * 8),
                         exists && n0 + chunk * 8 < p.c_row);
        }
        next_k_block(at, step, map.taps, p.k_row);
    }
};

// Operand A of wgrad: rows are filters, K is pixels `first .. end`, from dy. smem: [pixel][filter].
template <class T>
struct GradientIterator {
    static constexpr int ACROSS = T::THREADS / 32, COPIES = T::M / 8 / ACROSS;
    static_assert(COPIES * ACROSS * 8 == T::M, "the copies must cover the tile exactly");
    const bf16* __restrict__ dy;
    const int m0, channels, across, row;
    u32 to;  // byte offset of the first copy in smem; the i-th is at `to ^ (i * ACROSS * 16)`
    int left, at;

    __device__ __forceinline__ GradientIterator(const bf16* __restrict__ dy, int m0, int first, int end, int channels,
                                                int tid)
        : dy(dy),
          m0(m0),
          channels(channels),
          across(tid % ACROSS),
          row(copy_row<T::THREADS, 16>(tid)),
          to(swizzle_row<T::M>(row, across)),
          left(end - first),
          at((first + row) * channels + m0) {}

    __device__ __forceinline__ void load(u32 smem) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int chunk = across + i * ACROSS;
            cp_async<16>(smem + (to ^ (i * ACROSS * 16)), dy + (u32)(at + chunk * 8),
                         row < left && m0 + chunk * 8 < channels);
        }
        at += 32 * channels;
        left -= 32;
    }
};

// Adds two pixels whose coordinates are those of their windows, multiples of the stride. Carries at `end`.
__device__ __forceinline__ void advance(Pixel& q, const Pixel& by, const Pixel& end, const int (&stride)[3]) {
    q.w += by.w;
    int carry = q.w >= end.w;
    q.w -= carry ? end.w : 0;
    q.h += by.h + (carry ? stride[1] : 0);
    carry = q.h >= end.h;
    q.h -= carry ? end.h : 0;
    q.t += by.t + (carry ? stride[0] : 0);
    carry = q.t >= end.t;
    q.t -= carry ? end.t : 0;
    q.n += by.n + carry;
}

// Operand B of wgrad: columns are (tap, channel), K is pixels `first .. end`, from x. smem: [pixel][(tap, channel)].
template <class T, int ALIGN>
struct WindowTransposedIterator {
    static constexpr int ACROSS = T::THREADS / 32, COPIES = T::N / ALIGN / ACROSS;
    static_assert(COPIES * ACROSS * ALIGN == T::N, "the copies must cover the tile exactly");
    const GatherMap& map;
    const bf16* __restrict__ x;
    const int channels, across, row;
    u32 to;  // byte offset of the first copy in smem; the i-th is at `to ^ (i * ACROSS * ALIGN * 2)`
    int left;
    Tap tap[COPIES];  // relative to the pixel times the stride: the padding is already subtracted
    Pixel q;
    const Pixel step, end;

    __device__ __forceinline__ static Pixel strided(const GatherMap& map, Pixel q) {
        return Pixel{q.n, q.t * map.mul[0], q.h * map.mul[1], q.w * map.mul[2]};
    }

    __device__ __forceinline__ WindowTransposedIterator(const GatherMap& map, const bf16* __restrict__ x, int n0,
                                                        int first, int end, int channels, int tid)
        : map(map),
          x(x),
          channels(channels),
          across(tid % ACROSS),
          row(copy_row<T::THREADS, ALIGN * 2>(tid)),
          to(swizzle_row<T::N>(row, chunk_of<ALIGN>(across)) + within_chunk<ALIGN>(across)),
          left(end - first),
          q(strided(map, pixel_of(first + row, map.grid))),
          step(strided(map, pixel_of(32, map.grid))),
          end(strided(map, {0, (int)map.grid[0].by, (int)map.grid[1].by, (int)map.grid[2].by})) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const KIndex d = column_index_of(n0 + (across + i * ACROSS) * ALIGN, map.taps, channels);
            tap[i] = tap_of(map, d, channels);
            tap[i].t += map.offset[0], tap[i].h += map.offset[1], tap[i].w += map.offset[2];
            tap[i].at = ((tap[i].t * map.extent[1] + tap[i].h) * map.extent[2] + tap[i].w) * channels + d.c;
        }
    }

    __device__ __forceinline__ void load(u32 smem) {
        const int at = ((q.n * map.extent[0] + q.t) * map.extent[1] + q.h) * map.extent[2] + q.w;
        const Window window = {q.t, q.h, q.w, at * channels};
        const bool exists = row < left;
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            // Neighbouring taps of neighbouring pixels are the same bytes.
            cp_async<ALIGN * 2, true>(smem + (to ^ (i * ACROSS * ALIGN * 2)), x + (u32)(window.at + tap[i].at),
                                      exists && inside(map, window, tap[i]));
        }
        advance(q, step, end, map.mul);
        left -= 32;
    }
};
