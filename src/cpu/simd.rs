//! Vectors of `f32` as wide as the machine supports: one trait, an implementation for each instruction set, and kernels
//! compiled for each. For code that must have the same bits on every machine, `ops::lanes` has sixteen lanes everywhere
//! and no fused multiply-add.

use super::Isa;
use half::bf16;

/// A register of `LANES` numbers. The functions may be called only where the instruction set was detected; memory need
/// only be aligned to a number.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    /// Which lanes of a memory access are active.
    type Mask: Copy;
    /// The first `n` lanes, `n ≤ LANES`.
    unsafe fn first(n: usize) -> Self::Mask;
    unsafe fn zero() -> Self;
    unsafe fn splat(v: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    /// Lanes outside of the mask are 0, and their memory is not accessed.
    unsafe fn load_masked(p: *const f32, mask: Self::Mask) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn store_masked(self, p: *mut f32, mask: Self::Mask);
    /// Stores the first `n` lanes rounded to bf16, to nearest even; NaN is propagated.
    unsafe fn store_rounded(self, p: *mut bf16, n: usize);
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    /// `self · a + b`, rounded once where there is an instruction for it.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    unsafe fn min(self, o: Self) -> Self;
    unsafe fn max(self, o: Self) -> Self;
    /// `1 / √self` up to a few roundings, for normal numbers above zero.
    unsafe fn rsqrt(self) -> Self;
    /// `1 / self` up to a few roundings, for normal numbers.
    unsafe fn recip(self) -> Self;
    /// The sum of the lanes, in an order fixed for the type.
    unsafe fn sum(self) -> f32;
}

/// A computation written once for all instruction sets.
pub(crate) trait Vectorized {
    /// # Safety
    /// The instruction set of `V` must be available. Must be `#[inline(always)]`, or it is compiled without that set.
    unsafe fn run<V: Vector>(self);
}

/// Runs a kernel compiled for the fastest instruction set up to `isa` that the process may use.
#[inline]
pub(crate) fn run<K: Vectorized>(isa: Isa, kernel: K) {
    // SAFETY: `or_less` returns what was detected.
    unsafe {
        match isa.or_less() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::run_avx2(kernel),
            _ => kernel.run::<Plain>(),
        }
    }
}

/// Prefetches the cache line of `p`, which need not be readable.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 machine has the instruction, and it accesses no memory in the sense of the language.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Rounds to nearest even without branches; NaN is propagated.
#[inline(always)]
pub(crate) fn narrow(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16;
    bf16::from_bits((if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16)
}

/// Eight numbers in plain Rust, for the compiler to vectorise. Product and sum are rounded separately: without the
/// instruction, a fused multiply-add is a function call.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

impl Vector for Plain {
    const LANES: usize = 8;
    type Mask = usize;
    #[inline(always)]
    unsafe fn first(n: usize) -> usize {
        n
    }
    #[inline(always)]
    unsafe fn zero() -> Self {
        Plain([0.0; 8])
    }
    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Plain([v; 8])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller vouches for 8 readable numbers; an array of f32 has the alignment of f32.
        Plain(unsafe { p.cast::<[f32; 8]>().read() })
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const f32, mask: usize) -> Self {
        let mut v = [0.0; 8];
        // SAFETY: the caller vouches for `mask` readable numbers.
        v.iter_mut().take(mask).enumerate().for_each(|(i, v)| *v = unsafe { *p.add(i) });
        Plain(v)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller vouches for 8 writable numbers, as for `load`.
        unsafe { p.cast::<[f32; 8]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, mask: usize) {
        // SAFETY: the caller vouches for `mask` writable numbers.
        self.0.iter().take(mask).enumerate().for_each(|(i, v)| unsafe { *p.add(i) = *v });
    }
    #[inline(always)]
    unsafe fn store_rounded(self, p: *mut bf16, n: usize) {
        // SAFETY: as above.
        self.0.iter().take(n).enumerate().for_each(|(i, v)| unsafe { *p.add(i) = narrow(*v) });
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn rsqrt(self) -> Self {
        Plain(self.0.map(|x| 1.0 / x.sqrt()))
    }
    #[inline(always)]
    unsafe fn recip(self) -> Self {
        Plain(self.0.map(|x| 1.0 / x))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, half_bits, half_bits_of_eight};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Vector, Vectorized};
    use half::bf16;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,fma")]
    pub(super) unsafe fn run_avx512<K: Vectorized>(kernel: K) {
        // SAFETY: this function's own condition.
        unsafe { kernel.run::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Vectorized>(kernel: K) {
        // SAFETY: this function's own condition.
        unsafe { kernel.run::<Avx2>() }
    }

    /// The bits of the numbers rounded to bf16, in 32 bits each.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    pub(crate) unsafe fn half_bits(x: __m512) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let high = _mm512_srli_epi32::<16>(bits);
            let half = _mm512_add_epi32(_mm512_and_si512(high, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40))
        }
    }

    /// The same of eight numbers.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub(crate) unsafe fn half_bits_of_eight(x: __m256) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let high = _mm256_srli_epi32::<16>(bits);
            let half = _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
            let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            _mm256_blendv_epi8(rounded, quiet, nan)
        }
    }

    /// Defines the methods that are one instruction each.
    macro_rules! one_instruction {
        ($($name:ident ( $($arg:ident),* ) = $intrinsic:ident;)*) => {
            $(#[inline(always)]
            unsafe fn $name(self $(, $arg: Self)*) -> Self {
                // SAFETY: the trait's callers detected the instructions.
                unsafe { Self($intrinsic(self.0 $(, $arg.0)*)) }
            })*
        };
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(pub(crate) __m512);

    // SAFETY (all blocks): the trait's callers detected the instructions and vouch for the memory.
    impl Vector for Avx512 {
        const LANES: usize = 16;
        type Mask = __mmask16;
        #[inline(always)]
        unsafe fn first(n: usize) -> __mmask16 {
            ((1u32 << n) - 1) as __mmask16
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            Avx512(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            Avx512(unsafe { _mm512_set1_ps(v) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            Avx512(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_masked(p: *const f32, mask: __mmask16) -> Self {
            Avx512(unsafe { _mm512_maskz_loadu_ps(mask, p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn store_masked(self, p: *mut f32, mask: __mmask16) {
            unsafe { _mm512_mask_storeu_ps(p, mask, self.0) }
        }
        #[inline(always)]
        unsafe fn store_rounded(self, p: *mut bf16, n: usize) {
            unsafe { _mm512_mask_cvtepi32_storeu_epi16(p.cast(), Self::first(n), half_bits(self.0)) }
        }
        one_instruction! {
            add(o) = _mm512_add_ps;
            sub(o) = _mm512_sub_ps;
            mul(o) = _mm512_mul_ps;
            mul_add(a, b) = _mm512_fmadd_ps;
            min(o) = _mm512_min_ps;
            max(o) = _mm512_max_ps;
        }
        #[inline(always)]
        unsafe fn rsqrt(self) -> Self {
            // 14 bits from the table, doubled by one Newton step: r (3/2 - x/2 r²).
            unsafe {
                let r = _mm512_rsqrt14_ps(self.0);
                let half = _mm512_mul_ps(_mm512_mul_ps(self.0, _mm512_set1_ps(0.5)), r);
                Avx512(_mm512_mul_ps(r, _mm512_fnmadd_ps(half, r, _mm512_set1_ps(1.5))))
            }
        }
        #[inline(always)]
        unsafe fn recip(self) -> Self {
            // 14 bits from the table, doubled by one Newton step: r (2 - x r).
            unsafe {
                let r = _mm512_rcp14_ps(self.0);
                Avx512(_mm512_mul_ps(r, _mm512_fnmadd_ps(self.0, r, _mm512_set1_ps(2.0))))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    // SAFETY (all blocks): as above.
    impl Vector for Avx2 {
        const LANES: usize = 8;
        type Mask = __m256i;
        #[inline(always)]
        unsafe fn first(n: usize) -> __m256i {
            unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self {
            Avx2(unsafe { _mm256_setzero_ps() })
        }
        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            Avx2(unsafe { _mm256_set1_ps(v) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            Avx2(unsafe { _mm256_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_masked(p: *const f32, mask: __m256i) -> Self {
            Avx2(unsafe { _mm256_maskload_ps(p, mask) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn store_masked(self, p: *mut f32, mask: __m256i) {
            unsafe { _mm256_maskstore_ps(p, mask, self.0) }
        }
        #[inline(always)]
        unsafe fn store_rounded(self, p: *mut bf16, n: usize) {
            unsafe {
                let bits = half_bits_of_eight(self.0);
                let half = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256::<1>(bits));
                if n == Self::LANES {
                    return _mm_storeu_si128(p.cast(), half);
                }
                let mut lanes = [bf16::ZERO; Self::LANES];
                _mm_storeu_si128(lanes.as_mut_ptr().cast(), half);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
            }
        }
        one_instruction! {
            add(o) = _mm256_add_ps;
            sub(o) = _mm256_sub_ps;
            mul(o) = _mm256_mul_ps;
            mul_add(a, b) = _mm256_fmadd_ps;
            min(o) = _mm256_min_ps;
            max(o) = _mm256_max_ps;
        }
        #[inline(always)]
        unsafe fn rsqrt(self) -> Self {
            // 12 bits from the table, doubled by one Newton step.
            unsafe {
                let r = _mm256_rsqrt_ps(self.0);
                let half = _mm256_mul_ps(_mm256_mul_ps(self.0, _mm256_set1_ps(0.5)), r);
                Avx2(_mm256_mul_ps(r, _mm256_fnmadd_ps(half, r, _mm256_set1_ps(1.5))))
            }
        }
        #[inline(always)]
        unsafe fn recip(self) -> Self {
            // 12 bits from the table, doubled by one Newton step.
            unsafe {
                let r = _mm256_rcp_ps(self.0);
                Avx2(_mm256_mul_ps(r, _mm256_fnmadd_ps(self.0, r, _mm256_set1_ps(2.0))))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            let mut lanes = [0.0; 8];
            unsafe { self.store(lanes.as_mut_ptr()) };
            lanes.iter().sum()
        }
    }
}
