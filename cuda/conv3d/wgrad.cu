// The gradient of a convolution by its filters on tensor cores: bf16 in, f32 out.
#include "conv3d/filters.cuh"

// `part[s, k, (tap, c)] = Σ over the pixels of split s of dy[pixel, k] · x[pixel under tap, c]`: x is `n t h w c_row`, dy
// is `n to ho wo k_row`, with rows of multiples of 8 channels (x: 4 in the `_stem` form); part is `splits k taps c_row`.
// Grid: tiles of filters times `column_tiles`; y counts the splits. With one split and no padded channels `part` is the
// gradient itself, otherwise `conv3d_parts_splits_f32` follows.
// Launched by `ops::conv3d::cuda`, which chooses the tile (filters x columns).
#define WGRAD(NAME, BM, BN, WM, WN, STAGES, V, BLOCKS)                                                                 \
    extern "C" __global__ void __launch_bounds__(Filters<BM, BN, WM, WN, STAGES, V>::THREADS, BLOCKS)                  \
        NAME(const bf16* __restrict__ x, const bf16* __restrict__ dy, float* __restrict__ part, const Conv p) {        \
        Filters<BM, BN, WM, WN, STAGES, V>::run(x, dy, part, p);                                                       \
    }

// shared: conv3d_wgrad_128x128_bf16 49152
// shared: conv3d_wgrad_64x64_bf16 32768
WGRAD(conv3d_wgrad_128x128_bf16, 128, 128, 64, 32, 3, 8, 2)
WGRAD(conv3d_wgrad_64x64_bf16, 64, 64, 32, 32, 4, 8, 4)
