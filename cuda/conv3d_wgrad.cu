// The gradient of a convolution by its filters on tensor cores: bf16 in, f32 out.
#include "conv3d_filters.cuh"

// `part[s, k, (tap, c)] = Σ over the pixels of split s of dy[pixel, k] · x[pixel under tap, c]`: x is `n t h w c_row`, dy
// is `n to ho wo k_row`, with rows of multiples of 8 channels (x: 4 in the `_stem` form); part is `splits k taps c_row`.
// Grid: tiles of filters times `column_tiles`; y counts the splits. With one split and no padded channels `part` is the
// gradient itself, otherwise `conv3d_wgrad_sum_f32` follows.
// Launched by `ops::conv3d::cuda`, which chooses the tile (filters x columns).
#define WGRAD(NAME, BM, BN, WM, WN, STAGES, V, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(Filters<BM, BN, WM, WN, STAGES, V>::THREADS, BLOCKS)                 \
        NAME(const u16* __restrict__ x, const u16* __restrict__ dy, float* __restrict__ part, const Conv p) {        \
        Filters<BM, BN, WM, WN, STAGES, V>::run(x, dy, part, p);                                                     \
    }

// shared: conv3d_wgrad_128x128_bf16 49152
// shared: conv3d_wgrad_64x64_bf16 32768
WGRAD(conv3d_wgrad_128x128_bf16, 128, 128, 64, 32, 3, 8, 2)
WGRAD(conv3d_wgrad_64x64_bf16, 64, 64, 32, 32, 4, 8, 4)

// dw[row, c] = Σ over splits, in order, of part[split, row, c]; rows of `part` hold `c_row >= c` channels.
// One thread per element of dw. Launched by `ops::conv3d::cuda` after the products of either path.
extern "C" __global__ void __launch_bounds__(256) conv3d_wgrad_sum_f32(const float* __restrict__ part,
                                                                       float* __restrict__ dw, int splits, int rows,
                                                                       int c, int c_row) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * c) return;
    const int row = i / c;
    const float* from = part + (u32)(row * c_row + i - row * c);
    const size_t apart = (size_t)rows * c_row;
    float sum = 0.f;
#pragma unroll 4
    for (int s = 0; s < splits; s++) sum += from[s * apart];
    dw[i] = sum;
}
