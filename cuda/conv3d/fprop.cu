// Convolution forwards on tensor cores, bf16 in and out, and the sums over its result that a batch norm needs.
#include "conv3d/gather.cuh"

// Convolution of `x` (`n t h w c_row`) with `w` (`k kt kh kw c_row`); `y` is `n to ho wo k`. `bias`,
// one number a filter, may be null. Where `sums` is not null, row `tile` of it (`tiles 2 k`) receives Σ (y - shift) and
// Σ (y - shift)² of the rounded y per channel.
// Grid: tiles of pixels times `column_tiles`. `c_row` is a multiple of 8, or 4 in the `_stem` form.
// Launched by `ops::conv3d::cuda`, which chooses the tile (pixels x filters).
#define FPROP(NAME, BM, BN, WM, WN, STAGES, V, BLOCKS)                                                                 \
    extern "C" __global__ void __launch_bounds__(Gather<BM, BN, WM, WN, STAGES, V, false>::THREADS, BLOCKS)            \
        NAME(const bf16* __restrict__ x, const bf16* __restrict__ w, const float* __restrict__ bias,                   \
             bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift, const Conv p) {          \
        fprop<BM, BN, WM, WN, STAGES, V>(x, w, bias, y, sums, shift, p);                                               \
    }

// shared: conv3d_fprop_128x128_bf16 49152
// shared: conv3d_fprop_128x64_bf16 49152
// shared: conv3d_fprop_64x64_bf16 32768
FPROP(conv3d_fprop_128x128_bf16, 128, 128, 64, 32, 3, 8, 2)
FPROP(conv3d_fprop_128x64_bf16, 128, 64, 64, 32, 4, 8, 3)
FPROP(conv3d_fprop_64x64_bf16, 64, 64, 32, 32, 4, 8, 4)
