//! The data types of tensors, for kernels that read them as they are stored.

use super::{Buffer, Tensor};
use crate::cpu::simd;
use crate::cpu::traffic::{self, Work};
use crate::cpu::widest::widest;
use crate::error::Result;
use crate::shape::Shape;
use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;

/// The type of a stored element.
pub(crate) trait Element: Pod + Send + Sync {
    /// As [`Element::build`], where `fill` allocates working space, which may fail.
    fn try_build(shape: Shape, fill: impl FnOnce(&mut [Self]) -> Result<()>) -> Result<Tensor> {
        let mut filled = Ok(());
        let built = Self::build(shape, |out| filled = fill(out))?;
        filled.map(|()| built)
    }

    /// The elements of a tensor of this type.
    fn of(t: &Tensor) -> &[Self];

    /// A tensor of this type whose elements, initially arbitrary, are all written by `fill`. Errors: `Shape` or
    /// `OutOfMemory`.
    fn build(shape: Shape, fill: impl FnOnce(&mut [Self])) -> Result<Tensor>;
}

impl Element for f32 {
    fn of(t: &Tensor) -> &[f32] {
        t.f32().expect("the caller matched on the type")
    }

    fn build(shape: Shape, fill: impl FnOnce(&mut [f32])) -> Result<Tensor> {
        Tensor::build(shape, fill)
    }
}

impl Element for bf16 {
    fn of(t: &Tensor) -> &[bf16] {
        t.bf16().expect("the caller matched on the type")
    }

    fn build(shape: Shape, fill: impl FnOnce(&mut [bf16])) -> Result<Tensor> {
        Tensor::build_bf16(shape, fill)
    }
}

/// bf16 to f32, exactly. Written without the branches of the `half` crate's scalar conversion, so that it is
/// vectorised.
#[inline(always)]
fn widen(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// f32 to bf16, rounded to nearest even; NaN is propagated.
#[inline(always)]
fn narrow(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = simd::narrow(*from);
    }
}

/// Elements per task.
const CHUNK: usize = 1 << 15;

/// A pass that converts `len` numbers, of so many bytes before and after.
fn casting(len: usize, [from, to]: [usize; 2]) -> traffic::Pass {
    traffic::pass("cast", || Work::moves(from * len, to * len, len.div_ceil(CHUNK)))
}

/// An f32 tensor of the same numbers.
pub(super) fn widened(shape: Shape, from: &[bf16]) -> Result<Tensor> {
    let _pass = casting(from.len(), [2, 4]);
    Tensor::build(shape, |out| widen_all(from, out))
}

/// The same numbers in f32.
pub(super) fn widened_buffer(from: &[bf16]) -> Result<Buffer<f32>> {
    let _pass = casting(from.len(), [2, 4]);
    let mut out = Buffer::arbitrary(from.len())?;
    widen_all(from, out.as_mut_slice());
    Ok(out)
}

/// A bf16 tensor of the numbers, rounded.
pub(super) fn narrowed(shape: Shape, from: &[f32]) -> Result<Tensor> {
    let _pass = casting(from.len(), [4, 2]);
    Tensor::build_bf16(shape, |out| narrow_all(from, out))
}

/// [`widen`] on all cores.
fn widen_all(from: &[bf16], to: &mut [f32]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        widest(
            #[inline(always)]
            || widen(from, to),
        );
    });
}

/// [`narrow`] on all cores.
fn narrow_all(from: &[f32], to: &mut [bf16]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        widest(
            #[inline(always)]
            || narrow(from, to),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_those_of_the_half_crate() {
        // Every bf16, and f32 numbers for all edge cases of rounding the low half.
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        widen(&all, &mut wide);
        for (b, w) in all.iter().zip(&wide) {
            assert!(b.to_f32().to_bits() == w.to_bits() || (b.is_nan() && w.is_nan()));
        }
        for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let from: Vec<f32> = (0..=u16::MAX).map(|b| f32::from_bits(u32::from(b) << 16 | low)).collect();
            let mut to = all.clone();
            narrow(&from, &mut to);
            for (f, t) in from.iter().zip(&to) {
                assert_eq!(bf16::from_f32(*f).to_bits(), t.to_bits(), "{f:e}");
            }
        }
    }
}
