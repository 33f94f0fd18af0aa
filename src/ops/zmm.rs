//! The AVX-512 implementation of [`super::lanes`].

use super::vector::{LANES, Lanes};
use crate::cpu::simd::half_bits;
use half::bf16;
use std::arch::x86_64::*;

/// An AVX-512 register.
#[derive(Clone, Copy)]
pub(super) struct Zmm(__m512);

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

// SAFETY (the whole block): the trait's conditions are the intrinsics'.
impl Lanes for Zmm {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Zmm(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32, n: usize) -> Self {
        unsafe { Zmm(if n == LANES { _mm512_loadu_ps(p) } else { _mm512_maskz_loadu_ps(first(n), p) }) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, n: usize) {
        unsafe { if n == LANES { _mm512_storeu_ps(p, self.0) } else { _mm512_mask_storeu_ps(p, first(n), self.0) } }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const bf16, n: usize) -> Self {
        unsafe {
            let p = p.cast();
            let half = if n == LANES { _mm256_loadu_epi16(p) } else { _mm256_maskz_loadu_epi16(first(n), p) };
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut bf16, n: usize) {
        unsafe {
            let (p, half) = (p.cast(), _mm512_cvtepi32_epi16(half_bits(self.0)));
            if n == LANES { _mm256_storeu_epi16(p, half) } else { _mm256_mask_storeu_epi16(p, first(n), half) }
        }
    }
    #[inline(always)]
    unsafe fn rounded(self) -> Self {
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(half_bits(self.0)))) }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        unsafe { Zmm(_mm512_add_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        unsafe { Zmm(_mm512_sub_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        unsafe { Zmm(_mm512_mul_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        unsafe { Zmm(_mm512_div_ps(self.0, o.0)) }
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        unsafe {
            let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(of.0, _mm512_setzero_ps());
            Zmm(_mm512_maskz_mov_ps(positive, self.0))
        }
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        unsafe {
            let stays = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(self.0, _mm512_setzero_ps());
            Zmm(_mm512_maskz_mov_ps(stays, self.0))
        }
    }

    type Places = __m512i;
    #[inline(always)]
    unsafe fn places(place: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(place as i32) }
    }
    #[inline(always)]
    unsafe fn store_places(at: __m512i, p: *mut u32, n: usize) {
        unsafe { _mm512_mask_storeu_epi32(p.cast(), first(n), at) }
    }
    #[inline(always)]
    unsafe fn greater(self, at: __m512i, x: Self, place: u32) -> (Self, __m512i) {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x.0, self.0);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x.0, x.0);
            // NaN wins once and is then kept: nothing compares greater than it.
            let first = _mm512_mask_cmp_ps_mask::<_CMP_ORD_Q>(nan, self.0, self.0);
            let wins = above | first;
            let at = _mm512_mask_mov_epi32(at, wins, _mm512_set1_epi32(place as i32));
            (Zmm(_mm512_mask_mov_ps(self.0, wins, x.0)), at)
        }
    }
    #[inline(always)]
    unsafe fn where_from(self, p: *const u32, place: u32, n: usize) -> Self {
        unsafe {
            let at = _mm512_maskz_loadu_epi32(first(n), p.cast());
            let from = _mm512_mask_cmpeq_epi32_mask(first(n), at, _mm512_set1_epi32(place as i32));
            Zmm(_mm512_maskz_mov_ps(from, self.0))
        }
    }
}
