// The sweep of InfoNCE over the queue with TMA and wgmma: bf16 queries and queue, d a multiple of 8. For `compute_90a`
// only; `infonce.cu` has the layouts, the portable kernels and those that join the parts. Launched by
// `ops::infonce::cuda`.
//
// Grid: x = tiles of 128 rows, y = parts of the queue. A warp copies tiles of 64 keys to a ring of stages. Each of two
// warpgroups holds 64 rows: their codes as fragments of the first product (logits), and the weighted sums, to which the
// second one adds exponentials times keys. The logits are accumulators of the first product and, rounded to bf16,
// fragments of the second: they leave the registers nowhere. While a warpgroup takes exponentials, the other multiplies.
#include "common/tma.cuh"
#include "common/wgmma_registers.cuh"
#include "infonce_ffma.cuh"

constexpr int ROWS = 128, KEYS = 64, STAGES = 4, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * 128;

// A stage: D / 64 blocks of 64 keys by 64 elements, with the 128-byte swizzle.
template <int D>
struct Tile {
    static constexpr int BLOCK = KEYS * 128, BYTES = D / 64 * BLOCK;
};

// The ring: stage s is full after the producer's arrival and its bytes, and free after an arrival of each consumer warp.
struct Stages {
    u32 tiles, full, freed;
    u32* owners;
};

__device__ __forceinline__ u32 parity(int step) {
    return step / STAGES & 1;
}

// The producer, one warp: copies the keys of all steps. With a mask its threads bring the owners, each two of a tile;
// those of the next step are on their way while it waits.
template <int D>
__device__ __forceinline__ void produce(const Sweep& p, const TensorMap* queue, const Stages& ring, int begin,
                                        int steps) {
    const int lane = threadIdx.x;
    auto owner = [&](int step, int i) {
        const int key = begin + step * KEYS + lane * 2 + i;
        return p.key_owners && key < p.m ? p.key_owners[key] : NOBODY;
    };
    uint2 next = make_uint2(owner(0, 0), owner(0, 1));
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int s = step % STAGES;
        barrier_wait(ring.freed + 8 * s, parity(step) ^ 1);
        *(uint2*)(ring.owners + s * KEYS + lane * 2) = next;
        __syncwarp();
        if (lane == 0) {
            barrier_arrive_expect(ring.full + 8 * s, Tile<D>::BYTES);
#pragma unroll
            for (int c = 0; c < D; c += 64)
                tma_load(ring.tiles + s * Tile<D>::BYTES + c / 64 * Tile<D>::BLOCK, queue, ring.full + 8 * s, c,
                         begin + step * KEYS);
        }
        if (step + 1 < steps) next = make_uint2(owner(step + 1, 0), owner(step + 1, 1));
    }
}

// A warpgroup's part of the logits of the tile at `keys`.
template <int D>
__device__ __forceinline__ void logits(float (&s)[KEYS / 2], const u32 (&q)[D / 16][4], u32 keys) {
    wgmma_fence();
    WgmmaRegisters<KEYS, false, false>::multiply(s, q[0], operand<false>(keys, 0));
#pragma unroll
    for (int k = 1; k < D / 16; ++k)
        WgmmaRegisters<KEYS, true, false>::multiply(s, q[k],
                                                    operand<false>(keys + k / 4 * Tile<D>::BLOCK + k % 4 * 32, 0));
    wgmma_commit();
}

// `acc` += exponentials times the keys of the tile.
template <int D>
__device__ __forceinline__ void weigh(float (&acc)[D / 2], const u32 (&x)[KEYS / 16][4], u32 keys) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k)
        WgmmaRegisters<D, true, true>::multiply(acc, x[k], operand<true>(keys + k * 2048, Tile<D>::BLOCK));
    wgmma_commit();
}

// A warpgroup. Its threads hold, of rows lane / 4 and eight further of their warp's sixteen, pairs of columns.
template <int D>
__device__ __forceinline__ void consume(const Sweep& p, const Stages& ring, int begin, int steps) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * ROWS + (threadIdx.x - 128) / 32 * 16 + lane / 4;
    const int pair = (lane & 3) * 2;
    u32 q[D / 16][4], own[2];
    float sum[2] = {0.0f, 0.0f}, top[2] = {-INFINITY_F, -INFINITY_F}, acc[D / 2], s[KEYS / 2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int r = row + h * 8;
        const u32* code = (const u32*)query(p, min(r, p.rows - 1), 2);
        own[h] = owner_of_row(p, r);
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int c = k * 16 + e * 8 + pair;
                q[k][2 * e + h] = r < p.rows && c < p.d ? code[c / 2] : 0;
            }
    }
#pragma unroll
    for (float& v : acc) v = 0.0f;
    written(q);
    written(acc);

    barrier_wait(ring.full, 0);
    logits<D>(s, q, ring.tiles);
    wgmma_wait<0>();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const int stage = step % STAGES, from = begin + step * KEYS;
        const u32* owners = ring.owners + stage * KEYS + pair;
        // Masked keys, and those that do not exist, have a logit of minus infinity.
        if (p.key_owners) {
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j) {
                const uint2 owner = *(const uint2*)(owners + j * 8);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const u32 key = e % 2 ? owner.y : owner.x;
                    if (key == own[e / 2] || key == NOBODY) s[j * 4 + e] = -INFINITY_F;
                }
            }
        } else if (from + KEYS > p.m) {
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (from + j * 8 + pair + e % 2 >= p.m) s[j * 4 + e] = -INFINITY_F;
        }
        u32 x[KEYS / 16][4];
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float a = s[j * 4 + h * 2], b = s[j * 4 + h * 2 + 1];
                const float of_a = exp2_approx(fmaf(a, p.scale, -p.scale)),
                            of_b = exp2_approx(fmaf(b, p.scale, -p.scale));
                top[h] = fmaxf(top[h], fmaxf(a, b));
                sum[h] += of_a;
                sum[h] += of_b;
                x[j / 2][j % 2 * 2 + h] = pack_bf16(of_a, of_b);
            }
        if (p.weighted) {
            written(x);
            weigh<D>(acc, x, ring.tiles + stage * Tile<D>::BYTES);
        }
        if (step + 1 < steps) {
            const int next = (step + 1) % STAGES;
            barrier_wait(ring.full + 8 * next, parity(step + 1));
            logits<D>(s, q, ring.tiles + next * Tile<D>::BYTES);
        }
        wgmma_wait<0>();
        __syncwarp();
        if (lane == 0) barrier_arrive(ring.freed + 8 * stage);
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int r = row + h * 8;
        float total = sum[h], most = top[h];
#pragma unroll
        for (int o = 1; o < 4; o *= 2) {
            total += __shfl_xor_sync(~0u, total, o);
            most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
        }
        if (r >= p.rows) continue;
        const int at = blockIdx.y * p.rows + r;
        if (pair == 0) p.sums[at] = make_float2(total, most);
        if (!p.weighted) continue;
        float* out = p.weighted + (size_t)at * p.d + pair;
#pragma unroll
        for (int j = 0; j < D / 8; ++j)
            if (j * 8 < p.d) *(float2*)(out + j * 8) = make_float2(acc[j * 4 + h * 2], acc[j * 4 + h * 2 + 1]);
    }
}

template <int D>
__device__ __forceinline__ void sweep(const Sweep& p, const TensorMap* queue) {
    extern __shared__ __align__(128) u8 shared[];
    __shared__ __align__(8) u64 barriers[2 * STAGES];
    __shared__ __align__(8) u32 owners[STAGES * KEYS];
    const u32 full = smem_address(barriers);
    const Stages ring = {(smem_address(shared) + 1023) & ~1023u, full, full + 8 * STAGES, owners};
    const int begin = blockIdx.y * p.share, end = min(begin + p.share, p.m), steps = (end - begin + KEYS - 1) / KEYS;
    if (threadIdx.x == 0) {
        prefetch_map(queue);
        for (int s = 0; s < STAGES; ++s) {
            barrier_init(ring.full + 8 * s, 1);
            barrier_init(ring.freed + 8 * s, CONSUMERS * 4);
        }
        barrier_init_done();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x < 32) produce<D>(p, queue, ring, begin, steps);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<D>(p, ring, begin, steps);
    }
}

#define SWEEP_SM90(NAME, D)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        NAME(const void* __restrict__ q0, const void* __restrict__ q1, const void* __restrict__ q2,                    \
             const void* __restrict__ q3, const __grid_constant__ TensorMap queue, const u32* __restrict__ row_owners, \
             const u32* __restrict__ key_owners, float* __restrict__ weighted, float2* __restrict__ sums, Extents e) { \
        const Sweep p = {e, {q0, q1, q2, q3}, nullptr, row_owners, key_owners, weighted, sums};                        \
        sweep<D>(p, &queue);                                                                                           \
    }

// shared: infonce_sweep_sm90_r128_d64_bf16 33792
// shared: infonce_sweep_sm90_r128_d128_bf16 66560
SWEEP_SM90(infonce_sweep_sm90_r128_d64_bf16, 64)
SWEEP_SM90(infonce_sweep_sm90_r128_d128_bf16, 128)
