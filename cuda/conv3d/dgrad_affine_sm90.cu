// dgrad with TMA and wgmma of the gradient of a batch norm, which is formed from the gradient `dz` of its result and its
// input `x`: for filters of one tap with strides of 1 and no padding. Launched by `ops::conv3d::cuda`, with the tile (pixels x
// channels) that `dgrad_sm90.cu` would have; the results have the same bits.
#include "conv3d/gemm_sm90.cuh"
#include "conv3d/norm_sm90.cuh"

// The tile with two tiles of rows in a stage: of dz, and of x.
template <int M, int N, int STAGES_, int COLUMNS, int CLUSTER = 1>
struct AffineTile : WarpgroupTile<M, N, STAGES_, COLUMNS, CLUSTER> {
    // Fragments of both tiles and the numbers of channels need more; copies of one tap need few.
    static constexpr int COPY_REGISTERS = 24, MULTIPLY_REGISTERS = 240;
    static constexpr int A_BYTES = 2 * M * 128, STAGE_BYTES = A_BYTES + N * 128, STAGED = STAGES_ * STAGE_BYTES;
};

// The batch norm, and the slopes of its gradient.
struct Affine {
    const float* mean;     // per part of the samples and channel
    const float* inv_std;  // the same
    const float* gamma;    // per channel
    const float* slopes;   // per part two for each channel: of x, and what is added
};

// The numbers of two channels.
struct OfPair {
    float2 mean, scale, slope, shift;

    // Zeros make zeros of what TMA fills in.
    __device__ __forceinline__ OfPair(const Affine& of, int part, int channel, int channels) {
        mean = scale = slope = shift = make_float2(0.0f, 0.0f);
        if (channel < channels) {
            const int at = part * channels + channel;
            const float2 inv_std = *(const float2*)(of.inv_std + at), gamma = *(const float2*)(of.gamma + channel);
            mean = *(const float2*)(of.mean + at);
            scale = make_float2(inv_std.x * gamma.x, inv_std.y * gamma.y);
            slope = *(const float2*)(of.slopes + at + part * channels);
            shift = *(const float2*)(of.slopes + at + (part + 1) * channels);
        }
    }

    // dz · scale + (x - mean) · slope + shift, to the bit as `batch_norm_backward_apply` computes it.
    __device__ __forceinline__ u32 gradient(u32 dz, u32 x) const {
        return pack_bf16(fmaf(bf16_lo(dz), scale.x, fmaf(bf16_lo(x) - mean.x, slope.x, shift.x)),
                         fmaf(bf16_hi(dz), scale.y, fmaf(bf16_hi(x) - mean.y, slope.y, shift.y)));
    }
};

// Four words of each of four neighbouring lanes change places, so that lane q has word q of all.
__device__ __forceinline__ uint4 turned(u32 (&w)[4], int q) {
    const bool odd = q & 1, high = q & 2;
    const u32 a = __shfl_xor_sync(~0u, odd ? w[0] : w[1], 1), b = __shfl_xor_sync(~0u, odd ? w[2] : w[3], 1);
    if (odd)
        w[0] = a, w[2] = b;
    else
        w[1] = a, w[3] = b;
    const u32 c = __shfl_xor_sync(~0u, high ? w[0] : w[2], 2), d = __shfl_xor_sync(~0u, high ? w[1] : w[3], 2);
    if (high)
        w[0] = c, w[1] = d;
    else
        w[2] = c, w[3] = d;
    return make_uint4(w[0], w[1], w[2], w[3]);
}

// The map of one tap, with which a pixel gathers itself: constants, for which the thread that copies needs no registers.
__device__ __forceinline__ GatherMap gather_map_one(const Conv& p) {
    GatherMap map = {};
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        map.grid[a] = p.grid[a][1];
        map.extent[a] = p.in[a];
        map.mul[a] = map.taps[a] = 1;
    }
    map.rows = p.n * p.in[0] * p.in[1] * p.in[2];
    return map;
}

template <class T>
__device__ __forceinline__ void dgrad(const TensorMap& dz, const TensorMap& x, const TensorMap& w,
                                      bf16* __restrict__ dx, bf16* __restrict__ dy, float* __restrict__ sums,
                                      const NormRelu& norm_relu, const Affine& affine, const Conv& p, int tiles,
                                      int parts) {
    using Part = StagedTile<typename T::Part>;
    auto row = [&](const TilePlace& at) { return sums + (size_t)(at.group * p.group_tiles + at.within) * 2 * p.c; };
    auto finish = [&](u8* smem, const TilePlace& at, int n0) {
        if (norm_relu.normed) {
            Part::norm_relu(smem, dx, row(at), norm_relu, at.group, at.m0, at.m_end, n0, p.c, InOrder());
        } else {
            Part::store(smem, dx, at.m0, at.m_end, n0, p.c, InOrder());
        }
    };
    // The last tile of a pair may have no rows.
    auto empty = [&](const TilePlace& at) {
        if (T::CLUSTER > 1 && norm_relu.normed) zero_sums<T>(row(at), at.n0, p.c);
    };
    auto product = [&](typename T::Accumulators& acc, const Ring<T>& ring, Stage<T::STAGES>& read, int k_blocks,
                       int consumer, u8*, const TilePlace& at) {
        const int part = parts > 1 ? at.group : 0;
        const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
        const int first = T::consumer_m(consumer) + warp * 16;
        // The row and the chunk of 16 bytes whose address this lane passes, with the swizzle of TMA.
        const u32 chunk = (first + (lane & 15)) * 128 + (((lane >> 4) ^ (lane & 7)) << 4);
        const int m = at.m0 + first + (lane >> 2);
        multiply_normed<T, true>(acc, ring, read, k_blocks, [&](Fragments<T>& f, u32 a, int k_block, int half) {
            const int channel = k_block * T::K_BLOCK + half * 32;
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int step = half * 2 + k;
                u32 normed[T::ROWS][4];
#pragma unroll
                for (int i = 0; i < T::ROWS; ++i) {
                    ldmatrix(f[k][i], a + i * 64 * 128 + (chunk ^ (step * 32)));
                    ldmatrix(normed[i], a + T::M * 128 + i * 64 * 128 + (chunk ^ (step * 32)));
                }
#pragma unroll
                for (int eight = 0; eight < 2; ++eight) {
                    const OfPair of(affine, part, channel + k * 16 + eight * 8 + (lane & 3) * 2, p.k);
#pragma unroll
                    for (int i = 0; i < T::ROWS; ++i) {
#pragma unroll
                        for (int e = eight * 2; e < eight * 2 + 2; ++e) {
                            f[k][i][e] = of.gradient(f[k][i][e], normed[i][e]);
                        }
                    }
                }
            }
            // The first tile of columns also leaves the gradient for wgrad.
            if (at.n0 > 0) return;
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    u32 words[4] = {f[0][i][e], f[0][i][e + 2], f[1][i][e], f[1][i][e + 2]};
                    const uint4 whole = turned(words, lane & 3);
                    const int of = m + i * 64 + e * 8, c = channel + (lane & 3) * 8;
                    if (of < at.m_end && c < p.k) *(uint4*)(dy + (u32)(of * p.k + c)) = whole;
                }
            }
        });
    };
    gemm<T, true>(dz, w, gather_map_one(p), p, tiles, p.group_rows * p.in[0] * p.in[1] * p.in[2], nullptr, p.c, product,
                  finish, empty, &x);
}

// As `DGRAD_SM90` of `dgrad_sm90.cu`, of one class. `dz` and `x` are tensors of TMA as `dy` is there; what is formed of them is
// stored to `dy`. The norm behind the convolution has statistics of `parts` parts of the samples: one, or as many as there are
// groups of tiles. Its numbers begin with `of_`; those without are of the norm before.
#define DGRAD_AFFINE_SM90(NAME, TILE, ...)                                                                             \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap dz, const __grid_constant__ TensorMap x,                                \
             const __grid_constant__ TensorMap w, bf16* __restrict__ dx, bf16* __restrict__ dy,                        \
             float* __restrict__ sums, const bf16* __restrict__ add, const u8* __restrict__ signs,                     \
             const bf16* __restrict__ normed, const float* __restrict__ mean, const float* __restrict__ inv_std,       \
             const float* __restrict__ gamma, const float* __restrict__ beta, const float* __restrict__ of_mean,       \
             const float* __restrict__ of_inv_std, const float* __restrict__ of_gamma,                                 \
             const float* __restrict__ slopes, const __grid_constant__ Conv p, int tiles, int parts) {                 \
        dgrad<TILE>(dz, x, w, dx, dy, sums, NormRelu{add, signs, normed, mean, inv_std, gamma, beta},                  \
                    Affine{of_mean, of_inv_std, of_gamma, slopes}, p, tiles, parts);                                   \
    }

using Tile128x256 = AffineTile<128, 256, 3, 64>;
using Tile128x256Pair = AffineTile<128, 256, 3, 64, 2>;
using Tile256x128 = AffineTile<256, 128, 2, 32>;
using Tile128x128 = AffineTile<128, 128, 4, 64>;
using Tile256x64 = AffineTile<256, 64, 2, 32>;

// shared: conv3d_dgrad_affine_sm90_128x256_bf16 216064
// shared: conv3d_dgrad_affine_sm90_256x128_bf16 185344
// shared: conv3d_dgrad_affine_sm90_128x128_bf16 216064
// shared: conv3d_dgrad_affine_sm90_256x64_bf16 168960
// shared: conv3d_dgrad_affine_sm90_128x256_pair_bf16 216064
DGRAD_AFFINE_SM90(conv3d_dgrad_affine_sm90_128x256_bf16, Tile128x256)
DGRAD_AFFINE_SM90(conv3d_dgrad_affine_sm90_256x128_bf16, Tile256x128)
DGRAD_AFFINE_SM90(conv3d_dgrad_affine_sm90_128x128_bf16, Tile128x128)
DGRAD_AFFINE_SM90(conv3d_dgrad_affine_sm90_256x64_bf16, Tile256x64)
DGRAD_AFFINE_SM90(conv3d_dgrad_affine_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
