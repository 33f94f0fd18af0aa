// Kernels that measure the peak rates of a GPU (copy, L2, FFMA, tensor cores), against which benches state their results.
// Blocks of 256 threads. Launched by benches/gpu/peaks.rs.
#include "common/mma.cuh"

// Threads of a block.
constexpr u32 THREADS = 256;

// `y = x`, four times sixteen bytes a thread, all loads before the first store. Grid: a block for every 4 * THREADS of
// the `n` units of sixteen bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
    peaks_copy_f32(const float4* __restrict__ x, float4* __restrict__ y, u32 n) {
    const u32 first = blockIdx.x * (4 * THREADS) + threadIdx.x;
    float4 v[4];
#pragma unroll
    for (u32 k = 0; k < 4; ++k) {
        if (first + k * THREADS < n) v[k] = x[first + k * THREADS];
    }
#pragma unroll
    for (u32 k = 0; k < 4; ++k) {
        if (first + k * THREADS < n) y[first + k * THREADS] = v[k];
    }
}

// Reads the `n` units of sixteen bytes at `x` `rounds` times in every block, each block beginning elsewhere: with an `x`
// larger than the first-level caches and smaller than the second-level cache, the rate of the latter. One sum a thread
// goes to `y` so that nothing is left out.
extern "C" __global__ void __launch_bounds__(THREADS)
    peaks_read_f32(const float4* __restrict__ x, float* __restrict__ y, u32 n, u32 rounds) {
    float4 sums[4] = {};
    u32 at = (blockIdx.x * (7 * THREADS) + threadIdx.x) % n;
#pragma unroll 1
    for (u32 r = 0; r < rounds * n; r += 4 * THREADS) {
#pragma unroll
        for (u32 k = 0; k < 4; ++k) {
            const float4 v = __ldcg(x + at);  // not from L1
            sums[k].x += v.x, sums[k].y += v.y, sums[k].z += v.z, sums[k].w += v.w;
            at = at + THREADS < n ? at + THREADS : at + THREADS - n;
        }
    }
    float total = 0.0f;
#pragma unroll
    for (u32 k = 0; k < 4; ++k) total += sums[k].x + sums[k].y + sums[k].z + sums[k].w;
    y[blockIdx.x * THREADS + threadIdx.x] = total;
}

// Multiply-adds in sixteen registers that do not wait for each other, `rounds` of each; one sum a thread goes to `y` so
// that nothing is left out. The factors keep the numbers near one.
extern "C" __global__ void __launch_bounds__(THREADS) peaks_fma_f32(float* __restrict__ y, u32 rounds) {
    float sums[16];
#pragma unroll
    for (int k = 0; k < 16; ++k) sums[k] = 1.0f + 0.01f * k;
    const float factor = 0.999f + 1e-7f * threadIdx.x, term = 1e-3f;
#pragma unroll 1
    for (u32 r = 0; r < rounds; ++r) {
#pragma unroll
        for (int k = 0; k < 16; ++k) sums[k] = __fmaf_rn(sums[k], factor, term);
    }
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < 16; ++k) total += sums[k];
    y[blockIdx.x * THREADS + threadIdx.x] = total;
}

// Products of warps, 16x8x16 each, into eight fragments of sums: `rounds` of eight. The operands are different in every
// lane, because equal ones draw less power and clock higher.
extern "C" __global__ void __launch_bounds__(THREADS) peaks_mma_bf16(float* __restrict__ y, u32 rounds) {
    float sums[8][4] = {};
    u32 a[4], b[2];
#pragma unroll
    for (u32 k = 0; k < 4; ++k) {
        // Pairs of bf16 in [-1, -0.5) and [0.5, 1): any significand, exponent of a half.
        a[k] = ((threadIdx.x * 2654435761u + k * 40503u) & 0x007f007fu) | 0xbf003f00u;
    }
#pragma unroll
    for (u32 k = 0; k < 2; ++k) b[k] = ((threadIdx.x * 2246822519u + k * 30011u) & 0x007f007fu) | 0x3f00bf00u;
#pragma unroll 1
    for (u32 r = 0; r < rounds; ++r) {
#pragma unroll
        for (int k = 0; k < 8; ++k) mma_bf16(sums[k], a, b[0], b[1]);
    }
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; ++k) total += sums[k][0] + sums[k][1] + sums[k][2] + sums[k][3];
    y[blockIdx.x * THREADS + threadIdx.x] = total;
}
