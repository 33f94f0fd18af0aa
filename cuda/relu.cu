// ReLU and its gradient. Grid: blocks of 256 threads, 16 bytes a thread. Launched by `ops::relu::cuda`.
#include "common/elements.cuh"

template <class T>
struct Forward {
    const T* __restrict__ x;
    T* __restrict__ y;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float v[W];
        load<W>(x + i, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = v[k] <= 0.0f ? 0.0f : v[k];  // a NaN stays one
        }
        store<W>(y + i, v);
    }
};

template <class T>
struct Backward {
    const T* __restrict__ dy, * __restrict__ y;
    T* __restrict__ dx;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        float d[W], v[W];
        load<W>(dy + i, d);
        load<W>(y + i, v);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            d[k] = v[k] > 0.0f ? d[k] : 0.0f;
        }
        store<W>(dx + i, d);
    }
};

// `y = max(x, 0)` for n elements. Grid: a block for every 256 threads of 16 bytes. Launched by `ops::relu::cuda`.
extern "C" __global__ void __launch_bounds__(256)
    relu_forward_f32(const float* __restrict__ x, float* __restrict__ y, u32 n) {
    for_elements<WIDE<float>>(n, Forward<float>{x, y});
}

// As `relu_forward_f32`.
extern "C" __global__ void __launch_bounds__(256)
    relu_forward_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, u32 n) {
    for_elements<WIDE<bf16>>(n, Forward<bf16>{x, y});
}

// `dx = dy` where y is positive, 0 elsewhere. Grid as the forward pass. Launched by `ops::relu::cuda`.
extern "C" __global__ void __launch_bounds__(256)
    relu_backward_f32(const float* __restrict__ dy, const float* __restrict__ y, float* __restrict__ dx, u32 n) {
    for_elements<WIDE<float>>(n, Backward<float>{dy, y, dx});
}

// As `relu_backward_f32`.
extern "C" __global__ void __launch_bounds__(256)
    relu_backward_bf16(const bf16* __restrict__ dy, const bf16* __restrict__ y, bf16* __restrict__ dx, u32 n) {
    for_elements<WIDE<bf16>>(n, Backward<bf16>{dy, y, dx});
}
