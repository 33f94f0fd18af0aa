// fprop and wgrad of stems (a network's first convolution) on tensor cores: rows of 4 channels, so a 16-byte chunk
// along K holds two taps. `conv3d/fprop.cuh` and `conv3d/wgrad.cuh` have the layouts and the grids. Launched by
// `ops::conv3d::cuda` on copies that `conv3d_pad_bf16` padded to 4 channels.
#include "conv3d/fprop.cuh"
#include "conv3d/wgrad.cuh"

using Tile128x64 = Tile<128, 64, 32, 32, 4>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;

// shared: conv3d_fprop_stem_bf16 49152
// shared: conv3d_wgrad_stem_bf16 32768
FPROP(conv3d_fprop_stem_bf16, Tile128x64, 4, 2)
WGRAD(conv3d_wgrad_stem_bf16, Tile64x64, 4, 4)
