// InfoNCE against a queue `[m d]`: one sweep over the queue for all terms that share it. Launched by
// `ops::infonce::cuda`.
//
// Rows are the queries of up to four terms, concatenated: row r is query r % n of term r / n. Grid of a sweep: x =
// tiles of rows, y = parts of the queue (split-K). A block iterates over its part, a tile of keys at a time, and
// accumulates the exponentials of the logits and the keys weighted by them. The fixed maximum of a logit is 1/tau,
// since rows have unit length. For each row and part it writes a sum, the largest similarity and `d` weighted sums;
// `infonce_merge_f32` adds the parts in order.
//
// Exponentials are ex2.approx (relative error at most 2^-22) of `fma(similarity, log2(e)/tau, -log2(e)/tau)`.

#include "infonce_ffma.cuh"

// ---- tensor cores: bf16 queries and queue, d a multiple of 8

// A warp owns 16*MT rows and all D columns of their weighted sums; the block's warps share each tile of 64 keys.
template <int D, int MT, int WARPS>
__device__ __forceinline__ void sweep_mma(const Sweep& p) {
    constexpr int ROWS = 16 * MT * WARPS, KEYS = 64, STAGES = 2, CHUNKS = D / 8, THREADS = 32 * WARPS;
    extern __shared__ __align__(128) u8 shared[];
    const u32 tile_q = smem_address(shared), tile_k = tile_q + ROWS * D * 2;
    u32* owners = (u32*)(shared + (ROWS + STAGES * KEYS) * D * 2);
    const int lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 16 * MT, row0 = blockIdx.x * ROWS;
    const int begin = blockIdx.y * p.share, end = min(begin + p.share, p.m), chunks = p.d / 8;
    const int steps = (end - begin + KEYS - 1) / KEYS;

    auto load = [&](int step) {
        const int from = begin + step * KEYS;
        const u32 to = tile_k + (step % STAGES) * KEYS * D * 2;
#pragma unroll 2
        for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
            const int r = i / CHUNKS, c = i % CHUNKS;
            const bool inside = from + r < end && c < chunks;
            const char* src = (const char*)p.queue + (inside ? ((size_t)(from + r) * p.d + c * 8) * 2 : 0);
            cp_async<16>(to + swizzle_row<D>(r, c), src, inside);
        }
        load_owners<KEYS>(p, owners + (step % STAGES) * KEYS, from, end);
    };

#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int r = i / CHUNKS, c = i % CHUNKS;
        const bool inside = row0 + r < p.rows && c < chunks;
        cp_async<16>(tile_q + swizzle_row<D>(r, c), query(p, inside ? row0 + r : 0, 2) + (inside ? c * 16 : 0), inside);
    }
    load(0);
    cp_async_commit();

    // Fragment rows of this thread: lane / 4 and eight further, in each of the MT tiles.
    u32 own[MT][2];
    float sum[MT][2], top[MT][2], acc[MT][D / 8][4];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            own[i][h] = owner_of_row(p, row0 + first + i * 16 + h * 8 + lane / 4);
            sum[i][h] = 0.0f;
            top[i][h] = -INFINITY_F;
        }
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;
    }

#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) load(step + 1);
        cp_async_commit();
        const u32 keys = tile_k + (step % STAGES) * KEYS * D * 2;
#pragma unroll 1
        for (int part = 0; part < KEYS; part += 32) {
            float s[MT][4][4];
#pragma unroll
            for (int i = 0; i < MT; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) s[i][j][e] = 0.0f;
#pragma unroll 4
            for (int c = 0; c < CHUNKS; c += 2) {
                u32 a[MT][4], b[2][4];
#pragma unroll
                for (int i = 0; i < MT; ++i)
                    ldmatrix(a[i], tile_q + swizzle_row<D>(first + i * 16 + (lane & 15), c + (lane >> 4)));
#pragma unroll
                for (int j = 0; j < 2; ++j)
                    ldmatrix(b[j],
                             keys + swizzle_row<D>(part + j * 16 + (lane & 7) + (lane >> 4) * 8, c + (lane >> 3 & 1)));
#pragma unroll
                for (int i = 0; i < MT; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) mma_bf16(s[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
            const u32* tile_owners = owners + (step % STAGES) * KEYS + part;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint2 owner = *(const uint2*)(tile_owners + j * 8 + (lane & 3) * 2);
#pragma unroll
                for (int i = 0; i < MT; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const u32 key = e % 2 ? owner.y : owner.x;
                        const bool hidden = key == own[i][e / 2] || key == NOBODY;
                        const float v = s[i][j][e], x = hidden ? 0.0f : exp2_approx(fmaf(v, p.scale, -p.scale));
                        top[i][e / 2] = hidden ? top[i][e / 2] : fmaxf(top[i][e / 2], v);
                        sum[i][e / 2] += x;
                        s[i][j][e] = x;
                    }
            }
            if (!p.weighted) continue;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                u32 a[MT][4];
#pragma unroll
                for (int i = 0; i < MT; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        a[i][e] = pack_bf16(s[i][2 * k + e / 2][e % 2 * 2], s[i][2 * k + e / 2][e % 2 * 2 + 1]);
#pragma unroll
                for (int c = 0; c < CHUNKS; c += 2) {
                    u32 b[4];
                    ldmatrix_transposed(b, keys + swizzle_row<D>(part + k * 16 + (lane & 15), c + (lane >> 4)));
#pragma unroll
                    for (int i = 0; i < MT; ++i) {
                        mma_bf16(acc[i][c], a[i], b[0], b[1]);
                        mma_bf16(acc[i][c + 1], a[i], b[2], b[3]);
                    }
                }
            }
        }
    }
    cp_async_wait<0>();

#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int r = row0 + first + i * 16 + h * 8 + lane / 4;
            float total = sum[i][h], most = top[i][h];
#pragma unroll
            for (int o = 1; o < 4; o *= 2) {
                total += __shfl_xor_sync(~0u, total, o);
                most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
            }
            if (r >= p.rows) continue;
            const int at = blockIdx.y * p.rows + r;
            if ((lane & 3) == 0) p.sums[at] = make_float2(total, most);
            if (!p.weighted) continue;
#pragma unroll
            for (int j = 0; j < D / 8; ++j)
                if (j < chunks)
                    *(float2*)(p.weighted + (size_t)at * p.d + j * 8 + (lane & 3) * 2) =
                        make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
        }
}

#define SWEEP(NAME, THREADS, BLOCKS, BODY)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                      \
        NAME(const void* __restrict__ q0, const void* __restrict__ q1, const void* __restrict__ q2,                    \
             const void* __restrict__ q3, const void* __restrict__ queue, const u32* __restrict__ row_owners,          \
             const u32* __restrict__ key_owners, float* __restrict__ weighted, float2* __restrict__ sums, Extents e) { \
        Sweep p = {e, {q0, q1, q2, q3}, queue, row_owners, key_owners, weighted, sums};                                \
        BODY;                                                                                                          \
    }

// Dynamic shared memory of the launches:
// shared: infonce_sweep_r64_d64_bf16 25088
// shared: infonce_sweep_r64_d128_bf16 49664
// shared: infonce_sweep_r256_d64_bf16 49664
// shared: infonce_sweep_r256_d128_bf16 98816
// shared: infonce_sweep_ffma_d64_f32 43776
// shared: infonce_sweep_ffma_d128_f32 76544
// shared: infonce_sweep_ffma_d64_bf16 43776
// shared: infonce_sweep_ffma_d128_bf16 76544
// shared: infonce_merge_f32 0
// shared: infonce_mean_f32 0

// Grid: tiles of rows, parts of the queue. Tensor cores: bf16 queries and queue, 64 or 256 rows a block, d a multiple
// of 8 up to 64 or 128.
SWEEP(infonce_sweep_r64_d64_bf16, 128, 3, (sweep_mma<64, 1, 4>(p)))
SWEEP(infonce_sweep_r64_d128_bf16, 128, 2, (sweep_mma<128, 1, 4>(p)))
SWEEP(infonce_sweep_r256_d64_bf16, 256, 1, (sweep_mma<64, 2, 8>(p)))
SWEEP(infonce_sweep_r256_d128_bf16, 256, 1, (sweep_mma<128, 2, 8>(p)))
// Plain arithmetic: any d up to 64 or 128; the queue f32 or bf16, queries either.
SWEEP(infonce_sweep_ffma_d64_f32, 128, 2, (sweep_ffma<64, false>(p)))
SWEEP(infonce_sweep_ffma_d128_f32, 128, 2, (sweep_ffma<128, false>(p)))
SWEEP(infonce_sweep_ffma_d64_bf16, 128, 2, (sweep_ffma<64, true>(p)))
SWEEP(infonce_sweep_ffma_d128_bf16, 128, 2, (sweep_ffma<128, true>(p)))

// ---- joining the parts

// The extents of `infonce_merge_f32`; the same struct as in `ops::infonce::cuda`.
struct Joined {
    // As in Extents.
    int n, rows, d;
    // Parts of the queue.
    int parts;
    // Number types.
    int q_bf16, k_bf16;
    float inverse_tau;
};

__device__ __forceinline__ float element(const void* x, size_t i, bool is_bf16) {
    return is_bf16 ? to_f32(((const bf16*)x)[i]) : ((const float*)x)[i];
}

// A block of JOINERS warps a row: joins the parts, adds the positive, and writes the row's loss, the probability of its
// positive and whether that is nearest (with a zero behind), and its gradient. Each warp adds up every JOINERS-th part
// of the weighted keys, so that their loads do not wait for each other; the warps' sums are added in order. The rest is
// the first warp's.
//
// With S the sum over the negatives and o the positive's exponential, the loss is ln(1 + S/o): taken as log1p(S/o)
// where the positive outweighs the rest, so that a small loss keeps its digits, and as ln S - ln o + log1p(o/S)
// elsewhere.
constexpr int JOINERS = 8, WIDEST = 128;  // warps a row, longest code

extern "C" __global__ void __launch_bounds__(JOINERS * 32)
    infonce_merge_f32(const void* __restrict__ q0, const void* __restrict__ q1, const void* __restrict__ q2,
                      const void* __restrict__ q3, const void* __restrict__ k0, const void* __restrict__ k1,
                      const void* __restrict__ k2, const void* __restrict__ k3, const float* __restrict__ weighted,
                      const float2* __restrict__ sums, float4* __restrict__ scores, float* __restrict__ dq0,
                      float* __restrict__ dq1, float* __restrict__ dq2, float* __restrict__ dq3, Joined e) {
    const int n = e.n, rows = e.rows, d = e.d, parts = e.parts;
    const bool q_bf16 = e.q_bf16, k_bf16 = e.k_bf16;
    const float inverse_tau = e.inverse_tau;
    __shared__ float of_warps[JOINERS][WIDEST];
    __shared__ float2 of_row;  // the sum of all exponentials, and the share of the negatives in it
    const int r = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    const int term = (r >= n) + (r >= 2 * n) + (r >= 3 * n), i = r - term * n;
    const void* q = term == 0 ? q0 : term == 1 ? q1 : term == 2 ? q2 : q3;
    const void* k = term == 0 ? k0 : term == 1 ? k1 : term == 2 ? k2 : k3;
    float* dq = term == 0 ? dq0 : term == 1 ? dq1 : term == 2 ? dq2 : dq3;

    if (warp == 0) {
        float dot = 0.0f, sum = 0.0f, top = -INFINITY_F;
        for (int c = lane; c < d; c += 32)
            dot = fmaf(element(q, (size_t)i * d + c, q_bf16), element(k, (size_t)i * d + c, k_bf16), dot);
        for (int j = lane; j < parts; j += 32) {
            const float2 part = sums[(size_t)j * rows + r];
            sum += part.x;
            top = fmaxf(top, part.y);
        }
#pragma unroll
        for (int o = 16; o > 0; o /= 2) {
            dot += __shfl_xor_sync(~0u, dot, o);
            sum += __shfl_xor_sync(~0u, sum, o);
            top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
        }
        // The positive's logit less the fixed maximum.
        const float below = (dot - 1.0f) * inverse_tau, own = expf(below);
        float loss, positive, others;
        if (sum <= own) {
            const float ratio = sum / own;
            loss = log1pf(ratio);
            positive = 1.0f / (1.0f + ratio);
            others = ratio / (1.0f + ratio);
        } else {
            const float ratio = own / sum;
            loss = logf(sum) - below + log1pf(ratio);
            positive = ratio / (1.0f + ratio);
            others = 1.0f / (1.0f + ratio);
        }
        if (lane == 0) {
            scores[r] = make_float4(loss, positive, dot > top ? 1.0f : 0.0f, 0.0f);
            of_row = make_float2(sum + own, others);
        }
    }
    if (!dq) return;
    float partial[WIDEST / 32] = {};
#pragma unroll 4
    for (int j = warp; j < parts; j += JOINERS) {
        const float* w = weighted + ((size_t)j * rows + r) * d;
#pragma unroll
        for (int m = 0; m < WIDEST / 32; ++m)
            if (lane + m * 32 < d) partial[m] += w[lane + m * 32];
    }
#pragma unroll
    for (int m = 0; m < WIDEST / 32; ++m) of_warps[warp][lane + m * 32] = partial[m];
    __syncthreads();
    const float scale = inverse_tau / (float)n, total = of_row.x, others = of_row.y;
    for (int c = threadIdx.x; c < d; c += JOINERS * 32) {
        float a = 0.0f;
#pragma unroll
        for (int w = 0; w < JOINERS; ++w) a += of_warps[w][c];
        dq[(size_t)i * d + c] = scale * (a / total - others * element(k, (size_t)i * d + c, k_bf16));
    }
}

// One block a term: the mean of its rows' scores. `loss` is one number; `stats` the mean probability of the positive
// and the share of rows whose positive is nearest.
extern "C" __global__ void __launch_bounds__(256)
    infonce_mean_f32(const float4* __restrict__ scores, float* __restrict__ loss0, float* __restrict__ loss1,
                     float* __restrict__ loss2, float* __restrict__ loss3, float* __restrict__ stats0,
                     float* __restrict__ stats1, float* __restrict__ stats2, float* __restrict__ stats3, int n) {
    __shared__ float3 shared[256];
    const int term = blockIdx.x;
    const float4* rows = scores + (size_t)term * n;
    float3 sum = make_float3(0.0f, 0.0f, 0.0f);
    for (int i = threadIdx.x; i < n; i += 256) {
        const float4 v = rows[i];
        sum = make_float3(sum.x + v.x, sum.y + v.y, sum.z + v.z);
    }
    shared[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            const float3 a = shared[threadIdx.x], b = shared[threadIdx.x + half];
            shared[threadIdx.x] = make_float3(a.x + b.x, a.y + b.y, a.z + b.z);
        }
    }
    if (threadIdx.x == 0) {
        const float3 all = shared[0];
        *(term == 0 ? loss0 : term == 1 ? loss1 : term == 2 ? loss2 : loss3) = all.x / (float)n;
        float* stats = term == 0 ? stats0 : term == 1 ? stats1 : term == 2 ? stats2 : stats3;
        stats[0] = all.y / (float)n;
        stats[1] = all.z / (float)n;
    }
}
