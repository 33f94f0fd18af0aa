// fprop and dgrad on tensor cores: rows are pixels, columns are channels of the result, the depth is (tap, channel).
//
// A block computes BM x BN, its warps WM x WN each, over blocks of 32 of the depth that arrive by asynchronous copies,
// STAGES in flight. Both depend on the channels of a row being a multiple of V (8, or 4 for stems): one copy then never
// leaves its tap. The depth is walked densely: a block of 32 may hold several taps or end inside of one.
#pragma once
#include "common/mma.cuh"
#include "conv3d/problem.cuh"

// The result of a block leaves through shared memory, in rows padded by 16 bytes: no bank conflicts either way.
template <int BN>
__device__ __forceinline__ u32 staged(int row, int column) {
    return row * (BN * 2 + 16) + column * 2;
}

// What dgrad does to its result before storing it, when asked (`mask` is not null); all of them have its shape.
struct Chain {
    const bf16* mask;    // dx is kept where this is positive, and 0 elsewhere: the derivative of a ReLU by its output
    const bf16* normed;  // input of the batch norm before that ReLU
    const float* mean;   // of `normed`, per group of samples and channel
    const float* inv_std;
};

template <int BM, int BN, int WM, int WN, int STAGES, int V, bool BACKWARD>
struct Gather {
    static constexpr int WARPS_M = BM / WM, THREADS = WARPS_M * (BN / WN) * 32;
    static constexpr int A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    static constexpr int SHARED = STAGES * STAGE;
    // Copies of V channels: how many fill one row of a tile, and how many of them one thread makes.
    static constexpr int A_COPIES = 32 / V, A_STRIDE = THREADS / A_COPIES, A_ROWS = BM / A_STRIDE;
    // fprop: as for A. dgrad: a thread copies chunks of one of the 32 rows.
    static constexpr int B_STRIDE = BACKWARD ? THREADS / 32 : A_STRIDE, B_EACH = (BACKWARD ? BN / 8 : BN) / B_STRIDE;
    static_assert(A_ROWS * A_STRIDE == BM && B_EACH * B_STRIDE == (BACKWARD ? BN / 8 : BN),
                  "copies must tile the tiles");
    static_assert(BM * (BN * 2 + 16) <= SHARED, "the result is staged where the operands were");

    // `m0 m_end`: rows of this block; `n0`: its first column. `from`: the gathered grid; `filters` `k taps c_row`.
    static __device__ __forceinline__ void sums(float (&acc)[WM / 16][WN / 8][4], u32 shared, const Conv& p,
                                                const Walk& walk, int m0, int m_end, int n0,
                                                const bf16* __restrict__ from, const bf16* __restrict__ filters) {
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        const int channels = BACKWARD ? p.k_row : p.c_row;
        const int depth = walk.taps[0] * walk.taps[1] * walk.taps[2] * channels;
        const Depth step = depth_of(32, walk.taps, channels);

        const int a_copy = tid % A_COPIES, a_row = tid / A_COPIES;
        Row row[A_ROWS];
#pragma unroll
        for (int i = 0; i < A_ROWS; ++i) {
            const int m = m0 + a_row + i * A_STRIDE;
            row[i] = row_of(walk, m < m_end ? m : walk.rows, channels);
        }
        Depth a_at = depth_of(a_copy * V, walk.taps, channels);

        // fprop reads filters along the depth: rows are k. dgrad reads them across: rows are (tap, k), columns c.
        const int b_copy = BACKWARD ? tid % B_STRIDE : a_copy, b_row = BACKWARD ? copied_row<THREADS, 16>(tid) : a_row;
        const int taps = p.kernel[0] * p.kernel[1] * p.kernel[2];
        int b_deep = b_copy * V;
        Depth b_at = depth_of(b_row, walk.taps, channels);

        auto load = [&](int stage) {
            const u32 a = shared + stage * STAGE, b = a + A_BYTES;
            const Tap tap = tap_of(walk, a_at, channels);
#pragma unroll
            for (int i = 0; i < A_ROWS; ++i) {
                const bool ok = inside(walk, row[i], tap);
                const u32 chunk = V == 8 ? a_copy : a_copy >> 1, within = V == 8 ? 0 : (a_copy & 1) * 8;
                copy_async<V * 2>(a + deep_row(a_row + i * A_STRIDE, chunk) + within, from + (u32)(row[i].at + tap.at),
                                  ok);
            }
            advance(a_at, step, walk.taps, channels);
            if (BACKWARD) {
                const int tap_at = walk.filter_first + b_at.t * walk.filter_step[0] + b_at.h * walk.filter_step[1] +
                                   b_at.w * walk.filter_step[2];
                const int at = (b_at.c * taps + tap_at) * p.c_row + n0;
                const bool row_ok = b_at.t < walk.taps[0] && b_at.c < p.k;
#pragma unroll
                for (int i = 0; i < B_EACH; ++i) {
                    const int chunk = b_copy + i * B_STRIDE;
                    copy_async<16>(b + wide_row<BN>(b_row, chunk), filters + (u32)(at + chunk * 8),
                                   row_ok && n0 + chunk * 8 < p.c_row);
                }
                advance(b_at, step, walk.taps, channels);
            } else {
#pragma unroll
                for (int i = 0; i < B_EACH; ++i) {
                    const int column = n0 + b_row + i * B_STRIDE;
                    const bool ok = column < p.k && b_deep < depth;
                    const u32 chunk = V == 8 ? b_copy : b_copy >> 1, within = V == 8 ? 0 : (b_copy & 1) * 8;
                    copy_async<V * 2>(b + deep_row(b_row + i * B_STRIDE, chunk) + within,
                                      filters + (u32)(column * depth + b_deep), ok);
                }
                b_deep += 32;
            }
        };

        const int blocks = (depth + 31) >> 5;
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; ++s) {
            if (s < blocks) load(s);
            copy_commit();
        }
        const Warp<WM, WN, BM, BN, false, BACKWARD> part(warp % WARPS_M * WM, warp / WARPS_M * WN, lane);
        int at = 0, next = STAGES - 1;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            copy_wait<STAGES - 2>();
            // Every thread's copies have arrived, and every warp is done with the stage that is filled next.
            __syncthreads();
            if (block + STAGES - 1 < blocks) load(next);
            copy_commit();
            const u32 a = shared + at * STAGE;
            part.multiply(acc, a, a + A_BYTES);
            at = at + 1 == STAGES ? 0 : at + 1;
            next = next + 1 == STAGES ? 0 : next + 1;
        }
        copy_wait<0>();
        __syncthreads();
    }

    // Adds one number a column (k of them, or null) to the sums.
    static __device__ __forceinline__ void add(float (&acc)[WM / 16][WN / 8][4], const float* __restrict__ bias, int n0,
                                               int k) {
        if (!bias) return;
        const int c = n0 + (int)(threadIdx.x >> 5) / WARPS_M * WN + (threadIdx.x & 3) * 2;
#pragma unroll
        for (int j = 0; j < WN / 8; ++j) {
            const float lo = c + j * 8 < k ? bias[c + j * 8] : 0.0f,
                        hi = c + j * 8 + 1 < k ? bias[c + j * 8 + 1] : 0.0f;
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                acc[i][j][0] += lo, acc[i][j][1] += hi;
                acc[i][j][2] += lo, acc[i][j][3] += hi;
            }
        }
    }

    // Rounds the sums to bf16 into shared memory, as rows of the block.
    static __device__ __forceinline__ void stage(u8* shared, const float (&acc)[WM / 16][WN / 8][4]) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const int r = warp % WARPS_M * WM + (lane >> 2), c = warp / WARPS_M * WN + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < WM / 16; ++i) {
#pragma unroll
            for (int j = 0; j < WN / 8; ++j) {
                *(u32*)(shared + staged<BN>(r + i * 16, c + j * 8)) = pack_bf16(acc[i][j][0], acc[i][j][1]);
                *(u32*)(shared + staged<BN>(r + i * 16 + 8, c + j * 8)) = pack_bf16(acc[i][j][2], acc[i][j][3]);
            }
        }
        __syncthreads();
    }

    // Stores the staged rows `m0 .. m_end`; `place(m)` says which row of `width` columns of `to` row m is.
    template <class Place>
    static __device__ __forceinline__ void store(const u8* shared, bf16* __restrict__ to, int m0, int m_end, int n0,
                                                 int width, Place place) {
        const int rows = min(BM, m_end - m0), columns = min(BN, width - n0);
        if (width % 8 == 0) {
            const int column = threadIdx.x % (BN / 8) * 8;
#pragma unroll 2
            for (int r = threadIdx.x / (BN / 8); r < rows; r += THREADS / (BN / 8)) {
                if (column < columns) {
                    *(uint4*)(to + (u32)(place(m0 + r) * width + n0 + column)) =
                        *(const uint4*)(shared + staged<BN>(r, column));
                }
            }
        } else {
            // No 16-byte boundary to hold on to: a warp writes a row, neighbours side by side.
            for (int r = threadIdx.x >> 5; r < rows; r += THREADS / 32) {
                const u32 at = (u32)(place(m0 + r) * width + n0);
                for (int c = threadIdx.x & 31; c < columns; c += 32) {
                    to[at + c] = *(const bf16*)(shared + staged<BN>(r, c));
                }
            }
        }
    }

    // Column sums of what was staged: Σ (y - shift) and Σ (y - shift)² over this block's rows, in a fixed order, into
    // `row[2][width]`. A thread sums two columns over every PARTS-th row; then one thread per column sums the parts.
    static __device__ __forceinline__ void column_sums(u8* shared, float* __restrict__ row,
                                                       const float* __restrict__ shift, int rows, int n0, int width) {
        constexpr int PARTS = THREADS / (BN / 2);
        const int c = threadIdx.x % (BN / 2) * 2, part = threadIdx.x / (BN / 2);
        const float s0 = n0 + c < width ? shift[n0 + c] : 0.0f, s1 = n0 + c + 1 < width ? shift[n0 + c + 1] : 0.0f;
        float a0 = 0.0f, a1 = 0.0f, q0 = 0.0f, q1 = 0.0f;
#pragma unroll 4
        for (int r = part; r < rows; r += PARTS) {
            const u32 y = *(const u32*)(shared + staged<BN>(r, c));
            const float y0 = bf16_lo(y) - s0, y1 = bf16_hi(y) - s1;
            a0 += y0, a1 += y1;
            q0 = fmaf(y0, y0, q0), q1 = fmaf(y1, y1, q1);
        }
        __syncthreads();
        float* parts = (float*)shared;
        *(float2*)(parts + (part * 2) * BN + c) = make_float2(a0, a1);
        *(float2*)(parts + (part * 2 + 1) * BN + c) = make_float2(q0, q1);
        __syncthreads();
        for (int i = threadIdx.x; i < 2 * BN; i += THREADS) {
            const int which = i / BN, column = i % BN;
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < PARTS; ++k) sum += parts[(k * 2 + which) * BN + column];
            if (n0 + column < width) row[which * width + n0 + column] = sum;
        }
    }

    // dgrad with what precedes it: masks the staged rows, stores them, and sums dz and dz · xhat per column into
    // `row[2][width]`, xhat = (normed - mean) · inv_std. `width` is a multiple of 8.
    template <class Place>
    static __device__ __forceinline__ void chain(u8* shared, bf16* __restrict__ to, float* __restrict__ row,
                                                 const Chain& with, int group, int m0, int m_end, int n0, int width,
                                                 Place place) {
        constexpr int PARTS = THREADS / (BN / 8);
        const int rows = min(BM, m_end - m0);
        const int c = threadIdx.x % (BN / 8) * 8, part = threadIdx.x / (BN / 8);
        float sum[8], dot[8], mean[8], inv[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            sum[i] = dot[i] = 0.0f;
            mean[i] = n0 + c < width ? with.mean[group * width + n0 + c + i] : 0.0f;
            inv[i] = n0 + c < width ? with.inv_std[group * width + n0 + c + i] : 0.0f;
        }
        if (n0 + c < width) {
#pragma unroll 1
            for (int r = part; r < rows; r += PARTS) {
                const u32 at = (u32)(place(m0 + r) * width + n0 + c);
                const uint4 g4 = *(const uint4*)(shared + staged<BN>(r, c));
                const uint4 y4 = *(const uint4*)(with.mask + at), z4 = *(const uint4*)(with.normed + at);
                const u32 g[4] = {g4.x, g4.y, g4.z, g4.w}, y[4] = {y4.x, y4.y, y4.z, y4.w};
                const u32 z[4] = {z4.x, z4.y, z4.z, z4.w};
                u32 out[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const bool lo = bf16_lo(y[i]) > 0.0f, hi = bf16_hi(y[i]) > 0.0f;
                    out[i] = g[i] & ((lo ? 0xffffu : 0u) | (hi ? 0xffff0000u : 0u));
                    const float d0 = bf16_lo(out[i]), d1 = bf16_hi(out[i]);
                    sum[2 * i] += d0, sum[2 * i + 1] += d1;
                    dot[2 * i] = fmaf(d0, (bf16_lo(z[i]) - mean[2 * i]) * inv[2 * i], dot[2 * i]);
                    dot[2 * i + 1] = fmaf(d1, (bf16_hi(z[i]) - mean[2 * i + 1]) * inv[2 * i + 1], dot[2 * i + 1]);
                }
                *(uint4*)(to + at) = make_uint4(out[0], out[1], out[2], out[3]);
            }
        }
        __syncthreads();
        float* parts = (float*)shared;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            *(float4*)(parts + (part * 2) * BN + c + i) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
            *(float4*)(parts + (part * 2 + 1) * BN + c + i) = make_float4(dot[i], dot[i + 1], dot[i + 2], dot[i + 3]);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < 2 * BN; i += THREADS) {
            const int which = i / BN, column = i % BN;
            float total = 0.0f;
#pragma unroll
            for (int k = 0; k < PARTS; ++k) total += parts[(k * 2 + which) * BN + column];
            if (n0 + column < width) row[which * width + n0 + column] = total;
        }
    }
};

// y[m, k] = Σ over (tap, c) of x[window of m, tap, c] · w[k, tap, c], for one block of pixels m and filters k.
template <int BM, int BN, int WM, int WN, int STAGES, int V>
__device__ __forceinline__ void fprop(const bf16* __restrict__ x, const bf16* __restrict__ w,
                                      const float* __restrict__ bias, bf16* __restrict__ y, float* __restrict__ sums,
                                      const float* __restrict__ shift, const Conv& p) {
    using G = Gather<BM, BN, WM, WN, STAGES, V, false>;
    extern __shared__ __align__(128) u8 shared[];
    // Column tiles are neighbours in the grid: they read the same pixels at the same time.
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * BN;
    // Tiles end with their group of samples, so that statistics never mix two of them.
    const int group = tile / p.group_tiles;
    const int m0 = group * p.group_rows + (tile - group * p.group_tiles) * BM;
    const int m_end = min(m0 + BM, (group + 1) * p.group_rows);
    const Walk walk = walk_forward(p);
    float acc[WM / 16][WN / 8][4] = {};
    G::sums(acc, shared_address(shared), p, walk, m0, m_end, n0, x, w);
    G::add(acc, bias, n0, p.k);
    G::stage(shared, acc);
    G::store(shared, y, m0, m_end, n0, p.k, [](int m) { return m; });
    if (sums) G::column_sums(shared, sums + (size_t)tile * 2 * p.k, shift, m_end - m0, n0, p.k);
}
