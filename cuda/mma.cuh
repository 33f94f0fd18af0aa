// Warp-wide bf16 products with f32 sums, and the layouts of shared memory they read without bank conflicts.
#pragma once
#include "copy.cuh"

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
__device__ __forceinline__ u32 deep_row(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }

// A tile whose rows hold WIDTH neighbouring columns (64 or more): byte offset of a chunk of eight columns.
template <int WIDTH>
__device__ __forceinline__ u32 wide_row(int row, int chunk) {
    return row * (WIDTH * 2) + ((chunk ^ (row & 7)) << 4);
}

// One warp's part of a product over a depth of 32: WM x WN of c, from `a` and `b` in shared memory.
// A_TURNED and B_TURNED: the tile lies as [depth][columns] (wide rows of AW, BW columns), otherwise as [rows][depth].
template <int WM, int WN, int AW, int BW, bool A_TURNED, bool B_TURNED>
__device__ __forceinline__ void multiply_32(float (&acc)[WM / 16][WN / 8][4], u32 a, u32 b, int m0, int n0, int lane) {
    const int row8 = lane & 7, half = (lane >> 3) & 1, quarter = lane >> 4;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        u32 af[WM / 16][4], bf[WN / 16][4];
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
            if (A_TURNED) {
                // Matrices: (rows 0-7, depth 0-7), (rows 8-15, depth 0-7), (rows 0-7, depth 8-15), (8-15, 8-15).
                load_matrix_turned(af[i], a + wide_row<AW>(k * 16 + quarter * 8 + row8, (m0 >> 3) + i * 2 + half));
            } else {
                load_matrix(af[i], a + deep_row(m0 + i * 16 + (lane & 15), k * 2 + quarter));
            }
        }
#pragma unroll
        for (int j = 0; j < WN / 16; j++) {
            // Matrices: (columns 0-7, depth 0-7), (0-7, 8-15), (columns 8-15, depth 0-7), (8-15, 8-15).
            if (B_TURNED) {
                load_matrix_turned(bf[j], b + wide_row<BW>(k * 16 + half * 8 + row8, (n0 >> 3) + j * 2 + quarter));
            } else {
                load_matrix(bf[j], b + deep_row(n0 + j * 16 + quarter * 8 + row8, k * 2 + half));
            }
        }
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
                mma_bf16(acc[i][j], af[i], bf[j / 2][(j & 1) * 2], bf[j / 2][(j & 1) * 2 + 1]);
            }
        }
    }
}
