// The mainloop of the convolutions with wgmma: one warp copies k-blocks to a ring of stages in smem by TMA, two
// warpgroups multiply. For `compute_90a` only.
#pragma once
#include "common/cluster.cuh"
#include "common/wgmma.cuh"
#include "conv3d/epilogue.cuh"

// The threadblock tile (M x N of the product) and the pipeline stages. A stage holds one k-block of both operands: 64 of
// K. Each of two consumer warpgroups computes half of the rows, or half of the columns of a tile of 64 rows. COLUMNS of
// the tile are staged at a time when it is stored in bf16.
//
// The tiles of a cluster of CLUSTER blocks follow each other along the rows of the product (in `wgrad_norm_sm90.cu`, which computes
// it transposed, along its columns), so they have the other operand in common. Each block copies its share of that to all of them,
// so that it is read from L2 once for the cluster.
template <int M_, int N_, int STAGES_, int COLUMNS_, int CLUSTER_ = 1>
struct WarpgroupTile {
    static constexpr int M = M_, N = N_, STAGES = STAGES_, COLUMNS = COLUMNS_, CLUSTER = CLUSTER_;
    static constexpr int THREADS = 3 * 128, K_BLOCK = 64;
    // Of a thread that copies, and of one that multiplies: 504 together, what three warpgroups begin with.
    static constexpr int COPY_REGISTERS = 40, MULTIPLY_REGISTERS = 232;
    static constexpr int A_BYTES = M * 128, STAGE_BYTES = A_BYTES + N * 128;
    // The part of a consumer: wgmma tiles of 64 rows, and their columns.
    static constexpr int ROWS = M == 64 ? 1 : M / 128, WIDTH = M == 64 ? N / 2 : N;
    static_assert((M == 64 || M % 128 == 0) && N % COLUMNS == 0, "whole wgmma tiles and parts");

    // First row and column of a consumer in the tile.
    static __device__ __forceinline__ int consumer_m(int consumer) { return M == 64 ? 0 : consumer * (M / 2); }
    static __device__ __forceinline__ int consumer_n(int consumer) { return M == 64 ? consumer * WIDTH : 0; }

    // The part of the tile that is staged at a time. Its threads are those of the two consumers.
    struct Part {
        static constexpr int M = M_, N = COLUMNS_, THREADS = 2 * 128;
        static __device__ __forceinline__ u32 thread() { return threadIdx.x - 128; }
        static __device__ __forceinline__ void synchronize() { asm volatile("bar.sync 1, 256;" ::: "memory"); }
    };

    // Dynamic smem: the stages, aligned to swizzle atoms, and the staged part behind them.
    static constexpr int STAGED = STAGES * STAGE_BYTES, SMEM_BYTES = STAGED + M * (COLUMNS * 2 + 16) + 1024;

    struct Accumulators {
        float at[ROWS][WIDTH / 2];
    };
};

// The ring of stages: which one is next, and the parity of its phase.
template <int STAGES>
struct Stage {
    int index = 0;
    u32 parity = 0;

    __device__ __forceinline__ void next() {
        if (++index == STAGES) index = 0, parity ^= 1;
    }
};

// The barriers of the ring: stage s is full after one arrival (the producer's) and its bytes, and free after one arrival
// of each consumer warp of the cluster, whose blocks all copy to it.
template <class T>
struct Ring {
    u32 stages, full, freed;
    int rank;  // of the block in its cluster

    // By all threads of the block. `smem` is dynamic, `barriers` holds 2 · STAGES.
    __device__ __forceinline__ Ring(u32 smem, u32 barriers) {
        stages = (smem + 1023) & ~1023u;
        full = barriers, freed = barriers + 8 * T::STAGES;
        if (threadIdx.x == 0) {
            for (int s = 0; s < T::STAGES; ++s) {
                barrier_init(full + 8 * s, 1);
                barrier_init(freed + 8 * s, 8 * T::CLUSTER);
            }
            barrier_init_done();
        }
        rank = begin_cluster<T::CLUSTER>();
    }

    // The producer: waits until the stage is free, and announces what it copies there. Returns the stage's address.
    __device__ __forceinline__ u32 acquire(const Stage<T::STAGES>& s) const {
        barrier_wait(freed + 8 * s.index, s.parity ^ 1);
        // Bytes of other blocks may have come before they are announced: without this arrival the phase cannot end.
        barrier_arrive_expect(full + 8 * s.index, T::STAGE_BYTES);
        return stages + s.index * T::STAGE_BYTES;
    }

    __device__ __forceinline__ u32 arrived(const Stage<T::STAGES>& s) const { return full + 8 * s.index; }

    // A consumer warp is done with a stage.
    __device__ __forceinline__ void release(const Stage<T::STAGES>& s) const {
        barrier_arrive_at_all<T::CLUSTER>(freed + 8 * s.index, threadIdx.x & 31);
    }
};

// A consumer's part of the product of one k-block, whose operands begin at `a` and `b`: of its first STEPS · 16 k.
// A_MN_MAJOR, B_MN_MAJOR: the operand is [k][row or column] in smem, in blocks of 64 rows or columns, otherwise
// [row or column][k].
template <class T, bool A_MN_MAJOR, bool B_MN_MAJOR, int STEPS = T::K_BLOCK / 16>
__device__ __forceinline__ void multiply_k_block(typename T::Accumulators& acc, u32 a, u32 b) {
    constexpr u32 BLOCK = T::K_BLOCK * 128;  // bytes of 64 rows or columns
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
        // Sixteen k are 32 bytes of a row, or two atoms of eight k.
        const u64 of_b = operand<B_MN_MAJOR>(b + k * (B_MN_MAJOR ? 2048 : 32), BLOCK);
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
            const u64 of_a = operand<A_MN_MAJOR>(a + i * BLOCK + k * (A_MN_MAJOR ? 2048 : 32), BLOCK);
            Wgmma<T::WIDTH, A_MN_MAJOR, B_MN_MAJOR>::multiply(acc.at[i], of_a, of_b);
        }
    }
    wgmma_commit();
}

// The same, of which only the first `depth` k are numbers, and zeros follow. Each number of products has a way of its
// own: the compiler lets products follow each other only where no branch is between them.
template <class T, bool A_MN_MAJOR, bool B_MN_MAJOR, int STEPS = T::K_BLOCK / 16>
__device__ __forceinline__ void multiply_begun(typename T::Accumulators& acc, u32 a, u32 b, int depth) {
    if constexpr (STEPS > 1) {
        if (depth <= (STEPS - 1) * 16) return multiply_begun<T, A_MN_MAJOR, B_MN_MAJOR, STEPS - 1>(acc, a, b, depth);
    }
    multiply_k_block<T, A_MN_MAJOR, B_MN_MAJOR, STEPS>(acc, a, b);
}

template <class T>
__device__ __forceinline__ void clear(typename T::Accumulators& acc) {
#pragma unroll
    for (float(&c)[T::WIDTH / 2] : acc.at) {
#pragma unroll
        for (float& v : c) v = 0.0f;
        written(c);
    }
}

// A consumer: `acc` = the product of `k_blocks` k-blocks of the ring, for its half of the tile.
template <class T, bool A_MN_MAJOR, bool B_MN_MAJOR>
__device__ __forceinline__ void multiply(typename T::Accumulators& acc, const Ring<T>& ring, Stage<T::STAGES>& read,
                                         int k_blocks, int consumer) {
    Stage<T::STAGES> done = read;
    clear<T>(acc);
#pragma unroll 1
    for (int k_block = 0; k_block < k_blocks; ++k_block) {
        barrier_wait(ring.full + 8 * read.index, read.parity);
        const u32 a = ring.stages + read.index * T::STAGE_BYTES, b = a + T::A_BYTES;
        multiply_k_block<T, A_MN_MAJOR, B_MN_MAJOR>(acc, a + T::consumer_m(consumer) * 128,
                                                    b + T::consumer_n(consumer) * 128);
        // The products of the k-block before are done when only those of this one are pending.
        wgmma_wait<1>();
        if (k_block > 0) {
            ring.release(done);
            done.next();
        }
        read.next();
    }
    wgmma_wait<0>();
    if (k_blocks > 0) ring.release(done);
}

// Columns `part` · T::COLUMNS and following of a consumer's accumulators, with the bias of each column added, rounded to
// bf16 into smem. `bias` may be null, and there are `width` columns in all.
template <class T>
__device__ __forceinline__ void stage_part(u8* smem, const typename T::Accumulators& acc, int consumer, int part,
                                           const float* __restrict__ bias, int n0, int width) {
    using Part = StagedTile<typename T::Part>;
    static_assert(T::WIDTH == T::N, "consumers have all columns");
    const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int row = T::consumer_m(consumer) + warp * 16 + (lane >> 2), column = (lane & 3) * 2;
    // Registers cannot be indexed: the part is compared with each that there is.
#pragma unroll
    for (int q = 0; q < T::N / T::COLUMNS; ++q) {
        if (q != part) continue;
#pragma unroll
        for (int j = 0; j < T::COLUMNS / 8; ++j) {
            const int c = n0 + column + j * 8;
            const float lo = bias && c < width ? bias[c] : 0.0f, hi = bias && c + 1 < width ? bias[c + 1] : 0.0f;
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
                const float* v = acc.at[i] + (q * T::COLUMNS + j * 8) / 2;
                *(u32*)(smem + Part::staged(row + i * 64, column + j * 8)) = pack_bf16(v[0] + lo, v[1] + hi);
                *(u32*)(smem + Part::staged(row + i * 64 + 8, column + j * 8)) = pack_bf16(v[2] + lo, v[3] + hi);
            }
        }
    }
}
