// fprop of stems with TMA and wgmma: `stem_sm90.cuh` says how. Launched by `ops::conv3d::cuda`, on pixels and filters that
// `pack.cu` packed.
//
// All filters stay in smem, so there is one tile of them. The grid is persistent: a block computes every gridDim.x-th
// tile of pixels. A stage of the ring has the lines of one frame of x that the tile's outputs meet. Each of two consumer
// warpgroups computes half of the tile's lines, and stores them by itself.
#include "conv3d/stem_sm90.cuh"

// Bytes of 64 filters, eight k of each: the core matrices of K-major operands, filters in order.
constexpr int FILTERS = 64, CHUNK_BYTES = FILTERS * 16, MOST_TAPS_T = 8;

// The product has filters as rows and COLUMNS outputs of a line as columns: LINES lines of each consumer.
template <int COLUMNS_, int LINES_>
struct StemTile {
    static constexpr int COLUMNS = COLUMNS_, LINES = LINES_, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * 128;

    // What a consumer stages: the outputs of a line.
    struct Part {
        static constexpr int M = COLUMNS_, N = FILTERS, THREADS = 128;
        static __device__ __forceinline__ u32 thread() { return threadIdx.x & 127; }
    };
    static constexpr int STAGED_BYTES = COLUMNS * StagedTile<Part>::PITCH;

    struct Accumulators {
        float at[LINES][COLUMNS / 2];
    };
};

// Waits for the other threads of a consumer.
__device__ __forceinline__ void synchronize_consumer(int consumer) {
    asm volatile("bar.sync %0, 128;" ::"r"(1 + consumer) : "memory");
}

// Stores matrices of 8x8 numbers of 16 bits, transposed: lane `8 i + r` has the address of row `r` of matrix `i` in smem.
__device__ __forceinline__ void store_transposed(u32 to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b),
                 "r"(c), "r"(d)
                 : "memory");
}
__device__ __forceinline__ void store_transposed(u32 to, u32 a, u32 b) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to), "r"(a), "r"(b) : "memory");
}

// Σ (y - shift) and Σ (y - shift)² of the two filters of a thread.
struct FilterSums {
    float sum[2], square[2];

    __device__ __forceinline__ void add(int filter, float y, float shift) {
        const float d = y - shift;
        sum[filter] += d;
        square[filter] = fmaf(d, d, square[filter]);
    }
};

template <class T>
__device__ __forceinline__ void fprop(const TensorMap& x, const TensorMap& w, const float* __restrict__ bias,
                                      bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,
                                      const Conv& p, const Stem& stem, int tiles) {
    using Part = StagedTile<typename T::Part>;
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * MOST_STEM_STAGES + MOST_TAPS_T];
    // Filters, then the stages, then what consumers stage.
    const u32 filters = (smem_address(smem) + 127) & ~127u;
    const int frame_chunks = p.kernel[1] * stem.steps * 2, filter_bytes = frame_chunks * CHUNK_BYTES;
    const int line_bytes = stem.width * PIXEL_BYTES, copied = stem.height * line_bytes;
    StemRing ring(filters + p.kernel[0] * filter_bytes, smem_address(barriers), aligned(copied, 128), stem.stages,
                  4 * T::CONSUMERS, p.kernel[0]);
    const u32 of_filters = ring.freed + 8 * MOST_STEM_STAGES;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        prefetch_map(&x);
        prefetch_map(&w);
        u32 loaded = 0;
#pragma unroll 1
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const StemPlace at = stem_place(stem, p.out[0], tile);
#pragma unroll 1
            for (int tap = 0; tap < p.kernel[0]; ++tap) {
                const int frame = frame_of(p, at.t, tap);
                if (outside(p, frame)) continue;
                if (!(loaded >> tap & 1)) {
                    loaded |= 1 << tap;
                    barrier_arrive_expect(of_filters + 8 * tap, filter_bytes);
                    tma_load(filters + tap * filter_bytes, &w, of_filters + 8 * tap, 0, tap * frame_chunks);
                }
                ring.acquire(copied);
                tma_load(ring.stage(), &x, ring.arrived(), at.w * p.stride[2] - p.pad[2], at.h * p.stride[1] - p.pad[1],
                         frame, at.n);
                ring.next();
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    u8* staged = smem + (ring.stages - smem_address(smem)) + ring.count * ring.bytes + consumer * T::STAGED_BYTES;
    // Rows of the accumulators: the filters of this thread.
    const int filter = warp * 16 + (lane >> 2);
    const bool has[2] = {filter < p.k, filter + 8 < p.k};
    float biases[2] = {}, shifts[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (bias && has[i]) biases[i] = bias[filter + i * 8];
        if (sums && has[i]) shifts[i] = shift[filter + i * 8];
    }
    // Where a line of the consumer begins in a stage, and the next one.
    const int next_line = p.stride[1] * line_bytes, first_line = consumer * T::LINES * next_line;
    const int next_tap_line = p.dilation[1] * line_bytes;
    // The row of a matrix that this lane stores: an output, and eight filters.
    const u32 row = smem_address(staged) + Part::staged(lane >> 4 << 3 | (lane & 7), warp * 16 + (lane >> 3 & 1) * 8);
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const StemPlace at = stem_place(stem, p.out[0], tile);
        typename T::Accumulators acc;
#pragma unroll
        for (float(&line)[T::COLUMNS / 2] : acc.at) {
#pragma unroll
            for (float& v : line) v = 0.0f;
        }
        int used = -1;
#pragma unroll 1
        for (int tap = 0; tap < p.kernel[0]; ++tap) {
            if (outside(p, frame_of(p, at.t, tap))) continue;
            barrier_wait(of_filters + 8 * tap, 0);
            ring.wait_full();
            u32 a = filters + tap * filter_bytes, line = ring.stage() + first_line, b = line;
            int step = 0;
            bool first = true;
#pragma unroll 1
            for (int i = p.kernel[1] * stem.steps; i > 0; --i) {
                const u64 of_a = plain_operand(a, CHUNK_BYTES, 128);
                wgmma_fence();
#pragma unroll
                for (int r = 0; r < T::LINES; ++r) {
                    const u64 of_b = plain_operand(b + r * next_line, TAP_PAIR_BYTES, 128);
                    Wgmma<T::COLUMNS, false, false>::multiply(acc.at[r], of_a, of_b);
                }
                wgmma_commit();
                if (first) {
                    // The products of the frame before are done when only the first of this one are pending.
                    wgmma_wait<1>();
                    if (used >= 0) ring.release(used);
                    first = false;
                }
                a += 2 * CHUNK_BYTES, b += 2 * TAP_PAIR_BYTES;
                if (++step == stem.steps) step = 0, line += next_tap_line, b = line;
            }
            used = ring.index;
            ring.next();
        }
        wgmma_wait<0>();
        if (used >= 0) ring.release(used);

        FilterSums of = {};
#pragma unroll
        for (int r = 0; r < T::LINES; ++r) {
            const int h = at.h + consumer * T::LINES + r, columns = min(T::COLUMNS, p.out[2] - at.w);
            if (h >= p.out[1]) break;
            // What was staged before has been read.
            synchronize_consumer(consumer);
            u32 pairs[2][T::COLUMNS / 8];
#pragma unroll
            for (int j = 0; j < T::COLUMNS / 8; ++j) {
                const float* v = acc.at[r] + j * 4;
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const u32 pair = pack_bf16(v[2 * i] + biases[i], v[2 * i + 1] + biases[i]);
                    pairs[i][j] = pair;
                    const int column = j * 8 + (lane & 3) * 2;
                    if (sums && column < columns) of.add(i, bf16_lo(pair), shifts[i]);
                    if (sums && column + 1 < columns) of.add(i, bf16_hi(pair), shifts[i]);
                }
            }
#pragma unroll
            for (int j = 0; j + 1 < T::COLUMNS / 8; j += 2) {
                store_transposed(row + j * 8 * Part::PITCH, pairs[0][j], pairs[1][j], pairs[0][j + 1], pairs[1][j + 1]);
            }
            if constexpr (T::COLUMNS / 8 % 2 == 1) {
                constexpr int LAST = T::COLUMNS / 8 - 1;
                store_transposed(row + LAST * 8 * Part::PITCH, pairs[0][LAST], pairs[1][LAST]);
            }
            synchronize_consumer(consumer);
            const int m0 = ((at.n * p.out[0] + at.t) * p.out[1] + h) * p.out[2] + at.w;
            Part::store(staged, y, m0, m0 + columns, 0, p.k, InOrder());
        }
        if (!sums) continue;
        // The lanes of a quad have different columns of the same filters.
        float* to = sums + (size_t)(tile * T::CONSUMERS + consumer) * 2 * p.k + filter;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int apart = 1; apart < 4; apart *= 2) {
                of.sum[i] += __shfl_xor_sync(0xffffffff, of.sum[i], apart);
                of.square[i] += __shfl_xor_sync(0xffffffff, of.square[i], apart);
            }
            if ((lane & 3) == 0 && has[i]) to[i * 8] = of.sum[i], to[p.k + i * 8] = of.square[i];
        }
    }
}

// The convolution of packed `x` (`n t h pitch 4`, as a tensor of TMA of 8-byte pixels) with packed `w` (64 filters of
// `kt kh steps` times sixteen k): `y`, `bias` and `shift` as `FPROP` of `fprop.cuh`; `sums` has a row of each consumer of
// each tile. A copy of `x` has `height` lines of `width` pixels of a frame, one of `w` a frame of the filter.
// Grid: any number of blocks.
#define FPROP_STEM_SM90(NAME, TILE)                                                                                    \
    extern "C" __global__ void __launch_bounds__(TILE::THREADS, 1)                                                     \
        NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const float* __restrict__ bias, \
             bf16* __restrict__ y, float* __restrict__ sums, const float* __restrict__ shift,                          \
             const __grid_constant__ Conv p, const __grid_constant__ Stem stem, int tiles) {                           \
        fprop<TILE>(x, w, bias, y, sums, shift, p, stem, tiles);                                                       \
    }

using Tile112 = StemTile<112, 2>;
using Tile56 = StemTile<56, 4>;

// shared: conv3d_fprop_stem_sm90_112x64_bf16 232192
// shared: conv3d_fprop_stem_sm90_56x64_bf16 232192
FPROP_STEM_SM90(conv3d_fprop_stem_sm90_112x64_bf16, Tile112)
FPROP_STEM_SM90(conv3d_fprop_stem_sm90_56x64_bf16, Tile56)
