// Products of a warpgroup (wgmma) of operands without swizzle, and the copies of boxes that make them. For `compute_90a` only.
#pragma once
#include "common/tma.cuh"
#include "common/wgmma.cuh"

// The descriptor of an operand made of core matrices: eight rows of 16 bytes, one behind the other. A row is eight k of
// one row or column of the operand (K-major), or eight rows or columns of one k (MN-major). `next_k` bytes further are
// the next eight k, and `next_mn` bytes further the next eight rows or columns. Core matrices may overlap.
__device__ __forceinline__ u64 plain_operand(u32 address, u32 next_k, u32 next_mn) {
    return (u64)(next_mn >> 4) << 32 | (u64)(next_k >> 4) << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void tma_load(u32 to, const TensorMap* map, u32 barrier, int w, int h, int t, int n) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(w), "r"(h), "r"(t), "r"(n)
        : "memory");
}

// clang-format off
#define REGISTERS_28(c) REGISTERS_16(c, 0), REGISTERS_8(c, 16), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27])
#define REGISTERS_56(c) REGISTERS_32(c), REGISTERS_16(c, 32), REGISTERS_8(c, 48)
#define NAMES_28 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27"
#define NAMES_56 NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                 "%48,%49,%50,%51,%52,%53,%54,%55"
// clang-format on

WGMMA(56, 28, 28, 29, 30, 31)
WGMMA(112, 56, 56, 57, 58, 59)
