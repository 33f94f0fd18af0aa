// fprop, dgrad and wgrad of bf16 tensors with FFMA in f32: grouped convolutions, whose groups are too narrow for tensor
// cores. `conv3d/exact.cuh` has the layouts and the grid. Launched by `ops::conv3d::cuda`.
#include "conv3d/exact.cuh"

EXACT(bf16, bf16)
