// The InfoNCE sweep with FFMA, without tensor cores, and what both sweeps share; `infonce.cu` has the grid and layouts.
#pragma once
#include "common/mma.cuh"

#define INFINITY_F __int_as_float(0x7f800000)
// The owner of an empty slot of the queue.
#define NOBODY 0xffffffffu

// 2^x with a relative error of at most 2^-22; results below the smallest normal number are 0.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The extents of a sweep; the same struct as in `ops::infonce::cuda`.
struct Extents {
    // Queries of a term, rows of all terms, length of a code, keys, keys of a part.
    int n, rows, d, m, share;
    // Whether queries are bf16: read by the kernels that take both.
    int q_bf16;
    // log2(e) / tau.
    float scale;
};

// The arguments of a sweep that its kernels share.
struct Sweep : Extents {
    const void* q[4];
    const void* queue;
    const u32* row_owners;
    const u32* key_owners;
    float* weighted;
    float2* sums;
};

// Query of row r, as a pointer to its first element of `bytes` bytes each.
__device__ __forceinline__ const char* query(const Sweep& p, int r, int bytes) {
    const int term = (r >= p.n) + (r >= 2 * p.n) + (r >= 3 * p.n);
    const void* q = term == 0 ? p.q[0] : term == 1 ? p.q[1] : term == 2 ? p.q[2] : p.q[3];
    return (const char*)q + (size_t)(r - term * p.n) * p.d * bytes;
}

// The owner of row r; without a mask one that no key has.
__device__ __forceinline__ u32 owner_of_row(const Sweep& p, int r) {
    return p.row_owners && r < p.rows ? p.row_owners[r % p.n] : NOBODY;
}

// Loads the owners of a tile of keys into smem; keys past the end of the part have the owner NOBODY.
template <int KEYS>
__device__ __forceinline__ void load_owners(const Sweep& p, u32* to, int from, int end) {
    const int key = from + (int)threadIdx.x;
    if (threadIdx.x < KEYS) to[threadIdx.x] = key >= end ? NOBODY : p.key_owners ? p.key_owners[key] : 0;
}

// ---- plain f32 arithmetic: any number types, any d

// Loads a tile of ROWS rows of D numbers as f32 with zeros behind column d and behind `count` rows. `row(r)` is where
// row r starts. 128 threads; rows of shared memory are D + 4 numbers apart.
template <int D, int ROWS, bool BF16, typename Row>
__device__ __forceinline__ void load_tile(float* to, int count, int d, Row row) {
    if (d % 4 == 0) {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * D / 4; i += 128) {
            const int r = i / (D / 4), c = i % (D / 4) * 4;
            const bool inside = r < count && c < d;
            float* out = to + r * (D + 4) + c;
            if (BF16) {
                const uint2 v = inside ? *(const uint2*)(row(r) + c * 2) : make_uint2(0, 0);
                *(float4*)out = make_float4(bf16_lo(v.x), bf16_hi(v.x), bf16_lo(v.y), bf16_hi(v.y));
            } else {
                cp_async<16>(smem_address(out), inside ? row(r) + c * 4 : row(0), inside);
            }
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * D; i += 128) {
            const int r = i / D, c = i % D;
            float v = 0.0f;
            if (r < count && c < d) v = BF16 ? to_f32(((const bf16*)row(r))[c]) : ((const float*)row(r))[c];
            to[r * (D + 4) + c] = v;
        }
    }
}

// 128 threads, a tile of 64 rows and 32 keys: a thread computes 4x4 logits, then 8 rows of D/16 columns of the sums.
template <int D, bool BF16>
__device__ __forceinline__ void sweep_ffma(const Sweep& p) {
    constexpr int ROWS = 64, KEYS = 32, PITCH = D + 4, COLUMNS = D / 64;
    extern __shared__ __align__(128) u8 shared[];
    float* tile_q = (float*)shared;
    float* tile_k = tile_q + ROWS * PITCH;
    float* weights = tile_k + 2 * KEYS * PITCH;
    u32* owners = (u32*)(weights + KEYS * (ROWS + 4));
    const int tid = threadIdx.x, ty = tid / 8, tx = tid % 8, row0 = blockIdx.x * ROWS;
    const int begin = blockIdx.y * p.share, end = min(begin + p.share, p.m), steps = (end - begin + KEYS - 1) / KEYS;

    auto load = [&](int step) {
        const int from = begin + step * KEYS, stage = step & 1;
        const char* queue = (const char*)p.queue + (size_t)from * p.d * (BF16 ? 2 : 4);
        load_tile<D, KEYS, BF16>(tile_k + stage * KEYS * PITCH, end - from, p.d,
                                 [&](int r) { return queue + r * p.d * (BF16 ? 2 : 4); });
        load_owners<KEYS>(p, owners + stage * KEYS, from, end);
    };
    const int rows = p.rows - row0;
    if (p.q_bf16)
        load_tile<D, ROWS, true>(tile_q, rows, p.d, [&](int r) { return query(p, row0 + r, 2); });
    else
        load_tile<D, ROWS, false>(tile_q, rows, p.d, [&](int r) { return query(p, row0 + r, 4); });
    load(0);
    cp_async_commit();

    u32 own[4];
    float sum[4], top[4], acc[8][4 * COLUMNS];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        own[i] = owner_of_row(p, row0 + ty + i * 16);
        sum[i] = 0.0f;
        top[i] = -INFINITY_F;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4 * COLUMNS; ++j) acc[i][j] = 0.0f;

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) load(step + 1);
        cp_async_commit();
        const float* keys = tile_k + (step & 1) * KEYS * PITCH;
        float s[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) s[i][j] = 0.0f;
        // Columns of zeros behind d need not be met.
#pragma unroll 2
        for (int c = 0; c < p.d; c += 4) {
            float4 a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                a[i] = *(const float4*)(tile_q + (ty + i * 16) * PITCH + c);
                b[i] = *(const float4*)(keys + (tx + i * 8) * PITCH + c);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    s[i][j] =
                        fmaf(a[i].w, b[j].w, fmaf(a[i].z, b[j].z, fmaf(a[i].y, b[j].y, fmaf(a[i].x, b[j].x, s[i][j]))));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const u32 key = owners[(step & 1) * KEYS + tx + j * 8];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const bool hidden = key == own[i] || key == NOBODY;
                const float x = hidden ? 0.0f : exp2_approx(fmaf(s[i][j], p.scale, -p.scale));
                top[i] = hidden ? top[i] : fmaxf(top[i], s[i][j]);
                sum[i] += x;
                weights[(tx + j * 8) * (ROWS + 4) + ty + i * 16] = x;
            }
        }
        __syncthreads();
        if (!p.weighted) continue;
        const float* column = keys + tid % 16 * 4;
        const float* weight = weights + tid / 16 * 8;
#pragma unroll 4
        for (int k = 0; k < KEYS; ++k) {
            float w[8];
            *(float4*)w = *(const float4*)(weight + k * (ROWS + 4));
            *(float4*)(w + 4) = *(const float4*)(weight + k * (ROWS + 4) + 4);
#pragma unroll
            for (int h = 0; h < COLUMNS; ++h) {
                const float4 v = *(const float4*)(column + k * PITCH + h * 64);
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    acc[i][h * 4] = fmaf(w[i], v.x, acc[i][h * 4]);
                    acc[i][h * 4 + 1] = fmaf(w[i], v.y, acc[i][h * 4 + 1]);
                    acc[i][h * 4 + 2] = fmaf(w[i], v.z, acc[i][h * 4 + 2]);
                    acc[i][h * 4 + 3] = fmaf(w[i], v.w, acc[i][h * 4 + 3]);
                }
            }
        }
    }
    cp_async_wait<0>();

#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int r = row0 + ty + i * 16;
        float total = sum[i], most = top[i];
#pragma unroll
        for (int o = 1; o < 8; o *= 2) {
            total += __shfl_xor_sync(~0u, total, o);
            most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
        }
        if (tx == 0 && r < p.rows) p.sums[blockIdx.y * p.rows + r] = make_float2(total, most);
    }
    if (!p.weighted) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int r = row0 + tid / 16 * 8 + i;
        if (r >= p.rows) continue;
        float* out = p.weighted + (size_t)(blockIdx.y * p.rows + r) * p.d;
#pragma unroll
        for (int h = 0; h < COLUMNS; ++h) {
            const int c = h * 64 + tid % 16 * 4;
            if (p.d % 4 == 0) {
                if (c < p.d)
                    *(float4*)(out + c) =
                        make_float4(acc[i][h * 4], acc[i][h * 4 + 1], acc[i][h * 4 + 2], acc[i][h * 4 + 3]);
            } else {
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (c + e < p.d) out[c + e] = acc[i][h * 4 + e];
            }
        }
    }
}
