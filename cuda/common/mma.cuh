// Warp-wide bf16 products with f32 sums, and the layouts of shared memory they read without bank conflicts.
#pragma once
#include "common/copy.cuh"

// Four 8x8 matrices of bf16; lane `l` gives the address of row `l % 8` of matrix `l / 8`.
__device__ __forceinline__ void load_matrix(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_turned(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c[16x8] += a[16x16] · b[16x8]. Lane `l` holds rows l/4 and l/4+8, columns 2(l%4) and 2(l%4)+1 of c.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A tile of 32 deep rows (64 bytes, four 16-byte chunks): byte offset of a chunk. Eight neighbouring rows of one chunk,
// which is what a matrix load reads, lie in eight different bank groups; so do the four chunks of two rows.
__device__ __forceinline__ u32 deep_row(int row, int chunk) {
    return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

// A tile whose rows hold WIDTH neighbouring columns (64 or more): byte offset of a chunk of eight columns.
template <int WIDTH>
__device__ __forceinline__ u32 wide_row(int row, int chunk) {
    return row * (WIDTH * 2) + ((chunk ^ (row & 7)) << 4);
}

// How THREADS threads share the copies into 32 wide rows: each row by THREADS/32 of them (8, or 4), which copy BYTES (16,
// or 8) side by side again and again. Rows that are written at once have their chunks in different bank groups.
template <int THREADS, int BYTES>
__device__ __forceinline__ int copied_row(int tid) {
    static_assert(THREADS == 256 || THREADS == 128, "eight or four threads a row");
    if (THREADS == 256) return tid >> 3;
    return (tid >> 5) * 8 +
           (BYTES == 16 ? ((tid >> 3) & 3) + ((tid >> 2) & 1) * 4 : ((tid >> 2) & 3) * 2 + ((tid >> 4) & 1));
}

// One warp's part of products over blocks of 32 of the depth: WM x WN sums, of two tiles in shared memory, from row m0 of
// the first and n0 of the second (multiples of WM and WN). A_TURNED and B_TURNED: the tile lies as [depth][columns] (wide
// rows of AW, BW columns), otherwise as [rows][depth]. Where a lane reads inside of a tile is found once.
template <int WM, int WN, int AW, int BW, bool A_TURNED, bool B_TURNED>
struct Warp {
    // Swizzled chunks differ by one bit between the two halves of the depth of a deep tile, and by the bits of `2 i`
    // between the 16 columns of a wide one; everything else is a constant distance.
    u32 a_at[A_TURNED ? WM / 16 : 2], b_at[B_TURNED ? WN / 16 : 2];

    __device__ __forceinline__ Warp(int m0, int n0, int lane) {
        const int row8 = lane & 7, half = (lane >> 3) & 1, quarter = lane >> 4;
        if (A_TURNED) {
            // Matrices: (rows 0-7, depth 0-7), (rows 8-15, depth 0-7), (rows 0-7, depth 8-15), (8-15, 8-15).
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                a_at[i] = wide_row<AW>(quarter * 8 + row8, (m0 >> 3) + half) ^ (i * 32);
            }
        } else {
            a_at[0] = deep_row(m0 + (lane & 15), quarter);
            a_at[1] = a_at[0] ^ 32;
        }
        if (B_TURNED) {
            // Matrices: (columns 0-7, depth 0-7), (0-7, 8-15), (columns 8-15, depth 0-7), (8-15, 8-15).
#pragma unroll
            for (int j = 0; j < WN / 16; ++j) {
                b_at[j] = wide_row<BW>(half * 8 + row8, (n0 >> 3) + quarter) ^ (j * 32);
            }
        } else {
            b_at[0] = deep_row(n0 + quarter * 8 + row8, half);
            b_at[1] = b_at[0] ^ 32;
        }
    }

    __device__ __forceinline__ void multiply(float (&acc)[WM / 16][WN / 8][4], u32 a, u32 b) const {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            u32 af[WM / 16][4], bf[WN / 16][4];
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                if (A_TURNED) {
                    load_matrix_turned(af[i], a + a_at[A_TURNED ? i : 0] + k * 16 * AW * 2);
                } else {
                    load_matrix(af[i], a + a_at[A_TURNED ? 0 : k] + i * 1024);
                }
            }
#pragma unroll
            for (int j = 0; j < WN / 16; ++j) {
                if (B_TURNED) {
                    load_matrix_turned(bf[j], b + b_at[B_TURNED ? j : 0] + k * 16 * BW * 2);
                } else {
                    load_matrix(bf[j], b + b_at[B_TURNED ? 0 : k] + j * 1024);
                }
            }
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
#pragma unroll
                for (int j = 0; j < WN / 8; ++j) {
                    mma_bf16(acc[i][j], af[i], bf[j / 2][(j & 1) * 2], bf[j / 2][(j & 1) * 2 + 1]);
                }
            }
        }
    }
};
