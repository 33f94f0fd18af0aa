// Conversions between f32 and bf16, and fills. Grid: blocks of 256 threads over the elements. Launched by
// `tensor::cuda`.
#include "common/elements.cuh"

// Elements a thread converts: 16 bytes on the f32 side, so that a warp's requests have no gaps on either side.
constexpr int QUAD = 4;

template <class From, class To>
struct Cast {
    const From* __restrict__ x;
    To* __restrict__ y;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float v[W];
        load<W>(x + i, v);
        store<W>(y + i, v);
    }
};

template <class T>
struct Fill {
    T* __restrict__ y;
    float value;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float v[W];
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = value;
        }
        store<W>(y + i, v);
    }
};

// `y = x` rounded to nearest even, n elements. Grid: a block for every 256 threads of 4. Launched by `Tensor::cast`.
extern "C" __global__ void __launch_bounds__(256)
    cast_convert_f32_bf16(const float* __restrict__ x, bf16* __restrict__ y, u32 n) {
    for_elements<QUAD>(n, Cast<float, bf16>{x, y});
}

// `y = x` exactly. Grid and caller as `cast_convert_f32_bf16`.
extern "C" __global__ void __launch_bounds__(256)
    cast_convert_bf16_f32(const bf16* __restrict__ x, float* __restrict__ y, u32 n) {
    for_elements<QUAD>(n, Cast<bf16, float>{x, y});
}

// `y = value`, n elements. Grid: a block for every 256 threads of 16 bytes. Launched by `Tensor::full` on a device.
extern "C" __global__ void __launch_bounds__(256) cast_fill_f32(float* __restrict__ y, float value, u32 n) {
    for_elements<WIDE<float>>(n, Fill<float>{y, value});
}
