// Division by a number that is the same for all threads.
#pragma once
#include "common/types.cuh"

// Division of numbers below 2^31 by a constant `by`, as a multiplication. The host computes `mul` and `shift`; the same
// struct as `ops::divisor::Divisor`.
struct Divisor {
    u32 by, mul, shift;
};

__device__ __forceinline__ u32 quotient(u32 n, const Divisor& d) {
    return d.by == 1 ? n : __umulhi(n, d.mul) >> d.shift;
}

// Divides `n`, and returns the remainder.
__device__ __forceinline__ u32 divide(u32& n, const Divisor& d) {
    u32 whole = quotient(n, d), rest = n - whole * d.by;
    n = whole;
    return rest;
}
