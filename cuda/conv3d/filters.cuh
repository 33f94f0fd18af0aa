// wgrad on tensor cores: the template behind its tiles.
#pragma once
#include "common/mma.cuh"
#include "conv3d/problem.cuh"

// Adds two pixels, whose coordinates are those of their windows: multiples of the stride. Carries at `end`.
__device__ __forceinline__ void advance(Pixel& q, const Pixel& by, const Pixel& end, const int (&stride)[3]) {
    q.w += by.w;
    int carry = q.w >= end.w;
    q.w -= carry ? end.w : 0;
    q.h += by.h + (carry ? stride[1] : 0);
    carry = q.h >= end.h;
    q.h -= carry ? end.h : 0;
    q.t += by.t + (carry ? stride[0] : 0);
    carry = q.t >= end.t;
    q.t -= carry ? end.t : 0;
    q.n += by.n + carry;
}

// Rows are filters k, columns (tap, c), the depth is pixels, of which block y of the grid takes `split`. Both operands
// lie with the depth outermost, so both are turned on their way into registers.
template <int BM, int BN, int WM, int WN, int STAGES, int V>
struct Filters {
    static constexpr int WARPS_M = BM / WM, THREADS = WARPS_M * (BN / WN) * 32;
    static constexpr int A_BYTES = BM * 64, STAGE = A_BYTES + BN * 64;
    // A row of either tile is copied by ACROSS threads, each several times.
    static constexpr int ACROSS = THREADS / 32, A_EACH = BM / 8 / ACROSS, B_EACH = BN / V / ACROSS;
    static_assert(A_EACH * ACROSS * 8 == BM && B_EACH * ACROSS * V == BN, "copies must tile the tiles");

    static __device__ __forceinline__ void run(const bf16* __restrict__ x, const bf16* __restrict__ dy,
                                               float* __restrict__ part, const Conv& p) {
        extern __shared__ __align__(128) u8 memory[];
        const u32 shared = shared_address(memory);
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        const int tile = blockIdx.x / p.column_tiles, n0 = (blockIdx.x - tile * p.column_tiles) * BN, m0 = tile * BM;
        const Walk walk = walk_forward(p);
        const int width = walk.taps[0] * walk.taps[1] * walk.taps[2] * p.c_row;
        const int first = blockIdx.y * p.split, end = min(first + p.split, walk.rows);

        // This thread copies, of one pixel in 32, every ACROSS-th chunk: eight filters of dy, V channels of a tap of x.
        const int across = tid % ACROSS, a_row = copied_row<THREADS, 16>(tid), b_row = copied_row<THREADS, V * 2>(tid);
        int a_at = (first + a_row) * p.k_row + m0, deep = first;
        Tap tap[B_EACH];
#pragma unroll
        for (int i = 0; i < B_EACH; ++i) {
            const int column = n0 + (across + i * ACROSS) * V, place = column / p.c_row;
            Depth d;
            d.c = column - place * p.c_row;
            d.t = place / (walk.taps[1] * walk.taps[2]);
            d.h = place / walk.taps[2] % walk.taps[1];
            d.w = place % walk.taps[2];
            tap[i] = tap_of(walk, d, p.c_row);
            // The padding is taken off here, once.
            tap[i].t += walk.offset[0], tap[i].h += walk.offset[1], tap[i].w += walk.offset[2];
            tap[i].at = ((tap[i].t * walk.extent[1] + tap[i].h) * walk.extent[2] + tap[i].w) * p.c_row + d.c;
        }
        auto window = [&](Pixel q) { return Pixel{q.n, q.t * walk.mul[0], q.h * walk.mul[1], q.w * walk.mul[2]}; };
        Pixel q = window(pixel_of(first + b_row, walk.grid));
        const Pixel step = window(pixel_of(32, walk.grid));
        const Pixel over = window({0, (int)walk.grid[0].by, (int)walk.grid[1].by, (int)walk.grid[2].by});

        auto load = [&](int stage) {
            const u32 a = shared + stage * STAGE, b = a + A_BYTES;
#pragma unroll
            for (int i = 0; i < A_EACH; ++i) {
                const int chunk = across + i * ACROSS;
                copy_async<16>(a + wide_row<BM>(a_row, chunk), dy + (u32)(a_at + chunk * 8),
                               deep + a_row < end && m0 + chunk * 8 < p.k_row);
            }
            a_at += 32 * p.k_row;
            const int at = ((q.n * walk.extent[0] + q.t) * walk.extent[1] + q.h) * walk.extent[2] + q.w;
            const Row row = {q.t, q.h, q.w, at * p.c_row};
            const bool row_ok = deep + b_row < end;
#pragma unroll
            for (int i = 0; i < B_EACH; ++i) {
                const u32 copy = across + i * ACROSS;
                const u32 chunk = V == 8 ? copy : copy >> 1, within = V == 8 ? 0 : (copy & 1) * 8;
                copy_async<V * 2>(b + wide_row<BN>(b_row, chunk) + within, x + (u32)(row.at + tap[i].at),
                                  row_ok && inside(walk, row, tap[i]));
            }
            advance(q, step, over, walk.mul);
            deep += 32;
        };

        float acc[WM / 16][WN / 8][4] = {};
        const int blocks = (end - first + 31) >> 5;
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; ++s) {
            if (s < blocks) load(s);
            copy_commit();
        }
        const int wm = warp % WARPS_M * WM, wn = warp / WARPS_M * WN;
        const Warp<WM, WN, BM, BN, true, true> piece(wm, wn, lane);
        int at = 0, next = STAGES - 1;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            if (block + STAGES - 1 < blocks) load(next);
            copy_commit();
            const u32 a = shared + at * STAGE;
            piece.multiply(acc, a, a + A_BYTES);
            at = at + 1 == STAGES ? 0 : at + 1;
            next = next + 1 == STAGES ? 0 : next + 1;
        }

        // Four lanes write 32 neighbouring bytes. `width` is a multiple of 4, so pairs never straddle its end.
        part += (size_t)blockIdx.y * p.k * width;
#pragma unroll
        for (int i = 0; i < WM / 16; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int m = m0 + wm + i * 16 + half * 8 + (lane >> 2);
#pragma unroll
                for (int j = 0; j < WN / 8; ++j) {
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
