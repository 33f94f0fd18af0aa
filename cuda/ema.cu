// The moving average of a key network for one tensor. Grid: blocks of 256 threads, 16 bytes a thread. Launched by
// `ops::ema::cuda`.
#include "common/elements.cuh"

struct Blend {
    float* key;
    const float* __restrict__ query;
    float keep, fresh;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float k[W], q[W];
        load<W>(key + i, k);
        load<W>(query + i, q);
#pragma unroll
        for (int j = 0; j < W; ++j) {
            k[j] = __fadd_rn(__fmul_rn(keep, k[j]), __fmul_rn(fresh, q[j]));  // the CPU's roundings
        }
        store<W>(key + i, k);
    }
};

// `key = keep · key + fresh · query`, n elements in place. Grid: a block for every 256 threads of 16 bytes. Launched by
// `ops::ema::blend`.
extern "C" __global__ void __launch_bounds__(256)
    ema_blend_f32(float* key, const float* __restrict__ query, float keep, float fresh, u32 n) {
    for_elements<WIDE<float>>(n, Blend{key, query, keep, fresh});
}
