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
#define REGISTERS_32(c, i) REGISTERS_8(c, i), REGISTERS_8(c, i + 8), REGISTERS_8(c, i + 16), REGISTERS_8(c, i + 24)
// clang-format on

// c[64 x N] += a[64 x 16] · b[16 x N]. The thread with lane `l` of warp `w` of the warpgroup holds of every eight
// columns j the columns 2(l%4) and +1 of row 16w + l/4 in c[4j], c[4j+1], and of row 16w + l/4 + 8 in c[4j+2], c[4j+3].
template <int N, bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma;

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<64, A_MN_MAJOR, B_MN_MAJOR> {
    static __device__ __forceinline__ void multiply(float (&c)[32], u64 a, u64 b) {
        asm volatile(
            "{\n"
            ".reg .pred add;\n"
            "setp.eq.u32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, add, 1, 1, %34, %35;\n"
            "\t}"
            : REGISTERS_32(c, 0)
            : "l"(a), "l"(b), "n"(A_MN_MAJOR ? 1 : 0), "n"(B_MN_MAJOR ? 1 : 0));
    }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<128, A_MN_MAJOR, B_MN_MAJOR> {
    static __device__ __forceinline__ void multiply(float (&c)[64], u64 a, u64 b) {
        asm volatile(
            "{\n"
            ".reg .pred add;\n"
            "setp.eq.u32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, add, 1, 1, %66, %67;\n"
            "\t}"
            : REGISTERS_32(c, 0), REGISTERS_32(c, 32)
            : "l"(a), "l"(b), "n"(A_MN_MAJOR ? 1 : 0), "n"(B_MN_MAJOR ? 1 : 0));
    }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<192, A_MN_MAJOR, B_MN_MAJOR> {
    static __device__ __forceinline__ void multiply(float (&c)[96], u64 a, u64 b) {
        asm volatile(
            "{\n"
            ".reg .pred add;\n"
            "setp.eq.u32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
            "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
            "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95}, %96, %97, add, 1, 1, %98, %99;\n"
            "\t}"
            : REGISTERS_32(c, 0), REGISTERS_32(c, 32), REGISTERS_32(c, 64)
            : "l"(a), "l"(b), "n"(A_MN_MAJOR ? 1 : 0), "n"(B_MN_MAJOR ? 1 : 0));
    }
};

template <bool A_MN_MAJOR, bool B_MN_MAJOR>
struct Wgmma<256, A_MN_MAJOR, B_MN_MAJOR> {
    static __device__ __forceinline__ void multiply(float (&c)[128], u64 a, u64 b) {
        asm volatile(
            "{\n"
            ".reg .pred add;\n"
            "setp.eq.u32 add, 0, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
            "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
            "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
            "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
            "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, add, 1, 1, "
            "%130, %131;\n"
            "\t}"
            : REGISTERS_32(c, 0), REGISTERS_32(c, 32), REGISTERS_32(c, 64), REGISTERS_32(c, 96)
            : "l"(a), "l"(b), "n"(A_MN_MAJOR ? 1 : 0), "n"(B_MN_MAJOR ? 1 : 0));
    }
};
