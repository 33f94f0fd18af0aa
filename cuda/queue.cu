// The ring buffer of keys `[capacity d]`: new keys replace the oldest. One block of 256 threads a row. Launched by
// `tensor::ring`.
#include "common/elements.cuh"

// Row blockIdx.x of the last `gridDim.x` of `keys [n d]`, and its owner, to their place in a ring of `capacity` rows
// whose next row is `*at`. `skip` rows of keys come before the first that is kept.
template <int W>
__device__ __forceinline__ void push(const float* __restrict__ keys, const u32* __restrict__ owners,
                                     const u32* __restrict__ at, float* __restrict__ ring,
                                     u32* __restrict__ ring_owners, u32 d, u32 capacity, u32 skip) {
    u32 from = skip + blockIdx.x, to = (*at + from) % capacity;
    for (u32 i = threadIdx.x * W; i < d; i += BLOCK * W) {
        float v[W];
        load<W>(keys + (u64)from * d + i, v);
        store<W>(ring + (u64)to * d + i, v);
    }
    if (threadIdx.x == 0) {
        ring_owners[to] = owners[from];
    }
}

// New keys into the ring. Grid: a block of 256 for each row that is kept. `at` is left as it is: `queue_advance_u32`
// moves it after all blocks have read it. Wide: d is a multiple of 4. Launched by `tensor::ring`.
extern "C" __global__ void __launch_bounds__(256)
    queue_push_wide_f32(const float* __restrict__ keys, const u32* __restrict__ owners, const u32* __restrict__ at,
                        float* __restrict__ ring, u32* __restrict__ ring_owners, u32 d, u32 capacity, u32 skip) {
    push<4>(keys, owners, at, ring, ring_owners, d, capacity, skip);
}

// As `queue_push_wide_f32`, one element a thread.
extern "C" __global__ void __launch_bounds__(256)
    queue_push_single_f32(const float* __restrict__ keys, const u32* __restrict__ owners, const u32* __restrict__ at,
                          float* __restrict__ ring, u32* __restrict__ ring_owners, u32 d, u32 capacity, u32 skip) {
    push<1>(keys, owners, at, ring, ring_owners, d, capacity, skip);
}

// `*at = (*at + n) mod capacity`. One thread. Launched by `tensor::ring`.
extern "C" __global__ void __launch_bounds__(32) queue_advance_u32(u32* __restrict__ at, u32 n, u32 capacity) {
    if (threadIdx.x == 0) {
        *at = (*at + n) % capacity;
    }
}
