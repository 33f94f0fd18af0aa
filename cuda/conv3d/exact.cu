// Convolution of f32 tensors in f32 arithmetic.
#include "conv3d/exact.cuh"

EXACT(float, f32)
