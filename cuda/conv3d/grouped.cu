// Convolution of bf16 tensors in f32 arithmetic: the path of groups, which tensor cores have no use for when narrow.
#include "conv3d/exact.cuh"

EXACT(bf16, bf16)
