// The statistics of a batch norm from partial sums, and its slopes and the gradients of its parameters from those of the
// backward pass: sums of chunks of rows (`batch_norm.cu`), which are added in order and in f64, or those that the tiles
// of a convolution left. Launched by `ops::batch_norm::cuda`.
#include "common/types.cuh"

// The merging kernels have 32 channels a block, and TURNS threads a channel, each of which takes every TURNS-th chunk.
constexpr u32 TURNS = 8;

// The sum of `v` over the turns, in their order, in every thread of the channel.
template <class T>
__device__ __forceinline__ T merge(T v, T* space) {
    u32 across = threadIdx.x % 32, turn = threadIdx.x / 32;
    __syncthreads();
    space[turn * 32 + across] = v;
    __syncthreads();
    T sum = 0;
#pragma unroll
    for (u32 t = 0; t < TURNS; ++t) {
        sum += space[t * 32 + across];
    }
    return sum;
}

// The sum of `from[i · apart]` over `tiles` tiles, in every thread of the channel: in f32 and in the order of
// `conv3d_merge_statistics_f32`, which has added up many tiles before.
__device__ __forceinline__ float add_tiles(const float* __restrict__ from, bool mine, u32 tiles, u32 apart,
                                           float* space) {
    float sum = 0.0f;
#pragma unroll 4
    for (u32 t = threadIdx.x / 32; mine && t < tiles; t += TURNS) {
        sum += from[(u64)t * apart];
    }
    return merge(sum, space);
}

// How sums are merged; the same struct as `ops::batch_norm::cuda::Merging`.
struct Merging {
    u32 groups, rows, c, span, chunks;
    u32 tiles;          // of sums about one number for each channel; 0: each chunk has its own
    float eps;          // added to variances
    float keep, fresh;  // weights of the running averages so far, and of this batch
};

// `average = keep · average + fresh · v`, rounded as on the CPU.
__device__ __forceinline__ void blend(float* average, float v, const Merging& p) {
    *average = __fadd_rn(__fmul_rn(p.keep, *average), __fmul_rn(p.fresh, v));
}

// Mean and sum of squared deviations of a group, in every thread of the channel, from the sums of its tiles about a
// number.
__device__ __forceinline__ void of_tiles(const float* __restrict__ of, float about, bool mine, const Merging& p,
                                         double* space, double& mean, double& square) {
    double n = (double)p.rows, base = (double)about;
    double s = (double)add_tiles(of, mine, p.tiles, 2 * p.c, reinterpret_cast<float*>(space));
    double q = (double)add_tiles(of + p.c, mine, p.tiles, 2 * p.c, reinterpret_cast<float*>(space));
    mean = (base * n + s) / n;
    double per = s / n, off = base + per - mean;
    square = fmax(q - s * per, 0.0) + n * off * off;
}

// The same from chunks, of which each has `[shift, Σ(x - shift), Σ(x - shift)²]`.
__device__ __forceinline__ void of_chunks(const float* __restrict__ of, bool mine, const Merging& p, double* space,
                                          double& mean, double& square) {
    u32 turn = threadIdx.x / 32;
    double sum = 0.0;
    for (u32 k = turn; mine && k < p.chunks; k += TURNS) {
        const float* part = of + (u64)k * 3 * p.c;
        sum += (double)part[0] * (double)min(p.span, p.rows - k * p.span) + (double)part[p.c];
    }
    mean = merge(sum, space) / (double)p.rows;
    sum = 0.0;
    for (u32 k = turn; mine && k < p.chunks; k += TURNS) {
        const float* part = of + (u64)k * 3 * p.c;
        double n = (double)min(p.span, p.rows - k * p.span), s = (double)part[p.c];
        double per = s / n, off = (double)part[0] + per - mean;
        sum += fmax((double)part[2 * p.c] - s * per, 0.0) + n * off * off;
    }
    square = merge(sum, space);
}

// Merges `parts [groups chunks 3 c]`, each of `span` rows but the last of a group, or `parts [groups tiles 2 c]`
// relative to `shift [c]`, in f64: `mean` and `inv_std [groups c]`, and of all groups together `all_mean`, and
// `all_var`, unbiased, `[c]`. The running averages, which may be null, are updated with the latter. Without a `shift`,
// tiles are relative to the running mean before its update. Grid: a block of 256 for every 32 channels. Launched by
// `ops::batch_norm::forward`.
extern "C" __global__ void __launch_bounds__(256, 1)
    batch_norm_merge_f32(const float* __restrict__ parts, const float* shift, float* __restrict__ mean,
                         float* __restrict__ inv_std, float* __restrict__ all_mean, float* __restrict__ all_var,
                         float* running_mean, float* __restrict__ running_var, const Merging p) {
    __shared__ double space[TURNS * 32];
    u32 channel = blockIdx.x * 32 + threadIdx.x % 32;
    bool mine = channel < p.c, writes = mine && threadIdx.x < 32;
    double center = 0.0, square = 0.0;  // of the groups so far
    float about = 0.0f;
    if (mine && p.tiles != 0) {
        about = shift != nullptr ? shift[channel] : running_mean[channel];
    }
    for (u32 g = 0; g < p.groups; ++g) {
        double m, m2;
        if (p.tiles != 0) {
            of_tiles(parts + (u64)g * p.tiles * 2 * p.c + channel, about, mine, p, space, m, m2);
        } else {
            of_chunks(parts + (u64)g * p.chunks * 3 * p.c + channel, mine, p, space, m, m2);
        }
        if (writes) {
            mean[g * p.c + channel] = (float)m;
            inv_std[g * p.c + channel] = (float)(1.0 / sqrt(m2 / (double)p.rows + (double)p.eps));
        }
        double apart = m - center, share = 1.0 / (double)(g + 1);
        center += apart * share;
        square += m2 + apart * apart * (double)p.rows * (double)g * share;
    }
    if (writes) {
        float average = (float)center, var = (float)(square / ((double)p.groups * (double)p.rows - 1.0));
        all_mean[channel] = average;
        all_var[channel] = var;
        if (running_mean != nullptr) {
            blend(running_mean + channel, average, p);
            blend(running_var + channel, var, p);
        }
    }
}

// The sums of a part as one chunk, for others who share the batch: `chunk [3 c]` is what `batch_norm_merge_f32` reads of each of
// them. Its shift is the mean, rounded, so that the sums carry what the rounding left. Grid: as `batch_norm_merge_f32`.
// Launched by `ops::batch_norm::Moments::statistics_over`.
extern "C" __global__ void __launch_bounds__(256, 1)
    batch_norm_chunk_f32(const float* __restrict__ parts, const float* __restrict__ shift, float* __restrict__ chunk,
                         const Merging p) {
    __shared__ double space[TURNS * 32];
    u32 channel = blockIdx.x * 32 + threadIdx.x % 32;
    bool mine = channel < p.c;
    double mean, square;
    if (p.tiles != 0) {
        of_tiles(parts + channel, mine ? shift[channel] : 0.0f, mine, p, space, mean, square);
    } else {
        of_chunks(parts + channel, mine, p, space, mean, square);
    }
    if (mine && threadIdx.x < 32) {
        float near = (float)mean;
        double left = mean - (double)near, n = (double)p.rows;
        chunk[channel] = near;
        chunk[p.c + channel] = (float)(n * left);
        chunk[2 * p.c + channel] = (float)(square + n * left * left);
    }
}

// `inv_std = 1/√(var + eps)` for c given variances. Grid: a block of 256 for every 256 channels. Launched by
// `ops::batch_norm::forward`.
extern "C" __global__ void __launch_bounds__(256, 1)
    batch_norm_inv_std_f32(const float* __restrict__ var, float* __restrict__ inv_std, u32 c, float eps) {
    u32 channel = blockIdx.x * 256 + threadIdx.x;
    if (channel < c) {
        inv_std[channel] = 1.0f / sqrtf(var[channel] + eps);
    }
}

// Merges `parts [groups chunks 2 c]` in f64: `slopes [groups 2 c]` for the gradient of x, `dgamma` and `dbeta [c]`.
// `normalised`: the chunks are tiles of dgrad's epilogue, whose second sums are already multiplied by inv_std. `share` is
// 1 over the rows of a group, or 0 where the statistics are constants. Grid: as `batch_norm_merge_f32`. Launched by the
// backward pass.
extern "C" __global__ void __launch_bounds__(256, 1)
    batch_norm_backward_merge_f32(const float* __restrict__ parts, const float* __restrict__ inv_std,
                                  const float* __restrict__ gamma, float* __restrict__ slopes,
                                  float* __restrict__ dgamma, float* __restrict__ dbeta, u32 groups, u32 c, u32 chunks,
                                  u32 normalised, float share) {
    __shared__ double space[TURNS * 32];
    u32 channel = blockIdx.x * 32 + threadIdx.x % 32, turn = threadIdx.x / 32;
    bool mine = channel < c;
    double all_dz = 0.0, all_hat = 0.0;
    for (u32 g = 0; g < groups; ++g) {
        double dz = 0.0, dev = 0.0;
        const float* of = parts + (u64)g * chunks * 2 * c + channel;
        if (normalised != 0) {
            dz = (double)add_tiles(of, mine, chunks, 2 * c, reinterpret_cast<float*>(space));
            dev = (double)add_tiles(of + c, mine, chunks, 2 * c, reinterpret_cast<float*>(space));
        } else {
            for (u32 k = turn; mine && k < chunks; k += TURNS) {
                const float* part = of + (u64)k * 2 * c;
                dz += (double)part[0], dev += (double)part[c];
            }
            dz = merge(dz, space), dev = merge(dev, space);
        }
        if (mine && turn == 0) {
            double r = (double)inv_std[g * c + channel], a = r * (double)gamma[channel] * (double)share;
            double hat = normalised != 0 ? dev : dev * r;
            slopes[g * 2 * c + channel] = (float)(-a * r * hat);
            slopes[(g * 2 + 1) * c + channel] = (float)(-a * dz);
            all_dz += dz, all_hat += hat;
        }
    }
    if (mine && turn == 0) {
        dgamma[channel] = (float)all_hat;
        dbeta[channel] = (float)all_dz;
    }
}
