//! What the kernels multiply: elements of 32 bits, each an f32 number or a pair of bf16 numbers.

use super::super::epilogue::Finish;
use crate::cpu::simd::Vector;
use crate::ops::lanes::Stored;
use half::bf16;
use std::marker::PhantomData;

/// A data type that kernels read or write.
pub(in super::super) trait Number: Stored {
    /// Numbers per element. Kernels multiply two elements number by number, and add these products to one sum.
    const DEPTH: usize;

    /// Where kernels store results of this type.
    fn place(at: *mut Self) -> Place;

    /// Results and what is done with them, if they are f32.
    fn f32<'o, 'f, 'a>(
        out: &'o mut [Self],
        finish: &'f mut Finish<'a, Self>,
    ) -> Option<(&'o mut [f32], &'f mut Finish<'a, f32>)>;

    /// Writes elements whose numbers come from one row each: from `low` and, if there are two, from `high`, or 0 where there is
    /// no such row.
    fn weave(low: &[Self], high: Option<&[Self]>, to: &mut [Self]);
}

impl Number for f32 {
    const DEPTH: usize = 1;

    fn place(at: *mut f32) -> Place {
        Place::F32(at)
    }

    fn f32<'o, 'f, 'a>(
        out: &'o mut [f32],
        finish: &'f mut Finish<'a, f32>,
    ) -> Option<(&'o mut [f32], &'f mut Finish<'a, f32>)> {
        Some((out, finish))
    }

    fn weave(low: &[f32], _: Option<&[f32]>, to: &mut [f32]) {
        to.copy_from_slice(low);
    }
}

impl Number for bf16 {
    const DEPTH: usize = 2;

    fn place(at: *mut bf16) -> Place {
        Place::Bf16(at)
    }

    fn f32<'o, 'f, 'a>(
        _: &'o mut [bf16],
        _: &'f mut Finish<'a, bf16>,
    ) -> Option<(&'o mut [f32], &'f mut Finish<'a, f32>)> {
        None
    }

    fn weave(low: &[bf16], high: Option<&[bf16]>, to: &mut [bf16]) {
        let pairs = to.as_chunks_mut::<2>().0.iter_mut().zip(low);
        match high {
            Some(high) => pairs.zip(high).for_each(|((to, low), high)| *to = [*low, *high]),
            None => pairs.for_each(|(to, low)| *to = [*low, bf16::ZERO]),
        }
    }
}

/// Where the results of a row go: the f32 sums, or those rounded to bf16.
#[derive(Clone, Copy)]
pub(in super::super) enum Place {
    F32(*mut f32),
    Bf16(*mut bf16),
}

impl Place {
    /// The place so many numbers further on.
    #[inline(always)]
    pub(super) fn add(self, numbers: usize) -> Place {
        match self {
            Place::F32(p) => Place::F32(p.wrapping_add(numbers)),
            Place::Bf16(p) => Place::Bf16(p.wrapping_add(numbers)),
        }
    }

    /// Writes the sums of a row, of which the last vector has `last`.
    ///
    /// # Safety
    /// There is space for them, and the machine has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn store<S: Operand, const V: usize>(self, sums: &[S::Sums; V], last: usize) {
        let lanes = S::Sums::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Place::F32(p) => {
                    for (v, sum) in sums.iter().enumerate() {
                        if v + 1 < V {
                            sum.store(p.add(v * lanes));
                        } else {
                            sum.store_masked(p.add(v * lanes), S::Sums::first(last));
                        }
                    }
                }
                Place::Bf16(p) => {
                    for (v, sum) in sums.iter().enumerate() {
                        S::store_rounded(*sum, p.add(v * lanes), if v + 1 < V { lanes } else { last });
                    }
                }
            }
        }
    }
}

/// How elements are multiplied. The functions may be called only where the instruction set was detected.
pub(super) trait Operand {
    type Number: Number;
    /// A register of elements, or of as many f32 sums.
    type Sums: Vector;
    /// The element at `p` in all lanes.
    unsafe fn splat(p: *const Self::Number) -> Self::Sums;
    /// The element of the number at `p` and zeros, in all lanes.
    unsafe fn splat_one(p: *const Self::Number) -> Self::Sums;
    /// `sum` and the products of the elements of `x` and `w`.
    unsafe fn mul_add(x: Self::Sums, w: Self::Sums, sum: Self::Sums) -> Self::Sums;
    /// Stores the first `n` sums rounded to bf16, to nearest even; NaN is propagated.
    unsafe fn store_rounded(sum: Self::Sums, p: *mut bf16, n: usize);
}

/// f32 numbers, multiplied by fused multiply-adds where there are any.
pub(super) struct Singles<V>(PhantomData<V>);

impl<V: Vector> Operand for Singles<V> {
    type Number = f32;
    type Sums = V;
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> V {
        // SAFETY: the caller's promise, here and below.
        unsafe { V::splat(*p) }
    }
    #[inline(always)]
    unsafe fn splat_one(p: *const f32) -> V {
        // SAFETY: as above.
        unsafe { V::splat(*p) }
    }
    #[inline(always)]
    unsafe fn mul_add(x: V, w: V, sum: V) -> V {
        // SAFETY: as above.
        unsafe { x.mul_add(w, sum) }
    }
    #[inline(always)]
    unsafe fn store_rounded(sum: V, p: *mut bf16, n: usize) {
        // SAFETY: as above.
        unsafe { sum.store_rounded(p, n) }
    }
}
