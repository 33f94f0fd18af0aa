// fprop, dgrad and wgrad of f32 tensors with FFMA. `conv3d/exact.cuh` has the layouts and the grid. Launched by
// `ops::conv3d::cuda`.
#include "conv3d/exact.cuh"

EXACT(float, f32)
