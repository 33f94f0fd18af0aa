// The gradient of a convolution by its input on tensor cores, bf16 in and out.
#include "conv3d/gather.cuh"

// dx[m, c] = Σ over (tap, k) of dy[where tap reaches m, k] · w[k, tap, c], for one residue class of pixels.
template <int BM, int BN, int WM, int WN, int STAGES>
__device__ __forceinline__ void dgrad(const bf16* __restrict__ dy, const bf16* __restrict__ w, bf16* __restrict__ dx,
                                      float* __restrict__ sums, const Chain& chain, const Conv& p) {
    using G = Gather<BM, BN, WM, WN, STAGES, 8, true>;
    extern __shared__ __align__(128) u8 shared[];
    const Walk walk = walk_backward(p, blockIdx.y);
    const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * BN;
    // Tiles end with their group of samples. The statistics of a group lie together, of all its classes.
    const int group = tile / p.group_tiles, within = tile - group * p.group_tiles;
    const int group_rows = p.group_rows * (int)(walk.grid[0].by * walk.grid[1].by * walk.grid[2].by);
    const int m0 = group * group_rows + within * BM, m_end = min(m0 + BM, (group + 1) * group_rows);
    float* row = sums + ((size_t)(group * gridDim.y + blockIdx.y) * p.group_tiles + within) * 2 * p.c;
    if (m0 >= m_end) {
        // Classes differ by a few rows, the grid has room for the largest. A tile without rows sums to nothing.
        if (chain.mask) {
            for (int i = threadIdx.x; i < 2 * BN; i += G::THREADS) {
                if (n0 + i % BN < p.c) row[i / BN * p.c + n0 + i % BN] = 0.0f;
            }
        }
        return;
    }
    float acc[WM / 16][WN / 8][4] = {};
    G::sums(acc, shared_address(shared), p, walk, m0, m_end, n0, dy, w);
    G::stage(shared, acc);
    auto place = [&](int m) { return scattered(p, walk, m); };
    if (chain.mask) {
        G::chain(shared, dx, row, chain, group, m0, m_end, n0, p.c, place);
    } else {
        G::store(shared, dx, m0, m_end, n0, p.c, place);
    }
}

// The gradient for `x` (`n t h w c`) from `dy` (`n to ho wo k_row`) and `w` (`k kt kh kw c_row`), rows of multiples of
// 8 channels. Where `mask` is not null, dx is first multiplied by the derivative of the ReLU whose output `mask` is, and
// the rows of `sums` (`groups classes tiles 2 c`) receive Σ dx and Σ dx · (normed - mean) · inv_std of each tile.
// Grid: tiles of pixels of the largest class, of each group of samples, times `column_tiles`; y counts the residue classes of the stride.
// Launched by `ops::conv3d::cuda`, which chooses the tile (pixels x channels).
#define DGRAD(NAME, BM, BN, WM, WN, STAGES, BLOCKS)                                                                    \
    extern "C" __global__ void __launch_bounds__(Gather<BM, BN, WM, WN, STAGES, 8, true>::THREADS, BLOCKS)             \
        NAME(const bf16* __restrict__ dy, const bf16* __restrict__ w, bf16* __restrict__ dx, float* __restrict__ sums, \
             const bf16* __restrict__ mask, const bf16* __restrict__ normed, const float* __restrict__ mean,           \
             const float* __restrict__ inv_std, const Conv p) {                                                        \
        dgrad<BM, BN, WM, WN, STAGES>(dy, w, dx, sums, Chain{mask, normed, mean, inv_std}, p);                         \
    }

// shared: conv3d_dgrad_128x128_bf16 49152
// shared: conv3d_dgrad_64x64_bf16 32768
DGRAD(conv3d_dgrad_128x128_bf16, 128, 128, 64, 32, 3, 2)
DGRAD(conv3d_dgrad_64x64_bf16, 64, 64, 32, 32, 4, 4)
