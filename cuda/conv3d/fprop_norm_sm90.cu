// fprop with TMA and wgmma of `relu(norm(x))`, where `norm` is the batch norm before: for filters of one tap with strides
// of 1 and no padding, so that no zeros are read in place of pixels. Launched by `ops::conv3d::cuda`, with the tile
// (pixels x filters) that `fprop_sm90.cu` would have; the results have the same bits.
#include "conv3d/gemm_sm90.cuh"
#include "conv3d/norm_sm90.cuh"

// Channels at most: their numbers are kept in smem.
constexpr int CHANNELS = 1024;

// What a tile's pixels are normalised with, behind what is staged: mean and scale of two channels, and their shifts.
struct OfPairs {
    float4* mean_scale;
    float2* beta;

    // By all consumers. Up to a whole k-block there are zeros, which make zeros of what TMA fills in.
    template <class T>
    __device__ __forceinline__ void fetch(const Norm& norm, int part, int channels) const {
#pragma unroll 1
        for (int i = T::Part::thread() * 2; i < (channels + T::K_BLOCK - 1) / T::K_BLOCK * T::K_BLOCK;
             i += T::Part::THREADS * 2) {
            float4 m = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            float2 b = make_float2(0.0f, 0.0f);
            if (i < channels) {
                const int at = part * channels + i;
                const float2 mean = *(const float2*)(norm.mean + at), inv_std = *(const float2*)(norm.inv_std + at);
                const float2 gamma = *(const float2*)(norm.gamma + i);
                m = make_float4(mean.x, mean.y, inv_std.x * gamma.x, inv_std.y * gamma.y);
                b = *(const float2*)(norm.beta + i);
            }
            mean_scale[i / 2] = m, beta[i / 2] = b;
        }
    }
};

template <class T>
__device__ __forceinline__ void fprop(const TensorMap& x, const TensorMap& w, bf16* __restrict__ y,
                                      float* __restrict__ sums, const float* __restrict__ shift, const Norm& norm,
                                      const Conv& p, int tiles, int parts) {
    using Part = StagedTile<typename T::Part>;
    auto row = [&](const TilePlace& at) { return sums + (size_t)(at.group * p.group_tiles + at.within) * 2 * p.k; };
    auto finish = [&](u8* smem, const TilePlace& at, int n0) {
        Part::store(smem, y, at.m0, at.m_end, n0, p.k, InOrder());
        if (sums) Part::column_sums(smem, row(at), shift, at.m0, at.m_end, n0, p.k, InOrder());
    };
    // The last tile of a pair may have no rows.
    auto empty = [&](const TilePlace& at) {
        if (T::CLUSTER > 1 && sums) zero_sums<T>(row(at), at.n0, p.k);
    };
    int fetched = -1;
    auto product = [&](typename T::Accumulators& acc, const Ring<T>& ring, Stage<T::STAGES>& read, int k_blocks,
                       int consumer, u8* staged, const TilePlace& at) {
        float4* const behind = (float4*)(staged + T::M * Part::PITCH);
        const OfPairs numbers = {behind, (float2*)(behind + CHANNELS / 2)};
        const int part = parts > 1 ? at.group : 0;
        if (part != fetched) {
            // Since the products of the tile before, the consumers have waited for each other.
            numbers.fetch<T>(norm, part, p.c);
            T::Part::synchronize();
            fetched = part;
        }
        const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
        // The row and the chunk of 16 bytes whose address this lane passes, with the swizzle of TMA.
        const u32 chunk = (T::consumer_m(consumer) + warp * 16 + (lane & 15)) * 128 + (((lane >> 4) ^ (lane & 7)) << 4);
        multiply_normed<T, false>(acc, ring, read, k_blocks, [&](Fragments<T>& f, u32 a, int k_block, int half) {
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int step = half * 2 + k, pair = (k_block * T::K_BLOCK + step * 16) / 2 + (lane & 3);
#pragma unroll
                for (int i = 0; i < T::ROWS; ++i) ldmatrix(f[k][i], a + i * 64 * 128 + (chunk ^ (step * 32)));
#pragma unroll
                for (int eight = 0; eight < 2; ++eight) {
                    const float4 m = numbers.mean_scale[pair + eight * 4];
                    const float2 b = numbers.beta[pair + eight * 4];
#pragma unroll
                    for (int i = 0; i < T::ROWS; ++i) {
#pragma unroll
                        for (int e = eight * 2; e < eight * 2 + 2; ++e) {
                            f[k][i][e] = norm_relu(f[k][i][e], make_float2(m.x, m.y), make_float2(m.z, m.w), b);
                        }
                    }
                }
            }
        });
    };
    gemm<T, false>(x, w, gather_map_fprop(p), p, tiles, p.group_rows, nullptr, p.k, product, finish, empty);
}

// As `FPROP_SM90` of `fprop_sm90.cu`, with the batch norm of `parts` parts of the samples: one, or as many as there are
// groups of tiles.
#define FPROP_NORM_SM90(NAME, TILE, ...)                                                                               \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, bf16* __restrict__ y,           \
             float* __restrict__ sums, const float* __restrict__ shift, const float* __restrict__ mean,                \
             const float* __restrict__ inv_std, const float* __restrict__ gamma, const float* __restrict__ beta,       \
             const __grid_constant__ Conv p, int tiles, int parts) {                                                   \
        fprop<TILE>(x, w, y, sums, shift, Norm{mean, inv_std, gamma, beta}, p, tiles, parts);                          \
    }

using Tile128x256 = WarpgroupTile<128, 256, 4, 64>;
using Tile128x256Pair = WarpgroupTile<128, 256, 4, 64, 2>;
using Tile256x128 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile256x64 = WarpgroupTile<256, 64, 4, 32>;

// Those of `fprop_sm90.cu`, and 12 bytes a channel.
// shared: conv3d_fprop_norm_sm90_128x256_bf16 228352
// shared: conv3d_fprop_norm_sm90_256x128_bf16 230400
// shared: conv3d_fprop_norm_sm90_128x128_bf16 228352
// shared: conv3d_fprop_norm_sm90_128x256_pair_bf16 228352
// shared: conv3d_fprop_norm_sm90_256x64_bf16 197632
FPROP_NORM_SM90(conv3d_fprop_norm_sm90_128x256_bf16, Tile128x256)
FPROP_NORM_SM90(conv3d_fprop_norm_sm90_256x128_bf16, Tile256x128)
FPROP_NORM_SM90(conv3d_fprop_norm_sm90_128x128_bf16, Tile128x128)
FPROP_NORM_SM90(conv3d_fprop_norm_sm90_256x64_bf16, Tile256x64)
FPROP_NORM_SM90(conv3d_fprop_norm_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
