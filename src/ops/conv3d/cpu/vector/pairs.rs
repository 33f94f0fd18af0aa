//! Pairs of bf16 numbers in AVX-512 registers: an instruction adds both products of a pair to one f32 sum.
//!
//! It treats subnormal numbers as 0, in operands and sums, and rounds each sum to nearest even.

use super::operand::Operand;
use crate::cpu::simd::{Avx512, prefetch};
use half::bf16;
use std::arch::x86_64::*;
use std::mem::transmute;

/// Pairs of bf16 numbers.
pub(super) struct Pairs;

impl Operand for Pairs {
    type Number = bf16;
    type Sums = Avx512;
    #[inline(always)]
    unsafe fn splat(p: *const bf16) -> Avx512 {
        // SAFETY: the caller vouches for two readable numbers and the instructions, here and below.
        unsafe { Avx512(_mm512_castsi512_ps(_mm512_set1_epi32(p.cast::<i32>().read_unaligned()))) }
    }
    #[inline(always)]
    unsafe fn splat_one(p: *const bf16) -> Avx512 {
        // SAFETY: as above, for one number.
        unsafe { Avx512(_mm512_castsi512_ps(_mm512_set1_epi32(i32::from((*p).to_bits())))) }
    }
    #[inline(always)]
    unsafe fn mul_add(x: Avx512, w: Avx512, sum: Avx512) -> Avx512 {
        // SAFETY: as above; all are registers of 512 bits.
        unsafe {
            Avx512(_mm512_dpbf16_ps(sum.0, transmute::<__m512, __m512bh>(x.0), transmute::<__m512, __m512bh>(w.0)))
        }
    }
    #[inline(always)]
    unsafe fn store_rounded(sum: Avx512, p: *mut bf16, n: usize) {
        // SAFETY: as above; both are registers of 256 bits.
        unsafe {
            let half: __m256i = transmute(_mm512_cvtneps_pbh(sum.0));
            if n == LANES {
                _mm256_storeu_epi16(p.cast(), half)
            } else {
                _mm256_mask_storeu_epi16(p.cast(), first(n), half)
            }
        }
    }
}

/// Pairs in a register.
pub(super) const LANES: usize = 16;

fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Some channels of an operand of wgrad, and where they go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channels {
    pub first: usize,
    /// At most [`LANES`].
    pub len: usize,
    /// Pairs to write: `len`, or more for zeros at the end.
    pub written: usize,
    /// Where those of the first two rows go, and the distance to those of the next two, in numbers.
    pub to: usize,
    pub step: usize,
}

/// How many pairs of rows ahead [`pack`] prefetches: rows of a tensor with many channels, which the hardware prefetcher does not
/// follow.
const AHEAD: usize = 4;

/// Interleaves each two rows: a pair is a channel of both.
///
/// # Safety
/// The machine has AVX-512 and bf16 products; the channels are readable in every row; `to` has space for what is written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack(rows: &[*const bf16], channels: &[Channels], to: *mut bf16) {
    for (i, pair) in rows.chunks_exact(2).enumerate() {
        let ahead = &rows[(2 * (i + AHEAD)).min(rows.len() - 2)..];
        for c in channels {
            prefetch(ahead[0].wrapping_add(c.first));
            prefetch(ahead[1].wrapping_add(c.first));
            // SAFETY: the caller's promise.
            unsafe {
                let low = _mm256_maskz_loadu_epi16(first(c.len), pair[0].add(c.first).cast());
                let high = _mm256_maskz_loadu_epi16(first(c.len), pair[1].add(c.first).cast());
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                let pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low), high);
                _mm512_mask_storeu_epi32(to.add(c.to + i * c.step).cast(), first(c.written), pairs);
            }
        }
    }
}
