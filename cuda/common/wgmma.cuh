// Products of a warpgroup (wgmma), bf16 with f32 accumulators, both operands in smem. For `compute_90a` only.
//
// Operands are tiles that TMA wrote with the 128-byte swizzle: rows of 128 bytes (64 numbers), eight rows to a swizzle
// atom of 1024 bytes. An operand is [row or column][k] (K-major) or [k][row or column] (MN-major).
#pragma once
#include "common/copy.cuh"

// The descriptor of an operand in smem at `address`: the beginning of an atom or of another row of 128 bytes, or a
// multiple of 32 bytes within the row where the operand is K-major. That rows may begin within an atom is assumed. K-major: atoms of eight rows follow each other. MN-major: atoms of eight k follow each other,
// and the next 64 rows or columns are `next` bytes further.
template <bool MN_MAJOR>
__device__ __forceinline__ u64 operand(u32 address, u32 next) {
    constexpr u64 SWIZZLE_128 = 1ull << 62;
    const u64 leading = MN_MAJOR ? next >> 4 : 1, stride = 1024 >> 4;
    return SWIZZLE_128 | stride << 32 | leading << 16 | (address & 0x3ffff) >> 4;
}

// Accumulators that were written by other instructions may be read by the next product after this.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// The compiler may move what writes a register behind a fence. Not past this.
template <int N>
__device__ __forceinline__ void written(float (&c)[N]) {
#pragma unroll
    for (float& v : c) asm volatile("" : "+f"(v)::"memory");
}

// Closes a group of products.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Returns when at most N groups of this warpgroup are pending.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// clang-format off
#define REGISTERS_8(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), \
                          "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define REGISTERS_16(c, i) REGISTERS_8(c, i), REGISTERS_8(c, i + 8)
#define REGISTERS_32(c) REGISTERS_16(c, 0), REGISTERS_16(c, 16)
#define REGISTERS_64(c) REGISTERS_32(c), REGISTERS_16(c, 32), REGISTERS_16(c, 48)
#define REGISTERS_72(c) REGISTERS_64(c), REGISTERS_8(c, 64)
#define REGISTERS_96(c) REGISTERS_64(c), REGISTERS_16(c, 64), REGISTERS_16(c, 80)
#define REGISTERS_128(c) REGISTERS_96(c), REGISTERS_16(c, 96), REGISTERS_16(c, 112)
// Their names in the instruction.
#define NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_64 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_72 NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define NAMES_96 NAMES_72 ",%72,%73,%74,%75,%76,%77,%78,%79," \
                 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NAMES_128 NAMES_96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
                  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// clang-format on

// c[64 x N] += a[64 x 16] · b[16 x N]. The thread with lane `l` of warp `w` of the warpgroup holds of every eight
// columns j the columns 2(l%4) and +1 of row 16w + l/4 in c[4j], c[4j+1], and of row 16w + l/4 + 8 in c[4j+2], c[4j+3].
template <int N, bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma;

// N columns in COUNT registers; A, B, TURN_A, TURN_B: the numbers of the operands behind these.
#define WGMMA(N, COUNT, A, B, TURN_A, TURN_B)                                                                          \
    template <bool A_MN_MAJOR, bool B_MN_MAJOR>                                                                        \
    struct Wgmma<N, A_MN_MAJOR, B_MN_MAJOR> {                                                                          \
        static __device__ __forceinline__ void multiply(float (&c)[COUNT], u64 a, u64 b) {                             \
            asm volatile(                                                                                              \
                "{\n"                                                                                                  \
                ".reg .pred add;\n"                                                                                    \
                "setp.eq.u32 add, 0, 0;\n"                                                                             \
                "wgmma.mma_async.sync.aligned.m64n" #N                                                                 \
                "k16.f32.bf16.bf16 "                                                                                   \
                "{" NAMES_##COUNT "}, %" #A ", %" #B ", add, 1, 1, %" #TURN_A ", %" #TURN_B                            \
                                  ";\n"                                                                                \
                                  "\t}"                                                                                \
                : REGISTERS_##COUNT(c)                                                                                 \
                : "l"(a), "l"(b), "n"(A_MN_MAJOR ? 1 : 0), "n"(B_MN_MAJOR ? 1 : 0));                                   \
        }                                                                                                              \
    };

WGMMA(64, 32, 32, 33, 34, 35)
WGMMA(128, 64, 64, 65, 66, 67)
WGMMA(144, 72, 72, 73, 74, 75)
WGMMA(192, 96, 96, 97, 98, 99)
WGMMA(256, 128, 128, 129, 130, 131)
