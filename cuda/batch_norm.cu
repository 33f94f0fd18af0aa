// Batch normalisation over the innermost axis, forward and backward; docs/math/batch_norm.md derives both.
//
// `x` is `[groups rows c]`. Four kernels read the tensors: the sums of the forward pass, its result, the sums of the
// backward pass, the gradient. Each block sums a chunk of `span` rows, and two small kernels add the chunks
// (`batch_norm_merge.cu`). The forward sums may come from the convolution that produced x instead.
//
// Grid: `tiles * chunks * groups` blocks of 256, at most 64 channels each. `wide` kernels access 16 bytes a
// thread and need c to be a multiple of that; `single` ones access one element. Launched by `ops::batch_norm::cuda`.
#include "common/elements.cuh"
#include "common/reduce.cuh"

// How a pass is divided over the grid; the same struct as `ops::batch_norm::cuda::Partition`.
struct Partition {
    u32 rows;    // of a group
    u32 c;       // channels
    u32 span;    // rows of a chunk
    u32 chunks;  // of a group
    u32 tiles;   // of channels
    u32 shift;   // 2^shift threads lie side by side along the channels of a tile
};

// What a block of 256 works on.
struct Block {
    u32 tile, chunk, group;
    u32 begin, end;  // rows of the group

    __device__ __forceinline__ Block(const Partition& p) {
        tile = blockIdx.x % p.tiles;
        u32 part = blockIdx.x / p.tiles;
        chunk = part % p.chunks, group = part / p.chunks;
        begin = chunk * p.span, end = min(p.rows, begin + p.span);
    }
};

// Distributes the parameters of a block's channels, one in each of the first threads, to W registers of every thread
// through `space` (smem).
template <int W>
__device__ __forceinline__ void spread(float value, float (&v)[W], float* space, u32 shift) {
    __syncthreads();
    if (threadIdx.x < TILE) {
        space[slot<W>(threadIdx.x)] = value;
    }
    __syncthreads();
    get<W>(space, threadIdx.x & ((1u << shift) - 1), v);
}

// The channel whose parameters this thread fetches for its block, and whether there is one.
template <int W>
__device__ __forceinline__ bool fetches(const Block& block, const Partition& p, u32& channel) {
    channel = (block.tile << p.shift) * W + threadIdx.x;
    return threadIdx.x < W << p.shift && channel < p.c;
}

// `[shift, Σ(x - shift), Σ(x - shift)²]` of each channel of a chunk. The shift is the mean of the first row of each
// thread, at least 1/64 of the chunk, which keeps cancellation small.
template <class T, int W>
__device__ __forceinline__ void sums(const T* __restrict__ x, float* __restrict__ parts, const Partition& p) {
    __shared__ __align__(16) float space[2 * WARPS * ROOM], shared[ROOM];
    Block block(p);
    Lane lane = lane_of<W>(block.tile, p.shift);
    const T* from = x + (u64)block.group * p.rows * p.c + lane.channel;
    bool mine = lane.channel < p.c && block.begin + lane.row < block.end;
    float first[1][W] = {}, offset[W], total[1], v[2][W] = {}, sum[2];
    if (mine) {
        load<W>(from + (u64)(block.begin + lane.row) * p.c, first[0]);
    }
    float keep[W];
#pragma unroll
    for (int k = 0; k < W; ++k) {
        keep[k] = first[0][k];
    }
    sum_rows<1, W>(first, total, space, p.shift);
    float mean = total[0] / (float)min(lane.step, block.end - block.begin);
    spread<W>(mean, offset, shared, p.shift);
    if (mine) {
#pragma unroll
        for (int k = 0; k < W; ++k) {
            float e = keep[k] - offset[k];
            v[0][k] = e, v[1][k] = e * e;
        }
#pragma unroll 4
        for (u32 r = block.begin + lane.row + lane.step; r < block.end; r += lane.step) {
            float a[W];
            load<W>(from + (u64)r * p.c, a);
#pragma unroll
            for (int k = 0; k < W; ++k) {
                float e = a[k] - offset[k];
                v[0][k] += e, v[1][k] = fmaf(e, e, v[1][k]);
            }
        }
    }
    sum_rows<2, W>(v, sum, space, p.shift);
    u32 channel;
    if (fetches<W>(block, p, channel)) {
        float* to = parts + (u64)(block.group * p.chunks + block.chunk) * 3 * p.c + channel;
        to[0] = mean, to[p.c] = sum[0], to[2 * p.c] = sum[1];
    }
}

// Per group and channel `z = (x - mean) · scale + beta`, of W channels.
template <int W>
struct Affine {
    float mean[W], scale[W], beta[W];

    __device__ __forceinline__ float of(float x, int k) const { return fmaf(x - mean[k], scale[k], beta[k]); }
};

template <int W>
__device__ __forceinline__ Affine<W> affine(const Block& block, const float* __restrict__ mean,
                                            const float* __restrict__ inv_std, const float* __restrict__ gamma,
                                            const float* __restrict__ beta, const Partition& p, float* space) {
    u32 channel;
    float m = 0.0f, s = 0.0f, b = 0.0f;
    if (fetches<W>(block, p, channel)) {
        m = mean[block.group * p.c + channel];
        s = inv_std[block.group * p.c + channel] * gamma[channel];
        b = beta[channel];
    }
    Affine<W> a;
    spread<W>(m, a.mean, space, p.shift);
    spread<W>(s, a.scale, space, p.shift);
    spread<W>(b, a.beta, space, p.shift);
    return a;
}

// A bit for each of eight stored numbers of a row, the first the lowest: whether it is positive.
__device__ __forceinline__ u8 positive(const u32 (&pairs)[4]) {
    u32 bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        bits |= (bf16_lo(pairs[i]) > 0.0f ? 1u : 0u) << 2 * i | (bf16_hi(pairs[i]) > 0.0f ? 2u : 0u) << 2 * i;
    }
    return (u8)bits;
}

// `y = relu((x - mean) · inv_std · gamma + beta + residual)`; the residual (RESIDUAL) and the ReLU (`relu`) are
// optional. `signs`, if not null, gets a bit for each element of y: whether it is positive (only of bf16 with W = 8).
template <class T, int W, bool RESIDUAL>
__device__ __forceinline__ void apply(const T* __restrict__ x, const float* __restrict__ mean,
                                      const float* __restrict__ inv_std, const float* __restrict__ gamma,
                                      const float* __restrict__ beta, const T* __restrict__ residual, T* __restrict__ y,
                                      u8* __restrict__ signs, const Partition& p, u32 relu) {
    __shared__ __align__(16) float space[ROOM];
    Block block(p);
    Lane lane = lane_of<W>(block.tile, p.shift);
    Affine<W> z = affine<W>(block, mean, inv_std, gamma, beta, p, space);
    if (lane.channel >= p.c) {
        return;
    }
    u64 base = (u64)block.group * p.rows * p.c + lane.channel;
#pragma unroll 2
    for (u32 r = block.begin + lane.row; r < block.end; r += lane.step) {
        u64 i = base + (u64)r * p.c;
        float v[W], add[W];
        load<W>(x + i, v);
        if constexpr (RESIDUAL) {
            load<W>(residual + i, add);
        }
#pragma unroll
        for (int k = 0; k < W; ++k) {
            v[k] = z.of(v[k], k);
            if constexpr (RESIDUAL) {
                v[k] += add[k];
            }
            v[k] = relu != 0 && v[k] <= 0.0f ? 0.0f : v[k];
        }
        store<W>(y + i, v);
        if constexpr (RESIDUAL && W == 8) {
            if (signs) {
                // Of what is stored: rounding may make a 0.
                const u32 pairs[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                      pack_bf16(v[6], v[7])};
                signs[i / 8] = positive(pairs);
            }
        }
    }
}

// The mask of the ReLU: none, recomputed from x, or read from y.
enum Mask { NONE, MASK_X, MASK_Y };

// `[Σ dz, Σ dz (x - mean)]` of each channel of a chunk, where dz is dy times the mask. MASK_Y also writes dz.
template <class T, int W, Mask MASK>
__device__ __forceinline__ void grad_sums(const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ y,
                                          const float* __restrict__ mean, const float* __restrict__ inv_std,
                                          const float* __restrict__ gamma, const float* __restrict__ beta,
                                          T* __restrict__ dz, float* __restrict__ parts, const Partition& p) {
    __shared__ __align__(16) float space[2 * WARPS * ROOM];
    Block block(p);
    Lane lane = lane_of<W>(block.tile, p.shift);
    Affine<W> z = affine<W>(block, mean, inv_std, gamma, beta, p, space);
    float v[2][W] = {}, sum[2];
    u64 base = (u64)block.group * p.rows * p.c + lane.channel;
    if (lane.channel < p.c) {
#pragma unroll 2
        for (u32 r = block.begin + lane.row; r < block.end; r += lane.step) {
            u64 i = base + (u64)r * p.c;
            float a[W], g[W], result[W];
            load<W>(x + i, a);
            load<W>(dy + i, g);
            if constexpr (MASK == MASK_Y) {
                load<W>(y + i, result);
            }
#pragma unroll
            for (int k = 0; k < W; ++k) {
                if constexpr (MASK == MASK_X) {
                    result[k] = z.of(a[k], k);
                }
                if constexpr (MASK != NONE) {
                    g[k] = result[k] > 0.0f ? g[k] : 0.0f;
                }
                v[0][k] += g[k];
                v[1][k] = fmaf(g[k], a[k] - z.mean[k], v[1][k]);
            }
            if constexpr (MASK == MASK_Y) {
                store<W>(dz + i, g);
            }
        }
    }
    __syncthreads();  // the parameters are read
    sum_rows<2, W>(v, sum, space, p.shift);
    u32 channel;
    if (fetches<W>(block, p, channel)) {
        float* to = parts + (u64)(block.group * p.chunks + block.chunk) * 2 * p.c + channel;
        to[0] = sum[0], to[p.c] = sum[1];
    }
}

// `dx = dz · scale + (x - mean) · b + d`, with `slopes [groups 2 c]` the b and d.
template <class T, int W, Mask MASK>
__device__ __forceinline__ void grad(const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ mean,
                                     const float* __restrict__ inv_std, const float* __restrict__ gamma,
                                     const float* __restrict__ beta, const float* __restrict__ slopes,
                                     T* __restrict__ dx, const Partition& p) {
    __shared__ __align__(16) float space[ROOM];
    Block block(p);
    Lane lane = lane_of<W>(block.tile, p.shift);
    Affine<W> z = affine<W>(block, mean, inv_std, gamma, beta, p, space);
    u32 channel;
    bool fetching = fetches<W>(block, p, channel);
    const float* slope = slopes + block.group * 2 * p.c + channel;
    float b[W], d[W];
    spread<W>(fetching ? slope[0] : 0.0f, b, space, p.shift);
    spread<W>(fetching ? slope[p.c] : 0.0f, d, space, p.shift);
    if (lane.channel >= p.c) {
        return;
    }
    u64 base = (u64)block.group * p.rows * p.c + lane.channel;
#pragma unroll 2
    for (u32 r = block.begin + lane.row; r < block.end; r += lane.step) {
        u64 i = base + (u64)r * p.c;
        float a[W], g[W];
        load<W>(x + i, a);
        load<W>(dy + i, g);
#pragma unroll
        for (int k = 0; k < W; ++k) {
            if constexpr (MASK == MASK_X) {
                g[k] = z.of(a[k], k) > 0.0f ? g[k] : 0.0f;
            }
            g[k] = fmaf(g[k], z.scale[k], fmaf(a[k] - z.mean[k], b[k], d[k]));
        }
        store<W>(dx + i, g);
    }
}

#define LAYER                                                                                                          \
    const float* __restrict__ mean, const float* __restrict__ inv_std, const float* __restrict__ gamma,                \
        const float* __restrict__ beta

// `parts [groups chunks 3 c]` of x. Launched by `ops::batch_norm::forward`.
#define SUMS(NAME, T, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        batch_norm_sums_##NAME(const T* __restrict__ x, float* __restrict__ parts, Partition p) {                      \
        sums<T, W>(x, parts, p);                                                                                       \
    }

// y from x; `apply` without, `add` with a residual. Launched by `ops::batch_norm::forward`.
#define APPLY(NAME, T, W)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        batch_norm_apply_##NAME(const T* __restrict__ x, LAYER, T* __restrict__ y, Partition p, u32 relu) {            \
        apply<T, W, false>(x, mean, inv_std, gamma, beta, nullptr, y, nullptr, p, relu);                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        batch_norm_add_##NAME(const T* __restrict__ x, LAYER, const T* __restrict__ residual, T* __restrict__ y,       \
                              u8* __restrict__ signs, Partition p, u32 relu) {                                         \
        apply<T, W, true>(x, mean, inv_std, gamma, beta, residual, y, signs, p, relu);                                 \
    }

// `parts [groups chunks 2 c]` of the backward pass. `mask_x` recomputes the mask of the ReLU from x; `mask_y` reads it
// from y, and also writes dz. Launched by the backward pass.
#define GRAD_SUMS(NAME, T, W)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 1) batch_norm_backward_sums_##NAME(                              \
        const T* __restrict__ x, const T* __restrict__ dy, LAYER, float* __restrict__ parts, Partition p) {            \
        grad_sums<T, W, NONE>(x, dy, nullptr, mean, inv_std, gamma, beta, nullptr, parts, p);                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) batch_norm_backward_sums_mask_x_##NAME(                       \
        const T* __restrict__ x, const T* __restrict__ dy, LAYER, float* __restrict__ parts, Partition p) {            \
        grad_sums<T, W, MASK_X>(x, dy, nullptr, mean, inv_std, gamma, beta, nullptr, parts, p);                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) batch_norm_backward_sums_mask_y_##NAME(                       \
        const T* __restrict__ x, const T* __restrict__ dy, const T* __restrict__ y, LAYER, T* __restrict__ dz,         \
        float* __restrict__ parts, Partition p) {                                                                      \
        grad_sums<T, W, MASK_Y>(x, dy, y, mean, inv_std, gamma, beta, dz, parts, p);                                   \
    }

// dx; `mask_x` masks dy as in the sums. Launched by the backward pass.
#define GRAD(NAME, T, W)                                                                                               \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        batch_norm_backward_apply_##NAME(const T* __restrict__ x, const T* __restrict__ dy, LAYER,                     \
                                         const float* __restrict__ slopes, T* __restrict__ dx, Partition p) {          \
        grad<T, W, NONE>(x, dy, mean, inv_std, gamma, beta, slopes, dx, p);                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                               \
        batch_norm_backward_apply_mask_x_##NAME(const T* __restrict__ x, const T* __restrict__ dy, LAYER,              \
                                                const float* __restrict__ slopes, T* __restrict__ dx, Partition p) {   \
        grad<T, W, MASK_X>(x, dy, mean, inv_std, gamma, beta, slopes, dx, p);                                          \
    }

#define ALL(NAME, T, W)                                                                                                \
    SUMS(NAME, T, W)                                                                                                   \
    APPLY(NAME, T, W)                                                                                                  \
    GRAD_SUMS(NAME, T, W)                                                                                              \
    GRAD(NAME, T, W)

// The signs of a tensor of 8 · `bytes` elements, as `batch_norm_add` writes them. Grid: a thread a byte.
extern "C" __global__ void __launch_bounds__(256, 1)
    batch_norm_signs_bf16(const bf16* __restrict__ y, u8* __restrict__ signs, u32 bytes) {
    const u32 i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= bytes) return;
    const uint4 q = *reinterpret_cast<const uint4*>(y + (u64)i * 8);
    const u32 pairs[4] = {q.x, q.y, q.z, q.w};
    signs[i] = positive(pairs);
}

ALL(wide_f32, float, 4)
ALL(single_f32, float, 1)
ALL(wide_bf16, bf16, 8)
ALL(single_bf16, bf16, 1)
