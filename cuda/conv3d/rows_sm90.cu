// Whether wgmma reads an operand that begins at any row of a tile that TMA wrote with the 128-byte swizzle, as the kernels
// with halos take their operands (`halo_sm90.cuh`, `wgrad_halo_sm90.cu`). Launched by `ops::conv3d::cuda::rows` before
// the first convolution of a device.
//
// One warpgroup. `x` has rows of 64 bf16: NUMBERS rows in which each number is another one, then the 64 rows of the unit
// matrix. The product of any 64 of the first rows with the unit matrix is those rows, exactly.
#include "common/tma.cuh"
#include "common/wgmma.cuh"

constexpr int NUMBERS = 80, ROWS = NUMBERS + 64, COPY = 16;

// The number in a row and column of `x`.
__device__ __forceinline__ float number(int row, int column) {
    return __uint_as_float((u32)(0x3f80 + row * 64 + column) << 16);
}

// How many of the accumulators of this thread, columns of N, are not `expected(row, column)`.
template <int N, class Expected>
__device__ __forceinline__ u32 mismatches(const float (&acc)[N / 2], Expected expected) {
    const int lane = threadIdx.x & 31, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
    u32 count = 0;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
        count += acc[i] != expected(row + (i >> 1 & 1) * 8, i / 4 * 8 + column + (i & 1));
    }
    return count;
}

// The product of 64 rows of A with N columns of B, whose operands of k-block `k` of 16 are `a(k)` and `b(k)`.
template <int N, bool A_MN_MAJOR, bool B_MN_MAJOR, class A, class B>
__device__ __forceinline__ void product(float (&acc)[N / 2], A a, B b) {
#pragma unroll
    for (float& v : acc) v = 0.0f;
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
        wgmma_fence();
        Wgmma<N, A_MN_MAJOR, B_MN_MAJOR>::multiply(acc, a(k), b(k));
        wgmma_commit();
        wgmma_wait<0>();
    }
}

// `y[form][row][thread]` counts numbers that are not the expected ones, where the operand begins at that row: as A with k
// in its rows (fprop and dgrad with halos), as B with k over its rows and 64 columns from each of two neighbouring rows
// (wgrad with halos), and as A with k over its rows.
// shared: conv3d_rows_sm90_bf16 19456
extern "C" __global__ void __launch_bounds__(128)
    conv3d_rows_sm90_bf16(const __grid_constant__ TensorMap x, u32* __restrict__ y) {
    extern __shared__ __align__(128) u8 smem[];
    __shared__ __align__(8) u64 arrived;
    const u32 numbers = (smem_address(smem) + 1023) & ~1023u, unit = numbers + NUMBERS * 128;
    const u32 barrier = smem_address(&arrived);
    if (threadIdx.x == 0) {
        barrier_init(barrier, 1);
        barrier_init_done();
        barrier_arrive_expect(barrier, ROWS * 128);
#pragma unroll 1
        for (int row = 0; row < ROWS; row += COPY) tma_load(numbers + row * 128, &x, barrier, 0, row);
    }
    __syncthreads();
    barrier_wait(barrier, 0);
    auto of_unit = [&](int k) { return operand<false>(unit + k * 32, 0); };
#pragma unroll 1
    for (int r = 0; r < 8; ++r) {
        const u32 first = numbers + r * 128;
        float acc[32], wide[64];
        product<64, false, false>(acc, [&](int k) { return operand<false>(first + k * 32, 0); }, of_unit);
        y[r * 128 + threadIdx.x] = mismatches<64>(acc, [&](int m, int n) { return number(r + m, n); });
        product<128, false, true>(wide, of_unit, [&](int k) { return operand<true>(first + k * 2048, 128); });
        y[(8 + r) * 128 + threadIdx.x] =
            mismatches<128>(wide, [&](int m, int n) { return number(r + m + n / 64, n % 64); });
        product<64, true, false>(acc, [&](int k) { return operand<true>(first + k * 2048, 8192); }, of_unit);
        y[(16 + r) * 128 + threadIdx.x] = mismatches<64>(acc, [&](int m, int n) { return number(r + n, m); });
    }
}
