// Kernels that measure the peak rates of Hopper's wgmma and TMA, beside those of `peaks.cu`. Launched by
// benches/gpu/peaks.rs.
#include "common/tma.cuh"
#include "common/wgmma.cuh"

// Tiles of the products: two warpgroups with 64 rows each, 256 columns, 64 of K.
constexpr u32 ROWS = 128, COLUMNS = 256;

// Products of warpgroups, 64x256x64 each, `rounds` (at least one) of them, both operands in smem: a tile of 128 by 256 like that of the
// convolutions. Numbers are different, because equal ones draw less power and clock higher. One sum a thread goes to `y`.
// allow: peaks_wgmma_sm90_bf16 utmaldg: its operands are computed
// shared: peaks_wgmma_sm90_bf16 50176
extern "C" __global__ void __launch_bounds__(256, 1) peaks_wgmma_sm90_bf16(float* __restrict__ y, u32 rounds) {
    extern __shared__ __align__(128) u8 smem[];
    const u32 base = smem_address(smem), tiles = (base + 1023) & ~1023u;
    u32* words = (u32*)(smem + (tiles - base));
    for (u32 i = threadIdx.x; i < (ROWS + COLUMNS) * 32; i += 256) {
        // Pairs of bf16 in [0.5, 1) and (-1, -0.5]: any significand, exponent of a half.
        words[i] = ((i * 2654435761u) & 0x007f007fu) | (i & 1 ? 0x3f00bf00u : 0xbf003f00u);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    const u32 a = tiles + threadIdx.x / 128 * 64 * 128, b = tiles + ROWS * 128;
    float acc[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) acc[i] = 0.0f;
#pragma unroll 1
    do {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            Wgmma<256, false, false>::multiply(acc, operand<false>(a + k * 32, 0), operand<false>(b + k * 32, 0));
        }
        wgmma_commit();
        wgmma_wait<0>();
    } while (--rounds);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 128; ++i) total += acc[i];
    y[blockIdx.x * 256 + threadIdx.x] = total;
}

// Rows of 128 bytes of a copy, and copies under way.
constexpr u32 COPY = 128, STAGES = 8;

// Copies the `copies` copies of `x` `rounds` times in every block, each block beginning elsewhere: with an `x` smaller
// than the second-level cache, the rate at which TMA loads from it. Of each copy a thread reads one word of the first
// row; their exclusive or goes to `y`. One warp.
// allow: peaks_tma_sm90_bf16 hgmma: it only copies
// shared: peaks_tma_sm90_bf16 132096
extern "C" __global__ void __launch_bounds__(32)
    peaks_tma_sm90_bf16(const __grid_constant__ TensorMap x, u32* __restrict__ y, u32 copies, u32 rounds) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[STAGES];
    const u32 base = smem_address(smem), stages = (base + 1023) & ~1023u, arrived = smem_address(barriers);
    const u32* words = (const u32*)(smem + (stages - base));
    const u32 all = copies * rounds;
    u32 next = blockIdx.x * 7 % copies;
    auto copy = [&](u32 stage) {
        barrier_arrive_expect(arrived + 8 * stage, COPY * 128);
        tma_load(stages + stage * COPY * 128, &x, arrived + 8 * stage, 0, (int)(next * COPY));
        next = next + 1 < copies ? next + 1 : 0;
    };
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; ++s) barrier_init(arrived + 8 * s, 1);
        barrier_init_done();
        for (u32 s = 0; s < STAGES && s < all; ++s) copy(s);
    }
    __syncwarp();
    u32 mixed = 0, stage = 0, parity = 0;
#pragma unroll 1
    for (u32 i = 0; i < all; ++i) {
        barrier_wait(arrived + 8 * stage, parity);
        mixed ^= words[stage * COPY * 32 + threadIdx.x];
        __syncwarp();
        if (threadIdx.x == 0 && i + STAGES < all) copy(stage);
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
    y[blockIdx.x * 32 + threadIdx.x] = mixed;
}
