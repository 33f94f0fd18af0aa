//! Convolution on AMX tiles: bf16 tensors, and f32 tensors split into bf16 terms.
//!
//! In fprop, positions are the rows of tiles ([`slab`]), output channels their columns ([`panels`]), and taps are steps
//! of one sum ([`product`]). dgrad is the same with transposed filters, for one residue class modulo the stride after
//! another. wgrad is in [`correlate`].

pub(super) mod choice;
pub(super) mod correlate;
mod correlate_flat;
pub(super) mod correlate_operands;
mod correlate_pack;
mod correlate_tiling;
#[cfg(all(test, target_os = "linux"))]
mod edges;
mod number;
mod panels;
mod product;
mod slab;

use super::super::Conv3d;
use super::epilogue::Finish;
use super::loop_nest::{LoopNest, residue_classes};
use crate::cpu::traffic::{self, Work};
use crate::error::Result;
use crate::ops::batch_norm::Lines;
use crate::tensor::Tensor;
use half::bf16;
pub(super) use number::Number;

/// The input of a convolution: these numbers, or the result of its prologue (normalisation and ReLU) on them. That
/// result is never stored as a tensor; it exists only in packed copies in the cache.
pub(super) struct Input<'a, S> {
    numbers: &'a [S],
    prologue: Option<&'a Lines>,
}

impl<'a, S: Number> Input<'a, S> {
    pub fn new(x: &'a Tensor, prologue: Option<&'a Lines>) -> Self {
        Input { numbers: S::of(x), prologue }
    }

    /// Whether tiles can load the numbers from where they are stored.
    fn stored(&self) -> bool {
        S::STORED && self.prologue.is_none()
    }

    /// Splits complete pixels of one sample into bf16 terms: `len` numbers from `first` on, as [`Number::spread`].
    ///
    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn spread(&self, first: usize, len: usize, to: &mut [bf16], pitch: usize, planes: usize) {
        let numbers = &self.numbers[first..first + len];
        let Some(prologue) = self.prologue else {
            // SAFETY: as the caller vouches.
            return unsafe { S::spread(numbers, to, pitch, planes) };
        };
        let line = prologue.line(first);
        for (i, numbers) in numbers.chunks(line.mean.len()).enumerate() {
            // SAFETY: as the caller vouches.
            unsafe { S::spread_after(&line, numbers, &mut to[i * line.mean.len()..], pitch, planes) };
        }
    }
}

/// Computes `y` with `planes` bf16 terms per number ([`choice::parts`]); `w` is of type `S`.
pub(super) fn fprop<S: Number>(
    p: &Conv3d,
    planes: usize,
    x: Input<S>,
    w: &Tensor,
    finish: &mut Finish<S>,
) -> Result<Tensor> {
    S::try_build(p.y_shape(), |y| product::run(vec![LoopNest::apart(p)], planes, x, S::of(w), false, y, finish))
}

/// Computes `dx` likewise; `dy` and `w` are of type `S`.
pub(super) fn dgrad<S: Number>(
    p: &Conv3d,
    planes: usize,
    dy: &Tensor,
    w: &Tensor,
    finish: &mut Finish<S>,
) -> Result<Tensor> {
    let classes = residue_classes(p);
    let nests: Vec<LoopNest> = classes.iter().filter_map(|&class| LoopNest::dgrad(p, class)).collect();
    let all = nests.len() == classes.len();
    let w = S::of(w);
    S::try_build(p.x_shape(), |dx| {
        if all {
            return product::run(nests, planes, Input::new(dy, None), w, true, dx, finish);
        }
        traffic::more(|| Work::moves(0, size_of_val(dx), 0));
        dx.fill(S::zeroed()); // no tap reaches some classes
        product::run(nests, planes, Input::new(dy, None), w, true, dx, &mut Finish::none())?;
        finish.whole(dx); // those too
        Ok(())
    })
}
