//! `y = max(x, 0)`, and the mask its gradients pass through.
//!
//! The slope at 0 is 0, as in PyTorch. A NaN stays a NaN.

pub mod cases;
mod cpu;
mod grad;
pub mod reference;

pub(crate) use grad::mask;
pub use grad::relu;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// `max(x, 0)`, in the shape and number type of `x`.
///
/// # Errors
/// None on the CPU; of a GPU `OutOfMemory` and `Driver`.
pub fn apply(x: &Tensor) -> Result<Tensor> {
    let v = x.host();
    Ok(Tensor::build_as(x.dtype(), x.shape(), |y| cpu::relu(&v, y)))
}

/// `dy` where `y` is positive, 0 elsewhere: the gradient of `max(x, 0)`, whose result `y` was.
///
/// # Errors
/// `Shape` when `dy` and `y` differ in shape.
pub fn apply_mask(dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    if dy.shape() != y.shape() {
        return Err(Error::shape("relu", "dy", y.shape(), dy.shape()));
    }
    let (dv, yv) = (dy.host(), y.host());
    Ok(Tensor::build_as(dy.dtype(), dy.shape(), |dx| cpu::mask(&dv, &yv, dx)))
}
