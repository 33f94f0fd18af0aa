// cp.async: asynchronous copies from gmem to smem.
#pragma once
#include "common/types.cuh"

// The address of `p` in the shared state space, for `ldmatrix` and `cp.async`.
__device__ __forceinline__ u32 smem_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}

// Emits no instruction, but hides how `address` was computed. Otherwise the compiler recomputes addresses in every
// iteration of a loop in order to save registers.
__device__ __forceinline__ void opaque(u32& address) {
    asm volatile("" : "+r"(address));
}

// Copies BYTES (8 or 16) bytes, or writes zeros where `!ok`. Then nothing is read, but `src` must still be aligned.
// IN_L1: this block will read the bytes again soon, so they are kept in the first-level cache. Without it, 16-byte
// copies bypass L1: the bytes are shared with blocks on other multiprocessors, through L2.
template <int BYTES, bool IN_L1 = false>
__device__ __forceinline__ void cp_async(u32 dst, const void* src, bool ok) {
    const int n = ok ? BYTES : 0;
    if (BYTES == 16 && IN_L1) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
    } else if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
    }
}

__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Returns when at most N of this thread's groups are pending.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
