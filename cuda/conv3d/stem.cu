// Networks' first convolutions: rows of four channels, so that a 16-byte chunk of the depth holds two taps.
#include "conv3d/filters.cuh"
#include "conv3d/gather.cuh"

// shared: conv3d_fprop_stem_bf16 49152
// shared: conv3d_wgrad_stem_bf16 32768
// As `conv3d_fprop_*`, for rows of four channels: 128 pixels x 64 filters.
// Launched by `ops::conv3d::cuda` on copies made by `conv3d_parts_pad_bf16`.
extern "C" __global__ void __launch_bounds__(256, 2)
    conv3d_fprop_stem_bf16(const bf16* __restrict__ x, const bf16* __restrict__ w, const float* __restrict__ bias,
                           bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,
                           const Conv p) {
    fprop<128, 64, 32, 32, 4, 4>(x, w, bias, y, sums, shift, p);
}

// As `conv3d_wgrad_*`, for rows of four channels: 64 filters x 64 columns.
// Launched by `ops::conv3d::cuda` on copies made by `conv3d_parts_pad_bf16`.
extern "C" __global__ void __launch_bounds__(128, 4)
    conv3d_wgrad_stem_bf16(const bf16* __restrict__ x, const bf16* __restrict__ dy, float* __restrict__ part,
                           const Conv p) {
    Filters<64, 64, 32, 32, 4, 4>::run(x, dy, part, p);
}
