// Blocks of a cluster (`__cluster_dims__`): they run at the same time, and reach each other's smem. For `compute_90a` only.
#pragma once
#include "common/tma.cuh"

// The number of this block in its cluster.
__device__ __forceinline__ int cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

// The address in block `rank` of what is at `address` in this block's smem.
__device__ __forceinline__ u32 in_block(u32 address, int rank) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

// All threads of all blocks that have not returned meet here.
__device__ __forceinline__ void cluster_synchronize() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// After barriers were initialised, by all threads of each of `BLOCKS` blocks. Returns the block's number in its cluster.
template <int BLOCKS>
__device__ __forceinline__ int begin_cluster() {
    if constexpr (BLOCKS == 1) {
        __syncthreads();
        return 0;
    } else {
        cluster_synchronize();
        return cluster_rank();
    }
}

// At the end, by all threads: no block may return while another one copies to it or arrives at its barriers.
template <int BLOCKS>
__device__ __forceinline__ void leave_cluster() {
    if constexpr (BLOCKS > 1) {
        __syncwarp();
        cluster_synchronize();
    }
}

// A warp arrives at the barrier that is at this place in each of `BLOCKS` blocks. Without `.cluster` behind a `.release`, which
// would wait for all stores of the thread (MEMBAR.GPU): the arrival says that products have read a stage, and hands on
// nothing that was stored.
template <int BLOCKS>
__device__ __forceinline__ void barrier_arrive_at_all(u32 barrier, int lane) {
    if constexpr (BLOCKS == 1) {
        if (lane == 0) barrier_arrive(barrier);
    } else if (lane < BLOCKS) {
        asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(in_block(barrier, lane)) : "memory");
    }
}

// As `tma_load` and `tma_load_im2col`, to the same place in each of `BLOCKS` blocks of the cluster, whose barriers at the same
// place each count the bytes. One block copies to itself alone.
template <int BLOCKS>
__device__ __forceinline__ void tma_load_to_all(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z) {
    if constexpr (BLOCKS == 1) {
        tma_load(to, map, barrier, x, y, z);
    } else {
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
            "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"((u16)((1 << BLOCKS) - 1))
            : "memory");
    }
}

template <int BLOCKS>
__device__ __forceinline__ void tma_load_im2col_to_all(u32 to, const TensorMap* map, u32 barrier, int c, int w, int h,
                                                       int t, int n, int offset_w, int offset_h, int offset_t) {
    if constexpr (BLOCKS == 1) {
        tma_load_im2col(to, map, barrier, c, w, h, t, n, offset_w, offset_h, offset_t);
    } else {
        asm volatile(
            "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10}, %11;" ::"r"(to),
            "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(t), "r"(n), "h"((u16)offset_w), "h"((u16)offset_h),
            "h"((u16)offset_t), "h"((u16)((1 << BLOCKS) - 1))
            : "memory");
    }
}
