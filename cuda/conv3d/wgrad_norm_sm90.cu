// wgrad with TMA and wgmma, where x is `relu(norm(x))` and `norm` the batch norm before: for filters of one tap with
// strides of 1 and no padding. Launched by `ops::conv3d::cuda`, with the tile (filters x channels) and the split of the
// pixels that `wgrad_sm90.cu` would have; the results have the same bits.
//
// The product is computed transposed: its rows are channels, so that x is the operand in registers, and a row is normalised
// with the same numbers for all pixels of a part of the samples. Columns are filters, K is pixels.
#include "conv3d/norm_sm90.cuh"
#include "conv3d/wgrad_sm90.cuh"

// What the rows of a thread's fragments are normalised with: of each tile of 64 rows, a row and the one eight further.
template <class T>
struct OfRows {
    float mean[T::ROWS][2], scale[T::ROWS][2], beta[T::ROWS][2];

    // Of channel `c` and following ones; zeros where there is none.
    __device__ __forceinline__ void fetch(const Norm& norm, int part, int c, int channels) {
#pragma unroll
        for (int i = 0; i < T::ROWS; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int channel = c + i * 64 + h * 8, at = part * channels + channel;
                const bool exists = channel < channels;
                mean[i][h] = exists ? norm.mean[at] : 0.0f;
                scale[i][h] = exists ? norm.inv_std[at] * norm.gamma[channel] : 0.0f;
                beta[i][h] = exists ? norm.beta[channel] : 0.0f;
            }
        }
    }
};

template <class T>
__device__ __forceinline__ void wgrad(const TensorMap& x, const TensorMap& dy, float* __restrict__ dw, const Norm& norm,
                                      const Conv& p, int tiles, int part_pixels) {
    using Tiles = Division<T, true>;
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * T::STAGES];
    const Ring<T> ring(smem_address(smem), smem_address(barriers));
    const GatherMap map = gather_map_fprop(p);
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            prefetch_map(&x);
            prefetch_map(&dy);
            Tiles::produce(ring, x, dy, map, p, tiles);
        }
        return leave_cluster<T::CLUSTER>();
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int row = T::consumer_m(consumer) + warp * 16 + (lane >> 2), pixels = map.rows;
    // The pixel and the chunk of eight channels whose address this lane passes, with the swizzle of TMA.
    const u32 chunk = T::consumer_m(consumer) * 128 + ((lane >> 4) * 8 + (lane & 7)) * 128 +
                      (((warp * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
    Stage<T::STAGES> read;
#pragma unroll 1
    for (int tile = blockIdx.x / T::CLUSTER; tile < tiles / T::CLUSTER; tile += gridDim.x / T::CLUSTER) {
        const SplitTile at = Tiles::place(p, tile, ring.rank, pixels);
        const int c0 = at.block0 * 64;
        typename T::Accumulators acc;
        OfRows<T> numbers;
        int part_end = 0;
        multiply_normed<T, true>(acc, ring, read, at.k_blocks, [&](Fragments<T>& f, u32 a, int k_block, int half) {
            const int m = at.first + k_block * T::K_BLOCK;
            // A k-block is of one part.
            if (half == 0 && m >= part_end) {
                const int part = m / part_pixels;
                numbers.fetch(norm, part, c0 + row, p.c);
                part_end = (part + 1) * part_pixels;
            }
#pragma unroll
            for (int k = 0; k < 2; ++k) {
#pragma unroll
                for (int i = 0; i < T::ROWS; ++i) {
                    ldmatrix_transposed(f[k][i], a + chunk + i * 64 * 128 + (half * 2 + k) * 2048);
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const float mean = numbers.mean[i][e % 2], scale = numbers.scale[i][e % 2],
                                    beta = numbers.beta[i][e % 2];
                        f[k][i][e] = norm_relu(f[k][i][e], make_float2(mean, mean), make_float2(scale, scale),
                                               make_float2(beta, beta));
                    }
                }
            }
        });
#pragma unroll
        for (int j = 0; j < T::WIDTH / 8; ++j) {
            const int k = at.k0 + j * 8 + (lane & 3) * 2;
#pragma unroll
            for (int i = 0; i < T::ROWS; ++i) {
                const float* v = acc.at[i] + j * 4;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int c = c0 + row + i * 64 + h * 8;
                    float* to = dw + ((size_t)at.split * p.k + k) * p.c + c;
                    if (c < p.c && k < p.k) to[0] = v[h * 2];
                    if (c < p.c && k + 1 < p.k) to[p.c] = v[h * 2 + 1];
                }
            }
        }
    }
    leave_cluster<T::CLUSTER>();
}

// As `WGRAD_SM90` of `wgrad_sm90.cu`, with the batch norm of parts of `part_pixels` pixels: a multiple of 64, or all
// pixels.
#define WGRAD_NORM_SM90(NAME, TILE, ...)                                                                               \
    extern "C" __global__ void __VA_ARGS__ __launch_bounds__(TILE::THREADS, 1)                                         \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy, float* __restrict__ dw,        \
             const float* __restrict__ mean, const float* __restrict__ inv_std, const float* __restrict__ gamma,       \
             const float* __restrict__ beta, const __grid_constant__ Conv p, int tiles, int part_pixels) {             \
        wgrad<TILE>(x, dy, dw, Norm{mean, inv_std, gamma, beta}, p, tiles, part_pixels);                               \
    }

// Names have filters x channels, as those of `wgrad_sm90.cu`; tiles have channels x filters.
using Tile128x256 = WarpgroupTile<256, 128, 4, 32>;
using Tile128x256Pair = WarpgroupTile<256, 128, 4, 32, 2>;
using Tile256x128 = WarpgroupTile<128, 256, 4, 64>;
using Tile128x128 = WarpgroupTile<128, 128, 6, 64>;
using Tile64x256 = WarpgroupTile<256, 64, 5, 32>;

// shared: conv3d_wgrad_norm_sm90_128x256_bf16 197632
// shared: conv3d_wgrad_norm_sm90_256x128_bf16 197632
// shared: conv3d_wgrad_norm_sm90_128x128_bf16 197632
// shared: conv3d_wgrad_norm_sm90_64x256_bf16 205824
// shared: conv3d_wgrad_norm_sm90_128x256_pair_bf16 197632
WGRAD_NORM_SM90(conv3d_wgrad_norm_sm90_128x256_bf16, Tile128x256)
WGRAD_NORM_SM90(conv3d_wgrad_norm_sm90_256x128_bf16, Tile256x128)
WGRAD_NORM_SM90(conv3d_wgrad_norm_sm90_128x128_bf16, Tile128x128)
WGRAD_NORM_SM90(conv3d_wgrad_norm_sm90_64x256_bf16, Tile64x256)
WGRAD_NORM_SM90(conv3d_wgrad_norm_sm90_128x256_pair_bf16, Tile128x256Pair, __cluster_dims__(2, 1, 1))
