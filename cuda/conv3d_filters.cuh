// wgrad on tensor cores: the template behind its tiles.
#pragma once
#include "conv3d.cuh"
#include "mma.cuh"

// The pixel (n t h w) of a row of the depth, and how far the next block of 32 is away.
__device__ __forceinline__ void advance_pixel(Pixel& q, const Pixel& by, const Divisor (&grid)[3]) {
    q.w += by.w;
    int carry = q.w >= (int)grid[2].by;
    q.w -= carry ? grid[2].by : 0;
    q.h += by.h + carry;
    carry = q.h >= (int)grid[1].by;
    q.h -= carry ? grid[1].by : 0;
    q.t += by.t + carry;
    carry = q.t >= (int)grid[0].by;
    q.t -= carry ? grid[0].by : 0;
    q.n += by.n + carry;
}

// Rows are filters k, columns (tap, c), the depth is pixels, of which block y of the grid takes `split`. Both operands
// lie with the depth outermost, so both are turned on their way into registers.
template <int BM, int BN, int WM, int WN, int STAGES, int V>
struct Filters {
    static constexpr int WARPS_M = BM / WM, THREADS = WARPS_M * (BN / WN) * 32;
    static constexpr int A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    static constexpr int A_COPIES = BM / 8, A_STRIDE = THREADS / A_COPIES, A_ROWS = 32 / A_STRIDE;
    static constexpr int B_COPIES = BN / V, B_STRIDE = THREADS / B_COPIES, B_ROWS = 32 / B_STRIDE;
    static_assert(A_ROWS * A_STRIDE == 32 && B_ROWS * B_STRIDE == 32, "copies must tile the tiles");

    static __device__ __forceinline__ void run(const u16* __restrict__ x, const u16* __restrict__ dy,
                                               float* __restrict__ part, const Conv& p) {
        extern __shared__ __align__(128) unsigned char memory[];
        const u32 shared = shared_address(memory);
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * BN, m0 = tile * BM;
        const Walk walk = walk_forward(p);
        const int width = walk.taps[0] * walk.taps[1] * walk.taps[2] * p.c_row;
        const int first = blockIdx.y * p.split, end = min(first + p.split, walk.rows);

        // dy: this thread copies eight filters of some pixels.
        const int a_copy = tid % A_COPIES, a_row = tid / A_COPIES;
        const bool a_ok = m0 + a_copy * 8 < p.k_row;
        int a_at = (first + a_row) * p.k_row + m0 + a_copy * 8;

        // x: this thread copies V channels of one tap, for some pixels.
        const int b_copy = tid % B_COPIES, b_row = tid / B_COPIES;
        const int column = n0 + b_copy * V;
        const int tap_at = column / p.c_row;
        Depth d;
        d.c = column - tap_at * p.c_row;
        d.t = tap_at / (walk.taps[1] * walk.taps[2]);
        d.h = tap_at / walk.taps[2] % walk.taps[1];
        d.w = tap_at % walk.taps[2];
        const Tap tap = tap_of(walk, d, p.c_row);
        Pixel q[B_ROWS];
#pragma unroll
        for (int i = 0; i < B_ROWS; i++) q[i] = pixel_of(first + b_row + i * B_STRIDE, walk.grid);
        const Pixel step = pixel_of(32, walk.grid);
        const int t0 = walk.offset[0] + tap.t, h0 = walk.offset[1] + tap.h, w0 = walk.offset[2] + tap.w;
        int deep = first;

        auto load = [&](int stage) {
            const u32 a = shared + stage * STAGE, b = a + A_BYTES;
#pragma unroll
            for (int i = 0; i < A_ROWS; i++) {
                const bool ok = a_ok && deep + a_row + i * A_STRIDE < end;
                copy_async<16>(a + wide_row<BM>(a_row + i * A_STRIDE, a_copy),
                               dy + (ok ? (u32)(a_at + i * A_STRIDE * p.k_row) : 0u), ok);
            }
            a_at += 32 * p.k_row;
#pragma unroll
            for (int i = 0; i < B_ROWS; i++) {
                const int t = q[i].t * walk.mul[0] + t0, h = q[i].h * walk.mul[1] + h0, w = q[i].w * walk.mul[2] + w0;
                const bool ok = tap.ok && deep + b_row + i * B_STRIDE < end && (u32)t < (u32)walk.extent[0] &&
                                (u32)h < (u32)walk.extent[1] && (u32)w < (u32)walk.extent[2];
                const int at = (((q[i].n * walk.extent[0] + t) * walk.extent[1] + h) * walk.extent[2] + w) * p.c_row;
                const u32 chunk = V == 8 ? b_copy : b_copy >> 1, within = V == 8 ? 0 : (b_copy & 1) * 8;
                copy_async<V * 2>(b + wide_row<BN>(b_row + i * B_STRIDE, chunk) + within,
                                  x + (ok ? (u32)(at + d.c) : 0u), ok);
                advance_pixel(q[i], step, walk.grid);
            }
            deep += 32;
        };

        float acc[WM / 16][WN / 8][4] = {};
        const int blocks = (end - first + 31) >> 5;
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < blocks) load(s);
            copy_commit();
        }
        const int wm = warp % WARPS_M * WM, wn = warp / WARPS_M * WN;
        int at = 0, next = STAGES - 1;
#pragma unroll 1
        for (int block = 0; block < blocks; block++) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            if (block + STAGES - 1 < blocks) load(next);
            copy_commit();
            const u32 a = shared + at * STAGE;
            multiply_32<WM, WN, BM, BN, true, true>(acc, a, a + A_BYTES, wm, wn, lane);
            at = at + 1 == STAGES ? 0 : at + 1;
            next = next + 1 == STAGES ? 0 : next + 1;
        }

        // Four lanes write 32 neighbouring bytes. `width` is a multiple of 4, so pairs never straddle its end.
        part += (size_t)blockIdx.y * p.k * width;
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int m = m0 + wm + i * 16 + half * 8 + (lane >> 2);
#pragma unroll
                for (int j = 0; j < WN / 8; j++) {
                    const int n = n0 + wn + j * 8 + (lane & 3) * 2;
                    if (m < p.k && n < width) {
                        *(float2*)(part + (u32)(m * width + n)) =
                            make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
                    }
                }
            }
        }
    }
};
