//! The CPU path on tiles: bf16 tensors, and f32 ones whose products are formed from bf16 parts.
//!
//! Of fprop, positions are the rows of tiles ([`slab`]), channels their columns ([`panels`]), and taps are steps of one sum
//! ([`product`]). dgrad is, class of remainders by class, the same with turned filters. [`correlate`] is wgrad.

pub(super) mod choice;
pub(super) mod correlate;
mod correlate_flat;
pub(super) mod correlate_operands;
mod correlate_pack;
mod correlate_plan;
#[cfg(all(test, target_os = "linux"))]
mod edges;
mod number;
mod panels;
mod product;
mod slab;

use super::super::Conv3d;
use super::epilogue::Epilogue;
use super::plan::Plan;
use crate::error::Result;
use crate::ops::batch_norm::Layer;
use crate::tensor::Tensor;
use half::bf16;
pub(super) use number::Number;

/// What a convolution reads: these numbers, or the rectified result of a layer on them, which only its copies in the cache
/// will be.
pub(super) struct Input<'a, S> {
    numbers: &'a [S],
    layer: Option<&'a Layer>,
}

impl<'a, S: Number> Input<'a, S> {
    pub fn of(x: &'a Tensor) -> Self {
        Input { numbers: S::of(x), layer: None }
    }

    pub fn after(layer: &'a Layer, x: &'a Tensor) -> Self {
        Input { numbers: S::of(x), layer: Some(layer) }
    }

    /// Whether tiles can read them where they lie.
    fn stored(&self) -> bool {
        S::STORED && self.layer.is_none()
    }

    /// Parts of whole pixels of one sample: `len` numbers from `first` on, as [`Number::spread`].
    ///
    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn spread(&self, first: usize, len: usize, to: &mut [bf16], pitch: usize, planes: usize) {
        let numbers = &self.numbers[first..first + len];
        let Some(layer) = self.layer else {
            // SAFETY: as the caller vouches.
            return unsafe { S::spread(numbers, to, pitch, planes) };
        };
        let line = layer.line(first);
        for (i, numbers) in numbers.chunks(line.mean.len()).enumerate() {
            // SAFETY: as the caller vouches.
            unsafe { S::spread_after(&line, numbers, &mut to[i * line.mean.len()..], pitch, planes) };
        }
    }
}

/// `y` by as many parts as [`choice::parts`] said, `w` being of type `S`.
pub(super) fn fprop<S: Number>(
    p: &Conv3d,
    planes: usize,
    x: Input<S>,
    w: &Tensor,
    epilogue: &mut Epilogue<S>,
) -> Result<Tensor> {
    S::try_build(p.y_shape(), |y| product::run(vec![Plan::apart(p)], planes, x, S::of(w), false, y, epilogue))
}

/// `dx`, likewise, `dy` and `w` being of type `S`.
pub(super) fn dgrad<S: Number>(
    p: &Conv3d,
    planes: usize,
    dy: &Tensor,
    w: &Tensor,
    epilogue: &mut Epilogue<S>,
) -> Result<Tensor> {
    let rests = super::rests(p);
    let plans: Vec<Plan> = rests.iter().filter_map(|&rest| Plan::dgrad(p, rest)).collect();
    let all = plans.len() == rests.len();
    let w = S::of(w);
    S::try_build(p.x_shape(), |dx| {
        if all {
            return product::run(plans, planes, Input::of(dy), w, true, dx, epilogue);
        }
        dx.fill(S::zeroed()); // no tap reaches some classes
        product::run(plans, planes, Input::of(dy), w, true, dx, &mut Epilogue::none())?;
        epilogue.whole(dx); // those too
        Ok(())
    })
}
