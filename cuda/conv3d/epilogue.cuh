// The epilogue of fprop and dgrad: the tile is rounded to bf16 into smem, then stored in whole rows, with what the next
// operation needs of it.
#pragma once
#include "conv3d/mainloop.cuh"
#include "conv3d/problem.cuh"

// dgrad with the ReLU and batch norm before it. Tensors have the shape of dx; `normed` is null where there is no such
// epilogue.
struct NormRelu {
    const bf16* add;     // gradients of other branches, added to dx before the mask; may be null
    const u8* signs;     // a bit for each element of the ReLU's output: dx is kept where it is positive. If null, the
                         // mask is recomputed from `normed`
    const bf16* normed;  // the batch norm's input
    const float* mean;   // of `normed`, per group of samples and channel
    const float* inv_std;
    const float* gamma;  // the batch norm's parameters, per channel
    const float* beta;
};

// Where the rows of the GEMM are stored if its rows are pixels of the result, in order.
struct InOrder {
    static constexpr bool GAPS = false;
    __device__ __forceinline__ int operator()(int m) const { return m; }
};

// The same for a residue class of dgrad.
struct InClass {
    static constexpr bool GAPS = false;
    const Conv& p;
    const GatherMap& map;
    __device__ __forceinline__ int operator()(int m) const { return input_pixel(p, map, m); }
};

// What happens to a tile that is staged in smem: T::M rows of T::N columns, by T::THREADS threads.
template <class T>
struct StagedTile {
    // Rows of the tile in smem are padded by 16 bytes, which avoids bank conflicts in both directions.
    static constexpr int PITCH = T::N * 2 + 16;

    static __device__ __forceinline__ u32 staged(int row, int column) { return row * PITCH + column * 2; }

    // Stores the staged rows `m0 .. m_end`. Row m of the GEMM is row `place(m)` of `to`, whose rows have `width`
    // columns. Where `Place::GAPS`, it may be negative: such a row is nothing.
    template <class Place>
    static __device__ __forceinline__ void store(const u8* smem, bf16* __restrict__ to, int m0, int m_end, int n0,
                                                 int width, Place place) {
        const int rows = min(T::M, m_end - m0), columns = min(T::N, width - n0);
        if (width % 8 == 0) {
            constexpr int CHUNKS = T::N / 8;
            const int column = T::thread() % CHUNKS * 8;
#pragma unroll 2
            for (int r = T::thread() / CHUNKS; r < rows; r += T::THREADS / CHUNKS) {
                const int row = place(m0 + r);
                if (column < columns && !(Place::GAPS && row < 0)) {
                    *(uint4*)(to + (u32)(row * width + n0 + column)) = *(const uint4*)(smem + staged(r, column));
                }
            }
        } else {
            // Rows are not aligned to 16 bytes: a warp writes a row, one element a lane.
            for (int r = T::thread() >> 5; r < rows; r += T::THREADS / 32) {
                const int row = place(m0 + r);
                if (Place::GAPS && row < 0) continue;
                const u32 at = (u32)(row * width + n0);
                for (int c = T::thread() & 31; c < columns; c += 32) {
                    to[at + c] = *(const bf16*)(smem + staged(r, c));
                }
            }
        }
    }

    // `row[2][width]` = the sums of PARTS partial sums in smem, `[PARTS][2][N]`, in order.
    template <int PARTS>
    static __device__ __forceinline__ void sum_parts(const float* parts, float* __restrict__ row, int n0, int width) {
        T::synchronize();
        for (int i = T::thread(); i < 2 * T::N; i += T::THREADS) {
            const int which = i / T::N, column = i % T::N;
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < PARTS; ++k) sum += parts[(k * 2 + which) * T::N + column];
            if (n0 + column < width) row[which * width + n0 + column] = sum;
        }
    }

    // Column sums of the staged tile, `row[2][width]`: Σ (y - shift) and Σ (y - shift)² over its rows `m0 .. m_end`, in
    // a fixed order. A thread sums two columns over every PARTS-th row.
    template <class Place>
    static __device__ __forceinline__ void column_sums(u8* smem, float* __restrict__ row,
                                                       const float* __restrict__ shift, int m0, int m_end, int n0,
                                                       int width, Place place) {
        const int rows = min(T::M, m_end - m0);
        constexpr int PARTS = T::THREADS / (T::N / 2);
        const int c = T::thread() % (T::N / 2) * 2, part = T::thread() / (T::N / 2);
        const float s0 = n0 + c < width ? shift[n0 + c] : 0.0f, s1 = n0 + c + 1 < width ? shift[n0 + c + 1] : 0.0f;
        float a0 = 0.0f, a1 = 0.0f, q0 = 0.0f, q1 = 0.0f;
#pragma unroll 4
        for (int r = part; r < rows; r += PARTS) {
            if (Place::GAPS && place(m0 + r) < 0) continue;
            const u32 y = *(const u32*)(smem + staged(r, c));
            const float y0 = bf16_lo(y) - s0, y1 = bf16_hi(y) - s1;
            a0 += y0, a1 += y1;
            q0 = fmaf(y0, y0, q0), q1 = fmaf(y1, y1, q1);
        }
        T::synchronize();
        float* parts = (float*)smem;
        *(float2*)(parts + (part * 2) * T::N + c) = make_float2(a0, a1);
        *(float2*)(parts + (part * 2 + 1) * T::N + c) = make_float2(q0, q1);
        sum_parts<PARTS>(parts, row, n0, width);
    }

    // dgrad with the epilogue NormRelu: adds to the staged rows, masks and stores them, and writes their column sums to
    // `row[2][width]`: Σ dz and Σ dz · (normed - mean) · inv_std. `width` is a multiple of 8.
    template <class Place>
    static __device__ __forceinline__ void norm_relu(u8* smem, bf16* __restrict__ to, float* __restrict__ row,
                                                     const NormRelu& with, int group, int m0, int m_end, int n0,
                                                     int width, Place place) {
        constexpr int PARTS = T::THREADS / (T::N / 8);
        const int rows = min(T::M, m_end - m0);
        const int c = T::thread() % (T::N / 8) * 8, part = T::thread() / (T::N / 8);
        float sum[8] = {}, dot[8] = {};
        if (n0 + c < width) {
            const int channel = n0 + c, of_group = group * width + channel;
            float mean[8], scale[8], beta[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                mean[i] = with.mean[of_group + i];
                scale[i] = with.inv_std[of_group + i] * with.gamma[channel + i];
                beta[i] = with.beta[channel + i];
            }
            const uint4 nothing = make_uint4(0, 0, 0, 0);
#pragma unroll 1
            for (int r = part; r < rows; r += PARTS) {
                const int of = place(m0 + r);
                if (Place::GAPS && of < 0) continue;
                const u32 at = (u32)(of * width + channel);
                const uint4 x4 = *(const uint4*)(with.normed + at);
                const uint4 a4 = with.add ? *(const uint4*)(with.add + at) : nothing;
                const u32 signs = with.signs ? with.signs[at / 8] : 0;
                const uint4 g4 = *(const uint4*)(smem + staged(r, c));
                const u32 x[4] = {x4.x, x4.y, x4.z, x4.w}, a[4] = {a4.x, a4.y, a4.z, a4.w};
                const u32 g[4] = {g4.x, g4.y, g4.z, g4.w};
                u32 out[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int lo = 2 * i, hi = lo + 1;
                    const float e0 = bf16_lo(x[i]) - mean[lo], e1 = bf16_hi(x[i]) - mean[hi];
                    // As batch_norm_apply computes it, so the mask is the same.
                    const bool on0 = with.signs ? signs >> lo & 1 : fmaf(e0, scale[lo], beta[lo]) > 0.0f;
                    const bool on1 = with.signs ? signs >> hi & 1 : fmaf(e1, scale[hi], beta[hi]) > 0.0f;
                    // What is added is rounded before and after, as a separate addition does.
                    const u32 dx =
                        with.add ? pack_bf16(bf16_lo(g[i]) + bf16_lo(a[i]), bf16_hi(g[i]) + bf16_hi(a[i])) : g[i];
                    out[i] = dx & ((on0 ? 0xffffu : 0u) | (on1 ? 0xffff0000u : 0u));
                    const float d0 = bf16_lo(out[i]), d1 = bf16_hi(out[i]);
                    sum[lo] += d0, sum[hi] += d1;
                    dot[lo] = fmaf(d0, e0, dot[lo]), dot[hi] = fmaf(d1, e1, dot[hi]);
                }
                *(uint4*)(to + at) = make_uint4(out[0], out[1], out[2], out[3]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) dot[i] *= with.inv_std[of_group + i];
        }
        T::synchronize();
        float* parts = (float*)smem;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            *(float4*)(parts + (part * 2) * T::N + c + i) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
            *(float4*)(parts + (part * 2 + 1) * T::N + c + i) = make_float4(dot[i], dot[i + 1], dot[i + 2], dot[i + 3]);
        }
        sum_parts<PARTS>(parts, row, n0, width);
    }
};

// The epilogue of kernels whose warps multiply with `mma.sync`: adds a bias to the accumulators, and stages them.
template <class T>
struct Epilogue : StagedTile<T> {
    using Accumulators = typename T::Accumulators;
    using StagedTile<T>::PITCH;
    using StagedTile<T>::staged;
    static_assert(T::M * PITCH <= T::SMEM_BYTES, "the tile takes the place of the operands");

    // Adds the bias of each column; `bias` may be null, and there are `k` columns in all.
    static __device__ __forceinline__ void add_bias(Accumulators& acc, const float* __restrict__ bias, int n0, int k) {
        if (!bias) return;
        const int c = n0 + T::warp_n() + (threadIdx.x & 3) * 2;
#pragma unroll
        for (int j = 0; j < T::WARP_N / 8; ++j) {
            const float lo = c + j * 8 < k ? bias[c + j * 8] : 0.0f,
                        hi = c + j * 8 + 1 < k ? bias[c + j * 8 + 1] : 0.0f;
#pragma unroll
            for (int i = 0; i < T::WARP_M / 16; ++i) {
                acc.at[i][j][0] += lo, acc.at[i][j][1] += hi;
                acc.at[i][j][2] += lo, acc.at[i][j][3] += hi;
            }
        }
    }

    // Rounds the accumulators to bf16 into smem. The operands there are no longer needed by any warp afterwards.
    static __device__ __forceinline__ void stage(u8* smem, const Accumulators& acc) {
        cp_async_wait<0>();
        __syncthreads();
        const int lane = threadIdx.x & 31, r = T::warp_m() + (lane >> 2), c = T::warp_n() + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < T::WARP_M / 16; ++i) {
#pragma unroll
            for (int j = 0; j < T::WARP_N / 8; ++j) {
                const float(&v)[4] = acc.at[i][j];
                *(u32*)(smem + staged(r + i * 16, c + j * 8)) = pack_bf16(v[0], v[1]);
                *(u32*)(smem + staged(r + i * 16 + 8, c + j * 8)) = pack_bf16(v[2], v[3]);
            }
        }
        __syncthreads();
    }
};
