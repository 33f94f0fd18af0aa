// Products of a warpgroup (wgmma) whose first operand is in registers, bf16 with f32 accumulators. For `compute_90a` only.
#pragma once
#include "common/wgmma.cuh"

// c[64 x N] = a[64 x 16] · b[16 x N], added to c if ADD. Accumulators are those of `Wgmma`. `a` are the fragments of
// `mma.m16n8k16`: with lane `l` of warp `w`, the k 2(l%4) and +1 of rows 16w + l/4 and, behind it, 16w + l/4 + 8; then
// both of the k that are 8 further. They must not be written before the product is done.
template <int N, bool ADD, bool B_MN_MAJOR>
struct WgmmaRegisters;

template <int N>
__device__ __forceinline__ void written(u32 (&a)[N][4]) {
#pragma unroll
    for (u32(&fragment)[4] : a) {
#pragma unroll
        for (u32& v : fragment) asm volatile("" : "+r"(v)::"memory");
    }
}

template <int M, int N>
__device__ __forceinline__ void written(u32 (&a)[M][N][4]) {
#pragma unroll
    for (u32(&fragments)[N][4] : a) written(fragments);
}

// clang-format off
#define WRITTEN_8(c, i) "=f"(c[i]), "=f"(c[i + 1]), "=f"(c[i + 2]), "=f"(c[i + 3]), \
                        "=f"(c[i + 4]), "=f"(c[i + 5]), "=f"(c[i + 6]), "=f"(c[i + 7])
#define WRITTEN_32(c, i) WRITTEN_8(c, i), WRITTEN_8(c, i + 8), WRITTEN_8(c, i + 16), WRITTEN_8(c, i + 24)

template <bool B_MN_MAJOR>
struct WgmmaRegisters<64, false, B_MN_MAJOR> {
    static __device__ __forceinline__ void multiply(float (&c)[32], const u32 (&a)[4], u64 b) {
        asm volatile(
            "{\n"
            ".reg .pred add;\n"
            "setp.ne.u32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, add, 1, 1, %37;\n"
            "\t}"
            : WRITTEN_32(c, 0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_MN_MAJOR ? 1 : 0));
    }
};

// N columns in COUNT registers; A0 to A3, B, TURN_B: the numbers of the operands behind these.
#define WGMMA_REGISTERS(N, COUNT, A0, A1, A2, A3, B, TURN_B)                                                           \
    template <bool B_MN_MAJOR>                                                                                         \
    struct WgmmaRegisters<N, true, B_MN_MAJOR> {                                                                       \
        static __device__ __forceinline__ void multiply(float (&c)[COUNT], const u32 (&a)[4], u64 b) {                 \
            asm volatile(                                                                                              \
                "{\n"                                                                                                  \
                ".reg .pred add;\n"                                                                                    \
                "setp.eq.u32 add, 0, 0;\n"                                                                             \
                "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 "                                            \
                "{" NAMES_##COUNT "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", add, 1, 1, %" #TURN_B ";\n"      \
                "\t}"                                                                                                  \
                : REGISTERS_##COUNT(c)                                                                                 \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_MN_MAJOR ? 1 : 0));                        \
        }                                                                                                              \
    };

WGMMA_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37)
WGMMA_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69)
WGMMA_REGISTERS(256, 128, 128, 129, 130, 131, 132, 133)
// clang-format on
