// Rows of a matrix gathered by index, and small arrays concatenated. Blocks of 256 threads. Launched by `tensor::cuda`.
#include "common/elements.cuh"

// to[i] = from[index[i]], rows of `row` elements; grid x covers a row, grid y the rows. `W` elements a thread when rows
// are a multiple of sixteen bytes long.
template <class T, int W>
__device__ __forceinline__ void gather(const T* __restrict__ from, const u32* __restrict__ index, T* __restrict__ to,
                                       u32 row) {
    u32 column = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (column >= row) {
        return;
    }
    float v[W];
    load<W>(from + (u64)index[blockIdx.y] * row + column, v);
    store<W>(to + (u64)blockIdx.y * row + column, v);
}

#define ROWS(NAME, T, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        rows_gather_##NAME(const T* __restrict__ from, const u32* __restrict__ index, T* __restrict__ to, u32 row) {   \
        gather<T, W>(from, index, to, row);                                                                            \
    }

ROWS(f32, float, 1)
ROWS(bf16, bf16, 1)
ROWS(wide_f32, float, WIDE<float>)
ROWS(wide_bf16, bf16, WIDE<bf16>)

// Up to 24 arrays, and where each starts in the result; the layout of tensor::cuda::Parts.
struct Parts {
    const float* from[24];
    u32 start[25];
};

// The arrays of `parts` one after another: a block for each array. For a few numbers that the host wants at once.
extern "C" __global__ void __launch_bounds__(BLOCK) rows_collect_f32(Parts parts, float* __restrict__ to) {
    u32 part = blockIdx.x, start = parts.start[part], end = parts.start[part + 1];
    for (u32 i = start + threadIdx.x; i < end; i += BLOCK) {
        to[i] = parts.from[part][i - start];
    }
}
