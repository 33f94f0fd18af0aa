// Sums over neighbouring axes, and broadcasting. Launched by `ops::reduce::cuda`; the sums over columns also by
// `ops::pool3d`.
//
// `columns`: the middle axis of `[o rows c]`, at most 64 channels a block. `rows`: the last axis of `[o len]`, 2^shift
// threads a row. Blocks of 256. A long sum takes two launches: blocks sum chunks of it into f32, and the same kernel
// sums the chunks. The order of additions depends on the shape alone. `factor` multiplies each sum: 1, or 1/n for a
// mean.
#include "common/elements.cuh"
#include "common/reduce.cuh"

template <int W>
__device__ __forceinline__ void add(float (&v)[W], const float (&a)[W]) {
#pragma unroll
    for (int k = 0; k < W; ++k) {
        v[k] += a[k];
    }
}

// `y[o, chunk, c] = factor · sum of x[o, r, c] over the rows r of the chunk`. Block: one tile of at most 64 channels of
// one chunk of one o.
template <class X, class Y, int W>
__device__ __forceinline__ void columns(const X* __restrict__ x, Y* __restrict__ y, u32 rows, u32 c, u32 span,
                                        u32 chunks, u32 tiles, u32 shift, float factor) {
    __shared__ __align__(16) float space[WARPS * ROOM];
    u32 tile = blockIdx.x % tiles, part = blockIdx.x / tiles, chunk = part % chunks;
    Lane lane = lane_of<W>(tile, shift);
    const X* from = x + (u64)(part / chunks) * rows * c;
    u32 end = min(rows, (chunk + 1) * span);
    float v[1][W] = {}, sum[1];
    if (lane.channel < c) {
#pragma unroll 4
        for (u32 r = chunk * span + lane.row; r < end; r += lane.step) {
            float a[W];
            load<W>(from + (u64)r * c + lane.channel, a);
            add(v[0], a);
        }
    }
    sum_rows<1, W>(v, sum, space, shift);
    u32 channel = (tile << shift) * W + threadIdx.x;
    if (threadIdx.x < W << shift && channel < c) {
        y[(u64)part * c + channel] = from_f32<Y>(sum[0] * factor);
    }
}

// `y[o, chunk] = factor · sum of x[o, i] over the elements i of the chunk`: 2^shift threads a row, 256 a block.
template <class X, class Y, int W>
__device__ __forceinline__ void rows(const X* __restrict__ x, Y* __restrict__ y, u32 outer, u32 len, u32 span,
                                     u32 chunks, u32 shift, float factor) {
    __shared__ float space[WARPS];
    u32 lane = threadIdx.x & ((1u << shift) - 1), chunk = blockIdx.x % chunks;
    u32 row = blockIdx.x / chunks * (LANES >> shift) + (threadIdx.x >> shift);
    float v[W] = {};
    if (row < outer) {
        const X* from = x + (u64)row * len;
        u32 end = min(len, (chunk + 1) * span);
#pragma unroll 2
        for (u32 i = chunk * span + lane * W; i < end; i += W << shift) {
            float a[W] = {};
            if (end - i >= W) {
                load<W>(from + i, a);
            } else {
#pragma unroll
                for (int k = 0; k < W; ++k) {
                    a[k] = i + k < end ? to_f32(from[i + k]) : 0.0f;
                }
            }
            add(v, a);
        }
    }
#pragma unroll
    for (int half = W / 2; half > 0; half /= 2) {
#pragma unroll
        for (int k = 0; k < half; ++k) {
            v[k] += v[k + half];
        }
    }
    float sum = sum_group(v[0], min(shift, 5u));
    if (shift > 5) {
        if (threadIdx.x % 32 == 0) {
            space[threadIdx.x / 32] = sum;
        }
        __syncthreads();
        u32 first = threadIdx.x >> 5;
        sum = 0.0f;
        for (u32 w = 0; w < 1u << (shift - 5) && lane == 0; ++w) {
            sum += space[first + w];
        }
    }
    if (lane == 0 && row < outer) {
        y[row * chunks + chunk] = from_f32<Y>(sum * factor);
    }
}

// Sums over the middle of `x [o rows c]`. Grid: `tiles · chunks · o` blocks of 256. Launched by `ops::reduce` and
// `ops::pool3d::global_forward`.
#define COLUMNS(NAME, X, Y, W)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        reduce_columns_##NAME(const X* __restrict__ x, Y* __restrict__ y, u32 rows, u32 c, u32 span, u32 chunks,       \
                              u32 tiles, u32 shift, float factor) {                                                    \
        columns<X, Y, W>(x, y, rows, c, span, chunks, tiles, shift, factor);                                           \
    }

// Sums over the end of `x [o len]`. Grid: `chunks` blocks of 256 for every `256 >> shift` rows. Launched by
// `ops::reduce`.
#define ROWS(NAME, X, Y, W)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        reduce_rows_##NAME(const X* __restrict__ x, Y* __restrict__ y, u32 outer, u32 len, u32 span, u32 chunks,       \
                           u32 shift, float factor) {                                                                  \
        rows<X, Y, W>(x, y, outer, len, span, chunks, shift, factor);                                                  \
    }

// `part`: chunks of a bf16 tensor into f32; `last`: f32 chunks into a bf16 sum.
#define ALL(SUMS)                                                                                                      \
    SUMS(wide_f32, float, float, 4)                                                                                    \
    SUMS(single_f32, float, float, 1)                                                                                  \
    SUMS(wide_part_bf16, bf16, float, 8)                                                                               \
    SUMS(single_part_bf16, bf16, float, 1)                                                                             \
    SUMS(wide_last_bf16, float, bf16, 4)                                                                               \
    SUMS(single_last_bf16, float, bf16, 1)                                                                             \
    SUMS(wide_bf16, bf16, bf16, 8)                                                                                     \
    SUMS(single_bf16, bf16, bf16, 1)

ALL(COLUMNS)
ALL(ROWS)

// Extents and strides of at most five axes, innermost first; a stride of 0 repeats.
struct Axes {
    u32 extent[5];
    u32 stride[5];
};

template <class T>
struct Broadcast {
    const T* __restrict__ x;
    T* __restrict__ y;
    const Axes& axes;

    template <int W>
    __device__ __forceinline__ void at(u32 i) const {
        u32 digit[5], from = 0, rest = i;
#pragma unroll
        for (int a = 0; a < 5; ++a) {
            digit[a] = rest % axes.extent[a];
            rest /= axes.extent[a];
            from += digit[a] * axes.stride[a];
        }
        float v[W];
        if (W > 1 && axes.stride[0] == 1 && axes.extent[0] % W == 0) {
            load<W>(x + from, v);  // the run is whole, and so aligned on both sides
        } else if (W > 1 && axes.stride[0] == 0 && axes.extent[0] % W == 0) {
            float one = to_f32(x[from]);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                v[k] = one;
            }
        } else {
#pragma unroll
            for (int k = 0; k < W; ++k) {
                v[k] = to_f32(x[from]);
                // One step further, carried over the axes.
                bool carry = true;
#pragma unroll
                for (int a = 0; a < 5; ++a) {
                    bool wraps = carry && digit[a] + 1 == axes.extent[a];
                    from += carry ? (wraps ? -digit[a] * axes.stride[a] : axes.stride[a]) : 0;
                    digit[a] = carry ? (wraps ? 0 : digit[a] + 1) : digit[a];
                    carry = wraps;
                }
            }
        }
        store<W>(y + i, v);
    }
};

// `y[i] = x[..]` with x repeated along the axes of stride 0, n elements of y. Grid: a block for every 256 threads of 16
// bytes. Launched by `ops::reduce::apply_broadcast_to`.
extern "C" __global__ void __launch_bounds__(256)
    reduce_broadcast_f32(const float* __restrict__ x, float* __restrict__ y, Axes axes, u32 n) {
    for_elements<WIDE<float>>(n, Broadcast<float>{x, y, axes});
}

// As `reduce_broadcast_f32`.
extern "C" __global__ void __launch_bounds__(256)
    reduce_broadcast_bf16(const bf16* __restrict__ x, bf16* __restrict__ y, Axes axes, u32 n) {
    for_elements<WIDE<bf16>>(n, Broadcast<bf16>{x, y, axes});
}
