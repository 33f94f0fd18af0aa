// dgrad on tensor cores: the gradient of a convolution for its input, bf16 in and out. Launched by `ops::conv3d::cuda`,
// which chooses the threadblock tile (pixels x channels).
//
// The implicit GEMM has rows (pixel of one residue class of x modulo the stride), columns (channel) and K (tap,
// filter).
#include "conv3d/epilogue.cuh"
#include "conv3d/iterators.cuh"

template <class T>
__device__ __forceinline__ void dgrad(const bf16* __restrict__ dy, const bf16* __restrict__ w, bf16* __restrict__ dx,
                                      float* __restrict__ sums, const NormRelu& norm_relu, const Conv& p) {
    using Out = Epilogue<T>;
    extern __shared__ __align__(128) u8 smem[];
    const GatherMap map = gather_map_dgrad(p, blockIdx.y);
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * T::N;
    // A tile ends where its group of samples ends. The sums of a group are contiguous, all its classes included.
    const int group = tile / p.group_tiles, within = tile - group * p.group_tiles;
    const int group_rows = p.group_rows * (int)(map.grid[0].by * map.grid[1].by * map.grid[2].by);
    const int m0 = group * group_rows + within * T::M, m_end = min(m0 + T::M, (group + 1) * group_rows);
    float* row = sums + ((size_t)(group * gridDim.y + blockIdx.y) * p.group_tiles + within) * 2 * p.c;
    if (m0 >= m_end) {
        // The grid fits the largest class, and others have fewer rows. The sums of a tile without rows are 0.
        if (norm_relu.normed) {
            for (int i = threadIdx.x; i < 2 * T::N; i += T::THREADS) {
                if (n0 + i % T::N < p.c) row[i / T::N * p.c + n0 + i % T::N] = 0.0f;
            }
        }
        return;
    }
    const int length = map.taps[0] * map.taps[1] * map.taps[2] * p.k_row;
    WindowIterator<T, 8> pixels(map, dy, m0, m_end, p.k_row, threadIdx.x);
    FilterTransposedIterator<T> filters(map, w, p, n0, threadIdx.x);
    typename T::Accumulators acc;
    mainloop<T, false, true>(acc, smem_address(smem), (length + 31) >> 5, pixels, filters);
    Out::stage(smem, acc);
    const InClass place = {p, map};
    if (norm_relu.normed) {
        Out::norm_relu(smem, dx, row, norm_relu, group, m0, m_end, n0, p.c, place);
    } else {
        Out::store(smem, dx, m0, m_end, n0, p.c, place);
    }
}

// `dx` (`n t h w c`) from `dy` (`n to ho wo k_row`) and `w` (`k kt kh kw c_row`), rows of multiples of 8 channels.
// Where `normed` is not null, `add` is added to dx, dx is multiplied by the derivative of the ReLU (see `NormRelu`), and
// the rows of `sums` (`groups classes tiles 2 c`) receive Σ dx and Σ dx · (normed - mean) · inv_std of each tile.
// Grid: x = tiles of pixels of the largest class, for each group of samples, times `column_tiles`; y = residue classes.
#define DGRAD(NAME, TILE, BLOCKS)                                                                                      \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                \
        NAME(const bf16* __restrict__ dy, const bf16* __restrict__ w, bf16* __restrict__ dx, float* __restrict__ sums, \
             const bf16* __restrict__ add, const u8* __restrict__ signs, const bf16* __restrict__ normed,              \
             const float* __restrict__ mean, const float* __restrict__ inv_std, const float* __restrict__ gamma,       \
             const float* __restrict__ beta, const Conv p) {                                                           \
        dgrad<TILE>(dy, w, dx, sums, NormRelu{add, signs, normed, mean, inv_std, gamma, beta}, p);                     \
    }

using Tile256x128 = Tile<256, 128, 64, 64, 3>;
using Tile128x128 = Tile<128, 128, 64, 64, 3>;
using Tile128x64 = Tile<128, 64, 64, 32, 4>;
using Tile64x64 = Tile<64, 64, 32, 32, 4>;

// shared: conv3d_dgrad_256x128_bf16 73728
// shared: conv3d_dgrad_128x128_bf16 49152
// shared: conv3d_dgrad_128x64_bf16 49152
// shared: conv3d_dgrad_64x64_bf16 32768
DGRAD(conv3d_dgrad_256x128_bf16, Tile256x128, 1)
DGRAD(conv3d_dgrad_128x128_bf16, Tile128x128, 2)
DGRAD(conv3d_dgrad_128x64_bf16, Tile128x64, 3)
DGRAD(conv3d_dgrad_64x64_bf16, Tile64x64, 4)
