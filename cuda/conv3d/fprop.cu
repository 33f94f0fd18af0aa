// fprop on tensor cores, bf16 in and out, and the column sums of its result that a batch norm needs. Channels per row
// are a multiple of 8; `conv3d/fprop.cuh` has the layouts and the grid. Launched by `ops::conv3d::cuda`, which chooses
// the threadblock tile (pixels x filters).
#include "conv3d/fprop.cuh"

using Tile256x128 = Tile<256, 128, 64, 64, 3>;
using Tile128x128 = Tile<128, 128, 64, 64, 3>;
using Tile128x64 = Tile<128, 64, 64, 32, 4>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;

// shared: conv3d_fprop_256x128_bf16 73728
// shared: conv3d_fprop_128x128_bf16 49152
// shared: conv3d_fprop_128x64_bf16 49152
// shared: conv3d_fprop_64x64_bf16 32768
FPROP(conv3d_fprop_256x128_bf16, Tile256x128, 8, 1)
FPROP(conv3d_fprop_128x128_bf16, Tile128x128, 8, 2)
FPROP(conv3d_fprop_128x64_bf16, Tile128x64, 8, 3)
FPROP(conv3d_fprop_64x64_bf16, Tile64x64, 8, 4)
