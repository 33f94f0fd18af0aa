//! The AVX2 implementation of [`super::lanes`].

use super::vector::{LANES, Lanes};
use crate::cpu::simd::half_bits_of_eight;
use half::bf16;
use std::arch::x86_64::*;

/// Two AVX2 registers: lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Ymm([__m256; 2]);

/// Lanes of a register.
const HALF: usize = LANES / 2;

/// All bits set in the lanes of each register that are among the first `n` of sixteen.
#[inline(always)]
unsafe fn first(n: usize) -> [__m256i; 2] {
    // SAFETY: as the trait's functions.
    unsafe {
        let n = _mm256_set1_epi32(n as i32);
        let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let high = _mm256_add_epi32(low, _mm256_set1_epi32(HALF as i32));
        [_mm256_cmpgt_epi32(n, low), _mm256_cmpgt_epi32(n, high)]
    }
}

/// Sixteen numbers at `p`.
#[inline(always)]
unsafe fn halves(p: *const bf16) -> Ymm {
    // SAFETY: as the trait's functions.
    unsafe {
        let (low, high) = (_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(HALF).cast()));
        let (low, high) = (_mm256_cvtepu16_epi32(low), _mm256_cvtepu16_epi32(high));
        let [low, high] = [_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high)];
        Ymm([_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)])
    }
}

/// [`Lanes::greater`] of one register.
#[inline(always)]
unsafe fn greater(most: __m256, at: __m256i, x: __m256, place: __m256i) -> (__m256, __m256i) {
    // SAFETY: as the trait's functions.
    unsafe {
        let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x, most);
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        // NaN wins once and is then kept: nothing compares greater than it.
        let first = _mm256_and_ps(nan, _mm256_cmp_ps::<_CMP_ORD_Q>(most, most));
        let wins = _mm256_or_ps(above, first);
        (_mm256_blendv_ps(most, x, wins), _mm256_blendv_epi8(at, place, _mm256_castps_si256(wins)))
    }
}

/// `x` where `at` equals `place` and `read` is set, else 0.
#[inline(always)]
unsafe fn where_equal(x: __m256, at: __m256i, place: __m256i, read: __m256i) -> __m256 {
    // SAFETY: as the trait's functions.
    unsafe { _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_and_si256(read, _mm256_cmpeq_epi32(at, place)))) }
}

impl Ymm {
    /// `f` of the registers of both. Closures passed to it are `#[inline(always)]`: otherwise the compiler may leave them
    /// as functions without the instruction set, in which every intrinsic is a call.
    #[inline(always)]
    fn with(self, o: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
        Ymm([f(self.0[0], o.0[0]), f(self.0[1], o.0[1])])
    }
}

// SAFETY (the whole block): the trait's conditions are the intrinsics'.
impl Lanes for Ymm {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Ymm([_mm256_set1_ps(x); 2]) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32, n: usize) -> Self {
        unsafe {
            let high = p.wrapping_add(HALF);
            if n == LANES {
                return Ymm([_mm256_loadu_ps(p), _mm256_loadu_ps(high)]);
            }
            let [a, b] = first(n);
            Ymm([_mm256_maskload_ps(p, a), _mm256_maskload_ps(high, b)])
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, n: usize) {
        unsafe {
            let high = p.wrapping_add(HALF);
            if n == LANES {
                _mm256_storeu_ps(p, self.0[0]);
                return _mm256_storeu_ps(high, self.0[1]);
            }
            let [a, b] = first(n);
            _mm256_maskstore_ps(p, a, self.0[0]);
            _mm256_maskstore_ps(high, b, self.0[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const bf16, n: usize) -> Self {
        unsafe {
            if n == LANES {
                return halves(p);
            }
            // There are no masked accesses of 16 bits: a part of a vector takes the way through memory.
            let mut part = [bf16::ZERO; LANES];
            part.as_mut_ptr().copy_from_nonoverlapping(p, n);
            halves(part.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, p: *mut bf16, n: usize) {
        unsafe {
            // The instruction packs within each half of a register; the permutation puts the quarters in order.
            let packed = _mm256_packus_epi32(half_bits_of_eight(self.0[0]), half_bits_of_eight(self.0[1]));
            let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            if n == LANES {
                return _mm256_storeu_si256(p.cast(), halves);
            }
            let mut part = [bf16::ZERO; LANES];
            _mm256_storeu_si256(part.as_mut_ptr().cast(), halves);
            p.copy_from_nonoverlapping(part.as_ptr(), n);
        }
    }
    #[inline(always)]
    unsafe fn rounded(self) -> Self {
        // Not by `array::map`, which is not always inlined, and then without the instruction set.
        self.with(
            self,
            #[inline(always)]
            |x, _| unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half_bits_of_eight(x))) },
        )
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.with(
            o,
            #[inline(always)]
            |a, b| unsafe { _mm256_add_ps(a, b) },
        )
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.with(
            o,
            #[inline(always)]
            |a, b| unsafe { _mm256_sub_ps(a, b) },
        )
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.with(
            o,
            #[inline(always)]
            |a, b| unsafe { _mm256_mul_ps(a, b) },
        )
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self.with(
            o,
            #[inline(always)]
            |a, b| unsafe { _mm256_div_ps(a, b) },
        )
    }
    #[inline(always)]
    unsafe fn where_positive(self, of: Self) -> Self {
        self.with(
            of,
            #[inline(always)]
            |a, of| unsafe { _mm256_and_ps(a, _mm256_cmp_ps::<_CMP_GT_OQ>(of, _mm256_setzero_ps())) },
        )
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        self.with(
            self,
            #[inline(always)]
            |a, x| unsafe { _mm256_and_ps(a, _mm256_cmp_ps::<_CMP_NLE_UQ>(x, _mm256_setzero_ps())) },
        )
    }

    type Places = [__m256i; 2];
    #[inline(always)]
    unsafe fn places(place: u32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(place as i32); 2] }
    }
    #[inline(always)]
    unsafe fn store_places(at: [__m256i; 2], p: *mut u32, n: usize) {
        unsafe {
            let high = p.wrapping_add(HALF);
            if n == LANES {
                _mm256_storeu_si256(p.cast(), at[0]);
                return _mm256_storeu_si256(high.cast(), at[1]);
            }
            let [a, b] = first(n);
            _mm256_maskstore_epi32(p.cast(), a, at[0]);
            _mm256_maskstore_epi32(high.cast(), b, at[1]);
        }
    }
    #[inline(always)]
    unsafe fn greater(self, at: [__m256i; 2], x: Self, place: u32) -> (Self, [__m256i; 2]) {
        unsafe {
            let place = _mm256_set1_epi32(place as i32);
            let (low, high) = (greater(self.0[0], at[0], x.0[0], place), greater(self.0[1], at[1], x.0[1], place));
            (Ymm([low.0, high.0]), [low.1, high.1])
        }
    }
    #[inline(always)]
    unsafe fn where_from(self, p: *const u32, place: u32, n: usize) -> Self {
        unsafe {
            let (high, place) = (p.wrapping_add(HALF), _mm256_set1_epi32(place as i32));
            let (at, read) = if n == LANES {
                ([_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(high.cast())], [_mm256_set1_epi32(-1); 2])
            } else {
                let [a, b] = first(n);
                ([_mm256_maskload_epi32(p.cast(), a), _mm256_maskload_epi32(high.cast(), b)], [a, b])
            };
            let low = where_equal(self.0[0], at[0], place, read[0]);
            Ymm([low, where_equal(self.0[1], at[1], place, read[1])])
        }
    }
}
