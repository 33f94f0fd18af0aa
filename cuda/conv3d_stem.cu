// Networks' first convolutions: rows of four channels, so that a 16-byte chunk of the depth holds two taps; and the copy
// that pads rows of any number of channels with zeros.
#include "conv3d_filters.cuh"
#include "conv3d_gather.cuh"

// shared: conv3d_fprop_stem_bf16 49152
// shared: conv3d_wgrad_stem_bf16 32768
// As `conv3d_fprop_*`, for rows of four channels: 128 pixels x 64 filters.
// Launched by `ops::conv3d::cuda` on copies made by `conv3d_pad_bf16`.
extern "C" __global__ void __launch_bounds__(256, 2)
    conv3d_fprop_stem_bf16(const u16* __restrict__ x, const u16* __restrict__ w, u16* __restrict__ y,
                           float* __restrict__ sums, const float* __restrict__ shift, const Conv p) {
    fprop<128, 64, 32, 32, 4, 4>(x, w, y, sums, shift, p);
}

// As `conv3d_wgrad_*`, for rows of four channels: 64 filters x 64 columns.
// Launched by `ops::conv3d::cuda` on copies made by `conv3d_pad_bf16`.
extern "C" __global__ void __launch_bounds__(128, 4)
    conv3d_wgrad_stem_bf16(const u16* __restrict__ x, const u16* __restrict__ dy, float* __restrict__ part,
                           const Conv p) {
    Filters<64, 64, 32, 32, 4, 4>::run(x, dy, part, p);
}

// Rows of `from` channels copied to rows of `to`, a multiple of 4, and padded with zeros. A thread writes eight bytes.
// Launched by `ops::conv3d::cuda` where channels are no multiple of 8. Grid-stride.
extern "C" __global__ void __launch_bounds__(256) conv3d_pad_bf16(const u16* __restrict__ src, u16* __restrict__ dst,
                                                                  int rows, int from, const Divisor quads) {
    const int count = rows * (int)quads.by;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < count; i += gridDim.x * 256) {
        const int row = (int)quotient((u32)i, quads), c = (i - row * (int)quads.by) * 4;
        const u16* at = src + (u32)(row * from + c);
        u32 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = c + j < from ? at[j] : 0;
        *(uint2*)(dst + (size_t)i * 4) = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    }
}
