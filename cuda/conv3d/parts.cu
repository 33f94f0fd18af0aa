// The small kernels before and after the implicit GEMMs of a convolution: padding of channels, the sum of the splits of
// split-K, and the sum of the statistics of tiles. Blocks of 256 threads. Launched by `ops::conv3d::cuda`.
#include "conv3d/problem.cuh"

// Copies rows of `from` channels to rows of `4 * quads.by` channels, padded with zeros. Grid-stride, 8 bytes a thread.
// Launched where the channels are no multiple of 8.
extern "C" __global__ void __launch_bounds__(256)
    conv3d_pad_bf16(const bf16* __restrict__ src, bf16* __restrict__ dst, int rows, int from, const Divisor quads) {
    const int count = rows * (int)quads.by;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < count; i += gridDim.x * 256) {
        const int row = (int)quotient((u32)i, quads), c = (i - row * (int)quads.by) * 4;
        const bf16* at = src + (u32)(row * from + c);
        u32 v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = c + j < from ? at[j].bits : 0;
        *(uint2*)(dst + (size_t)i * 4) = make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    }
}

// dw[row, c] = Σ over splits, in order, of part[split, row, c]; rows of `part` have `c_row >= c` channels. One thread
// per element of dw. Launched after any wgrad with splits or padded channels.
extern "C" __global__ void __launch_bounds__(256)
    conv3d_merge_splits_f32(const float* __restrict__ part, float* __restrict__ dw, int splits, int rows, int c,
                            int c_row) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * c) return;
    const int row = i / c;
    const float* from = part + (u32)(row * c_row + i - row * c);
    const size_t apart = (size_t)rows * c_row;
    float sum = 0.0f;
#pragma unroll 4
    for (int s = 0; s < splits; ++s) sum += from[s * apart];
    dw[i] = sum;
}

// sums[group, part, j] = Σ over the tiles of a part of a group, in a fixed order, of part[group, tile, j]; j counts both
// statistics of every channel. Grid: x = 32 columns a block, eight threads each, which take every eighth tile; y = parts
// of `span` tiles; z = groups. Launched after an fprop or dgrad that wrote statistics: once over few tiles, otherwise
// again over the parts.
extern "C" __global__ void __launch_bounds__(256)
    conv3d_merge_statistics_f32(const float* __restrict__ part, float* __restrict__ sums, int tiles, int span,
                                int columns) {
    __shared__ float parts[8][32];
    const int lane = threadIdx.x & 31, eighth = threadIdx.x >> 5, j = blockIdx.x * 32 + lane;
    const float* from = part + (size_t)blockIdx.z * tiles * columns + j;
    const int begin = blockIdx.y * span, end = min(tiles, begin + span);
    float sum = 0.0f;
    if (j < columns) {
#pragma unroll 4
        for (int t = begin + eighth; t < end; t += 8) sum += from[(size_t)t * columns];
    }
    parts[eighth][lane] = sum;
    __syncthreads();
    if (eighth == 0 && j < columns) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) total += parts[i][lane];
        sums[(u32)((blockIdx.z * gridDim.y + blockIdx.y) * columns + j)] = total;
    }
}
