// wgrad on tensor cores: the gradient of a convolution for its filters, bf16 in and f32 out. Channels per row are a
// multiple of 8; `conv3d/wgrad.cuh` has the layouts and the grid. Launched by `ops::conv3d::cuda`, which chooses the
// threadblock tile (filters x columns) and the splits of K.
#include "conv3d/wgrad.cuh"

using Tile128x256 = Tile<128, 256, 64, 64, 3>;
using Tile64x256 = Tile<64, 256, 32, 64, 3>;
using Tile128x128 = Tile<128, 128, 64, 64, 3>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;

// shared: conv3d_wgrad_128x256_bf16 73728
// shared: conv3d_wgrad_64x256_bf16 61440
// shared: conv3d_wgrad_128x128_bf16 49152
// shared: conv3d_wgrad_64x64_bf16 32768
WGRAD(conv3d_wgrad_128x256_bf16, Tile128x256, 8, 1)
WGRAD(conv3d_wgrad_64x256_bf16, Tile64x256, 8, 2)
WGRAD(conv3d_wgrad_128x128_bf16, Tile128x128, 8, 2)
WGRAD(conv3d_wgrad_64x64_bf16, Tile64x64, 8, 4)
