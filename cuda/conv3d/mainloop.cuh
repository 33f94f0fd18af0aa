// The mainloop of the tensor-core convolutions: a threadblock tile of an implicit GEMM, fed by two iterators.
#pragma once
#include "common/mma.cuh"

// The threadblock tile (M x N of the product), the warp tile, and the pipeline stages. A stage holds one k-block of
// both operands: 32 of K, 64 bytes for each of M rows and N columns.
template <int M_, int N_, int WARP_M_, int WARP_N_, int STAGES_>
struct Tile {
    static constexpr int M = M_, N = N_, WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
    static constexpr int WARPS_M = M / WARP_M, THREADS = WARPS_M * (N / WARP_N) * 32;
    static constexpr int A_BYTES = M * 64, STAGE_BYTES = A_BYTES + N * 64, SMEM_BYTES = STAGES * STAGE_BYTES;

    // The threads that compute the tile: the whole block.
    static __device__ __forceinline__ u32 thread() { return threadIdx.x; }
    static __device__ __forceinline__ void synchronize() { __syncthreads(); }

    // The accumulator fragments of a thread, zero at first: `acc[i][j]` of m16n8 tile (i, j) of the warp tile.
    struct Accumulators {
        float at[WARP_M / 16][WARP_N / 8][4] = {};
    };

    // First row and column of this warp's tile in the threadblock tile.
    static __device__ __forceinline__ int warp_m() { return (int)(threadIdx.x >> 5) % WARPS_M * WARP_M; }
    static __device__ __forceinline__ int warp_n() { return (int)(threadIdx.x >> 5) / WARPS_M * WARP_N; }
};

// Adds the product of `k_blocks` k-blocks to `acc`. `load(smem)` of an iterator issues this thread's cp.async for the
// next k-block of its operand to `smem` and advances. A_TRANSPOSED, B_TRANSPOSED: the operand is [k][row or column] in
// smem, otherwise [row or column][k].
template <class T, bool A_TRANSPOSED, bool B_TRANSPOSED, class IteratorA, class IteratorB>
__device__ __forceinline__ void mainloop(typename T::Accumulators& acc, u32 smem, int k_blocks, IteratorA& iterator_a,
                                         IteratorB& iterator_b) {
    opaque(smem);
    auto load = [&](int stage) {
        const u32 a = smem + stage * T::STAGE_BYTES;
        iterator_a.load(a);
        iterator_b.load(a + T::A_BYTES);
    };
    // Prologue: fills all stages but one.
#pragma unroll 1
    for (int s = 0; s < T::STAGES - 1; ++s) {
        if (s < k_blocks) load(s);
        cp_async_commit();
    }
    const WarpMma<T::WARP_M, T::WARP_N, T::M, T::N, A_TRANSPOSED, B_TRANSPOSED> warp(T::warp_m(), T::warp_n(),
                                                                                     threadIdx.x & 31);
    int read = 0, write = T::STAGES - 1;
#pragma unroll 1
    for (int k_block = 0; k_block < k_blocks; ++k_block) {
        cp_async_wait<T::STAGES - 2>();
        // All threads' copies to stage `read` have arrived, and all warps are done with stage `write`.
        __syncthreads();
        if (k_block + T::STAGES - 1 < k_blocks) load(write);
        cp_async_commit();
        const u32 a = smem + read * T::STAGE_BYTES;
        warp.multiply(acc.at, a, a + T::A_BYTES);
        read = read + 1 == T::STAGES ? 0 : read + 1;
        write = write + 1 == T::STAGES ? 0 : write + 1;
    }
}
