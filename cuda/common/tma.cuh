// Copies of whole tiles by the tensor memory accelerator (TMA), and the barriers in smem that say when they have arrived.
// For `compute_90a` only.
#pragma once
#include "common/copy.cuh"

// A `CUtensorMap`, which the driver encodes: a tensor in gmem, and the box that one copy takes of it.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// A barrier in smem, eight bytes at `barrier`, whose phase completes after `arrivals` arrivals and all bytes announced.
__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers, and what this thread has stored to smem, visible to TMA and wgmma. The block synchronises
// afterwards.
__device__ __forceinline__ void barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Arrives, and announces `bytes` that copies will bring before the phase completes.
__device__ __forceinline__ void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity has completed. The phase before the first one counts as completed, with parity 1.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra WAIT;\n"
        "\t}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Copies the box of `map` at these coordinates (innermost first) to `to`; outside of the tensor it is filled with zeros.
__device__ __forceinline__ void tma_load(u32 to, const TensorMap* map, u32 barrier, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x), "r"(y)
        : "memory");
}

__device__ __forceinline__ void tma_load(u32 to, const TensorMap* map, u32 barrier, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}

__device__ __forceinline__ void tma_load(u32 to, const TensorMap* map, u32 barrier, int c, int w, int h, int t, int n) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(t), "r"(n)
        : "memory");
}

// Copies channels from `c` on of consecutive pixels of `n t h w c`, in im2col mode: the first pixel is at these
// coordinates of the tap with offset 0, and the offsets (0 or more) of the tap move all pixels.
__device__ __forceinline__ void tma_load_im2col(u32 to, const TensorMap* map, u32 barrier, int c, int w, int h, int t,
                                                int n, int offset_w, int offset_h, int offset_t) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10};" ::"r"(to),
        "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(t), "r"(n), "h"((u16)offset_w), "h"((u16)offset_h),
        "h"((u16)offset_t)
        : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
