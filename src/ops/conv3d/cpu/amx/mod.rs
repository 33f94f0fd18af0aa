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
mod number;
mod panels;
mod product;
mod slab;

use super::super::Conv3d;
use super::epilogue::Epilogue;
use super::plan::Plan;
use crate::tensor::Tensor;
use number::Number;

/// `y` by as many parts as [`choice::parts`] said, `x` and `w` being of type `S`.
pub(super) fn fprop<S: Number>(
    p: &Conv3d,
    planes: usize,
    x: &Tensor,
    w: &Tensor,
    epilogue: &mut Epilogue<S>,
) -> Tensor {
    let operands = [S::of(x), S::of(w)];
    S::build(p.y_shape(), |y| product::run(vec![Plan::apart(p)], planes, operands, false, y, epilogue))
}

/// `dx`, likewise.
pub(super) fn dgrad<S: Number>(
    p: &Conv3d,
    planes: usize,
    dy: &Tensor,
    w: &Tensor,
    epilogue: &mut Epilogue<S>,
) -> Tensor {
    let rests = super::rests(p);
    let plans: Vec<Plan> = rests.iter().filter_map(|&rest| Plan::dgrad(p, rest)).collect();
    let all = plans.len() == rests.len();
    let operands = [S::of(dy), S::of(w)];
    S::build(p.x_shape(), |dx| {
        if all {
            return product::run(plans, planes, operands, true, dx, epilogue);
        }
        dx.fill(S::zeroed()); // no tap reaches some classes
        product::run(plans, planes, operands, true, dx, &mut Epilogue::none());
        epilogue.whole(dx); // those too
    })
}
