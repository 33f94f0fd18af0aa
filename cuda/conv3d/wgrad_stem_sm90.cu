// wgrad of stems with TMA and wgmma: `stem_sm90.cuh` says how. Launched by `ops::conv3d::cuda`, on pixels that `pack.cu`
// packed.
//
// The implicit GEMM has rows (filter), columns (line of the filter, pair of taps, channel) and K (pixel of dy). A tile is
// one frame of the filter and one split of K, which counts units: some lines of a frame of dy, and the lines of x that
// they meet. Of an operand, the eight columns of a pair of taps and a line of the filter are one core matrix wide, and
// the next ones are those of the next line of the filter: so each pair of taps is a product of its own, with eight
// columns for each line. The lines of a unit alternate between two consumer warpgroups, each of which has its own sums.
#include "conv3d/stem_sm90.cuh"

constexpr int FILTER_LINES = 7, TAP_PAIRS = 4, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * 128;
// Columns of the product of a pair of taps.
constexpr int COLUMNS = 8 * FILTER_LINES;

// Stores two numbers at once, at an address that is aligned to both: of a float2 the compiler makes two stores here.
__device__ __forceinline__ void store_pair(float* to, float a, float b) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(a), "f"(b) : "memory");
}

// Of each split of the pixels and each consumer the part of `dw` (`2 splits k kt kh kw 4`), from packed `x` (as `fprop`
// of `fprop_stem_sm90.cu`, in copies of `height` lines of `width` pixels) and `dy` (`n to ho wo k_row`, in copies of `lines`
// lines of `columns` pixels and 64 filters, in the 128-byte swizzle). A split has `p.split` units; `columns` is a
// multiple of 16, and `lines` of 2. Grid: any number of blocks; `tiles` are frames of the filter times splits.
// shared: conv3d_wgrad_stem_sm90_64x224_bf16 232192
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    conv3d_wgrad_stem_sm90_64x224_bf16(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap dy,
                                       float* __restrict__ dw, const __grid_constant__ Conv p,
                                       const __grid_constant__ Stem stem, int tiles) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 barriers[2 * MOST_STEM_STAGES];
    // A stage: dy, then x.
    const int line_bytes = stem.width * PIXEL_BYTES, x_bytes = stem.height * line_bytes;
    const int dy_line_bytes = stem.columns * 128, dy_bytes = stem.lines * dy_line_bytes;
    StemRing ring((smem_address(smem) + 1023) & ~1023u, smem_address(barriers), dy_bytes + aligned(x_bytes, 1024),
                  stem.stages, 4 * CONSUMERS, 0);
    const int units = p.n * p.out[0] * stem.line_tiles * stem.column_tiles;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        prefetch_map(&x);
        prefetch_map(&dy);
#pragma unroll 1
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            const int split = tile / p.kernel[0], tap = tile - split * p.kernel[0];
            const int end = min((split + 1) * p.split, units);
#pragma unroll 1
            for (int unit = split * p.split; unit < end; ++unit) {
                const StemPlace at = stem_place(stem, p.out[0], unit);
                const int frame = frame_of(p, at.t, tap);
                if (outside(p, frame)) continue;
                ring.acquire(dy_bytes + x_bytes);
                tma_load(ring.stage(), &dy, ring.arrived(), 0, at.w, at.h, at.t, at.n);
                tma_load(ring.stage() + dy_bytes, &x, ring.arrived(), at.w * p.stride[2] - p.pad[2],
                         at.h * p.stride[1] - p.pad[1], frame, at.n);
                ring.next();
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = (threadIdx.x >> 7) - 1, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int next_line = p.stride[1] * line_bytes, next_tap_line = p.dilation[1] * line_bytes;
#pragma unroll 1
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int split = tile / p.kernel[0], tap = tile - split * p.kernel[0];
        const int end = min((split + 1) * p.split, units);
        float acc[TAP_PAIRS][COLUMNS / 2];
#pragma unroll
        for (float(&pair)[COLUMNS / 2] : acc) {
#pragma unroll
            for (float& v : pair) v = 0.0f;
        }
        int used = -1;
#pragma unroll 1
        for (int unit = split * p.split; unit < end; ++unit) {
            const StemPlace at = stem_place(stem, p.out[0], unit);
            if (outside(p, frame_of(p, at.t, tap))) continue;
            ring.wait_full();
            u32 a = ring.stage() + consumer * dy_line_bytes, line = ring.stage() + dy_bytes + consumer * next_line;
            bool first = true;
#pragma unroll 1
            for (int h = consumer; h < stem.lines; h += CONSUMERS) {
                u32 b = line;
#pragma unroll 1
                for (int k = stem.columns; k > 0; k -= 16) {
                    const u64 of_a = operand<true>(a, 8192);
                    wgmma_fence();
#pragma unroll
                    for (int pair = 0; pair < TAP_PAIRS; ++pair) {
                        // Sixteen k are two core matrices of eight outputs.
                        const u64 of_b = plain_operand(b + pair * TAP_PAIR_BYTES, 128, next_tap_line);
                        Wgmma<COLUMNS, true, true>::multiply(acc[pair], of_a, of_b);
                    }
                    wgmma_commit();
                    if (first) {
                        // The products of the unit before are done when only the first of this one are pending.
                        wgmma_wait<1>();
                        if (used >= 0) ring.release(used);
                        first = false;
                    }
                    a += 2048, b += 256;
                }
                a += dy_line_bytes, line += CONSUMERS * next_line;
            }
            used = ring.index;
            ring.next();
        }
        wgmma_wait<0>();
        if (used >= 0) ring.release(used);

        // A lane has two channels of one tap.
        const int filter = warp * 16 + (lane >> 2), odd = lane >> 1 & 1, c = (lane & 1) * 2;
        const int width = p.kernel[0] * p.kernel[1] * p.kernel[2] * 4;
        float* part = dw + (size_t)(split * CONSUMERS + consumer) * p.k * width + c;
#pragma unroll
        for (int h = 0; h < FILTER_LINES; ++h) {
            if (h >= p.kernel[1]) break;
#pragma unroll
            for (int pair = 0; pair < TAP_PAIRS; ++pair) {
                const int w = pair * 2 + odd;
                if (w >= p.kernel[2]) continue;
                float* to = part + filter * width + ((tap * p.kernel[1] + h) * p.kernel[2] + w) * 4;
                const float* v = acc[pair] + h * 4;
                if (filter < p.k) store_pair(to, v[0], v[1]);
                if (filter + 8 < p.k) store_pair(to + 8 * width, v[2], v[3]);
            }
        }
    }
}
