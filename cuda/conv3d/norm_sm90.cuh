// The prologue of convolutions with wgmma that read `relu(norm(x))`: fragments of x come from a stage into registers, are
// normalised there, and are the first operand of the products. For `compute_90a` only.
//
// A k-block is multiplied in two halves, each with fragments of its own: one is normalised while the products of the
// other are computed.
#pragma once
#include "common/mma.cuh"
#include "common/wgmma_registers.cuh"
#include "conv3d/mainloop_sm90.cuh"

// The batch norm before the convolution.
struct Norm {
    const float* mean;     // per part of the samples and channel
    const float* inv_std;  // the same
    const float* gamma;    // per channel
    const float* beta;
};

// relu((x - mean) · scale + beta) of two numbers, to the bit as `batch_norm_apply` computes it.
__device__ __forceinline__ u32 norm_relu(u32 x, float2 mean, float2 scale, float2 beta) {
    const float lo = fmaf(bf16_lo(x) - mean.x, scale.x, beta.x), hi = fmaf(bf16_hi(x) - mean.y, scale.y, beta.y);
    u32 pair;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

// Fragments of a half of a k-block: two steps of 16 k, of each tile of 64 rows.
template <class T>
using Fragments = u32[2][T::ROWS][4];

// Adds the product of such a half to a consumer's part. `b` is where its k begin in the second operand.
template <class T, bool B_MN_MAJOR>
__device__ __forceinline__ void multiply_half(typename T::Accumulators& acc, Fragments<T>& a, u32 b) {
    written(a);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const u64 of_b = operand<B_MN_MAJOR>(b + k * (B_MN_MAJOR ? 2048 : 32), T::K_BLOCK * 128);
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            WgmmaRegisters<T::WIDTH, true, B_MN_MAJOR>::multiply(acc.at[i], a[k][i], of_b);
        }
    }
    wgmma_commit();
}

// As `multiply`, with the first operand in registers: `load(f, a, k_block, half)` makes `f` the normalised fragments of a
// half of a k-block, whose operand is in smem at `a`.
template <class T, bool B_MN_MAJOR, class Load>
__device__ __forceinline__ void multiply_normed(typename T::Accumulators& acc, const Ring<T>& ring,
                                                Stage<T::STAGES>& read, int k_blocks, Load load) {
    constexpr u32 HALF = B_MN_MAJOR ? 4096 : 64;  // bytes of 32 k of the second operand
    Stage<T::STAGES> done = read;
    Fragments<T> first, second;
    clear<T>(acc);
    if (k_blocks > 0) {
        barrier_wait(ring.full + 8 * read.index, read.parity);
        load(first, ring.stages + read.index * T::STAGE_BYTES, 0, 0);
    }
#pragma unroll 1
    for (int k_block = 0; k_block < k_blocks; ++k_block) {
        const u32 a = ring.stages + read.index * T::STAGE_BYTES, b = a + T::A_BYTES;
        multiply_half<T, B_MN_MAJOR>(acc, first, b);
        // The k-block before is done when only the products of this half are pending.
        wgmma_wait<1>();
        if (k_block > 0) {
            ring.release(done);
            done.next();
        }
        load(second, a, k_block, 1);
        multiply_half<T, B_MN_MAJOR>(acc, second, b + HALF);
        read.next();
        // The fragments of the first half may be overwritten.
        wgmma_wait<1>();
        if (k_block + 1 < k_blocks) {
            barrier_wait(ring.full + 8 * read.index, read.parity);
            load(first, ring.stages + read.index * T::STAGE_BYTES, k_block + 1, 0);
        }
    }
    wgmma_wait<0>();
    if (k_blocks > 0) ring.release(done);
}
