// One kernel for each class of instruction that the kernels of this crate use. `y` is computed from `a`, `b` and `c`,
// one word a thread or by warps. tests/it/device/instructions.rs launches them in the simulator and on hardware, and
// compares.
#include "common/mma.cuh"

constexpr u32 THREADS = 128;

#define KERNEL(NAME)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) classes_##NAME(                                              \
        const u32* __restrict__ a, const u32* __restrict__ b, const u32* __restrict__ c, u32* __restrict__ y)

__device__ __forceinline__ u32 thread() {
    return blockIdx.x * THREADS + threadIdx.x;
}

// A word a thread; `p`, `q` and `r` are its three inputs as f32.
#define OF_FLOATS(NAME, EXPRESSION)                                                                                    \
    KERNEL(NAME) {                                                                                                     \
        const u32 i = thread();                                                                                        \
        const float p = __uint_as_float(a[i]), q = __uint_as_float(b[i]), r = __uint_as_float(c[i]);                   \
        (void)p, (void)q, (void)r;                                                                                     \
        y[i] = (u32)(EXPRESSION);                                                                                      \
    }

// A word a thread, of words.
#define OF_WORDS(NAME, EXPRESSION)                                                                                     \
    KERNEL(NAME) {                                                                                                     \
        const u32 i = thread(), p = a[i], q = b[i], r = c[i];                                                          \
        (void)p, (void)q, (void)r;                                                                                     \
        y[i] = (u32)(EXPRESSION);                                                                                      \
    }

// One PTX instruction of one f32.
#define APPROXIMATE(NAME, INSTRUCTION)                                                                                 \
    __device__ __forceinline__ float do_##NAME(float x) {                                                              \
        float v;                                                                                                       \
        asm(INSTRUCTION " %0, %1;" : "=f"(v) : "f"(x));                                                                \
        return v;                                                                                                      \
    }                                                                                                                  \
    OF_FLOATS(NAME, __float_as_uint(do_##NAME(p)))

OF_FLOATS(add, __float_as_uint(__fadd_rn(p, q)))
OF_FLOATS(mul, __float_as_uint(__fmul_rn(p, q)))
OF_FLOATS(fma, __float_as_uint(__fmaf_rn(p, q, r)))
OF_FLOATS(div, __float_as_uint(__fdiv_rn(p, q)))
OF_FLOATS(sqrt, __float_as_uint(__fsqrt_rn(p)))
OF_FLOATS(rcp, __float_as_uint(__frcp_rn(p)))
OF_FLOATS(min, __float_as_uint(fminf(p, q)))
OF_FLOATS(max, __float_as_uint(fmaxf(p, q)))
OF_FLOATS(floor, __float_as_uint(floorf(p)))
OF_FLOATS(round, __float_as_uint(rintf(p)))
OF_FLOATS(saturate, __float_as_uint(__saturatef(p)))
OF_FLOATS(less, (p < q ? 1 : 0) + (p <= q ? 2 : 0) + (p == q ? 4 : 0) + (p != q ? 8 : 0))

APPROXIMATE(ex2, "ex2.approx.ftz.f32")
APPROXIMATE(lg2, "lg2.approx.ftz.f32")
APPROXIMATE(rcp_approx, "rcp.approx.ftz.f32")
APPROXIMATE(rsqrt_approx, "rsqrt.approx.ftz.f32")
APPROXIMATE(sqrt_approx, "sqrt.approx.ftz.f32")
APPROXIMATE(sin_approx, "sin.approx.f32")
APPROXIMATE(cos_approx, "cos.approx.f32")
APPROXIMATE(tanh_approx, "tanh.approx.f32")
OF_FLOATS(div_approx, __float_as_uint(__fdividef(p, q)))

OF_FLOATS(to_bf16, pack_bf16(p, q))
OF_FLOATS(to_signed, __float2int_rz(p))
OF_FLOATS(to_nearest, __float2int_rn(p))
OF_FLOATS(to_unsigned, __float2uint_rz(p))
OF_WORDS(from_signed, __float_as_uint(__int2float_rn((int)p)))
OF_WORDS(from_unsigned, __float_as_uint(__uint2float_rn(p)))

OF_WORDS(multiply_high, __umulhi(p, q))
OF_WORDS(multiply_add, p* q + r)
OF_WORDS(wide, ((u64)p * q + r) >> 20)
OF_WORDS(divide, p / (q | 1) + p % (r | 1))
OF_WORDS(divide_signed, (u32)((int)p / (int)((q >> 8) + 2)) + (u32)((int)p % (int)((r >> 8) + 2)))
OF_WORDS(minmax, (u32)min((int)p, (int)q) ^ (u32)max((int)q, (int)r) ^ min(p, r))
OF_WORDS(logic, (p & q) ^ (~r | q) ^ (p & ~r))
OF_WORDS(count, __popc(p) + (__clz(q) << 8) + __brev(r))
OF_WORDS(permute, __byte_perm(p, q, r))
OF_WORDS(funnel, __funnelshift_l(p, q, r))

// Shifts by more than the word is long: PTX says that they shift everything out.
__device__ __forceinline__ u32 shifts(u32 p, u32 q) {
    u32 left, right, arithmetic;
    asm("shl.b32 %0, %1, %2;" : "=r"(left) : "r"(p), "r"(q & 63));
    asm("shr.u32 %0, %1, %2;" : "=r"(right) : "r"(p), "r"(q & 63));
    asm("shr.s32 %0, %1, %2;" : "=r"(arithmetic) : "r"(p), "r"(q & 63));
    return left ^ __brev(right) ^ (arithmetic * 3);
}
OF_WORDS(shift, shifts(p, q))

// Bit fields of any position and length, both taken modulo 256.
__device__ __forceinline__ u32 fields(u32 p, u32 q, u32 r) {
    u32 taken, put;
    asm("bfe.u32 %0, %1, %2, %3;" : "=r"(taken) : "r"(p), "r"(q & 63), "r"(r & 63));
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(put) : "r"(p), "r"(q), "r"(r & 63), "r"((r >> 8) & 63));
    return taken ^ __brev(put);
}
OF_WORDS(field, fields(p, q, r))

// Words of other lanes.
OF_WORDS(shuffle, __shfl_xor_sync(~0u, p, 5) ^ (__shfl_down_sync(~0u, q, 3) * 3) ^ (__shfl_up_sync(~0u, r, 2, 16) * 5) ^
                      (__shfl_sync(~0u, p, (int)(q & 31)) * 7))
OF_WORDS(vote, __ballot_sync(~0u, p & 1) ^ (__any_sync(~0u, q == r) ? 1u : 0u) ^ (__all_sync(~0u, q != r) ? 2u : 0u))
OF_WORDS(barrier_count, __syncthreads_count(p & 1) * 2 + (__syncthreads_or(q == 0) ? 1 : 0))

// Four words a thread, read back as matrix fragments: plain into the first half of `y`'s words, transposed into the
// second.
KERNEL(matrix) {
    __shared__ __align__(16) u32 tile[THREADS * 4];
    const u32 i = thread(), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (u32 k = 0; k < 4; ++k) tile[threadIdx.x * 4 + k] = a[i * 4 + k] ^ b[i] ^ c[i];
    __syncthreads();
    u32 plain[4], turned[4];
    ldmatrix(plain, smem_address(tile + warp * 128 + lane * 4));
    ldmatrix_transposed(turned, smem_address(tile + warp * 128 + lane * 4));
#pragma unroll
    for (u32 k = 0; k < 4; ++k) y[i * 4 + k] = plain[k] + 3 * turned[k];
}

// Sixteen bytes a thread, of which the first c % 17 are copied and the others become zero.
KERNEL(copy) {
    __shared__ __align__(16) u32 tile[THREADS * 4];
    const u32 i = thread(), bytes = c[i] % 17;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(tile + threadIdx.x * 4)),
                 "l"(a + i * 4), "r"(bytes)
                 : "memory");
    cp_async_commit();
    cp_async_wait<0>();
#pragma unroll
    for (u32 k = 0; k < 4; ++k) y[i * 4 + k] = tile[threadIdx.x * 4 + k] ^ b[i];
}

// A warp's product 16x8x16 of bf16 with f32 sums: a, b and the sums as fragments of four, two of four, and four words.
KERNEL(mma_bf16) {
    const u32 i = thread();
    u32 fragment[4];
    float sums[4];
#pragma unroll
    for (u32 k = 0; k < 4; ++k) fragment[k] = a[i * 4 + k], sums[k] = __uint_as_float(c[i * 4 + k]);
    mma_bf16(sums, fragment, b[i * 4], b[i * 4 + 1]);
#pragma unroll
    for (u32 k = 0; k < 4; ++k) y[i * 4 + k] = __float_as_uint(sums[k]);
}

// The same, 16x8x8, of f32 of which the unit keeps ten bits of significand.
KERNEL(mma_tf32) {
    const u32 i = thread();
    u32 f[4];
    float s[4];
#pragma unroll
    for (u32 k = 0; k < 4; ++k) f[k] = a[i * 4 + k], s[k] = __uint_as_float(c[i * 4 + k]);
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(f[0]), "r"(f[1]), "r"(f[2]), "r"(f[3]), "r"(b[i * 4]), "r"(b[i * 4 + 1]));
#pragma unroll
    for (u32 k = 0; k < 4; ++k) y[i * 4 + k] = __float_as_uint(s[k]);
}
