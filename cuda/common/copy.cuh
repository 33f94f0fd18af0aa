// Asynchronous copies from global to shared memory.
#pragma once
#include "common/types.cuh"

// The address of `p` inside the shared window, as `ldmatrix` and `cp.async` want it.
__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}

// BYTES (8 or 16) bytes, or zeros where `!ok`: nothing is read then, wherever `src` points, but it must be aligned.
template <int BYTES>
__device__ __forceinline__ void copy_async(u32 dst, const void* src, bool ok) {
    const int n = ok ? BYTES : 0;
    // 16-byte copies pass by L1: a tile is shared by the blocks of other processors, which L2 serves.
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
    }
}

__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when at most N of this thread's groups are still under way.
template <int N>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
