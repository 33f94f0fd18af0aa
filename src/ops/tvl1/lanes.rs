//! Vectors of `f32`: one small trait, a shim for each instruction set, and the choice between them at run time.
//!
//! A kernel is written once, generic over [`Lanes`], as the `run` of a [`Kernel`]; [`run`] compiles it once for each
//! instruction set and picks the widest this processor has.

use crate::cpu::Isa;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// `N` numbers computed on at once.
pub(super) trait Lanes: Copy {
    /// How many; it divides [`super::plane::LINE`].
    const N: usize;

    /// # Safety
    /// `p` must be valid for reading `N` numbers; the instruction set must be there (as for every method).
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `p` must be valid for writing `N` numbers.
    unsafe fn store(self, p: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, o: Self) -> Self;
    unsafe fn sub(self, o: Self) -> Self;
    unsafe fn mul(self, o: Self) -> Self;
    /// `self · a + b`
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    unsafe fn min(self, o: Self) -> Self;
    unsafe fn max(self, o: Self) -> Self;
    /// `1 / √self` within a few roundings, for normal numbers above zero.
    unsafe fn rsqrt(self) -> Self;
    /// `1 / self` within a few roundings, for normal numbers.
    unsafe fn recip(self) -> Self;
    /// The sum of the lanes, in an order fixed for the type.
    unsafe fn sum(self) -> f32;
}

/// A computation written once for every instruction set.
pub(super) trait Kernel {
    /// # Safety
    /// The instruction set of `V` must be there. Must be `#[inline(always)]`, or it is compiled without that set.
    unsafe fn run<V: Lanes>(self);
}

/// Runs a kernel compiled for the fastest of these instructions that the process may use.
#[inline]
pub(super) fn run<K: Kernel>(isa: Isa, kernel: K) {
    // SAFETY: `or_less` gives what was detected.
    unsafe {
        match isa.or_less() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(kernel),
            _ => kernel.run::<Wide>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
unsafe fn avx512<K: Kernel>(kernel: K) {
    // SAFETY: this function's own condition.
    unsafe { kernel.run::<Zmm>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function's own condition.
    unsafe { kernel.run::<Ymm>() }
}

/// Writes the methods that are one instruction each.
#[cfg(target_arch = "x86_64")]
macro_rules! one_instruction {
    ($($name:ident ( $($arg:ident),* ) = $intrinsic:ident;)*) => {
        $(#[inline(always)]
        unsafe fn $name(self $(, $arg: Self)*) -> Self {
            // SAFETY: the trait's condition: the instruction set is there.
            unsafe { Self($intrinsic(self.0 $(, $arg.0)*)) }
        })*
    };
}

/// Sixteen lanes of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Zmm(__m512);

// SAFETY (all blocks): the trait's conditions are the intrinsics'.
#[cfg(target_arch = "x86_64")]
impl Lanes for Zmm {
    const N: usize = 16;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(x)) }
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
        // 14 bits from the table, doubled by one step of Newton: r (3/2 - x/2 r²).
        unsafe {
            let r = _mm512_rsqrt14_ps(self.0);
            let half = _mm512_mul_ps(_mm512_mul_ps(self.0, _mm512_set1_ps(0.5)), r);
            Self(_mm512_mul_ps(r, _mm512_fnmadd_ps(half, r, _mm512_set1_ps(1.5))))
        }
    }

    #[inline(always)]
    unsafe fn recip(self) -> Self {
        // 14 bits from the table, doubled by one step of Newton: r (2 - x r).
        unsafe {
            let r = _mm512_rcp14_ps(self.0);
            Self(_mm512_mul_ps(r, _mm512_fnmadd_ps(self.0, r, _mm512_set1_ps(2.0))))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
}

/// Eight lanes of AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Ymm(__m256);

// SAFETY (all blocks): the trait's conditions are the intrinsics'.
#[cfg(target_arch = "x86_64")]
impl Lanes for Ymm {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(p)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x)) }
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
        // 12 bits from the table, doubled by one step of Newton.
        unsafe {
            let r = _mm256_rsqrt_ps(self.0);
            let half = _mm256_mul_ps(_mm256_mul_ps(self.0, _mm256_set1_ps(0.5)), r);
            Self(_mm256_mul_ps(r, _mm256_fnmadd_ps(half, r, _mm256_set1_ps(1.5))))
        }
    }

    #[inline(always)]
    unsafe fn recip(self) -> Self {
        // 12 bits from the table, doubled by one step of Newton.
        unsafe {
            let r = _mm256_rcp_ps(self.0);
            Self(_mm256_mul_ps(r, _mm256_fnmadd_ps(self.0, r, _mm256_set1_ps(2.0))))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = [0.0; 8];
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.iter().sum()
    }
}

/// Eight lanes in plain Rust, for the compiler to map on whatever there is.
#[derive(Clone, Copy)]
pub(super) struct Wide([f32; 8]);

impl Wide {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Wide(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

impl Lanes for Wide {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 has the alignment of f32.
        Wide(unsafe { p.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { p.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Wide([x; 8])
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
        Wide(std::array::from_fn(|i| self.0[i] * a.0[i] + b.0[i]))
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
        Wide(self.0.map(|x| 1.0 / x.sqrt()))
    }

    #[inline(always)]
    unsafe fn recip(self) -> Self {
        Wide(self.0.map(|x| 1.0 / x))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
}
