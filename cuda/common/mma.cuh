// Tensor-core products of a warp, bf16 with f32 accumulators, and the swizzled smem layouts that feed them without bank
// conflicts.
#pragma once
#include "common/copy.cuh"

// Four 8x8 matrices of bf16. Lane `l` passes the address of row `l % 8` of matrix `l / 8`.
__device__ __forceinline__ void ldmatrix(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_transposed(u32 (&r)[4], u32 address) {
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

// A k-block as [row][k], 32 of K (64 bytes, four 16-byte chunks) a row: the byte offset of a chunk. The same chunk of
// eight neighbouring rows, which ldmatrix reads, is in eight different bank groups, and so are the four chunks of two
// rows.
__device__ __forceinline__ u32 swizzle_k_block(int row, int chunk) {
    return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

// A k-block as [k][column], WIDTH columns (64 or more) a row: the byte offset of a chunk of eight columns.
template <int WIDTH>
__device__ __forceinline__ u32 swizzle_row(int row, int chunk) {
    return row * (WIDTH * 2) + ((chunk ^ (row & 7)) << 4);
}

// The row that a thread copies of a k-block [k][column]. THREADS/32 threads (8 or 4) copy one row, BYTES (16 or 8) each
// at a time, side by side. Rows that are written at the same time have their chunks in different bank groups.
template <int THREADS, int BYTES>
__device__ __forceinline__ int copy_row(int tid) {
    static_assert(THREADS == 256 || THREADS == 128, "eight or four threads a row");
    if (THREADS == 256) return tid >> 3;
    return (tid >> 5) * 8 +
           (BYTES == 16 ? ((tid >> 3) & 3) + ((tid >> 2) & 1) * 4 : ((tid >> 2) & 3) * 2 + ((tid >> 4) & 1));
}

// The warp tile WM x WN at row m0, column n0 (multiples of WM and WN) of two k-blocks in smem. A_TRANSPOSED,
// B_TRANSPOSED: the operand is [k][row or column], AW or BW of them a row of smem, otherwise [row or column][k]. The
// constructor computes the addresses of the lane's fragments.
template <int WM, int WN, int AW, int BW, bool A_TRANSPOSED, bool B_TRANSPOSED>
struct WarpMma {
    // Byte offsets of fragments. Of [row][k] one for each half of K: the swizzle makes them differ by one bit. Of
    // [k][column] one for every 16 columns. All other fragments are at a constant distance.
    u32 a_at[A_TRANSPOSED ? WM / 16 : 2], b_at[B_TRANSPOSED ? WN / 16 : 2];

    __device__ __forceinline__ WarpMma(int m0, int n0, int lane) {
        const int row8 = lane & 7, half = (lane >> 3) & 1, quarter = lane >> 4;
        if (A_TRANSPOSED) {
            // Matrices: (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (8-15, 8-15).
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                a_at[i] = swizzle_row<AW>(quarter * 8 + row8, (m0 >> 3) + half) ^ (i * 32);
            }
        } else {
            a_at[0] = swizzle_k_block(m0 + (lane & 15), quarter);
            a_at[1] = a_at[0] ^ 32;
        }
        if (B_TRANSPOSED) {
            // Matrices: (columns 0-7, k 0-7), (0-7, 8-15), (columns 8-15, k 0-7), (8-15, 8-15).
#pragma unroll
            for (int j = 0; j < WN / 16; ++j) {
                b_at[j] = swizzle_row<BW>(half * 8 + row8, (n0 >> 3) + quarter) ^ (j * 32);
            }
        } else {
            b_at[0] = swizzle_k_block(n0 + quarter * 8 + row8, half);
            b_at[1] = b_at[0] ^ 32;
        }
#pragma unroll
        for (u32& at : a_at) opaque(at);
#pragma unroll
        for (u32& at : b_at) opaque(at);
    }

    __device__ __forceinline__ void multiply(float (&acc)[WM / 16][WN / 8][4], u32 a, u32 b) const {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            u32 af[WM / 16][4], bf[WN / 16][4];
#pragma unroll
            for (int i = 0; i < WM / 16; ++i) {
                if (A_TRANSPOSED) {
                    ldmatrix_transposed(af[i], a + a_at[A_TRANSPOSED ? i : 0] + k * 16 * AW * 2);
                } else {
                    ldmatrix(af[i], a + a_at[A_TRANSPOSED ? 0 : k] + i * 1024);
                }
            }
#pragma unroll
            for (int j = 0; j < WN / 16; ++j) {
                if (B_TRANSPOSED) {
                    ldmatrix_transposed(bf[j], b + b_at[B_TRANSPOSED ? j : 0] + k * 16 * BW * 2);
                } else {
                    ldmatrix(bf[j], b + b_at[B_TRANSPOSED ? 0 : k] + j * 1024);
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
