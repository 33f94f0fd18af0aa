// Rows of a matrix taken in another order. Launched by tensor::cuda.
#include "common/elements.cuh"

/// to[i] = from[index[i]], rows of `row` elements; grid x covers a row, grid y the rows. `W` elements a thread when rows
/// are a multiple of sixteen bytes long.
template <class T, int W>
__device__ __forceinline__ void gather(const T *__restrict__ from, const unsigned *__restrict__ index, T *__restrict__ to, unsigned row) {
    unsigned column = (blockIdx.x * BLOCK + threadIdx.x) * W;
    if (column >= row) {
        return;
    }
    float v[W];
    load<W>(from + (unsigned long long)index[blockIdx.y] * row + column, v);
    store<W>(to + (unsigned long long)blockIdx.y * row + column, v);
}

#define ROWS(NAME, T, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        rows_gather_##NAME(const T *__restrict__ from, const unsigned *__restrict__ index, T *__restrict__ to, unsigned row) { \
        gather<T, W>(from, index, to, row);                                                                            \
    }

ROWS(f32, float, 1)
ROWS(bf16, bf16, 1)
ROWS(wide_f32, float, WIDE<float>)
ROWS(wide_bf16, bf16, WIDE<bf16>)

/// Up to 24 arrays, and where each starts in the result; the layout of tensor::cuda::Parts.
struct Parts {
    const float *from[24];
    unsigned start[25];
};

/// The arrays of `parts` one after another: a block for each array. For a few numbers that the host wants at once.
extern "C" __global__ void __launch_bounds__(BLOCK) rows_collect_f32(Parts parts, float *__restrict__ to) {
    unsigned part = blockIdx.x, start = parts.start[part], end = parts.start[part + 1];
    for (unsigned i = start + threadIdx.x; i < end; i += BLOCK) {
        to[i] = parts.from[part][i - start];
    }
}
