// The transpose of a matrix. Matrix products themselves are convolutions with one tap. Grid: one block of 256 threads
// for each tile of 32 x 32. Launched by `ops::matmul::cuda`.
#include "common/types.cuh"

// to[c, r] = from[r, c] for `rows` x `columns` elements. A block turns 32 x 32 of them in shared memory, 256 threads
// reading and writing four rows each; rows one word longer than 32 keep either direction free of bank conflicts.
// Grid: x counts tiles of columns, then of rows. Launched by `ops::matmul::cuda` where both factors are transposed.
template <class T>
__device__ __forceinline__ void transpose(const T* __restrict__ from, T* __restrict__ to, int rows, int columns) {
    __shared__ T tile[32][sizeof(T) == 4 ? 33 : 34];
    const int across = (columns + 31) / 32, down = blockIdx.x / across;
    const int r0 = down * 32, c0 = (blockIdx.x - down * across) * 32;
    const int lane = threadIdx.x & 31, row = threadIdx.x >> 5;
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
        const int r = r0 + row + i, c = c0 + lane;
        if (r < rows && c < columns) tile[row + i][lane] = from[(u32)(r * columns + c)];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
        const int r = r0 + lane, c = c0 + row + i;
        if (r < rows && c < columns) to[(u32)(c * rows + r)] = tile[lane][row + i];
    }
}

extern "C" __global__ void __launch_bounds__(256)
    matmul_transpose_f32(const float* __restrict__ from, float* __restrict__ to, int rows, int columns) {
    transpose(from, to, rows, columns);
}

extern "C" __global__ void __launch_bounds__(256)
    matmul_transpose_bf16(const bf16* __restrict__ from, bf16* __restrict__ to, int rows, int columns) {
    transpose(from, to, rows, columns);
}
